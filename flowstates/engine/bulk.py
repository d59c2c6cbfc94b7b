"""The append of many states at once: the ends of their runs are read and locked, the states are numbered here, and one COPY stores them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

import asyncpg

from flowstates.engine import queries
from flowstates.engine.connections import AnyConnection, Transaction, repeated
from flowstates.engine.execution import Argument, Execution
from flowstates.engine.retries import retrying
from flowstates.errors import FlowStatesError
from flowstates.records import CreateOutcome, NewFlowRunState
from flowstates.values import seconds

_NAME = "create_flow_run_states"
_COLUMNS = ("flow_run_id", "type", "id", "timestamp", "name", "message", "state_details", "data", "result_artifact_id", "transaction")
_MOST_OF_A_MESSAGE = 2**20  # characters, more or less: what is copied, or asked about, at once
_TAKEN = "the id is stored already, with other content or in another run"
_NULL = "\\N"  # in the text format of COPY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class New(NamedTuple):
    """A state to be stored, as it was when it was checked: its caller may change it later."""

    id: UUID
    timestamp: datetime | None
    parameters: tuple[str | None, ...]

    @classmethod
    def of(cls, state: NewFlowRunState) -> New:
        """What is stored of a state that is checked."""
        return cls(state.id, state.timestamp, state.as_parameters())


async def append_many(execution: Execution, states: Sequence[New], *, nudge: bool, timeout: float | None) -> list[CreateOutcome]:
    """The outcome of each state, in their order. Outside the caller's transaction, what the server undid for another's sake is run again."""
    timeout = seconds(timeout)
    if not states:
        return []
    batch = _DistributedBatch if execution.layout == "citus" else _Batch
    async with asyncio.timeout(timeout), execution.connection() as connection:
        is_of_pool = execution.is_of_pool
        if connection.is_in_transaction():
            async with Transaction(connection, None, is_of_pool=is_of_pool):
                return await batch(connection, execution, states, nudge).store()
        return await repeated(connection, _NAME, lambda: batch(connection, execution, states, nudge).store(), is_of_pool=is_of_pool)


@dataclass
class _Run:
    """Where a run's history ends, and the server's clock, in microseconds since 1970; the transaction that its next states get, if they get one."""

    newest: int | None
    transaction: str | None
    now: int
    is_moved: bool = False
    # Each taken timestamp, with one from which on a free one may be found.
    taken: dict[int, int] = field(default_factory=dict)

    def next(self) -> int:
        """The server's clock, or one microsecond after the run's newest state if that is later."""
        return self.now if self.newest is None else max(self.now, self.newest + 1)

    def free(self, timestamp: int) -> int:
        """The first free timestamp from this one on."""
        found = timestamp
        while found in self.taken:
            found = self.taken[found]
        if found != timestamp:
            self.taken[timestamp] = found
        return found

    def take(self, timestamp: int) -> None:
        """Takes a free timestamp."""
        self.taken[timestamp] = timestamp + 1
        if self.newest is None or timestamp > self.newest:
            self.newest = timestamp
            self.is_moved = True


class _Batch:
    """One try at storing states, inside a transaction."""

    columns: tuple[str, ...] = _COLUMNS

    def __init__(self, connection: AnyConnection, execution: Execution, states: Sequence[New], nudge: bool) -> None:
        self._connection = connection
        self._execution = execution
        self._states = states
        self._nudge = nudge
        # Texts compare and hash several times faster than UUIDs, in the same order.
        self._parameters = [state.parameters for state in states]
        self._outcomes: dict[int, CreateOutcome] = {}
        # What was copied, as JSON, where a trigger may have changed it.
        self._meant: list[str] = []
        self._may_change = False

    async def store(self) -> list[CreateOutcome]:
        """The outcome of each state."""
        pending = list(range(len(self._states)))
        look_up_all = False
        tries_in_vain = 0
        seen = None
        touched: dict[str, _Run] = {}
        while pending:
            runs = await self._read_runs(pending)
            touched |= runs
            # A run without history holds none of the ids. If another run does, the COPY fails, and all of them are looked up.
            await self._settle([index for index in pending if look_up_all or runs[self._run_of(index)].newest is not None])
            pending = [index for index in pending if index not in self._outcomes]
            # What was in the way of the last try is seen now, unless it has gone again or the caller's snapshot is too old to see it.
            tries_in_vain = tries_in_vain + 1 if seen == (seen := (len(pending), [run.newest for run in runs.values()])) else 0
            await self._read_taken(pending, runs)
            try:
                async with Transaction(self._connection, None, is_of_pool=self._execution.is_of_pool):
                    await self._copy(pending, runs)
                break
            except (asyncpg.UniqueViolationError, asyncpg.InternalServerError) as error:  # a duplicate, on a distributed table an internal error
                if tries_in_vain == 3:
                    raise
                retrying(_NAME, error)
                look_up_all = True
        if moved := [id for id, run in touched.items() if run.is_moved]:
            await self._point(moved)
        if unused := [id for id, run in touched.items() if run.newest is None]:
            await self._ask("create_flow_run_states.unused", unused)
        if self._may_change:
            await self._compare([id for id, run in touched.items() if run.newest is not None])
        await self._settle([index for index in range(len(self._states)) if index not in self._outcomes])
        return [self._outcomes[index] for index in range(len(self._states))]

    def _key(self, run_id: str | None, id_: str | None) -> tuple[str | None, ...]:
        """What a state is told apart by."""
        return (id_,)

    async def _point(self, moved: list[str]) -> None:
        """Lets the rows of some runs point at the newest of their states."""
        _all_there(len(moved), await self._ask("create_flow_run_states.currents", moved))

    async def _heads(self, ids: list[str]) -> list[asyncpg.Record]:
        """Locks the rows of some runs, in the order of their ids, and reads where their histories end."""
        return await self._ask("create_flow_run_states.heads", ids)

    def _run_of(self, index: int) -> str:
        return self._parameters[index][0] or ""

    async def _read_runs(self, pending: Sequence[int]) -> dict[str, _Run]:
        ids = list(dict.fromkeys(map(self._run_of, pending)))
        rows = await self._heads(ids)
        _all_there(len(ids), rows)
        self._may_change = rows[0]["may_change"] == "true"
        runs = {id: _Run(None if timestamp is None else int(timestamp), transaction, int(now)) for id, timestamp, transaction, now, _ in rows}
        if not runs.keys() >= set(ids):
            raise FlowStatesError("rows of flow_run are of other runs, so all is undone: a trigger on flow_run changes rows")
        return runs

    async def _read_taken(self, pending: Sequence[int], runs: dict[str, _Run]) -> None:
        """Finds the stored timestamps that a given one might meet."""
        since: dict[str, datetime] = {}
        for index in pending:
            run_id, time = self._run_of(index), self._states[index].timestamp
            newest = runs[run_id].newest
            if time is not None and newest is not None and _micros(time) <= newest:
                since[run_id] = min(since.get(run_id, time), time)
        if since:
            for row in await self._ask("create_flow_run_states.taken", list(since), [time.isoformat() for time in since.values()]):
                runs[row["flow_run_id"]].taken[int(row["timestamp"])] = int(row["timestamp"]) + 1

    async def _settle(self, indices: Sequence[int]) -> None:
        """Finds the outcome of those whose id is stored."""
        texts = [json.dumps(self._parameters[index], ensure_ascii=False) for index in indices]
        for start, end in _parts(texts):
            for position, timestamp, agrees in await self._ask("create_flow_run_states.present", f"[{','.join(texts[start:end])}]"):
                index = indices[start + int(position) - 1]
                if agrees == "true":
                    outcome = CreateOutcome(self._states[index].id, "present", _EPOCH + int(timestamp) * _MICROSECOND)
                else:
                    outcome = CreateOutcome(self._states[index].id, "refused", reason=_TAKEN)
                self._outcomes[index] = outcome

    async def _copy(self, pending: Sequence[int], runs: dict[str, _Run]) -> None:
        outcomes: dict[int, CreateOutcome] = {}
        lines: list[tuple[str, str]] = []
        meant: list[str] = []
        made = set()
        for index in pending:
            state = self._states[index]
            run_id, type_, id_, time_text, *others = self._parameters[index]
            if self._key(run_id, id_) in made:
                continue  # it is told beside what is stored then
            run = runs[self._run_of(index)]
            wanted = run.next() if state.timestamp is None else _micros(state.timestamp)
            timestamp = run.free(wanted)
            time = state.timestamp
            if time is None or timestamp != wanted:
                if time is not None and not self._nudge:
                    outcomes[index] = CreateOutcome(state.id, "refused", reason="its timestamp is taken in its run")
                    continue
                time = _EPOCH + timestamp * _MICROSECOND
                time_text = time.isoformat()
            outcomes[index] = CreateOutcome(state.id, "created", time)
            run.take(timestamp)
            made.add(self._key(run_id, id_))
            if self._may_change:
                meant.append(json.dumps([run_id, type_, id_, time_text, others[0], run.transaction], ensure_ascii=False))
            values = (run_id, type_, id_, time_text, *others, run.transaction)[: len(self.columns)]
            lines.append((self._run_of(index), "\t".join(map(_escaped, values)) + "\n"))
        if lines:
            # Runs in the order of their ids, the same for all writers; a sort is stable, so within a run the order is the given one.
            lines.sort(key=itemgetter(0))
            source = _messages([line for _, line in lines])
            try:
                status = await self._connection.copy_to_table("flow_run_state", source=source, columns=self.columns, encoding="utf-8")
            except asyncpg.FeatureNotSupportedError as error:
                error.add_note("batches are stored by COPY: create these states one by one, or as a role that row level security lets by")
                raise
            if status != f"COPY {len(lines)}":
                raise FlowStatesError(f"{status} of {len(lines)} states, so all are undone: a trigger on flow_run_state keeps rows back")
        self._outcomes |= outcomes
        self._meant = meant

    async def _compare(self, run_ids: Sequence[str]) -> None:
        """Whether a trigger has changed what was stored; FlowStatesError if so."""
        states = runs = 0
        for start, end in _parts(self._meant):
            found = (await self._ask("create_flow_run_states.meant", f"[{','.join(self._meant[start:end])}]", run_ids if start == 0 else []))[0]
            states, runs = states + int(found["states"]), runs + int(found["runs"])
        if self._meant and (states, runs) != (len(self._meant), len(run_ids)):
            raise FlowStatesError(
                f"{states} of {len(self._meant)} states and {runs} of {len(run_ids)} rows of flow_run are as they were to be, so all are undone: a "
                "trigger on flow_run_state or flow_run changes the run, id, type, name, timestamp or transaction of rows"
            )

    async def _ask(self, name: str, *arguments: Argument) -> list[asyncpg.Record]:
        return await self._connection.fetch(queries.query(name, self._execution.layout), *arguments)


class _DistributedBatch(_Batch):
    """The same on Citus: a statement that goes to several servers locks in no order, so the runs' rows have a statement each."""

    columns = _COLUMNS[:-1]

    def _key(self, run_id: str | None, id_: str | None) -> tuple[str | None, ...]:
        return run_id, id_

    async def _heads(self, ids: list[str]) -> list[asyncpg.Record]:
        await self._of_each("create_flow_run_states.lock", sorted(ids))
        return await super()._heads(ids)

    async def _point(self, moved: list[str]) -> None:
        await self._of_each("create_flow_run_states.current", moved)

    async def _of_each(self, name: str, run_ids: list[str]) -> None:
        # Sent one behind the other, without waiting for each answer.
        await self._connection.executemany(queries.query(name, self._execution.layout), [(id_,) for id_ in run_ids])


def _all_there(number: int, rows: Sequence[asyncpg.Record]) -> None:
    if len(rows) != number:
        raise FlowStatesError(f"{len(rows)} of {number} rows of flow_run were written, so all is undone: a trigger on flow_run keeps rows back")


async def _messages(lines: list[str]) -> AsyncIterator[bytes]:
    for start, end in _parts(lines):
        yield "".join(lines[start:end]).encode()


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where to cut a list of texts, so that a part is not longer than a message, or is of one text."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        if size and size + len(text) > _MOST_OF_A_MESSAGE:
            yield start, index
            start, size = index, 0
        size += len(text)
    if size:
        yield start, len(texts)


def _escaped(text: str | None) -> str:
    """A text as the text format of COPY has it."""
    if text is None:
        return _NULL
    if text.isprintable() and "\\" not in text:
        return text
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND
