"""Times and counts out of histories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from flowstates.engine.connections import PoolOrConnection
from flowstates.engine.execution import Execution
from flowstates.engine.rows import time_of
from flowstates.errors import InvalidInputError, UnreadableRowError
from flowstates.filters import FlowRunStateFilter, checked_filter
from flowstates.records import StateType
from flowstates.values import Layout, flag, one_of, seconds, shown, utc_time

MOST_BUCKETS = 100_000
_MICROSECOND = timedelta(microseconds=1)


class TimeInState(NamedTuple):
    """Visits to a type or a name, `state`, of one run or, without `flow_run_id`, of all. Lengths are exact to the microsecond."""

    flow_run_id: UUID | None
    state: str
    visits: int
    total: timedelta
    longest: timedelta
    p50: timedelta
    p95: timedelta
    p99: timedelta


class StateCount(NamedTuple):
    """Counts by type, all nine or those that were asked for, of the interval that begins, or at the tick that is, `at`."""

    at: datetime
    counts: dict[StateType, int]


class FlowRunStateAnalytics:
    """Times and counts, on a pool or a connection that stays the caller's: see FlowRunStateRepository, which takes the same. A type that this version
    does not know is UnreadableRowError in all that counts by types.

    A window costs what is in it: by the runs' rows are found the runs that are open or have moved since it began, and only their histories are
    read, up to where it ends. Of a run that began behind it that is one look into the index, so a window far back costs that for each run since.

    On the layout `prefect` the time in a run's row may be a little older than the run's newest state, where clocks differ, so a day of slack is
    taken. A run counts as open if its row has no time, as with runs that only the scheduler has touched, no type, or names no state, as after a
    delete of the current one. One that by its row ended more than a day before the window counts by its row.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates") -> None:
        self._execution = Execution(pool_or_connection, layout)

    async def measure_time_in_states(
        self,
        filter: FlowRunStateFilter | None = None,
        *,
        since: datetime,
        until: datetime,
        now: datetime | None = None,
        by: Literal["type", "name"] = "type",
        per_run: bool = False,
        timeout: float | None = None,
    ) -> list[TimeInState]:
        """How often and how long runs were in each type or name inside `[since, until)`.

        A state lasts until the run's next one begins. States of one type (or name) that follow each other are one visit. A visit counts if it
        overlaps the window, and its length is the part inside: total, longest and the percentiles (`percentile_disc`) are of these lengths. `now`,
        the server's clock by default and at most `until`, ends a visit that is still open. A terminal state that nothing follows has ended the
        run: it counts as a visit where it begins, and has no length. One that is followed, as FAILED is by a retry, lasts until then.

        The filter's run ids choose the runs, its types and names which states are shown; its other fields are refused. Lengths come from the
        histories of the chosen runs, of those that are open or have moved since `since`, up to `until`.
        """
        filter = checked_filter(filter)
        since, until = _window(since, until)
        runs, types, names = None, None, None
        if filter is not None:
            refused = [field for field in ("ids", "since", "until", "terminal") if getattr(filter, field) is not None] + ["current"] * filter.current
            if refused:
                raise InvalidInputError(f"filter.{refused[0]}", "cannot be used here: a length needs the whole history of its run")
            runs = filter.flow_run_ids
            types = None if filter.types is None else [type_.value for type_ in filter.types]
            names = None if filter.names is None else list(filter.names)
        by = one_of("by", by, "type", "name")
        clock = None if now is None else utc_time("now", now).isoformat()
        window = since.isoformat(), until.isoformat()
        rows = await self._execution.rows_of_runs(
            "measure_time_in_states", *window, clock, by, str(flag("per_run", per_run)).lower(), types, names, flow_run_ids=runs, timeout=timeout
        )
        return [
            TimeInState(None if run is None else UUID(run), key, int(visits), *(int(length) * _MICROSECOND for length in lengths))
            for run, key, visits, *lengths in rows
        ]

    async def count_transitions(
        self,
        filter: FlowRunStateFilter | None = None,
        *,
        since: datetime,
        until: datetime,
        step: timedelta,
        timeout: float | None = None,
    ) -> list[StateCount]:
        """How many states of each type began in each interval of length `step` from `since` on, the last one cut at `until`.

        Every interval is there, with all nine types; 100,000 intervals at most. It reads the window's states from one index; on the layout `prefect`
        the histories of runs that have moved since `since`, as FlowRunStateFilter says.
        """
        filter = checked_filter(filter)
        since, until = _window(since, until)
        ticks, timeout = _ticks(since, until, step), seconds(timeout)
        if not ticks:
            return []
        filter = filter or FlowRunStateFilter()
        if filter.current:
            raise InvalidInputError("filter.current", "cannot be used here: what began counts, whether it lasts or not")
        begin, end = max(since, filter.since or since), min(until, filter.until or until)
        filter = filter.model_copy(update={"since": begin, "until": end})
        rows = await self._execution.rows("count_transitions", since.isoformat(), _interval(min(step, until - since)), filter=filter, timeout=timeout)
        counts = {(int(begin), _type(type_)): int(states) for begin, type_, states in rows}
        return [StateCount(since + tick, {type_: counts.get((tick // _MICROSECOND, type_), 0) for type_ in StateType}) for tick in ticks]

    async def count_occupancy(
        self,
        flow_run_ids: Iterable[UUID | str] | None = None,
        *,
        since: datetime,
        until: datetime,
        step: timedelta,
        terminal: bool = False,
        timeout: float | None = None,
    ) -> list[StateCount]:
        """How many runs are in each type at each tick: `since`, and every `step` after it before `until`; 100,000 ticks at most.

        A run counts by its last state at or before the tick. Read are the histories of runs, or of the chosen ones, that are open or have moved since
        `since`, up to the last tick. Terminal types are left out unless `terminal` asks for them: that takes a look at the row of each run, as what
        ended before the window is counted by its row.
        """
        since, until = _window(since, until)
        ticks, timeout = _ticks(since, until, step), seconds(timeout)
        runs = None if flow_run_ids is None else FlowRunStateFilter(flow_run_ids=flow_run_ids).flow_run_ids
        if not ticks:
            return []
        window = since.isoformat(), (since + ticks[-1]).isoformat(), _interval(min(step, until - since))
        asked = str(flag("terminal", terminal)).lower()
        rows = await self._execution.rows_of_runs("count_occupancy", *window, asked, flow_run_ids=runs, timeout=timeout)
        changes: defaultdict[int, list[tuple[StateType, int]]] = defaultdict(list)
        for tick, type_, runs_more in rows:
            changes[int(tick)].append((_type(type_), int(runs_more)))
        shown = [type_ for type_ in StateType if terminal or not type_.is_terminal]
        occupied = dict.fromkeys(StateType, 0)
        found = []
        for tick in ticks:
            for type_, more in changes[tick // _MICROSECOND]:
                occupied[type_] += more
            found.append(StateCount(since + tick, {type_: occupied[type_] for type_ in shown}))
        return found

    async def count_current(self, *, timeout: float | None = None) -> StateCount:
        """How many runs are in each type now, by the server's clock. It reads the row of each run, or an index that has them.

        On the layout `prefect` a run counts by its row's `state_type`, if it names a current state; UnreadableRowError if that is null.
        """
        rows = await self._execution.rows("count_current", filter=FlowRunStateFilter(current=True), timeout=timeout)
        counts = {_type(type_): int(runs) for type_, runs, _ in rows if runs is not None}
        return StateCount(time_of(rows[0]["at"]), {type_: counts.get(type_, 0) for type_ in StateType})


def _type(label: str | None) -> StateType:
    if label not in list(StateType):
        raise UnreadableRowError(
            None, "type", f"is {'null' if label is None else label}, which no count has; `flowstates check --data` names what differs"
        )
    return StateType(label)


def _window(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    # In UTC from here on: two times of one other zone would be compared and subtracted by their clocks' faces.
    begin, end = utc_time("since", since), utc_time("until", until)
    if end < begin:
        raise InvalidInputError("until", f"{until} is before since, {since}")
    return begin, end


def _ticks(since: datetime, until: datetime, step: timedelta) -> list[timedelta]:
    if not isinstance(step, timedelta) or step <= timedelta(0):
        raise InvalidInputError("step", f"is {shown(step)}, not a timedelta above zero")
    count = -(-(until - since) // step)
    if count > MOST_BUCKETS:
        raise InvalidInputError("step", f"{step} makes {count:,} intervals of the window; {MOST_BUCKETS:,} is the most")
    return [step * number for number in range(count)]


def _interval(step: timedelta) -> str:
    # The server's own intervals end before Python's; one that is longer than the window is as good as the window.
    return f"{step // _MICROSECOND} microseconds"
