"""A connection for a call: waited for, watched, given back; and what is done again on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import uniform
from time import monotonic
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.cursor import Cursor
from asyncpg.pool import PoolConnectionProxy

from flowstates.engine import queries
from flowstates.values import Layout

AnyConnection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
PoolOrConnection: TypeAlias = asyncpg.Pool | AnyConnection
T = TypeVar("T")

_GRACE = 0.25  # seconds that a call may last after its timeout, for what it has asked the server to cancel
_TRIES = 5
_FIRST_PAUSE = 0.01  # seconds, before the second try; then twice as long each time
_UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""What the server undoes for another transaction's sake: done again it may succeed."""
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Acquired:
    """A context manager: a connection of the pool, given back afterwards, or the caller's own, left as it is.

    `timeout`, in seconds, is for waiting for it and, unless `for_all` is False, for the block: a connection of the pool that is still busy a
    moment later, since the server or the network does not answer, is dropped. A class, as a generator takes longer.
    """

    __slots__ = ("_acquiring", "_connection", "_cures", "_for_all", "_pool", "_timeout", "_was_dropped", "_watch")

    def __init__(
        self,
        pool_or_connection: Any,
        timeout: float | None = None,
        *,
        cures: dict[type[asyncpg.PostgresError], str] | None = None,
        for_all: bool = True,
    ) -> None:
        # By its method, as a pool may be wrapped.
        self._pool = pool_or_connection if hasattr(pool_or_connection, "acquire") else None
        self._connection = pool_or_connection
        self._timeout = timeout
        self._for_all = for_all
        self._cures = cures or {}
        self._watch: asyncio.TimerHandle | None = None
        self._was_dropped = False

    async def __aenter__(self) -> AnyConnection:
        if self._pool is None:
            return self._connection  # type: ignore[no-any-return]
        timeout = self._timeout
        if timeout is not None and self._for_all:
            self._watch = asyncio.get_running_loop().call_later(timeout + _GRACE, self._drop)
        # For a connection that is there nobody waits, and a timeout has its price.
        is_there = timeout is None or getattr(self._pool, "get_idle_size", int)()
        self._acquiring = self._pool.acquire(timeout=None if is_there else timeout)
        self._connection = None
        self._connection = await self._acquiring.__aenter__()
        return self._connection  # type: ignore[no-any-return]

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.PostgresError) and (cure := self._cures.get(type(error))):
            error.add_note(cure)
        if self._pool is None:
            return
        if isinstance(error, asyncio.CancelledError | TimeoutError):
            # The server was asked to cancel what it does. It gets a moment to answer.
            with suppress(TimeoutError, *_BROKEN):
                await self._pool.release(self._connection, timeout=_GRACE)
        else:
            await self._acquiring.__aexit__(kind, error, trace)
        if self._watch is not None:
            self._watch.cancel()
        if self._was_dropped and isinstance(error, _BROKEN):
            raise TimeoutError from error

    def _drop(self) -> None:
        self._was_dropped = True
        if self._connection is not None:
            self._connection.terminate()


async def fetched(connection: AnyConnection, text: str, arguments: Sequence[Any], timeout: float | None = None) -> list[asyncpg.Record]:
    """The rows of a statement. What the server undid for another transaction's sake is done again, but not in a transaction of the caller's."""
    begun = monotonic()
    try:
        return await connection.fetch(text, *arguments, timeout=timeout)
    except (*_UNDONE, asyncpg.FeatureNotSupportedError):  # the last of a standby whose default isolation is serializable, which it cannot be
        if connection.is_in_transaction():
            raise  # the caller's transaction is lost, and with it more than this statement
    async with asyncio.timeout(None if timeout is None else timeout - (monotonic() - begun)):
        return await repeated(connection, lambda: connection.fetch(text, *arguments), tries=1)


async def repeated(connection: AnyConnection, work: Callable[[], Awaitable[T]], *, tries: int = 0) -> T:
    """What `work` returns in a transaction of its own, in which one waits where a transaction at a higher level would be undone.

    What the server undoes for another transaction's sake is done again, until it was tried five times, `tries` before this call among them.
    Then the server's error is raised, with a note.
    """
    while True:
        try:
            if tries:
                await asyncio.sleep(_FIRST_PAUSE * 2 ** (tries - 1) * uniform(0.5, 1))  # noqa: S311 (no secret)
            tries += 1
            async with connection.transaction(isolation="read_committed"):
                return await work()
        except _UNDONE as error:
            if tries == _TRIES:
                error.add_note(f"undone by the server {tries} times, for the sake of other transactions or by a trigger that says so")
                raise


@asynccontextmanager
async def read_only(connection: AnyConnection) -> AsyncIterator[bool]:
    """The caller's transaction, or one of its own at REPEATABLE READ; whether it is its own. Nothing is written, so its end cannot fail."""
    if connection.is_in_transaction():
        yield False
        return
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        yield True
    except (asyncio.CancelledError, TimeoutError):
        raise  # the pool undoes it, in a time that is bounded
    except BaseException:
        await _unless_broken(connection, transaction.rollback())
        raise
    await _unless_broken(connection, transaction.rollback())


async def close_cursor(connection: AnyConnection, cursor: Cursor[asyncpg.Record]) -> None:
    """Frees what the server keeps for a cursor, which in the caller's transaction would stay until that ends."""
    # asyncpg does so for its own iterators only. Should the method go, the cursor ends with the transaction.
    close = getattr(cursor, "_close_portal", None)
    if close is not None:
        await _unless_broken(connection, close(None))


async def _unless_broken(connection: AnyConnection, work: Awaitable[object]) -> None:
    try:
        await work
    except _BROKEN:
        if not connection.is_closed():
            raise


async def ask(connection: AnyConnection, name: str, *arguments: str | None, layout: Layout | None = None) -> list[asyncpg.Record]:
    """The rows of `sql/catalog/<name>.sql`, prepared without a name: behind a pooler a name could be another process's statement.

    asyncpg ends the preparation with Flush and not with Sync, so the pooler keeps the server connection until the rows are there.
    """
    return await (await connection.prepare(queries.catalog(name, layout), name="")).fetch(*arguments)
