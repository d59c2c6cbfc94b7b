"""A pool or a connection, a query, records out: the only place that awaits asyncpg for a query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from time import monotonic
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from flowstates.engine import queries
from flowstates.engine.queries import Layout
from flowstates.engine.rows import to_states
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter, to_clause
from flowstates.records import FlowRunState

AnyConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Argument: TypeAlias = str | Sequence[str | None] | None
PoolOrConnection: TypeAlias = "asyncpg.Pool[asyncpg.Record] | AnyConnection"

_ROWS_A_BATCH = 500  # of a stream; a round trip each

_CURES: dict[Layout, dict[type[asyncpg.PostgresError], str]] = {
    "flowstates": {
        asyncpg.UndefinedTableError: "no flow_run_state on the search path: run `flowstates migrate`, or await flowstates.migrate(pool)",
        asyncpg.UndefinedColumnError: "this table is not the one that flowstates makes: `flowstates check` names what differs",
        asyncpg.UndefinedObjectError: "this database is not as flowstates makes it: `flowstates check` names what differs",
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state, deleting delete, creating insert and update (id)",
    },
    "prefect": {
        asyncpg.UndefinedTableError: "no Prefect tables on the search path: is this Prefect's database, and the schema the one it uses?",
        asyncpg.UndefinedColumnError: "this is not a table of Prefect 2.8 to 3.8: `flowstates check --layout prefect` names what differs",
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state and artifact, deleting delete on flow_run_state",
    },
}


class Execution:
    """Runs the texts of one layout on what the caller owns. `timeout` is for the whole call: waiting for a connection, and the statement."""

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
        text, arguments = self._text(name, arguments, filter)
        return to_states(await self._fetch(text, arguments))

    async def stored(self, name: str, *arguments: Argument) -> list[tuple[FlowRunState, bool]]:
        """The records of the read `name`, each with its column `agrees`, which is the last."""
        rows = await self._fetch(queries.query(name, self.layout), arguments)
        return list(zip(to_states([row[:-1] for row in rows]), (row[-1] == "true" for row in rows), strict=True))

    async def insert(self, name: str, *arguments: Argument, queue: str | None = None, timeout: float | None = None) -> FlowRunState | None:
        """The record that the insert `name` stored; None if it stored nothing, because of its condition or of another transaction.

        With `queue`, a run's id, it waits its turn among the inserts that queue for that run. That takes a transaction, so it is done on a pool only.
        """
        text = queries.query(name, self.layout)
        begun = monotonic()
        async with self.connection(timeout) as connection:
            try:
                if queue is not None and self._is_pool:
                    async with connection.transaction(isolation="read_committed"):
                        await connection.fetch(queries.query("create_flow_run_state.queue", self.layout), queue)
                        rows = await connection.fetch(text, *arguments)
                else:
                    # The driver's own timeout costs less than half of asyncio.timeout.
                    left = None if timeout is None else max(timeout - (monotonic() - begun), 1e-9)
                    rows = await connection.fetch(text, *arguments, timeout=left)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if connection.is_in_transaction():
                    raise  # the caller's transaction is lost, and with it more than this insert
                return None
        return to_states(rows)[0] if rows else None

    async def rows(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[asyncpg.Record]:
        """The rows of query `name`, whose columns are text, which no codec of the caller's changes but one for text itself."""
        text, arguments = self._text(name, arguments, filter)
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
        text, arguments = self._text(name, (), filter)
        async with self.connection(timeout) as connection, AsyncExitStack() as stack:
            if not connection.is_in_transaction():
                await stack.enter_async_context(connection.transaction(readonly=True))
            yield await stack.enter_async_context(aclosing(_records(connection, text, arguments, timeout)))

    def connection(self, timeout: float | None = None) -> _Acquired:
        """A context manager: a connection, waited for until `timeout`, and errors that leave the block with it get their cure as a note."""
        return _Acquired(self._pool_or_connection, self._is_pool, _CURES[self.layout], timeout)

    def _text(self, name: str, arguments: tuple[Argument, ...], filter: FlowRunStateFilter | None) -> tuple[str, tuple[Argument, ...]]:
        text = queries.query(name, self.layout)
        if filter is None:
            return text, arguments
        clause, values = to_clause(filter, len(arguments) + 1)
        return queries.fill(text, "filter", clause), (*arguments, *values)

    async def _fetch(self, text: str, arguments: Sequence[Argument]) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            while True:
                try:
                    return await connection.fetch(text, *arguments)
                except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    # The server undid this one statement for another transaction's sake, so it can be run again; a caller's transaction cannot.
                    if connection.is_in_transaction():
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


async def ask(connection: AnyConnection, name: str, *arguments: str) -> list[asyncpg.Record]:
    """The rows of `sql/catalog/<name>.sql`, prepared without a name: behind a pooler a name could be another process's statement.

    asyncpg ends the preparation with Flush and not with Sync, so the pooler keeps the server connection until the rows are there.
    """
    return await (await connection.prepare(queries.catalog(name), name="")).fetch(*arguments)
