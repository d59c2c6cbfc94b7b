"""What the questions about histories mean, in plain Python over a list of states; and how such a list gets into the tables of either layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

from flowstates import FlowRunState, FlowRunStateFilter, Keep, StateCount, StateType, TimeInState, migrate
from flowstates.values import Layout
from tests.conftest import Connection
from tests.distributed import CITUS
from tests.servers import POINT_AT_NEWEST, PREFECT_TABLES

LAYOUTS: tuple[Layout, ...] = ("flowstates", "prefect", "citus") if CITUS else ("flowstates", "prefect")
ZERO = timedelta(0)
SLACK = timedelta(days=1)


class Row(NamedTuple):
    """What the row of a run says: the state that is current, and its type, name and time. Prefect's may name none, have no time, or be late."""

    state_id: UUID | None
    type: StateType
    name: str
    timestamp: datetime | None

    def ended_before(self, since: datetime) -> bool:
        """Whether the run's history is of no matter to a window, as its row says so."""
        return self.state_id is not None and self.type.is_terminal and self.timestamp is not None and self.timestamp < since.astimezone(UTC) - SLACK


Rows: TypeAlias = Mapping[UUID, Row]


def row_of(state: FlowRunState) -> Row:
    return Row(state.id, state.type, state.name, state.timestamp)


def rows_of(states: Iterable[FlowRunState]) -> dict[UUID, Row]:
    """The rows that say what the histories say."""
    return {run: row_of(history[-1]) for run, history in by_run(states).items()}


def fits(state: FlowRunState, filter: FlowRunStateFilter | None) -> bool:
    asked = filter or FlowRunStateFilter()
    chosen = ((asked.flow_run_ids, state.flow_run_id), (asked.ids, state.id), (asked.types, state.type), (asked.names, state.name))
    if any(values is not None and value not in values for values, value in chosen):
        return False
    if asked.since is not None and state.timestamp < asked.since:
        return False
    if asked.until is not None and state.timestamp >= asked.until:
        return False
    return asked.terminal is None or state.type.is_terminal is asked.terminal


def find(
    states: Iterable[FlowRunState],
    filter: FlowRunStateFilter | None = None,
    *,
    order: Literal["run", "time"] = "run",
    newest_first: bool = False,
    rows: Rows | None = None,
) -> list[FlowRunState]:
    states = list(states)
    is_current = filter is not None and filter.current
    if is_current:
        states = list(current(states, rows).values())
    found = [state for state in states if fits(state, filter)]
    if order == "run":
        found.sort(key=lambda state: (state.flow_run_id, state.timestamp), reverse=newest_first)
    else:
        found.sort(key=lambda state: (state.timestamp, state.flow_run_id if is_current else state.id), reverse=newest_first)
    return found


def current(states: Iterable[FlowRunState], rows: Rows | None = None) -> dict[UUID, FlowRunState]:
    """The state of each run that its row names; without rows the newest."""
    states = list(states)
    named = {row.state_id for row in (rows_of(states) if rows is None else rows).values()}
    return {state.flow_run_id: state for state in states if state.id in named}


def count_current(rows: Rows) -> dict[StateType, int]:
    types = [row.type for row in rows.values() if row.state_id is not None]
    return {type_: types.count(type_) for type_ in StateType}


def by_run(states: Iterable[FlowRunState], runs: Iterable[UUID] | None = None) -> dict[UUID, list[FlowRunState]]:
    """The history of each run that has one, oldest first."""
    wanted = None if runs is None else set(runs)
    found: dict[UUID, list[FlowRunState]] = {}
    for state in sorted(states, key=lambda state: state.timestamp):
        if wanted is None or state.flow_run_id in wanted:
            found.setdefault(state.flow_run_id, []).append(state)
    return found


def as_of(states: Iterable[FlowRunState], runs: Iterable[UUID], at: datetime, clock: Literal["timestamp", "created"]) -> dict[UUID, FlowRunState]:
    known = [state for state in states if (state.timestamp if clock == "timestamp" else state.created) <= at]
    return {run: history[-1] for run, history in by_run(known, runs).items()}


class _Part(NamedTuple):
    begin: datetime
    end: datetime
    key: str
    is_shown: bool


def _parts(history: Sequence[FlowRunState], filter: FlowRunStateFilter | None, now: datetime, by: Literal["type", "name"]) -> list[_Part]:
    parts = []
    for state, following in [*pairwise(history), (history[-1], None)]:
        last = state.timestamp if state.type.is_terminal else max(now, state.timestamp)
        end = last if following is None else following.timestamp
        shown = fits(state, filter and FlowRunStateFilter(types=filter.types, names=filter.names))
        key = state.type.value if by == "type" else state.name
        parts.append(_Part(state.timestamp, end, key, shown))
    return parts


def _visits(parts: Sequence[_Part]) -> list[list[_Part]]:
    visits: list[list[_Part]] = []
    previous = None
    for part in parts:
        if part.is_shown:
            if previous is not None and previous.is_shown and previous.key == part.key:
                visits[-1].append(part)
            else:
                visits.append([part])
        previous = part
    return visits


def _overlaps(visit: Sequence[_Part], since: datetime, until: datetime) -> bool:
    begin, end = visit[0].begin, visit[-1].end
    # What has no length is in the window when its moment is.
    return since <= begin < until if end == begin else max(begin, since) < min(end, until)


def time_in_states(
    states: Iterable[FlowRunState],
    filter: FlowRunStateFilter | None = None,
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    by: Literal["type", "name"] = "type",
    per_run: bool = False,
    rows: Rows | None = None,
) -> list[TimeInState]:
    since, until = since.astimezone(UTC), until.astimezone(UTC)  # for Python subtracts two times of one zone by the clock on its walls
    lengths: dict[tuple[UUID | None, str], list[timedelta]] = {}
    for run, history in by_run(states, None if filter is None else filter.flow_run_ids).items():
        if rows is not None and rows[run].ended_before(since):
            continue
        for visit in _visits(_parts(history, filter, min(now, until), by)):
            if _overlaps(visit, since, until):
                # Its parts follow each other without a gap.
                length = min(visit[-1].end, until) - max(visit[0].begin, since)
                lengths.setdefault((run if per_run else None, visit[0].key), []).append(length)
    return [
        TimeInState(run, key, len(of), sum(of, ZERO), max(of), *(sorted(of)[-(-len(of) * percent // 100) - 1] for percent in (50, 95, 99)))
        for (run, key), of in lengths.items()
    ]


def _ticks(since: datetime, until: datetime, step: timedelta) -> list[datetime]:
    tick, until = since.astimezone(UTC), until.astimezone(UTC)
    ticks = [tick] if tick < until else []
    while until - tick > step:
        tick += step
        ticks.append(tick)
    return ticks


def transitions(
    states: Sequence[FlowRunState], filter: FlowRunStateFilter | None = None, *, since: datetime, until: datetime, step: timedelta
) -> list[StateCount]:
    found = []
    for begin, end in pairwise([*_ticks(since, until, step), until]):
        types = [state.type for state in states if fits(state, filter) and begin <= state.timestamp < end]
        found.append(StateCount(begin, {type_: types.count(type_) for type_ in StateType}))
    return found


def occupancy(
    states: Sequence[FlowRunState],
    runs: Iterable[UUID] | None = None,
    *,
    since: datetime,
    until: datetime,
    step: timedelta,
    terminal: bool = False,
    rows: Rows | None = None,
) -> list[StateCount]:
    known = rows_of(states) if rows is None else rows
    chosen = set(known) if runs is None else known.keys() & set(runs)
    ended = {run for run in chosen if known[run].ended_before(since)}
    found = []
    for tick in _ticks(since, until, step):
        types = [state.type for state in as_of(states, chosen - ended, tick, "timestamp").values()] + [known[run].type for run in ended]
        found.append(StateCount(tick, {type_: types.count(type_) for type_ in StateType if terminal or not type_.is_terminal}))
    return found


async def prepare(connection: Connection, layout: Layout) -> None:
    """The tables of the layout, in an empty database."""
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection, distributed=layout == "citus")


async def store(connection: Connection, layout: Layout, states: Sequence[FlowRunState], rows: Rows | None = None) -> None:
    """The states as another program would have stored them, with their own `created`. Their runs' rows point at the newest, or say what is given."""
    runs = [state.flow_run_id for state in states]
    if layout == "prefect":
        await connection.execute("insert into flow_run (id) select distinct unnest($1::uuid[]) on conflict do nothing", runs)
    updated = ", updated" if layout == "prefect" else ""
    await connection.execute(
        f"insert into flow_run_state (id, flow_run_id, type, name, timestamp, created{updated})"
        f" select id, run, type::state_type, name, timestamp, created{updated and ', created'}"
        " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])"
        " as state (id, run, type, name, timestamp, created)",
        [state.id for state in states],
        runs,
        [state.type.value for state in states],
        [state.name for state in states],
        [state.timestamp for state in states],
        [state.created for state in states],
    )
    await connection.execute(POINT_AT_NEWEST[layout], runs)
    if rows is not None and layout == "prefect":  # our own say what the histories say
        await connection.execute(
            "update flow_run set state_id = row.state_id, state_type = row.type::state_type, state_name = row.name, state_timestamp = row.timestamp"
            " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) as row (id, state_id, type, name, timestamp)"
            " where flow_run.id = row.id",
            list(rows),
            [row.state_id for row in rows.values()],
            [row.type.value for row in rows.values()],
            [row.name for row in rows.values()],
            [row.timestamp for row in rows.values()],
        )


def state(run: UUID, id: UUID, type: StateType, timestamp: datetime, *, name: str | None = None, created: datetime | None = None) -> FlowRunState:
    return FlowRunState.model_validate(
        {
            "id": id,
            "created": created or timestamp,
            "updated": created or timestamp,
            "flow_run_id": run,
            "type": type,
            "timestamp": timestamp,
            "name": name or type.value.title(),
            "message": None,
            "state_details": {},
            "data": None,
            "result_artifact_id": None,
        }
    )


def kept(history: Sequence[FlowRunState], keep: Keep, current: UUID) -> list[FlowRunState]:
    """What stays of a run whose history is thinned."""
    newest = max(keep.newest, int(keep.last))
    return [
        state
        for number, state in enumerate(history)
        if state.id == current
        or (keep.first and number == 0)
        or number >= len(history) - newest
        or state.type in keep.types
        or state.name in keep.names
    ]


def after_pruning(states: Iterable[FlowRunState], rows: Rows, types: Iterable[StateType], before: datetime, keep: Keep | None) -> list[FlowRunState]:
    """What stays of all runs."""
    asked, found = set(types), []
    for run, history in by_run(states).items():
        row = rows[run]
        is_old = row.state_id is not None and row.type in asked and row.timestamp is not None and row.timestamp < before
        if not is_old:
            found += history
        elif keep is not None and row.state_id is not None:
            found += kept(history, keep, row.state_id)
    return found
