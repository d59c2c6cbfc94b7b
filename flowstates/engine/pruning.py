"""A pass over runs that deletes what a policy does not keep, a batch a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from flowstates.engine import cursors, queries
from flowstates.engine.archives import Archive
from flowstates.engine.connections import AnyConnection, Transaction, fetched, repeated
from flowstates.engine.cursors import Cursor
from flowstates.engine.execution import Argument, Execution
from flowstates.engine.policies import OldestRun, Pace, Policy, PruneReport, Why
from flowstates.engine.retries import LOG, retrying
from flowstates.engine.rows import COLUMNS, Row, time_of, to_states
from flowstates.engine.standbys import Standbys
from flowstates.errors import FlowStatesError, InvalidInputError, UnreadableRowError
from flowstates.filters import array_of
from flowstates.records import StateType
from flowstates.values import counted

_NO_ID = str(UUID(int=0))
_BEGIN = "-infinity"
_STATES_A_RUN = 10  # a first guess
_GOOD_BATCHES = 10  # in a row, before a batch that was made smaller for a time limit grows again
_MOST_IDS = 1_000  # that are remembered of runs that were held
_ARCHIVE = "archive"
_HELD = (asyncpg.IntegrityConstraintViolationError, UnreadableRowError)  # a table that sets null or a default may refuse that too
_FIRST_SIZE = 250  # states of the first batch that is archived, before it is known how large they are
_MOST_BYTES = 8 * 2**20  # of an archived batch, as text; in memory it is several times that
_TOO_LONG = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError)


class Position(NamedTuple):
    """Behind which run, in the order of the walk: of our own tables (type, time, id), of Prefect's the id."""

    type: StateType
    timestamp: str
    id: str


class Found(NamedTuple):
    """What a batch did, or would do, and how far it came."""

    runs: int
    states: int
    bytes: int | None
    passed: int
    timestamp: str | None
    id: str | None
    is_last: bool


class Pass:
    """One pass, from its begin or a cursor. `before` is in UTC; `has_time_limit` says whether the session's statement_timeout may end a batch."""

    def __init__(
        self,
        execution: Execution,
        policy: Policy,
        pace: Pace,
        before: datetime,
        *,
        cursor: str | None,
        archive: Archive | None,
        dry_run: bool,
        has_time_limit: bool,
    ) -> None:
        self._execution = execution
        self._policy = policy
        self._pace = pace
        self._before = before
        self._archive = archive
        self._dry_run = dry_run
        self._has_time_limit = has_time_limit
        self._question = policy.question(execution.layout)
        self._position = self._begin(0) if cursor is None else self._decoded(cursor)
        self._most_size = pace.batch_size
        self._size = min(self._most_size, _FIRST_SIZE) if archive else self._most_size
        self._is_too_long = False
        self._good = 0
        self._runs_a_batch = max(1, self._size // _STATES_A_RUN)
        self._most_runs: int | None = None
        self._standbys = Standbys(execution, pace.max_lag)
        self._runs = self._states = self._bytes = self._batches = self._passed = 0
        self._held: dict[str, int] = {}
        self._held_ids: set[str] = set()

    async def run(self, on_batch: Callable[[PruneReport], object] | None) -> PruneReport:
        """Goes on to the end, or until there were batches enough."""
        while self._position is not None and self._batches != self._pace.max_batches:
            await self._standbys.wait()
            before = self._batches
            await self._step(self._position)
            if self._batches > before:
                LOG.debug("prune: %s", _counts(self._batches, self._runs, self._states))
                if on_batch is not None:
                    on_batch(self._report(None))
                if self._pace.pause and self._position is not None and self._batches != self._pace.max_batches:
                    await asyncio.sleep(self._pace.pause)
        if self._policy.keep is None:
            await self._look_on()
        report = self._report(None if self._dry_run else await self._oldest())
        LOG.info(
            "prune%s: %s; passed %d, held %d; %s",
            " (dry run)" if self._dry_run else "",
            _counts(report.batches, report.runs, report.states),
            report.passed,
            sum(report.held.values()),
            "done" if report.is_done else "more to do",
        )
        return report

    async def _look_on(self) -> None:
        """To the next run that is asked for, or the end: an index has it. What is left of histories would have to be read."""
        while self._position is not None:
            found = await self._batch(self._position, 1, look=True)
            if found.runs:
                return
            self._move(self._position, found)

    async def _step(self, position: Position) -> None:
        runs = min(self._size, self._runs_a_batch, self._most_runs or self._size)
        try:
            try:
                found = await self._batch(position, runs)
            except _HELD as error:
                if runs > 1:
                    self._most_runs = runs // 2
                    retrying(f"prune, with {self._most_runs} runs", error)
                    return
                found = await self._one_that_is_held(position)
        except _TOO_LONG as error:
            self._shrink(error, position)
            return
        self._move(position, found)
        if self._most_runs is not None:
            self._most_runs = None if self._most_runs >= self._runs_a_batch else 2 * self._most_runs
        self._grow(found, runs)

    async def _one_that_is_held(self, position: Position) -> Found:
        """Looks which run is next, and tries that one alone: what is counted as held is what was tried."""
        found = await self._batch(position, 1, look=True)
        if not found.runs:
            return found
        nothing = found._replace(runs=0, states=0, bytes=0)
        try:
            tried = await self._batch(position, 1, run_id=found.id)
            # It may have been changed between the two, and be none of those that are asked for any more.
            return nothing._replace(passed=1) if tried.id is None else tried
        except _HELD as error:
            name = _ARCHIVE if isinstance(error, UnreadableRowError) else _constraint(error)
            self._held[name] = self._held.get(name, 0) + 1
            if found.id is not None and len(self._held_ids) < _MOST_IDS:
                self._held_ids.add(found.id)
            return nothing

    def _shrink(self, error: asyncpg.PostgresError, position: Position) -> None:
        if isinstance(error, asyncpg.QueryCanceledError) and not self._has_time_limit:
            raise error  # somebody meant it
        if self._size == 1:
            error.add_note(f"also of a batch of one run, the first behind {position.id}: its history takes longer than the session's time limit")
            raise error
        self._is_too_long, self._size = True, max(1, self._size // 2)
        self._runs_a_batch = max(1, self._runs_a_batch // 2)
        self._good = 0
        retrying(f"prune, with {self._size} states", error)

    def _grow(self, found: Found, runs: int) -> None:
        self._good += 1
        if self._good == _GOOD_BATCHES or not self._is_too_long:
            self._good, self._size = 0, min((2 if self._is_too_long else 4) * self._size, self._most_size)
        if 2 * found.states >= self._size and found.runs:
            self._runs_a_batch = max(1, -(-found.runs * self._size // found.states))
        elif runs >= self._runs_a_batch:
            self._runs_a_batch = min(2 * self._runs_a_batch, self._size)

    def _move(self, position: Position, found: Found) -> None:
        self._runs += found.runs
        self._states += found.states
        self._bytes += found.bytes or 0
        self._passed += found.passed
        self._batches += found.runs > 0
        if found.id is not None and not found.is_last:
            self._position = position._replace(id=found.id, timestamp="" if found.timestamp is None else f"{found.timestamp[1:-1]}Z")
        elif self._execution.layout == "prefect":
            self._position = None
        else:
            self._position = self._begin(self._policy.types.index(position.type) + 1)

    async def _batch(self, position: Position, runs: int, *, run_id: str | None = None, look: bool = False) -> Found:
        """A batch of at most so many runs; with `look` it only says what that would be."""
        look = look or self._dry_run
        text, arguments = self._statement(position, runs, run_id, look)
        is_of_pool = self._execution.is_of_pool
        async with self._execution.connection() as connection:
            if look:
                return _found((await fetched(connection, text, arguments, is_of_pool=is_of_pool))[0])
            if connection.is_in_transaction():
                async with Transaction(connection, None, is_of_pool=is_of_pool):
                    return await self._delete(connection, text, arguments)
            return await repeated(connection, queries.name_of(text), lambda: self._delete(connection, text, arguments), is_of_pool=is_of_pool)

    async def _delete(self, connection: AnyConnection, text: str, arguments: tuple[Argument, ...]) -> Found:
        rows = await connection.fetch(text, *arguments)
        # On Prefect's tables a state may be deleted by others and its run's row stay as it is.
        if rows[0]["states_gone"] != rows[0]["states_chosen"] and self._execution.layout == "flowstates":
            raise FlowStatesError(
                f"{rows[0]['states_gone']} of {rows[0]['states_chosen']} states were deleted, so the batch is undone: a trigger on flow_run_state"
                " keeps rows back"
            )
        if rows[0]["id"] is not None:
            await self._keep([row[: len(COLUMNS)] for row in rows])
        return _found(rows[0])

    async def _keep(self, rows: Sequence[Row]) -> None:
        """Hands over what is deleted to the archive, if there is one, and learns how large a batch of it is."""
        if self._archive is not None:
            size = sum(len(text) for row in rows for text in row if text)
            self._most_size = min(self._pace.batch_size, max(1, len(rows) * _MOST_BYTES // size))
            self._size = min(self._size, self._most_size)
            await self._archive(to_states(rows))

    def _statement(self, position: Position, runs: int, run_id: str | None, look: bool) -> tuple[str, tuple[Argument, ...]]:
        keep, layout = self._policy.keep, self._execution.layout
        size = str(1 if run_id else self._size)
        arguments: tuple[Argument, ...]
        if layout == "prefect":
            arguments = array_of(self._policy.types), self._before.isoformat(), position.id, str(runs), size, run_id
        else:
            arguments = position.type.value, self._before.isoformat(), position.timestamp, position.id, str(runs), size, run_id
        if keep is not None:
            newest = str(max(keep.newest, int(keep.last)))
            arguments = (*arguments, str(keep.first).lower(), newest, [type_.value for type_ in keep.types], list(keep.names))
        if layout == "prefect":
            arguments = (*arguments, str(self._policy.artifacts).lower())
        if look:
            return queries.query("prune.runs_dry" if keep is None else "prune.states_dry", layout), arguments
        name = "prune.runs" if keep is None else "prune.artifacts" if self._policy.artifacts else "prune.states"
        return queries.query(name, layout), (*arguments, str(self._archive is not None).lower())

    async def _oldest(self) -> OldestRun | None:
        row = await self._oldest_row()
        if row is None:
            return None
        id_, type_, timestamp = row["id"], StateType(row["type"]), time_of(row["timestamp"])
        why: Why
        if type_ not in self._policy.types:
            why = "type"
        elif timestamp >= self._before:
            why = "young"
        elif id_ in self._held_ids:
            why = "held"
        elif self._is_ahead(id_, type_, timestamp):
            why = "ahead"
        else:
            why = "passed" if self._policy.keep is None else "kept"
        return OldestRun(UUID(id_), type_, timestamp, why)

    def _is_ahead(self, id: str, type_: StateType, timestamp: datetime) -> bool:
        """Whether the pass has not come to a run."""
        if self._position is None:
            return False
        at, order = self._position, self._policy.types.index
        if self._execution.layout == "prefect":
            return id > at.id
        if type_ is not at.type:
            return order(type_) > order(at.type)
        return at.timestamp == _BEGIN or (timestamp, id) > (datetime.fromisoformat(at.timestamp), at.id)

    async def _oldest_row(self) -> asyncpg.Record | None:
        rows = await self._execution.rows("prune.oldest", list(StateType), timeout=None)
        return rows[0] if rows else None

    def _report(self, oldest: OldestRun | None) -> PruneReport:
        is_done = self._position is None
        bytes_ = None if self._dry_run else self._bytes
        held = dict(self._held)
        return PruneReport(self._runs, self._states, bytes_, self._batches, self._passed, held, self._encoded(), is_done, oldest)

    def _begin(self, number: int) -> Position | None:
        types = self._policy.types
        id_ = "" if self._execution.layout == "prefect" else _NO_ID
        return Position(types[number], _BEGIN, id_) if number < len(types) else None

    def _encoded(self) -> str | None:
        if self._position is None:
            return None
        type_, timestamp, id_ = self._position
        return cursors.encode(Cursor((f"{type_} {timestamp}", id_), backwards=False), self._question)

    def _decoded(self, text: str) -> Position:
        try:
            (first, id_), _ = cursors.decode(text, self._question)
        except InvalidInputError as error:
            raise InvalidInputError("cursor", error.message.replace("filter, order", "policy")) from None
        type_, _, timestamp = first.partition(" ")
        return Position(StateType(type_), timestamp, id_)


def _counts(batches: int, runs: int, states: int) -> str:
    return f"{counted(batches, 'batch')}, {counted(runs, 'run')}, {counted(states, 'state')}"


def _constraint(error: asyncpg.PostgresError) -> str:
    if error.constraint_name or error.table_name:
        return error.constraint_name or f"{error.table_name}.{error.column_name}"
    return str(error.sqlstate)  # Citus does not hand on more


def _found(row: Any) -> Found:
    size = row["bytes_gone"]
    counts = int(row["runs_gone"]), int(row["states_gone"]), None if size is None else int(size), int(row["runs_passed"])
    return Found(*counts, row["reached_timestamp"], row["reached_id"], row["is_last"] != "false")
