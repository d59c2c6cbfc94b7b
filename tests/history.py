"""What was asked of a repository and what it answered, and whether the rows that are stored afterwards fit that.

Every create has a message of its own, by which its row is known: two rows with one message are one write stored twice, whatever their ids.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Literal
from uuid import UUID

from flowstates import FlowRunState, FlowRunStateRepository, StateType
from flowstates.engine.appending import Expected
from tests.conftest import Pool


@dataclass(kw_only=True, eq=False)
class Call:
    """`unknown` is what a timeout, a cancellation and a lost connection leave: it may have been done, may never be, or may be done later."""

    who: str = ""
    begun: float = 0.0
    ended: float = 0.0
    outcome: Literal["acknowledged", "refused", "unknown"] = "unknown"
    error: str = ""

    @property
    def latest(self) -> float:
        """When it was done at the latest."""
        return inf if self.outcome == "unknown" else self.ended


@dataclass(kw_only=True, eq=False)
class Create(Call):
    """One try at one state. `batch` is the call that it was a part of, None if it was not of a bulk."""

    run: UUID
    message: str
    type: StateType = StateType.RUNNING
    id: UUID | None = None
    asked_timestamp: datetime | None = None
    expected: Expected = ...
    batch: object = None
    record: FlowRunState | None = None
    timestamp: datetime | None = None


@dataclass(kw_only=True, eq=False)
class Delete(Call):
    ids: frozenset[UUID] = frozenset()
    runs: frozenset[UUID] = frozenset()
    gone: frozenset[UUID] = frozenset()


@dataclass(frozen=True)
class Stored:
    state: FlowRunState
    sequence: int


async def read_stored(pool: Pool, runs: Sequence[UUID]) -> list[Stored]:
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch("select id, sequence from flow_run_state where flow_run_id = any ($1)", runs)
        sequences = {row["id"]: row["sequence"] for row in rows}
        states = FlowRunStateRepository(connection)
        return [Stored(state, sequences[state.id]) for run in runs for state in await states.read_flow_run_states(run)]


def check(log: Iterable[Call], rows: Sequence[Stored]) -> list[str]:
    """The problems; each begins with its kind: lost, doubled, phantom, differs, disorder, fork."""
    history = _History(list(log), rows)
    return [
        *history.doubled(),
        *(problem for write in history.writes.values() for problem in history.of_one(write)),
        *history.phantoms(),
        *history.halves(),
        *(problem for run in history.runs() for problem in (*history.disorder(run), *history.stale(run), *history.forks(run))),
    ]


@dataclass
class _Write:
    """All tries at one state, and all deletes that may have removed it."""

    tries: list[Create]
    row: Stored | None
    removals: list[Delete] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.tries[0]
        self.acknowledged = [call for call in self.tries if call.outcome == "acknowledged"]
        self.begun = min(call.begun for call in self.tries)
        self.latest = max((call.latest for call in self.tries if call.outcome != "refused"), default=-inf)
        self.acknowledged_at = min((call.ended for call in self.acknowledged), default=inf)
        records = [call.record for call in self.acknowledged if call.record is not None]
        ids = [call.id for call in self.tries if call.id] + [record.id for record in records] + ([self.row.state.id] if self.row else [])
        self.id = ids[0] if ids else None
        times = [record.timestamp for record in records] + [call.timestamp for call in self.acknowledged if call.timestamp]
        times += [self.row.state.timestamp] if self.row else []
        self.timestamp = self.row.state.timestamp if self.row else min(times, default=None)
        self.last_timestamp = max(times, default=None)

    def __str__(self) -> str:
        return f"{self.first.message} ({self.id}) of run {self.first.run}"


class _History:
    def __init__(self, log: list[Call], rows: Sequence[Stored]) -> None:
        self.rows = rows
        row_of = {row.state.message: row for row in rows}
        tries: defaultdict[str, list[Create]] = defaultdict(list)
        for call in log:
            if isinstance(call, Create):
                tries[call.message].append(call)
        self.deletes = [call for call in log if isinstance(call, Delete) and call.outcome != "refused"]
        self.writes = {message: _Write(calls, row_of.get(message)) for message, calls in tries.items()}
        self.of_run: defaultdict[UUID, list[_Write]] = defaultdict(list)
        self.of_id: defaultdict[UUID | None, list[_Write]] = defaultdict(list)
        for write in self.writes.values():
            self.of_run[write.first.run].append(write)
            self.of_id[write.id].append(write)
        for delete in self.deletes:
            if delete.outcome == "acknowledged":
                targets = [write for id_ in delete.gone for write in self.of_id[id_]]
            else:
                targets = [write for id_ in delete.ids for write in self.of_id[id_]] + [write for run in delete.runs for write in self.of_run[run]]
            for write in targets:
                write.removals.append(delete)

    def runs(self) -> set[UUID]:
        return {*self.of_run, *(row.state.flow_run_id for row in self.rows)}

    def doubled(self) -> Iterator[str]:
        for what in ("id", "message"):
            for value, times in Counter(getattr(row.state, what) for row in self.rows).items():
                if times > 1:
                    yield f"doubled: {what} {value} is stored {times} times"

    def of_one(self, write: _Write) -> Iterator[str]:
        if write.row is None:
            if write.acknowledged and not any(delete.latest >= max(call.begun for call in write.acknowledged) for delete in write.removals):
                yield f"lost: {write} was acknowledged, not deleted, and is not there"
        else:
            for delete in write.removals:
                if delete.outcome == "acknowledged" and write.latest < delete.begun:
                    yield f"lost: the delete of {write} was acknowledged, and it is there"
            for call in write.acknowledged if not write.removals else ():
                if call.record not in (None, write.row.state) or call.timestamp not in (None, write.row.state.timestamp):
                    yield f"differs: {write} was acknowledged as {call.record or call.timestamp} and is stored as {write.row.state}"
        for call in write.acknowledged:
            if call.record is not None and not _is_what_was_asked(call, call.record):
                yield f"differs: {write} was acknowledged as {call.record}"
        for delete in self.deletes if write.acknowledged else ():
            if delete.outcome != "acknowledged" or write.id in delete.gone or not (write.id in delete.ids or write.first.run in delete.runs):
                continue
            if write.acknowledged_at < delete.begun and not any(other.begun < delete.ended for other in write.removals):
                yield f"lost: {write} was acknowledged, and a later delete did not find it"

    def phantoms(self) -> Iterator[str]:
        for row in self.rows:
            write = self.writes.get(row.state.message or "")
            if write is None:
                yield f"phantom: nobody wrote {row.state}"
            elif write.latest == -inf:
                yield f"phantom: {write} was refused ({write.tries[-1].error}), and it is there"
            elif not any(call.outcome != "refused" and _is_what_was_asked(call, row.state) for call in write.tries):
                yield f"phantom: {write} is stored as {row.state}"

    def halves(self) -> Iterator[str]:
        """A batch of which nobody knows the outcome is there wholly or not at all."""
        batches: defaultdict[object, list[_Write]] = defaultdict(list)
        for write in self.writes.values():
            if write.first.batch is not None and not write.acknowledged and not write.removals and write.latest != -inf:
                batches[write.first.batch].append(write)
        for writes in batches.values():
            if len({write.row is None for write in writes}) > 1:
                yield f"lost: only a part of the batch of {writes[0]} is there"

    def disorder(self, run: UUID) -> Iterator[str]:
        rows = [row for row in self.rows if row.state.flow_run_id == run]
        timestamps, sequences = Counter(row.state.timestamp for row in rows), Counter(row.sequence for row in rows)
        for value, times in (*timestamps.items(), *sequences.items()):
            if times > 1:
                yield f"disorder: run {run} has {value} {times} times"
        # What was acknowledged and stays comes before whatever is begun later, except where a batch says other times.
        staying = [write for write in self.of_run[run] if write.row and not write.removals]
        events = sorted(((write.acknowledged_at, write) for write in staying), key=lambda event: event[0])
        newest: _Write | None = None
        for write in sorted(self.of_run[run], key=lambda write: write.begun):
            if write.first.batch is not None or write.timestamp is None:
                continue
            while events and events[0][0] < write.begun:
                other = events.pop(0)[1]
                newest = other if newest is None else max(newest, other, key=_timestamp)
            if newest is not None and _timestamp(newest) >= write.timestamp:
                yield f"disorder: {write} began after {newest} was acknowledged, and it is not after it"

    def stale(self, run: UUID) -> Iterator[str]:
        """A state that has a lower number and is still there was there when a state was appended: it is older, and not newer than the expected."""
        no_deletes = not any(write.removals for write in self.of_run[run])
        timestamps = self._last_timestamps(run)
        newest: FlowRunState | None = None
        for row in sorted((row for row in self.rows if row.state.flow_run_id == run), key=lambda row: row.sequence):
            write = self.writes.get(row.state.message or "")
            if write is not None and write.first.batch is None:
                expected = write.first.expected
                if newest is not None and newest.timestamp > row.state.timestamp:
                    yield f"disorder: {write} was appended before {newest.id}, and has a higher number"
                if isinstance(expected, UUID):
                    time = timestamps.get(expected)
                    if newest is not None and time is not None and newest.timestamp > time:
                        yield f"fork: {write} expected {expected}, and {newest.id} was current"
                    if no_deletes and (newest is None or newest.id != expected):
                        yield f"fork: {write} expected {expected}, and does not follow it"
                elif expected is None and newest is not None:
                    yield f"fork: {write} expected a run without history, and {newest.id} was current"
                elif isinstance(expected, set | frozenset) and no_deletes and (newest is None or newest.type not in expected):
                    yield f"fork: {write} expected a state in {expected}, and {newest.id if newest else None} was current"
            newest = row.state if newest is None else max(newest, row.state, key=lambda state: state.timestamp)

    def _last_timestamps(self, run: UUID) -> dict[UUID | None, datetime]:
        """The latest time at which each id was stored; without those that may have been stored again unseen."""
        found: dict[UUID | None, datetime] = {}
        unclear = set()
        for write in self.of_run[run]:
            if write.last_timestamp is not None:
                found[write.id] = max(found.get(write.id, write.last_timestamp), write.last_timestamp)
            if write.removals and any(call.outcome == "unknown" for call in write.tries):
                unclear.add(write.id)
        return {id_: time for id_, time in found.items() if id_ not in unclear}

    def forks(self, run: UUID) -> Iterator[str]:
        winners: defaultdict[UUID | None, list[_Write]] = defaultdict(list)
        for write in self.of_run[run]:
            expected = write.first.expected
            if (write.acknowledged or write.row) and (expected is None or isinstance(expected, UUID)):
                winners[expected].append(write)
        for expected, writes in winners.items():
            if expected is not None and self._may_have_come_again(expected):
                continue
            for index, one in enumerate(writes):
                for other in writes[:index]:
                    if not (self._can_follow(one, other) or self._can_follow(other, one)):
                        yield f"fork: {other} and {one} both won against {expected}"

    def _may_have_come_again(self, id_: UUID) -> bool:
        """Whether the state was perhaps deleted and created again: then it can be current twice."""
        writes = self.of_id[id_]
        return any(write.latest >= delete.begun for write in writes for other in writes for delete in other.removals)

    def _can_follow(self, first: _Write, second: _Write) -> bool:
        """Whether the second can have won after the first was deleted: nothing that was appended after the first, and stays, may be there by then."""
        return any(
            delete.latest >= first.begun
            and second.latest >= delete.begun
            and not any(
                other.row is not None
                and not other.removals
                and other not in (first, second)
                and other.acknowledged_at < delete.begun
                and first.timestamp is not None
                and _timestamp(other) > first.timestamp
                for other in self.of_run[first.first.run]
            )
            for delete in first.removals
        )


def _timestamp(write: _Write) -> datetime:
    assert write.timestamp is not None
    return write.timestamp


def _is_what_was_asked(call: Create, state: FlowRunState) -> bool:
    return (call.id or state.id, call.run, call.type, call.message) == (state.id, state.flow_run_id, state.type, state.message) and (
        call.asked_timestamp is None or state.timestamp >= call.asked_timestamp
    )
