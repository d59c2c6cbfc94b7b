"""A query, and records out: the only place that awaits asyncpg for a query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from flowstates.engine import queries
from flowstates.engine.connections import (
    CURES,
    CUT,
    Acquired,
    AnyConnection,
    PoolOrConnection,
    Transaction,
    add_cure,
    close_cursor,
    fetched,
    is_lost,
    is_pool,
)
from flowstates.engine.rows import FIRST_ROWS, OnUnreadable, next_rows, readable_states, to_states
from flowstates.errors import FlowStatesError
from flowstates.filters import FlowRunStateFilter, runs_clause, to_clause
from flowstates.records import FlowRunState
from flowstates.values import LAYOUTS, Layout, one_of, seconds

Argument: TypeAlias = str | Sequence[str | None] | None
Statement: TypeAlias = tuple[str, tuple[Argument, ...]]

_MOST_ROWS = 500  # of a stream's batch; a round trip each

_CURES: dict[Layout, dict[type[asyncpg.PostgresError], str]] = {
    "flowstates": {
        asyncpg.FeatureNotSupportedError: "if Citus distributes these tables: those that `flowstates migrate --distributed` makes in an "
        "empty schema take layout='citus'",
        asyncpg.UndefinedTableError: "a table of flowstates is not on the search path: run `flowstates migrate`, or await flowstates.migrate(pool)",
        asyncpg.UndefinedColumnError: "these tables are not those that flowstates makes: `flowstates check` names what differs; those on Citus take "
        "layout='citus', which has neither batched creates nor a feed",
        asyncpg.UndefinedObjectError: "this database is not as flowstates makes it: run `flowstates migrate`, or `flowstates check` if that was done",
        **CURES,
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state and flow_run; creating insert on both and update on flow_run; "
        "deleting delete on both, update on flow_run, and select, insert, update and delete on flowstates_pruned; reading a feed select on "
        "flowstates_pruned; consuming select, insert and update on flowstates_consumer too",
    },
    "citus": {
        asyncpg.FeatureNotSupportedError: "Citus does not take this statement as the session has it: it plans none for more than one server with "
        "plan_cache_mode = force_generic_plan, say",
        asyncpg.UndefinedTableError: "a table of flowstates is not on the search path: run `flowstates migrate --distributed`, or await "
        "flowstates.migrate(pool, distributed=True), on Citus's coordinator",
        **dict.fromkeys(
            (asyncpg.UndefinedColumnError, asyncpg.NotNullViolationError),
            "these tables are not those that `flowstates migrate --distributed` makes on Citus: `flowstates check --layout citus` names what differs",
        ),
        asyncpg.UndefinedFunctionError: "the functions that write on Citus are not on the search path: tables that somebody else distributed, or did "
        "not, are not written to; `flowstates migrate --distributed` makes them with the tables, in an empty schema",
        **CURES,
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state and flow_run; creating and deleting select, insert, update and "
        "delete on both, and execute on append_flow_run_state, delete_flow_run_states and prune_flow_run",
    },
    "prefect": {
        asyncpg.UndefinedTableError: "no Prefect tables on the search path: is this Prefect's database, and the schema the one it uses?",
        asyncpg.UndefinedColumnError: "these are not tables of Prefect 2.8 to 3.9: `flowstates check --layout prefect` names what differs",
        **CURES,
        asyncpg.InsufficientPrivilegeError: "reading takes select on flow_run_state, flow_run and artifact, deleting delete on flow_run_state",
    },
}


class Execution:
    """Runs the texts of one layout on what the caller owns. `timeout` is for the whole call: waiting for a connection, and the statement.

    A statement that the server undid for another transaction's sake is done again a few times, but not in a transaction of the caller's.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, layout: Layout) -> None:
        self.is_of_pool: bool = is_pool(pool_or_connection)  # a connection is, so that a broken one is the pool's to replace
        self._pool_or_connection = pool_or_connection
        self.layout: Layout = one_of("layout", layout, *LAYOUTS)

    @property
    def is_open_pool(self) -> bool:
        """Whether it is a pool that gives out connections; where a wrapper does not say so, a pool counts as one."""
        return self.is_of_pool and not getattr(self._pool_or_connection, "is_closing", bool)()

    async def many(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[FlowRunState]:
        """The records of the read `name`, its filter filled in."""
        text, arguments = filled(name, self.layout, arguments, filter)
        return to_states(await self._fetch(text, arguments, timeout))

    async def stored(self, name: str, *arguments: Argument) -> list[tuple[FlowRunState, bool]]:
        """The records of the read `name`, each with its column `agrees`, which is the last."""
        rows = await self._fetch(queries.query(name, self.layout), arguments, None)
        return list(zip(to_states([row[:-1] for row in rows]), (row[-1] == "true" for row in rows), strict=True))

    async def insert(self, name: str, *arguments: Argument, timeout: float | None) -> FlowRunState | asyncpg.UniqueViolationError | None:
        """The record that the insert `name` stored; None if it stored nothing; the error if a key was taken, which ends a caller's transaction."""
        timeout = seconds(timeout)
        async with asyncio.timeout(timeout), self.connection() as connection:
            text = _insert_text(name, self.layout, connection.is_in_transaction())
            try:
                rows = await fetched(connection, text, arguments, is_of_pool=self.is_of_pool)
            except asyncpg.UniqueViolationError as error:
                if connection.is_in_transaction():
                    raise
                return error
            except asyncpg.DivisionByZeroError as error:
                if error.context:
                    raise  # it was in somebody's function
                raise FlowStatesError(
                    "nothing was stored: a trigger on flow_run_state or flow_run keeps rows back, or changes the run, id, type, name, timestamp or "
                    "transaction of one"
                ) from None
        return to_states(rows)[0] if rows else None

    async def rows(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[asyncpg.Record]:
        """The rows of query `name`, whose columns are text, which no codec of the caller's changes but one for text itself."""
        text, arguments = filled(name, self.layout, arguments, filter)
        return await self._fetch(text, arguments, timeout)

    async def rows_of_runs(self, name: str, *arguments: Argument, flow_run_ids: Sequence[UUID] | None, timeout: float | None) -> list[asyncpg.Record]:
        """The rows of query `name`, whose filter chooses runs."""
        text, arguments = filled_of_runs(name, self.layout, arguments, flow_run_ids)
        return await self._fetch(text, arguments, timeout)

    async def values(self, name: str, *arguments: Argument, filter: FlowRunStateFilter | None = None, timeout: float | None) -> list[Any]:
        """The first column of each row of query `name`."""
        return [row[0] for row in await self.rows(name, *arguments, filter=filter, timeout=timeout)]

    def stream(
        self, name: str, filter: FlowRunStateFilter | None, on_unreadable: OnUnreadable | None, timeout: float | None
    ) -> AbstractAsyncContextManager[AsyncIterator[FlowRunState]]:
        """The records of the read `name`, a batch at a time from a cursor on the server, which is gone when the block is left.

        A row that does not fit its record goes to `on_unreadable`; without one it is raised. `timeout` is for the connection, and for each batch.
        """
        # Filled here, where the filter was checked, and not when the block is entered.
        return self._stream(filled(name, self.layout, (), filter), on_unreadable, timeout)

    @asynccontextmanager
    async def _stream(
        self, statement: Statement, on_unreadable: OnUnreadable | None, timeout: float | None
    ) -> AsyncIterator[AsyncIterator[FlowRunState]]:
        text, arguments = statement
        timeout = seconds(timeout)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(timeout):
                connection = await stack.enter_async_context(self.connection(is_lent=True))
                if not (is_joined := connection.is_in_transaction()):
                    own = Transaction(connection, "repeatable_read", readonly=True, is_of_pool=self.is_of_pool, timeout=timeout)
                    await stack.enter_async_context(own)
            yield await stack.enter_async_context(
                aclosing(_records(connection, text, arguments, on_unreadable, timeout, _CURES[self.layout], close=is_joined))
            )

    def connection(self, *, is_lent: bool = False) -> Acquired:
        """A context manager: see Acquired. Errors that leave the block with it get their cure as a note, unless the block is a caller's, whose errors
        are of their own tables."""
        return Acquired(self._pool_or_connection, cures={} if is_lent else _CURES[self.layout])

    async def _fetch(self, text: str, arguments: Sequence[Argument], timeout: float | None) -> list[asyncpg.Record]:
        if timeout is None:
            async with self.connection() as connection:
                return await fetched(connection, text, arguments, is_of_pool=self.is_of_pool)
        timeout = seconds(timeout)
        async with asyncio.timeout(timeout), self.connection() as connection:
            return await fetched(connection, text, arguments, is_of_pool=self.is_of_pool)


def filled(name: str, layout: Layout, arguments: tuple[Argument, ...], filter: FlowRunStateFilter | None) -> Statement:
    """The query `name` and its arguments as they are sent, a filter's among them."""
    text = queries.query(name, layout)
    if filter is None:
        return text, arguments
    clause, values = to_clause(filter, len(arguments) + 1, layout, stops=name.startswith("read_flow_run_state_page.run"))
    return queries.fill(text, "filter", clause), (*arguments, *values)


def filled_of_runs(name: str, layout: Layout, arguments: tuple[Argument, ...], flow_run_ids: Sequence[UUID] | None) -> Statement:
    """The query `name`, whose filter chooses runs, and its arguments as they are sent."""
    clause, values = runs_clause(flow_run_ids, len(arguments) + 1, layout)
    return queries.fill(queries.query(name, layout), "filter", clause), (*arguments, *values)


@cache
def _insert_text(name: str, layout: Layout, in_transaction: bool) -> str:
    text = queries.query(name, layout)
    # On Citus the function asks in any case.
    return text if in_transaction or layout == "citus" else queries.fill(text, "is_free", "true")


async def _records(
    connection: AnyConnection,
    text: str,
    arguments: Sequence[Argument],
    on_unreadable: OnUnreadable | None,
    timeout: float | None,
    cures: Mapping[type[asyncpg.PostgresError], str],
    *,
    close: bool,
) -> AsyncGenerator[FlowRunState, None]:
    # Prepared without a name, which behind a pooler could be another process's.
    try:
        cursor = await (await connection.prepare(text, name="", timeout=timeout)).cursor(*arguments, timeout=timeout)
    except asyncpg.PostgresError as error:
        add_cure(error, cures)
        raise
    count = FIRST_ROWS
    try:
        while rows := await cursor.fetch(count, timeout=timeout):
            count = next_rows(rows, _MOST_ROWS)
            for state in readable_states(rows, on_unreadable):
                yield state
            del rows  # or they would be held while the next ones come
    except CUT:
        close = False  # the server was asked to cancel the batch, which ends the caller's transaction
        raise
    except asyncpg.InterfaceError as error:
        if is_lost(connection):
            error.add_note(
                "the connection was ended while the stream was not read: idle_in_transaction_session_timeout is how long a reader may pause"
            )
        raise
    except asyncpg.PostgresError as error:
        add_cure(error, cures)
        raise
    finally:
        if close:
            await close_cursor(connection, cursor)
