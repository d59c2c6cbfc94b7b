"""What was asked of a repository and what it answered, and whether the rows that are stored afterwards fit that.

Every create has a message of its own, by which its row is known: two rows with one message are one write stored twice, whatever their ids.
Appends to a run have rising timestamps. So of two states that stay and are not of a batch, the one with the lower timestamp was there when the other
was appended; a batch's was there for what began after the batch was acknowledged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import inf
from uuid import UUID

from flowstates import FlowRunState
from tests.calls import Call, Create, Delete
from tests.stored import Stored, StoredRun


def check(log: Iterable[Call], rows: Sequence[Stored], runs: Sequence[StoredRun]) -> list[str]:
    """The problems; each begins with its kind: lost, doubled, phantom, differs, disorder, fork, row."""
    history = _History(list(log), rows)
    return [
        *history.doubled(),
        *(problem for write in history.writes.values() for problem in history.of_one(write)),
        *history.phantoms(),
        *history.halves(),
        *(problem for run in history.runs() for problem in (*history.disorder(run), *history.unexpected(run), *history.forks(run))),
        *history.current(runs),
    ]


@dataclass(eq=False)
class _Write:
    """All tries at one state, and all deletes that may have removed it."""

    tries: list[Create]
    row: Stored | None
    removals: list[Delete] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self.tries[0]
        self.done = [call for call in self.tries if call.outcome != "refused"]
        self.acknowledged = [call for call in self.tries if call.outcome == "acknowledged"]
        self.is_there = bool(self.acknowledged or self.row)  # or was
        self.begun = min(call.begun for call in self.tries)
        self.latest = max((call.latest for call in self.done), default=-inf)
        self.acknowledged_at = min((call.ended for call in self.acknowledged), default=inf)
        records = [call.record for call in self.acknowledged if call.record is not None]
        ids = [call.id for call in self.tries if call.id] + [record.id for record in records] + ([self.row.state.id] if self.row else [])
        self.id = ids[0] if ids else None
        times = [record.timestamp for record in records] + [call.timestamp for call in self.acknowledged if call.timestamp]
        times += [self.row.state.timestamp] if self.row else []
        self.timestamp = self.row.state.timestamp if self.row else min(times, default=None)
        self.timestamps = set(times)

    @property
    def has_one_timestamp(self) -> bool:
        """Whether all its timestamps are known, and are one: it may have been stored, deleted and stored again unseen."""
        return len(self.timestamps) == 1 and not (self.removals and any(call.outcome == "unknown" for call in self.tries))

    def __str__(self) -> str:
        return f"{self.first.message} ({self.id}) of run {self.first.run}"

    def precedes(self, calls: Sequence[Call]) -> bool:
        """Whether it was done, for sure, before all of these were begun."""
        return any(all(mine.precedes(call) for call in calls) for mine in self.tries)

    def is_gone_with(self, delete: Delete) -> bool:
        """Whether it was not there, for sure, when that delete was done."""
        return any(
            self.id in removal.gone
            and (removal is delete or removal.precedes(delete) or (removal.transaction is not None and removal.transaction is delete.transaction))
            and not self._may_come_after(removal)
            for removal in self.removals
        )

    def may_be_there(self, calls: Sequence[Call]) -> bool:
        """Whether it may have been there when one of these was done."""
        return any(mine.may_precede(call) for mine in self.done for call in calls) and not any(
            self.id in removal.gone and all(removal.precedes(call) for call in calls) and not self._may_come_after(removal)
            for removal in self.removals
        )

    def may_come_again(self) -> bool:
        return any(self._may_come_after(removal) for removal in self.removals)

    def _may_come_after(self, removal: Delete) -> bool:
        return any(removal.may_precede(mine) for mine in self.done)


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
            if write.precedes([delete]) and not any(other.may_precede(delete) for other in write.removals):
                yield f"lost: {write} was acknowledged, and a later delete did not find it"

    def phantoms(self) -> Iterator[str]:
        for row in self.rows:
            write = self.writes.get(row.state.message or "")
            if write is None:
                yield f"phantom: nobody wrote {row.state}"
            elif write.latest == -inf:
                yield f"phantom: {write} was refused ({write.tries[-1].error}), and it is there"
            elif not any(_is_what_was_asked(call, row.state) for call in write.done):
                yield f"phantom: {write} is stored as {row.state}"

    def halves(self) -> Iterator[str]:
        """A batch or a transaction of which nobody knows the outcome is there wholly or not at all."""
        wholes: defaultdict[object, list[_Write]] = defaultdict(list)
        for write in self.writes.values():
            whole = write.first.batch or write.first.transaction
            if whole is not None and not write.acknowledged and not write.removals and write.latest != -inf:
                wholes[whole].append(write)
        for writes in wholes.values():
            if len({write.row is None for write in writes}) > 1:
                yield f"lost: only a part of the batch or transaction of {writes[0]} is there"

    def disorder(self, run: UUID) -> Iterator[str]:
        rows = sorted((row for row in self.rows if row.state.flow_run_id == run), key=lambda row: row.state.timestamp)
        for value, times in Counter(row.state.timestamp for row in rows).items():
            if times > 1:
                yield f"disorder: run {run} has {value} {times} times"
        batched = {write.id for write in self.of_run[run] if write.first.batch is not None}
        for one, next_ in pairwise(row for row in rows if row.state.id not in batched):
            if one.transaction > next_.transaction:
                yield f"disorder: {next_.state.id} follows {one.state.id}, with transaction {next_.transaction} after {one.transaction}"
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

    def unexpected(self, run: UUID) -> Iterator[str]:
        """An append won while none of the states that may have been current then is what it expected."""
        at_any_time = [write for write in self.of_run[run] if write.done and not write.has_one_timestamp]
        in_order = sorted((write for write in self.of_run[run] if write.done and write.has_one_timestamp), key=_timestamp)
        times = [_timestamp(write) for write in in_order]
        nameless = any(write.id is None for write in self.of_run[run])
        for write in in_order:
            expected = write.first.expected
            if expected is ... or write.first.batch is not None or not write.is_there:
                continue
            current = [other for other in at_any_time if other.may_be_there(write.done)]
            sure: _Write | None = None  # the newest that was there, whatever else may have been
            for other in reversed(in_order[: bisect_left(times, _timestamp(write))]):
                if other.may_be_there(write.done):
                    current.append(other)
                    if _was_there(other, write):
                        sure = other
                        break
            if isinstance(expected, UUID):
                is_right = any(other.id == expected for other in current) or (nameless and not self.of_id.get(expected))
            elif expected is None:
                is_right = sure is None
            else:
                is_right = any(other.first.type in expected for other in current)
            if not is_right:
                yield f"fork: {write} expected {expected}, and {sure or 'no state'} was current, or one of {len(current)} others"

    def forks(self, run: UUID) -> Iterator[str]:
        winners: defaultdict[UUID | None, list[_Write]] = defaultdict(list)
        for write in self.of_run[run]:
            expected = write.first.expected
            if write.is_there and (expected is None or isinstance(expected, UUID)):
                winners[expected].append(write)
        for expected, writes in winners.items():
            if expected is not None and any(write.may_come_again() for write in self.of_id[expected]):
                continue  # it can be current twice
            for index, one in enumerate(writes):
                for other in writes[:index]:
                    if not (self._can_follow(one, other, expected) or self._can_follow(other, one, expected)):
                        yield f"fork: {other} and {one} both won against {expected}"

    def _can_follow(self, first: _Write, second: _Write, expected: UUID | None) -> bool:
        """Whether the second can have won after the first was deleted: what both expected is there then, and nothing that came after the first."""
        return any(
            delete.latest >= first.begun
            and any(delete.may_precede(call) for call in second.done)
            and (expected is None or not any(write.is_gone_with(delete) for write in self.of_id[expected]))
            and not any(
                other.row is not None
                and not other.removals
                and other not in (first, second)
                and other.precedes([delete])
                and first.timestamp is not None
                and _timestamp(other) > first.timestamp
                for other in self.of_run[first.first.run]
            )
            for delete in first.removals
        )

    def current(self, runs: Sequence[StoredRun]) -> Iterator[str]:
        """Each run that has states has a row, and no other; it says which is the newest, and has a transaction that none of them exceeds."""
        newest: dict[UUID, Stored] = {}
        for row in sorted(self.rows, key=lambda row: row.state.timestamp):
            newest[row.state.flow_run_id] = row
        rows = {run.id: run for run in runs}
        for id_ in {*newest, *rows}:
            state, run = newest[id_].state if id_ in newest else None, rows.get(id_)
            if state is None or run is None or run.current != (state.id, state.type, state.name, state.timestamp):
                yield f"row: run {id_} has the row {run}, and its newest state is {state}"
            elif (most := max(row.transaction for row in self.rows if row.state.flow_run_id == id_)) > run.transaction:
                yield f"row: run {id_} has the transaction {run.transaction}, and a state of it {most}"


def _was_there(other: _Write, write: _Write) -> bool:
    """Whether the other was there, for sure, when `write` was appended after it: it stays as `write` does, or nobody has begun to delete it."""
    if other.row and write.row and other.first.batch is None:
        return True
    return other.precedes(write.done) and not any(removal.may_precede(call) for removal in other.removals for call in write.done)


def _timestamp(write: _Write) -> datetime:
    assert write.timestamp is not None
    return write.timestamp


def _is_what_was_asked(call: Create, state: FlowRunState) -> bool:
    return (call.id or state.id, call.run, call.type, call.message) == (state.id, state.flow_run_id, state.type, state.message) and (
        call.asked_timestamp is None or state.timestamp >= call.asked_timestamp
    )
