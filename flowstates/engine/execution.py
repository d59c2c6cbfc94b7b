"""A pool or a connection, a query, records out: the only place that awaits asyncpg for a query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from random import uniform
from time import monotonic
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from flowstates.engine import queries
from flowstates.engine.rows import to_states
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.filters import FlowRunStateFilter, runs_clause, to_clause
from flowstates.records import FlowRunState
from flowstates.values import Layout

AnyConnection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
Argument: TypeAlias = str | Sequence[str | None] | None
Statement: TypeAlias = tuple[str, tuple[Argument, ...]]
PoolOrConnection: TypeAlias = asyncpg.Pool | AnyConnection

T = TypeVar("T")

_ROWS_A_BATCH = 500  # of a stream; a round trip each

_TRIES = 5
_FIRST_PAUSE = 0.01  # seconds, before the second try; then twice as long each time
_UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""What the server undoes for another transaction's sake: done again it may succeed."""

_CURES: dict[Layout, dict[type[asyncpg.PostgresError], str]] = {
    "flowstates": {
        asyncpg.UndefinedTableError: "no flow_run_state or flow_run on the search path: run `flowstates migrate`, or await flowstates.migrate(pool)",
        asyncpg.UndefinedColumnError: "these tables are not those that flowstates makes: `flowstates check` names what differs",
        asyncpg.UndefinedObjectError: "this database is not as flowstates makes it: `flowstates check` names what differs",
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state and flow_run; creating insert on both and update on flow_run; "
        "deleting delete on both and update on flow_run",
    },
    "prefect": {
        asyncpg.UndefinedTableError: "no Prefect tables on the search path: is this Prefect's database, and the schema the one it uses?",
        asyncpg.UndefinedColumnError: "these are not tables of Prefect 2.8 to 3.9: `flowstates check --layout prefect` names what differs",
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state, flow_run and artifact, deleting delete on flow_run_state",
    },
}


class Execution:
    """Runs the texts of one layout on what the caller owns. `timeout` is for the whole call: waiting for a connection, and the statement.

    A statement that the server undid for another transaction's sake is done again a few times, but not in a transaction of the caller's.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, layout: Layout) -> None:
        if not (hasattr(pool_or_connection, "acquire") or hasattr(pool_or_connection, "fetch")):
            raise InvalidInputError("pool_or_connection", f"is a {type(pool_or_connection).__name__}, not an asyncpg pool or connection")
        if layout not in _CURES:
            raise InvalidInputError("layout", f"is {layout!r}, not 'flowstates' or 'prefect'")
        self._pool_or_connection = pool_or_connection
        self._is_pool = isinstance(pool_or_connection, asyncpg.Pool)
        self.layout: Layout = layout

    async def many(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[FlowRunState]:
        """The records of the read `name`, its filter filled in."""
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.many(name, *arguments, filter=filter, timeout=None)
        text, arguments = filled(name, self.layout, arguments, filter)
        return to_states(await self._fetch(text, arguments))

    async def stored(self, name: str, *arguments: Argument) -> list[tuple[FlowRunState, bool]]:
        """The records of the read `name`, each with its column `agrees`, which is the last."""
        rows = await self._fetch(queries.query(name, self.layout), arguments)
        return list(zip(to_states([row[:-1] for row in rows]), (row[-1] == "true" for row in rows), strict=True))

    async def insert(self, name: str, *arguments: Argument, timeout: float | None) -> FlowRunState | asyncpg.UniqueViolationError | None:
        """The record that the insert `name` stored; None if it stored nothing; the error if a key was taken, which ends a caller's transaction."""
        begun = monotonic()
        async with self.connection(timeout) as connection:
            text = _insert_text(name, self.layout, connection.is_in_transaction())
            # The driver's own timeout costs less than half of asyncio.timeout.
            left = None if timeout is None else max(timeout - (monotonic() - begun), 1e-9)
            try:
                rows = await _fetched(connection, text, arguments, left)
            except asyncpg.UniqueViolationError as error:
                if connection.is_in_transaction():
                    raise
                return error
            except asyncpg.DivisionByZeroError:
                raise FlowStatesError("nothing was stored: a trigger before insert on flow_run_state keeps rows back") from None
        return to_states(rows)[0] if rows else None

    async def rows(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[asyncpg.Record]:
        """The rows of query `name`, whose columns are text, which no codec of the caller's changes but one for text itself."""
        text, arguments = filled(name, self.layout, arguments, filter)
        async with asyncio.timeout(timeout):
            return await self._fetch(text, arguments)

    async def rows_of_runs(self, name: str, *arguments: Argument, flow_run_ids: Sequence[UUID] | None, timeout: float | None) -> list[asyncpg.Record]:
        """The rows of query `name`, whose filter chooses runs."""
        text, arguments = filled_of_runs(name, self.layout, arguments, flow_run_ids)
        async with asyncio.timeout(timeout):
            return await self._fetch(text, arguments)

    async def values(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[Any]:
        """The first column of each row of query `name`."""
        return [row[0] for row in await self.rows(name, *arguments, filter=filter, timeout=timeout)]

    @asynccontextmanager
    async def stream(self, name: str, filter: FlowRunStateFilter | None, timeout: float | None) -> AsyncIterator[AsyncIterator[FlowRunState]]:
        """The records of the read `name`, a batch at a time from a cursor on the server, which is gone when the block is left.

        `timeout` is for the connection, and for each batch.
        """
        text, arguments = filled(name, self.layout, (), filter)
        async with self.connection(timeout) as connection, AsyncExitStack() as stack:
            if not connection.is_in_transaction():
                await stack.enter_async_context(connection.transaction(readonly=True))
            yield await stack.enter_async_context(aclosing(_records(connection, text, arguments, timeout)))

    def connection(self, timeout: float | None = None) -> _Acquired:
        """A context manager: a connection, waited for until `timeout`, and errors that leave the block with it get their cure as a note."""
        return _Acquired(self._pool_or_connection, self._is_pool, _CURES[self.layout], timeout)

    async def _fetch(self, text: str, arguments: Sequence[Argument]) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await _fetched(connection, text, arguments, None)


def filled(name: str, layout: Layout, arguments: tuple[Argument, ...], filter: FlowRunStateFilter | None) -> Statement:
    """The query `name` and its arguments as they are sent, a filter's among them."""
    text = queries.query(name, layout)
    if filter is None:
        return text, arguments
    clause, values = to_clause(filter, len(arguments) + 1, layout, stops=name.startswith("read_flow_run_state_page.run"))
    return queries.fill(text, "filter", clause), (*arguments, *values)


def filled_of_runs(name: str, layout: Layout, arguments: tuple[Argument, ...], flow_run_ids: Sequence[UUID] | None) -> Statement:
    """The query `name`, whose filter chooses runs, and its arguments as they are sent."""
    clause, values = runs_clause(flow_run_ids, len(arguments) + 1)
    return queries.fill(queries.query(name, layout), "filter", clause), (*arguments, *values)


@cache
def _insert_text(name: str, layout: Layout, in_transaction: bool) -> str:
    text = queries.query(name, layout)
    return text if in_transaction else queries.fill(text, "is_free", "true")


async def _fetched(connection: AnyConnection, text: str, arguments: Sequence[Argument], timeout: float | None) -> list[asyncpg.Record]:
    begun = monotonic()
    try:
        return await connection.fetch(text, *arguments, timeout=timeout)
    except _UNDONE:
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


class _Acquired:
    """A connection of the pool, given back afterwards, or the caller's own, left as it is. A class, as a generator takes longer."""

    __slots__ = ("_cures", "_is_pool", "_pool_or_connection")

    def __init__(self, pool_or_connection: Any, is_pool: bool, cures: dict[type[asyncpg.PostgresError], str], timeout: float | None = None) -> None:
        if is_pool:
            # For a connection that is there nobody waits, and a timeout has its price.
            pool_or_connection = pool_or_connection.acquire(timeout=None if timeout is None or pool_or_connection.get_idle_size() else timeout)
        self._pool_or_connection = pool_or_connection
        self._is_pool = is_pool
        self._cures = cures

    async def __aenter__(self) -> AnyConnection:
        return await self._pool_or_connection.__aenter__() if self._is_pool else self._pool_or_connection  # type: ignore[no-any-return]

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.PostgresError) and (cure := self._cures.get(type(error))):
            error.add_note(cure)
        if self._is_pool:
            await self._pool_or_connection.__aexit__(kind, error, trace)


async def _records(connection: AnyConnection, text: str, arguments: Sequence[Argument], timeout: float | None) -> AsyncGenerator[FlowRunState, None]:
    # Prepared without a name, which behind a pooler could be another process's.
    cursor = await (await connection.prepare(text, name="", timeout=timeout)).cursor(*arguments, timeout=timeout)
    while rows := await cursor.fetch(_ROWS_A_BATCH, timeout=timeout):
        for state in to_states(rows):
            yield state


def acquired(pool_or_connection: PoolOrConnection) -> _Acquired:
    """A context manager: a connection of the pool, given back afterwards, or the caller's own connection, left as it is."""
    return _Acquired(pool_or_connection, isinstance(pool_or_connection, asyncpg.Pool), {})


async def ask(connection: AnyConnection, name: str, *arguments: str | None, layout: Layout | None = None) -> list[asyncpg.Record]:
    """The rows of `sql/catalog/<name>.sql`, prepared without a name: behind a pooler a name could be another process's statement.

    asyncpg ends the preparation with Flush and not with Sync, so the pooler keeps the server connection until the rows are there.
    """
    return await (await connection.prepare(queries.catalog(name, layout), name="")).fetch(*arguments)
