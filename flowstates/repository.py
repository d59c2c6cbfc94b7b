"""States in and out: read them, create them, delete them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from flowstates.engine.appending import Expected, Transitions, append, expectation_of, expectations
from flowstates.engine.bulk import New, append_many
from flowstates.engine.connections import PoolOrConnection
from flowstates.engine.deleting import delete_runs, delete_states, in_several_runs
from flowstates.engine.execution import Execution
from flowstates.engine.pages import MOST_OF_A_PAGE, FlowRunStatePage, read_page
from flowstates.errors import InvalidInputError, ReadOnlyLayoutError, UnreadableRowError
from flowstates.filters import FlowRunStateFilter, array_of, checked_filter
from flowstates.records import CreateOutcome, FlowRunState, NewFlowRunState, StateDetails, StateType, TypeName
from flowstates.values import Layout, flag, kind_of, one_of, seconds, shown, to_uuid, utc_time


class FlowRunStateRepository:
    """The states of runs, on a pool or a connection that stays the caller's.

    On a connection every call joins the transaction that is open there. SQLAlchemy's AsyncSession and AsyncConnection on asyncpg are connections
    too: a call begins their transaction if none is open, which takes a statement more, and first sends what was added to the session, unless its
    `autoflush` is off. What fails before a statement of the library's is SQLAlchemy's error.

    `layout` says whose tables they are: `flowstates` (made by `migrate`), `prefect` (read and deleted from, never written to) or `citus` (made by
    `migrate` with `distributed=True`; an id is unique in its run there, and clocks are those of the runs' servers). A call is one statement and one
    round trip.

    `transitions` says which types may follow each type, and under None with which a run may begin: a create without `expected` then expects one of
    those from which its own may follow. Without it everything may follow everything. Batches are not held to it.

    An id is a UUID or its text. Every call raises InvalidInputError, before anything is sent, for an argument that it cannot use; a
    read raises UnreadableRowError for a row that does not fit its record. Errors of the server and of the connection are asyncpg's own.

    `timeout` is in seconds and for the whole call, waiting for a connection included; a call that takes longer raises TimeoutError, and one to which
    no time is left sends nothing. On a pool it ends a second later at the latest, also where the network passes nothing on: a connection
    that is still busy then is dropped, and the pool makes another. So does a call that is cancelled. On a connection of the caller's a statement
    ends at its timeout, and the next one waits until the server has let go of it; but the begin and the end of a transaction of the library's own
    (`create_flow_run_states`, a stream) are waited for, for as long as server and network take. Where it is SQLAlchemy's begin that is cut off, the
    session is to be rolled back, as after a statement of its own; that SQLAlchemy drops its connection may take two seconds more.
    """

    def __init__(
        self,
        pool_or_connection: PoolOrConnection,
        *,
        layout: Layout = "flowstates",
        transitions: Transitions | None = None,
    ) -> None:
        self._execution = Execution(pool_or_connection, layout)
        self._expectations = None if transitions is None else expectations(transitions)

    async def read_flow_run_state(self, flow_run_state_id: UUID | str, *, timeout: float | None = None) -> FlowRunState | None:
        """One state by its id; None for an unknown id. On the layout `citus` FlowStatesError where two runs have a state of that id."""
        found = await self._execution.many("read_flow_run_state", _id_text("flow_run_state_id", flow_run_state_id), timeout=timeout)
        if len(found) > 1:
            raise in_several_runs(found[0].id, sorted(state.flow_run_id for state in found))
        return _first(found)

    async def read_flow_run_states(self, flow_run_id: UUID | str, *, timeout: float | None = None) -> list[FlowRunState]:
        """The states of one run, oldest first; empty for an unknown run."""
        return await self._execution.many("read_flow_run_states", _id_text("flow_run_id", flow_run_id), timeout=timeout)

    async def read_flow_run_states_by_run(
        self, flow_run_ids: Iterable[UUID | str], *, last: int, timeout: float | None = None
    ) -> dict[UUID, list[FlowRunState]]:
        """The newest `last` states of each run, oldest first. A run without history is absent. One index probe a run."""
        if not _is_count(last):
            raise InvalidInputError("last", f"is {shown(last)}, not a number of 1 or more")
        found: dict[UUID, list[FlowRunState]] = {}
        states = await self._of_runs("read_flow_run_states_by_run", flow_run_ids, str(int(last)), timeout=timeout)
        for state in sorted(states, key=lambda state: state.timestamp):
            found.setdefault(state.flow_run_id, []).append(state)
        return found

    async def read_current_flow_run_state(self, flow_run_id: UUID | str, *, timeout: float | None = None) -> FlowRunState | None:
        """The current state of one run, which is its newest; None for a run without history.

        On the layout `prefect` it is the state that `flow_run.state_id` names, and None where that is null.
        """
        return _first(await self._execution.many("read_current_flow_run_state", _id_text("flow_run_id", flow_run_id), timeout=timeout))

    async def read_current_flow_run_states(self, flow_run_ids: Iterable[UUID | str], *, timeout: float | None = None) -> dict[UUID, FlowRunState]:
        """The current state of each run, as read_current_flow_run_state has it. A run without one is absent. One index probe a run, on the layout
        `prefect` two."""
        states = await self._of_runs("read_current_flow_run_states", flow_run_ids, timeout=timeout)
        return {state.flow_run_id: state for state in states}

    async def read_flow_run_states_as_of(
        self,
        flow_run_ids: Iterable[UUID | str],
        at: datetime,
        *,
        clock: Literal["timestamp", "created"] = "timestamp",
        timeout: float | None = None,
    ) -> dict[UUID, FlowRunState]:
        """The state of each run at a moment. A run that had none is absent.

        By `timestamp` it is what the history says now was true then: the last state that had begun at or before `at`. One index probe a run.
        By `created` it is what had been recorded by then: of the states whose writing transaction had begun at or before `at`, the newest by
        timestamp. It walks back from each run's newest state, so it may read all of them. `created` is when the transaction began: one that
        commits late can change an earlier answer. Deleted states are gone from both answers.
        """
        clock = one_of("clock", clock, "timestamp", "created")
        states = await self._of_runs(f"read_flow_run_states_as_of.{clock}", flow_run_ids, utc_time("at", at).isoformat(), timeout=timeout)
        return {state.flow_run_id: state for state in states}

    async def read_flow_run_state_page(
        self,
        filter: FlowRunStateFilter | None = None,
        *,
        limit: int = 100,
        order: Literal["run", "time"] = "run",
        newest_first: bool = False,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> FlowRunStatePage:
        """A page of at most `limit` states, 1,000 at most, and the cursors of the pages next to it.

        `order="run"` is by run id, then timestamp; `order="time"` by timestamp, then id, or of current states then run id. `newest_first` turns the
        whole order round. A page is found by its position and not by counting, so the last costs what the first costs. A filter on names or types,
        or in the order by run on a time, reads on until the page is full: it may read everything. Of current states types and times are found by
        an index on the runs' rows; names alone read all of these.

        On the layout `prefect` no index gives the order by time: each page sorts all states that the filter lets through. Without run ids, ids or
        `since` it reads all states for that, or the current ones of the types that are asked for; with `since` the histories of the runs that have
        moved since, as FlowRunStateFilter says.

        A cursor is good for the filter, order and layout that it came from; any other is refused. A state that is committed late, before a
        position that was passed, is on no later page; of those that were there at the start none is lost or seen twice.
        """
        filter = checked_filter(filter)
        if not _is_count(limit) or limit > MOST_OF_A_PAGE:
            raise InvalidInputError("limit", f"is {shown(limit)}, not a number from 1 to {MOST_OF_A_PAGE:,}")
        order = one_of("order", order, "run", "time")
        return await read_page(self._execution, filter, limit, order, flag("newest_first", newest_first), cursor, timeout=timeout)

    def stream_flow_run_states(
        self,
        filter: FlowRunStateFilter | None = None,
        *,
        on_unreadable: Callable[[UnreadableRowError], object] | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[FlowRunState]]:
        """The states of a filter, run by run and oldest first, in constant memory: `async with ... as stream: async for state in stream`.

        They are those of one moment. They come from a cursor on the server, up to 500 a round trip, or fewer that make some MiB; `timeout` is for
        the wait for a connection, for each of these, and on a pool for leaving the block. That ends the cursor and frees the connection. On a
        connection without a transaction it opens one, read only, for as long as the block lasts. On the layout `citus` the coordinator holds the
        whole answer, and each server's part is of a moment of its own.

        A filter on types, names or `terminal` reads all states, on the layout `prefect` also one on `until` without `since`. Of current states
        all but one on names alone is found by an index on the runs' rows.

        A row that does not fit its record ends the stream. With `on_unreadable` it is left out instead, and that is called with its error, in the
        place where the state would have come; what it returns is nothing to us, and what it raises ends the stream.
        """
        filter = checked_filter(filter)
        if on_unreadable is not None and not callable(on_unreadable):
            raise InvalidInputError("on_unreadable", f"is {kind_of(on_unreadable)}, not a function")
        name = "stream_flow_run_states.current" if filter is not None and filter.current else "stream_flow_run_states"
        return self._execution.stream(name, filter, on_unreadable, timeout)

    async def count_flow_run_states(self, filter: FlowRunStateFilter | None = None, *, timeout: float | None = None) -> int:
        """How many states a filter lets through. It reads them all, or the index that has them; current ones are counted by the runs' rows."""
        filter = checked_filter(filter)
        name = "count_flow_run_states.current" if filter is not None and filter.current else "count_flow_run_states"
        counts = await self._execution.values(name, filter=filter, timeout=timeout)
        return int(counts[0])

    async def create_flow_run_state(
        self,
        flow_run_id: UUID | str,
        type: StateType | TypeName,
        *,
        id: UUID | str | None = None,
        timestamp: datetime | str | None = None,
        name: str | None = None,
        message: str | None = None,
        state_details: StateDetails | dict[str, Any] | None = None,
        data: Any = None,
        result_artifact_id: UUID | str | None = None,
        expected: Expected = ...,
        timeout: float | None = 60.0,
    ) -> FlowRunState:
        """Appends a state to a run's history, the first of which makes the run known, and returns it as stored.

        After a TimeoutError (`timeout` is 60 seconds unless given), a cancellation or a lost connection the state may have been stored, and only a
        caller who passed `id` can repeat the call: the same `id` with the same content returns the state that is stored, also when `expected`
        no longer holds. With other content, or in another run, it is FlowRunStateConflictError. A deleted state may be created again.

        The stored timestamp is the later of the given one (else the server's clock, which all workers share) and one microsecond after the run's
        current state. Which one was given is not kept: where a state was moved behind another, a repeat with any earlier timestamp is the same
        content, as long as that other one is there; once it is deleted, none but the stored one is. `name` defaults to the type's own, `id` to a
        UUIDv7.

        `expected` is what the run's current state must be: an id, None for a run without history, or a set of StateType; left out, anything.
        UnexpectedStateError otherwise, with the current state as read after the miss. Of several that expect one id, or None, at most one
        succeeds while its state remains. With types each is judged at its turn: writers of one run wait for each other in the run's row. Only
        a run's first state can lose a race that leaves its expectation true, and a state of a run that is deleted meanwhile; that is tried
        again, five times in all, and then it is ContentionError. An `id` of the library's own that is taken is GeneratedIdConflictError.

        In a transaction of the caller's all of this becomes true when that commits. What is asyncpg's error there ends the transaction, of which
        nothing is stored, and it is to be repeated whole: a deadlock (40P01), at REPEATABLE READ and above a serialization failure (40001)
        where another transaction has changed the run since this one began to read, and a unique violation (23505) where two transactions
        create one id at the same moment. Outside of one the library repeats its statement. On the layout `prefect`: ReadOnlyLayoutError.

        A state that is stored took one round trip; one that was not took a second, which reads why.
        """
        self._refuse_read_only()
        new = NewFlowRunState(
            flow_run_id=flow_run_id,
            type=type,
            id=id,
            timestamp=timestamp,
            name=name,
            message=message,
            state_details=state_details,
            data=data,
            result_artifact_id=result_artifact_id,
        )
        expectation = expectation_of(new, expected, self._expectations)
        return await append(self._execution, new, expectation, is_id_given=id is not None, timeout=timeout)

    async def create_flow_run_states(
        self, states: Iterable[NewFlowRunState], *, on_tie: Literal["nudge", "refuse"] = "nudge", timeout: float | None = None
    ) -> list[CreateOutcome]:
        """Stores states of any number of runs in one transaction, for imports and backfills; an outcome for each, in their order.

        A given timestamp is stored as it is, also when it is older than what is there. If it is taken in its run, the first free microsecond
        after it is stored, or with `on_tie="refuse"` the state is refused. A state whose id is stored already is `present` if the content is the
        same and `refused` if not. A refused state does not undo the others; an error of the server or a cancellation undoes all of them.

        The runs' rows are locked in the order of their ids, so that two batches do not lock each other out. A state older than what is there leaves
        the run's current state as it is. A batch takes several round trips: one locks the runs' rows and reads where the histories end, one copies
        the states, one lets the rows point at the newest, and what is met on the way takes more. All of it is sent at once, so cut what is large.
        """
        self._refuse_read_only()
        on_tie = one_of("on_tie", on_tie, "nudge", "refuse")
        if not isinstance(states, Iterable) or isinstance(states, NewFlowRunState):
            raise InvalidInputError("states", f"is {kind_of(states)}, not a collection of NewFlowRunState")
        given: list[New] = []
        for index, state in enumerate(states):
            if not isinstance(state, NewFlowRunState):
                raise InvalidInputError("states", f"[{index}] is {kind_of(state)}, not a NewFlowRunState")
            try:
                given.append(New.of(state.checked()))
            except InvalidInputError as error:
                raise InvalidInputError("states", f"[{index}] {error}") from None
        return await append_many(self._execution, given, nudge=on_tie == "nudge", timeout=timeout)

    async def delete_flow_run_state(self, flow_run_state_id: UUID | str, *, timeout: float | None = None) -> bool:
        """Deletes one state by its id; whether there was one.

        Deleting a run's current state makes the newest one that is left current; with the last one the run's row goes too. On the layout
        `prefect` the server sets a `flow_run.state_id` that points at it to null, and the other columns of `flow_run` keep what they say: such
        a run has no current state until Prefect sets one, and its history still counts in what is measured and counted over time. On the layout
        `citus` it is two statements, as a state is found on all servers and deleted on its run's; where two runs have a state of that id it is
        FlowStatesError, and nothing is deleted.
        """
        id_ = _id_text("flow_run_state_id", flow_run_state_id)
        if self._execution.layout == "citus":
            return bool(await delete_states(self._execution, [id_], timeout=timeout))
        return bool(await self._execution.values("delete_flow_run_state", id_, timeout=timeout))

    async def delete_flow_run_states(
        self,
        *,
        flow_run_state_ids: Iterable[UUID | str] | None = None,
        flow_run_ids: Iterable[UUID | str] | None = None,
        timeout: float | None = None,
    ) -> list[UUID]:
        """Deletes states by their ids, or all states of some runs; the ids that went, in no order. Exactly one of the two is given.

        On the layout `citus` it is a statement a run, in one transaction, and one more that finds the runs of ids; an id that two runs have is
        FlowStatesError, and nothing is deleted.
        """
        timeout = seconds(timeout)
        if (flow_run_state_ids is None) == (flow_run_ids is None):
            raise InvalidInputError("flow_run_state_ids", "is to be given, or flow_run_ids, and not both")
        if flow_run_state_ids is not None:
            name, ids = "delete_flow_run_states.ids", _id_texts("flow_run_state_ids", flow_run_state_ids)
        else:
            name, ids = "delete_flow_run_states.runs", _id_texts("flow_run_ids", flow_run_ids)
        if not ids:
            return []
        if self._execution.layout == "citus":
            gone = await (delete_states if flow_run_state_ids is not None else delete_runs)(self._execution, ids, timeout=timeout)
        else:
            gone = await self._execution.values(name, ids, timeout=timeout)
        return [UUID(id) for id in gone]

    async def _of_runs(self, name: str, flow_run_ids: Iterable[UUID | str], *arguments: str, timeout: float | None) -> list[FlowRunState]:
        timeout = seconds(timeout)
        # In the order of the index, which finds neighbours on one page.
        ids = sorted(set(_id_texts("flow_run_ids", flow_run_ids)))
        return await self._execution.many(name, array_of(ids), *arguments, timeout=timeout) if ids else []

    def _refuse_read_only(self) -> None:
        if self._execution.layout == "prefect":
            raise ReadOnlyLayoutError("states of the layout prefect are created by Prefect alone")


def _first(states: list[FlowRunState]) -> FlowRunState | None:
    return states[0] if states else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63


def _id_text(field: str, value: object) -> str:
    try:
        # The server reads it without hyphens too, and a UUID's text takes four times as long to make.
        return to_uuid(value).hex
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


def _id_texts(field: str, values: object) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInputError(field, f"is {kind_of(values)}, not a collection of ids")
    return [value.hex if isinstance(value, UUID) else _id_text(field, value) for value in values]
