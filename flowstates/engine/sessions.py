"""What users of SQLAlchemy hold, known by its methods: its transaction is begun and joined, and the driver's connection is what is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard, cast

import asyncpg

from flowstates.engine import queries
from flowstates.errors import InvalidInputError
from flowstates.values import kind_of


class AsyncConnectionLike(Protocol):
    """SQLAlchemy's `AsyncConnection`, by what is asked of it."""

    async def exec_driver_sql(self, statement: str, /) -> Any:
        """Sends a statement, before which SQLAlchemy begins its transaction."""

    async def get_raw_connection(self) -> Any:
        """What has the driver's connection."""

    async def invalidate(self, exception: BaseException | None = None) -> None:
        """Ends the driver's connection: a rollback then sends nothing, and what comes after it gets another one."""

    def begin_nested(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint."""


class AsyncSessionLike(Protocol):
    """SQLAlchemy's `AsyncSession` or `async_scoped_session`, by what is asked of it."""

    @property
    def autoflush(self) -> bool:
        """Whether a query sends first what was added to the session."""

    async def connection(self) -> AsyncConnectionLike:
        """That of the session's transaction."""

    async def flush(self) -> None:
        """Sends what was added to the session."""

    def begin_nested(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint, with whose end the session's objects become what they were."""


SessionOrConnection: TypeAlias = AsyncSessionLike | AsyncConnectionLike


class Joined(NamedTuple):
    """The driver's connection in its caller's transaction, and what SQLAlchemy has around it."""

    connection: asyncpg.Connection
    given: SessionOrConnection
    owner: AsyncConnectionLike
    raw: Any

    @property
    def info(self) -> MutableMapping[Any, Any]:
        """What SQLAlchemy keeps for us as long as the connection lasts."""
        return cast("MutableMapping[Any, Any]", self.raw.info)


def _is_session(value: object) -> TypeGuard[AsyncSessionLike]:
    # By `flush` first: an AsyncConnection has a `connection` that raises. A Session that is not asynchronous has methods of the same names.
    return iscoroutinefunction(getattr(value, "flush", None)) and iscoroutinefunction(getattr(value, "connection", None))


def is_of_sqlalchemy(value: object) -> TypeGuard[SessionOrConnection]:
    """Whether it is a session or a connection that can be joined."""
    return _is_session(value) or (
        iscoroutinefunction(getattr(value, "get_raw_connection", None)) and iscoroutinefunction(getattr(value, "exec_driver_sql", None))
    )


async def join(given: SessionOrConnection, field: str) -> Joined:
    """The driver's connection, in the transaction in which a query of the caller's would run now; InvalidInputError, for `field`, on another driver.

    What was added to a session is sent first, as its queries do, unless its `autoflush` is off. Errors are SQLAlchemy's own.
    """
    connection = await given.connection() if _is_session(given) else cast("AsyncConnectionLike", given)
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not hasattr(driver, "fetch"):
        name = type(driver).__module__.partition(".")[0]
        raise InvalidInputError(field, f"is {kind_of(given)} on {name}, not on asyncpg")
    if _is_session(given) and given.autoflush:
        await given.flush()
    if not driver.is_in_transaction() and not raw.dbapi_connection.autocommit:
        # SQLAlchemy begins with the first statement that goes through it. What it has not begun it would not commit.
        await connection.exec_driver_sql(queries.catalog("ping"))
    return Joined(driver, given, connection, raw)


async def leave(joined: Joined, error: BaseException | None) -> None:
    """Tells SQLAlchemy of a connection that was lost in what it has not seen, else its rollback would fail and hide the error."""
    # The server's last word may be here before the end of the connection is.
    is_ending = isinstance(error, asyncpg.PostgresError) and getattr(error, "severity_en", None) in {"FATAL", "PANIC"}
    # It is not valid any more where the caller has ended it or given it back: then the owner may have another one by now.
    if (is_ending or joined.connection.is_closed()) and joined.raw.is_valid:
        await joined.owner.invalidate(error)


@asynccontextmanager
async def savepoint(joined: Joined) -> AsyncGenerator[Any, None]:
    """One that SQLAlchemy knows of, so that a session's objects become what they were with an undo. It `is_active` until it has ended.

    Errors of its begin and its end are SQLAlchemy's own.
    """
    async with joined.given.begin_nested() as one:
        try:
            if _is_session(joined.given):
                await joined.given.connection()  # a session sends the savepoint with its first statement, and ours are not seen
            yield one
        except BaseException as error:
            await leave(joined, error)  # before the savepoint ends, which would else be sent
            raise
