"""A pool or a connection, a query, records out: the only place that awaits asyncpg for a query."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from flowstates import queries
from flowstates.errors import InvalidInputError, UnreadableRowError
from flowstates.queries import Layout
from flowstates.records import FlowRunState
from flowstates.rows import are_native, to_states, to_states_from_json

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
        self.is_pool = isinstance(pool_or_connection, asyncpg.Pool)
        self.layout: Layout = layout

    async def many(self, name: str, *arguments: Argument, timeout: float | None) -> list[FlowRunState]:
        """The records of the read `name`."""
        return (await self._read(name, arguments, timeout))[0]

    async def optional(self, name: str, *arguments: Argument, timeout: float | None) -> FlowRunState | None:
        """The record of the read `name`, which has one at most."""
        found = await self.many(name, *arguments, timeout=timeout)
        return found[0] if found else None

    async def stored(self, name: str, *arguments: Argument, timeout: float | None) -> list[tuple[FlowRunState, bool]]:
        """The records of the read `name`, each with its column `agrees`."""
        states, rows = await self._read(name, arguments, timeout)
        return [(state, row["agrees"]) for state, row in zip(states, rows, strict=True)]

    async def insert(self, name: str, *arguments: Argument, id: UUID, queue: str | None, timeout: float | None) -> FlowRunState | None:
        """The record that the insert `name` stored under `id`; None if it stored nothing, because of its condition or of another transaction.

        With `queue`, a run's id, it waits its turn among the inserts that queue for that run. That takes a transaction, so it is done on a pool only.
        """
        text = queries.query(name, self.layout)
        async with asyncio.timeout(timeout), self.connection() as connection:
            try:
                if queue is not None and self.is_pool:
                    async with connection.transaction(isolation="read_committed"):
                        await connection.fetch(queries.query("create_flow_run_state.queue", self.layout), queue)
                        rows = await connection.fetch(text, *arguments)
                else:
                    rows = await connection.fetch(text, *arguments)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if connection.is_in_transaction():
                    raise  # the caller's transaction is lost, and with it more than this insert
                return None
        if not rows:
            return None
        if are_native(rows):
            return to_states(rows)[0]
        stored = await self.optional("read_flow_run_state", str(id), timeout=timeout)
        if stored is None:
            raise UnreadableRowError(id, "id", "was stored, and deleted before it could be read in types that its connection's codecs leave alone")
        return stored

    async def values(self, name: str, *arguments: Argument, timeout: float | None) -> list[Any]:
        """The first column of each row of query `name`."""
        async with asyncio.timeout(timeout), self.connection() as connection:
            return [row[0] for row in await _fetch(connection, queries.query(name, self.layout), arguments)]

    @asynccontextmanager
    async def stream(self, name: str, *arguments: Argument) -> AsyncIterator[AsyncIterator[FlowRunState]]:
        """The records of the read `name`, a batch at a time from a cursor on the server, which is gone when the block is left."""
        async with self.connection() as connection, AsyncExitStack() as stack:
            if not connection.is_in_transaction():
                await stack.enter_async_context(connection.transaction(readonly=True))
            yield await stack.enter_async_context(aclosing(_records(connection, queries.query(name, self.layout), arguments)))

    async def _read(self, name: str, arguments: Sequence[Argument], timeout: float | None) -> tuple[list[FlowRunState], Sequence[Any]]:
        text = queries.query(name, self.layout)
        async with asyncio.timeout(timeout), self.connection() as connection:
            try:
                rows = await _fetch(connection, text, arguments)
                if are_native(rows):
                    return to_states(rows), rows
            except OverflowError:
                pass  # a time outside the years 1 to 9999; asyncpg does not say of which row
            # A codec of the connection, or such a time, is in the way: the server is asked once more, for what neither can touch.
            objects = [json.loads(row["row"]) for row in await _fetch(connection, _as_json(text), arguments)]
            return to_states_from_json(objects), objects

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AnyConnection]:
        """A connection; errors that leave the block with it get their cure as a note."""
        try:
            async with acquired(self._pool_or_connection) as connection:
                yield connection
        except asyncpg.PostgresError as error:
            cure = _CURES[self.layout].get(type(error))
            if cure:
                error.add_note(cure)
            raise


def _as_json(text: str) -> str:
    return queries.fill(queries.catalog("read_as_json"), "read", text.rstrip().removesuffix(";"))


async def _records(connection: AnyConnection, text: str, arguments: Sequence[Argument]) -> AsyncGenerator[FlowRunState, None]:
    cursor = await connection.cursor(text, *arguments)
    try:
        while rows := await cursor.fetch(_ROWS_A_BATCH):
            if not are_native(rows):
                break
            for state in to_states(rows):
                yield state
        else:
            return
        unreadable = False
    except OverflowError:
        unreadable = True
    cursor = await connection.cursor(_as_json(text), *arguments)
    while rows := await cursor.fetch(_ROWS_A_BATCH):
        for state in to_states_from_json(json.loads(row["row"]) for row in rows):
            if not unreadable:  # else they were given already, and it is only looked for the row that is named by an error
                yield state


async def _fetch(connection: AnyConnection, text: str, arguments: Sequence[Argument]) -> list[asyncpg.Record]:
    while True:
        try:
            return await connection.fetch(text, *arguments)
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            # The server undid this one statement for another transaction's sake, so it can be run again; a caller's transaction cannot.
            if connection.is_in_transaction():
                raise


@asynccontextmanager
async def acquired(pool_or_connection: PoolOrConnection) -> AsyncIterator[AnyConnection]:
    """A connection of the pool, given back afterwards, or the caller's own connection, left as it is."""
    if isinstance(pool_or_connection, asyncpg.Pool):
        async with pool_or_connection.acquire() as connection:
            yield connection
    else:
        yield pool_or_connection


async def ask(connection: AnyConnection, name: str, *arguments: str) -> list[asyncpg.Record]:
    """The rows of `sql/catalog/<name>.sql`."""
    return await connection.fetch(queries.catalog(name), *arguments)
