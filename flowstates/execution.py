"""A pool or a connection, a query, records out: the only place that awaits asyncpg for a query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
PoolOrConnection: TypeAlias = "asyncpg.Pool[asyncpg.Record] | AnyConnection"

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
        self.layout: Layout = layout

    async def many(self, name: str, *arguments: str | None, timeout: float | None) -> list[FlowRunState]:
        """The records of the read `name`. Where a codec of the connection, or a time that asyncpg cannot decode, is in the way, it is asked twice."""
        text = queries.query(name, self.layout)
        async with asyncio.timeout(timeout), self._connection() as connection:
            try:
                rows = await connection.fetch(text, *arguments)
                if are_native(rows):
                    return to_states(rows)
            except OverflowError:
                pass  # a time outside the years 1 to 9999; asyncpg does not say of which row
            plain = queries.fill(queries.catalog("read_as_json"), "read", text.rstrip().removesuffix(";"))
            return to_states_from_json([row["row"] for row in await connection.fetch(plain, *arguments)])

    async def optional(self, name: str, *arguments: str | None, timeout: float | None) -> FlowRunState | None:
        """The record of the read `name`, which has one at most."""
        found = await self.many(name, *arguments, timeout=timeout)
        return found[0] if found else None

    async def insert(self, name: str, *arguments: str | None, id: UUID, timeout: float | None) -> FlowRunState | None:
        """The record that the insert `name` stored under `id`; None if it stored nothing, because of its condition or of another transaction."""
        async with asyncio.timeout(timeout), self._connection() as connection:
            try:
                rows = await connection.fetch(queries.query(name, self.layout), *arguments)
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

    async def value(self, name: str, *arguments: str | None, timeout: float | None) -> Any:
        """The first column of the first row of query `name`, None if there is no row."""
        async with asyncio.timeout(timeout), self._connection() as connection:
            return await connection.fetchval(queries.query(name, self.layout), *arguments)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AnyConnection]:
        try:
            async with acquired(self._pool_or_connection) as connection:
                yield connection
        except asyncpg.PostgresError as error:
            cure = _CURES[self.layout].get(type(error))
            if cure:
                error.add_note(cure)
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
