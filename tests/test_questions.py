"""The database's answers, held against a model in plain Python; and what may not change them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from inspect import getmembers, ismethod, signature
from typing import Any, TypeAlias, TypeVar
from uuid import UUID, uuid4, uuid5
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstates import (
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    StateType,
    UnreadableRowError,
)
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection
from tests.model import LAYOUTS
from tests.test_borrowed import SET_UPS, codec, connected

pytestmark = pytest.mark.server

T = TypeVar("T")
Question: TypeAlias = dict[str, Any]

US, TEN_MINUTES, HOUR = timedelta(microseconds=1), timedelta(minutes=10), timedelta(hours=1)
START = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)  # half an hour before clocks in Berlin are set back
# The least and the greatest id, and some between, in no order of their numbers.
RUNS = [UUID(int=0), UUID(int=2**128 - 1), *(uuid5(UUID(int=0), str(number)) for number in range(198))]
UNKNOWN = UUID(int=5)
NAMES = ["Running", "Retrying", "Late", "Done", "Ошибка"]  # each of any type

one_of_layouts = pytest.mark.parametrize("layout", LAYOUTS)
bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# Few moments, so that states meet each other and the edges of what is asked; a microsecond apart where they do not.
times = st.builds(lambda slot, jitter: START + slot * TEN_MINUTES + jitter * US, st.integers(0, 9), st.integers(-1, 1))
types = st.sampled_from([*[StateType.RUNNING] * 4, StateType.PAUSED, StateType.SCHEDULED, StateType.COMPLETED, StateType.FAILED])
names = st.sampled_from([*NAMES[:2] * 3, *NAMES])
single_states = st.tuples(times, types, names, st.none() | times)


@st.composite
def histories(draw: st.DrawFn) -> list[FlowRunState]:
    """Runs of none, one or several states; now and then 200 of them."""
    drawn = draw(st.lists(st.lists(single_states, max_size=6, unique_by=lambda state: state[0]), max_size=4))
    copies = draw(st.sampled_from([1] * 9 + [200 // max(1, len(drawn))]))
    shift = draw(st.sampled_from([timedelta(0), US, TEN_MINUTES]))
    return [
        model.state(run, uuid5(run, str(number)), type_, time + copy * shift, name=name, created=created)
        for run, (copy, history) in zip(RUNS, ((copy, history) for copy in range(copies) for history in drawn), strict=False)
        for number, (time, type_, name, created) in enumerate(history)
    ]


late = st.sampled_from([timedelta(0), US, TEN_MINUTES, timedelta(days=1)])


@st.composite
def prefects_rows(draw: st.DrawFn, states: list[FlowRunState]) -> model.Rows:
    """What Prefect's rows may say of these runs: where the current state was deleted it is the type and time of that one."""
    kinds = draw(st.lists(st.sampled_from(["newest", "newest", "late", "ahead", "untimed", "deleted", "behind"]), min_size=1, max_size=4))
    shift, type_ = draw(late), draw(types)
    rows = {}
    for number, (run, history) in enumerate(sorted(model.by_run(states).items())):
        row = model.row_of(history[-1])
        match kinds[number % len(kinds)]:
            case "late":
                row = row._replace(timestamp=history[-1].timestamp - shift)
            case "ahead":
                row = row._replace(timestamp=history[-1].timestamp + shift)
            case "untimed":
                row = row._replace(timestamp=None)
            case "deleted":
                row = model.Row(None, type_, type_.title(), history[-1].timestamp - shift)
            case "behind":
                row = model.row_of(history[-2:][0])
        rows[run] = row
    return rows


worlds = histories().flatmap(lambda states: st.tuples(st.just(states), prefects_rows(states)))
World: TypeAlias = tuple[list[FlowRunState], model.Rows]


def rows_there(world: World, layout: Layout) -> model.Rows:
    """Ours say what the histories say."""
    return world[1] if layout == "prefect" else model.rows_of(world[0])


def some(values: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...] | None]:
    return st.none() | st.lists(values, max_size=3).map(tuple)


run_ids = st.sampled_from([*RUNS[:5], UNKNOWN])
of_states = st.builds(
    FlowRunStateFilter,
    flow_run_ids=some(run_ids),
    ids=some(st.builds(lambda run, number: uuid5(run, str(number)), run_ids, st.integers(0, 5))),
    types=some(types),
    names=some(names),
    since=st.none() | times,
    until=st.none() | times,
    terminal=st.none() | st.booleans(),
)
of_current = of_states.map(lambda states: states.model_copy(update={"current": True}))
filters = st.none() | of_states
zones = st.sampled_from([UTC, ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")])


@st.composite
def windows(draw: st.DrawFn) -> Question:
    zone = draw(zones)
    if draw(st.booleans()):
        # From one moment of states to another, the same one among them.
        since, until = sorted((draw(times), draw(times)))
        return {"since": since.astimezone(zone), "until": until.astimezone(zone)}
    # A day after all states Prefect's rows are no longer given the benefit of the doubt.
    since, length = (
        draw(times) + draw(st.sampled_from([timedelta(0)] * 3 + [timedelta(days=1)])),
        draw(st.sampled_from([timedelta(0), US, 3 * US, TEN_MINUTES, 3 * TEN_MINUTES, HOUR + US, timedelta(days=2)])),
    )
    return {"since": since.astimezone(zone), "until": (since + length).astimezone(zone)}


@st.composite
def series(draw: st.DrawFn) -> Question:
    window = draw(windows())
    length = window["until"].astimezone(UTC) - window["since"].astimezone(UTC)
    step = draw(st.sampled_from([length // draw(st.integers(1, 12)), max(TEN_MINUTES, length // 12), length + US, timedelta.max]))
    return window | {"step": max(US, step)}


@asynccontextmanager
async def stored(connection: Connection, layout: Layout, states: list[FlowRunState], rows: model.Rows | None = None) -> AsyncIterator[None]:
    """The states and their runs' rows are there for the block, in a transaction that is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await model.store(connection, layout, states, rows)
        yield
    finally:
        await transaction.rollback()


@pytest.fixture
async def tables(connection: Connection, layout: Layout) -> Connection:
    await model.prepare(connection, layout)
    return connection


@one_of_layouts
@bounded
@given(world=worlds, filter=filters | of_current, limit=st.integers(1, 7), newest_first=st.booleans())
async def test_filters(tables: Connection, layout: Layout, world: World, filter: FlowRunStateFilter | None, limit: int, newest_first: bool) -> None:
    states, rows = world[0], rows_there(world, layout)
    repository = FlowRunStateRepository(tables, layout=layout)
    async with stored(tables, layout, states, rows):
        async with repository.stream_flow_run_states(filter) as stream:
            assert [state async for state in stream] == model.find(states, filter, rows=rows)
        assert await repository.count_flow_run_states(filter) == len(model.find(states, filter, rows=rows))
        for order in ("run", "time"):
            asked: Question = {"limit": limit, "order": order, "newest_first": newest_first}
            expected = model.find(states, filter, order=order, newest_first=newest_first, rows=rows)
            first = await repository.read_flow_run_state_page(filter, **asked)
            assert (first.states, first.next is None, first.previous) == (expected[:limit], len(expected) <= limit, None)
            if first.next is not None:
                page = await repository.read_flow_run_state_page(filter, **asked, cursor=first.next)
                assert (page.states, page.next is None) == (expected[limit : 2 * limit], len(expected) <= 2 * limit)
                back = await repository.read_flow_run_state_page(filter, **asked, cursor=page.previous)
                assert (back.states, back.next is None, back.previous) == (first.states, False, None)


@one_of_layouts
@bounded
@given(world=worlds, runs=st.just(RUNS) | st.lists(run_ids, max_size=8), last=st.integers(1, 7), at=times, zone=zones)
async def test_many_runs_at_once_and_as_of_a_moment(
    tables: Connection, layout: Layout, world: World, runs: list[UUID], last: int, at: datetime, zone: ZoneInfo
) -> None:
    states, rows = world[0], rows_there(world, layout)
    repository = FlowRunStateRepository(tables, layout=layout)
    expected = model.by_run(states, runs)
    async with stored(tables, layout, states, rows):
        assert await repository.read_flow_run_states_by_run(runs, last=last) == {run: of[-last:] for run, of in expected.items()}
        current = await repository.read_current_flow_run_states(map(str, runs))
        assert current == {run: state for run, state in model.current(states, rows).items() if run in runs}
        for run in {*runs[:3], UNKNOWN}:
            assert await repository.read_current_flow_run_state(run) == current.get(run)
        for clock in ("timestamp", "created"):
            seen = await repository.read_flow_run_states_as_of(runs, at.astimezone(zone), clock=clock)
            assert seen == model.as_of(states, runs, at, clock)


@one_of_layouts
@bounded
@given(
    world=worlds,
    filter=st.none() | st.builds(FlowRunStateFilter, flow_run_ids=some(run_ids), types=some(types), names=some(names)),
    window=windows(),
    now=times,
    by=st.sampled_from(["type", "name"]),
    per_run=st.booleans(),
)
async def test_time_in_states(
    tables: Connection,
    layout: Layout,
    world: World,
    filter: FlowRunStateFilter | None,
    window: Question,
    now: datetime,
    by: Any,
    per_run: bool,
) -> None:
    states, rows = world[0], rows_there(world, layout)
    asked = {**window, "now": now, "by": by, "per_run": per_run}
    async with stored(tables, layout, states, rows):
        measured = await FlowRunStateAnalytics(tables, layout=layout).measure_time_in_states(filter, **asked)
    # In which order is the server's collation's affair.
    assert {entry[:2]: entry for entry in measured} == {entry[:2]: entry for entry in model.time_in_states(states, filter, **asked, rows=rows)}
    assert len({entry[:2] for entry in measured}) == len(measured)


@pytest.mark.parametrize("layout", ["prefect"])
async def test_a_run_of_prefects_whose_row_has_no_type_counts_as_open(tables: Connection, layout: Layout) -> None:
    history = [model.state(RUNS[0], uuid5(RUNS[0], str(day)), StateType.RUNNING, START - (4 - 2 * day) * timedelta(days=1)) for day in range(2)]
    history += [model.state(RUNS[1], UNKNOWN, StateType.PAUSED, START)]
    analytics = FlowRunStateAnalytics(tables, layout=layout)
    window: Question = {"since": START, "until": START + HOUR}
    async with stored(tables, layout, history):
        await tables.execute("update flow_run set state_type = null where id = $1", RUNS[0])
        for terminal in (False, True):
            asked: Question = {**window, "step": HOUR, "terminal": terminal}
            assert await analytics.count_occupancy(**asked) == model.occupancy(history, **asked)
        asked = {**window, "now": window["until"]}
        assert {time.state: time for time in await analytics.measure_time_in_states(**asked)} == {
            time.state: time for time in model.time_in_states(history, **asked)
        }
        with pytest.raises(UnreadableRowError, match=r"^a flow run state: type: is null, "):
            await analytics.count_current()


@one_of_layouts
async def test_a_type_that_is_not_known_is_not_left_out_of_a_count(tables: Connection, layout: Layout) -> None:
    analytics = FlowRunStateAnalytics(tables, layout=layout)
    window: Question = {"since": START, "until": START + HOUR}
    await model.store(tables, layout, [model.state(RUNS[0], UNKNOWN, StateType.RUNNING, START)])
    await tables.execute("alter type state_type rename value 'RUNNING' to 'BEGUN'; alter type state_type add value 'RUNNING'")
    for count in (
        analytics.count_current(),
        analytics.count_transitions(**window, step=HOUR),
        analytics.count_occupancy(**window, step=HOUR, terminal=True),
    ):
        with pytest.raises(UnreadableRowError, match=r"^a flow run state: type: is BEGUN, "):
            await count


@one_of_layouts
@pytest.mark.parametrize(
    ("begins", "since", "until", "lengths"),
    [
        ((0, 10), 9, 20, [1]),
        ((0, 10), 10, 20, []),  # it ended there
        ((0, 10), 11, 20, []),
        ((0, 10), 5, 10, [5]),
        ((0, 10), 0, 20, [10]),
        ((0, 10), 5, 5, []),
        ((10,), 10, 20, [0]),
        ((10,), 9, 10, []),
        ((10,), 10, 10, []),
        ((10,), 11, 20, []),
    ],
)
async def test_a_visit_counts_where_it_overlaps_the_window(
    tables: Connection, layout: Layout, begins: tuple[int, ...], since: int, until: int, lengths: list[int]
) -> None:
    history = [model.state(RUNS[0], uuid5(RUNS[0], str(begin)), StateType.FAILED, START + begin * US) for begin in begins]
    window: Question = {"since": START + since * US, "until": START + until * US}
    async with stored(tables, layout, history):
        measured = await FlowRunStateAnalytics(tables, layout=layout).measure_time_in_states(**window)
    assert [(time.visits, time.total) for time in measured] == [(1, length * US) for length in lengths]
    assert measured == model.time_in_states(history, **window, now=window["until"])


@pytest.mark.parametrize("layout", ["prefect"])
async def test_a_day_of_slack_has_24_hours_in_every_zone(tables: Connection) -> None:
    """In Berlin the day before had 25. The run's row is older than its newest state."""
    since = datetime(2024, 10, 27, 12, tzinfo=UTC)
    old, newest = since - timedelta(hours=24, minutes=30), since - timedelta(hours=20)
    run = uuid4()
    ended, open_ = model.state(run, uuid4(), StateType.COMPLETED, old), model.state(run, uuid4(), StateType.RUNNING, newest)
    found = []
    for zone in ("UTC", "Europe/Berlin"):
        async with stored(tables, "prefect", [ended, open_], {run: model.row_of(ended)}):
            await tables.execute(f"set local time zone '{zone}'")
            analytics, hour = FlowRunStateAnalytics(tables, layout="prefect"), timedelta(hours=1)
            found.append(await analytics.count_occupancy(since=since, until=since + hour, step=hour))
    assert found[0] == found[1]
    assert sum(found[0][0].counts.values()) == 0


@one_of_layouts
@bounded
@given(world=worlds, filter=filters, runs=st.none() | st.lists(run_ids, max_size=4), asked=series(), terminal=st.booleans())
async def test_counts_in_time(
    tables: Connection,
    layout: Layout,
    world: World,
    filter: FlowRunStateFilter | None,
    runs: list[UUID] | None,
    asked: Question,
    terminal: bool,
) -> None:
    states, rows = world[0], rows_there(world, layout)
    analytics = FlowRunStateAnalytics(tables, layout=layout)
    async with stored(tables, layout, states, rows):
        assert await analytics.count_transitions(filter, **asked) == model.transitions(states, filter, **asked)
        occupied = await analytics.count_occupancy(runs, **asked, terminal=terminal)
        now = await analytics.count_current()
    assert occupied == model.occupancy(states, runs, **asked, terminal=terminal, rows=rows)
    assert now.counts == model.count_current(rows)


@one_of_layouts
@pytest.mark.parametrize("lag", [timedelta(0), US, timedelta(days=1)])
async def test_a_row_that_is_a_day_late_changes_no_answer(tables: Connection, layout: Layout, lag: timedelta) -> None:
    """What the histories alone say, at every edge of a window."""
    told = (StateType.SCHEDULED, StateType.RUNNING, StateType.COMPLETED)
    states = [
        model.state(run, uuid5(run, str(n)), type_, START + n * HOUR) for run in RUNS[:3] for n, type_ in enumerate(told[: 1 + RUNS.index(run)])
    ]
    rows = model.rows_of(states)
    if layout == "prefect":
        rows = {run: row._replace(timestamp=row.timestamp and row.timestamp - lag) for run, row in rows.items()}
    analytics, repository = FlowRunStateAnalytics(tables, layout=layout), FlowRunStateRepository(tables, layout=layout)
    async with stored(tables, layout, states, rows):
        for since in (START + hours * HOUR + us * US for hours in range(4) for us in (-1, 0, 1)):
            window: Question = {"since": since, "until": since + HOUR}
            for terminal in (False, True):
                occupied = await analytics.count_occupancy(**window, step=TEN_MINUTES, terminal=terminal)
                assert occupied == model.occupancy(states, **window, step=TEN_MINUTES, terminal=terminal)
            measured = await analytics.measure_time_in_states(**window, now=START + 5 * HOUR)
            assert set(measured) == set(model.time_in_states(states, **window, now=START + 5 * HOUR))
            for current in (False, True):
                filter = FlowRunStateFilter(**window, current=current)
                assert (await repository.read_flow_run_state_page(filter, order="time")).states == model.find(states, filter, order="time")


@one_of_layouts
async def test_a_window_may_begin_and_end_with_time_itself(tables: Connection, layout: Layout) -> None:
    states = [model.state(run, uuid5(run, "0"), StateType.RUNNING, START) for run in RUNS[:4]]
    repository, analytics = FlowRunStateRepository(tables, layout=layout), FlowRunStateAnalytics(tables, layout=layout)
    ends: Question = {"since": datetime.min.replace(tzinfo=UTC), "until": datetime.max.replace(tzinfo=UTC)}
    async with stored(tables, layout, states):
        for current in (False, True):
            for asked in (ends, {"since": ends["since"]}, {"until": ends["until"]}):
                filter = FlowRunStateFilter(**asked, current=current)
                assert await repository.count_flow_run_states(filter) == 4
                for order in ("run", "time"):
                    for newest_first in (False, True):
                        page = await repository.read_flow_run_state_page(filter, order=order, newest_first=newest_first)
                        assert page.states == model.find(states, filter, order=order, newest_first=newest_first)
                async with repository.stream_flow_run_states(filter) as stream:
                    assert [state async for state in stream] == model.find(states, filter)
        (begun,) = await analytics.count_transitions(**ends, step=timedelta.max)
        assert begun.counts[StateType.RUNNING] == 4
        occupied = await analytics.count_occupancy(**ends, step=timedelta(days=1_000_000), terminal=True)
        assert [of.counts[StateType.RUNNING] for of in occupied] == [0, 4, 4, 4]
        (running,) = await analytics.measure_time_in_states(**ends, now=START + HOUR)
        assert (running.visits, running.total) == (4, 4 * HOUR)


@one_of_layouts
@pytest.mark.parametrize(
    "nothing",
    [{field: ()} for field in ("flow_run_ids", "ids", "types", "names")]
    + [{"since": START, "until": START}, {"since": START + HOUR, "until": START}, {"types": ["RUNNING"], "terminal": True}]
    + [
        {"flow_run_ids": [RUNS[2]], "ids": [uuid5(RUNS[3], "0")]},
        {"names": ["running"]},
        {"names": [""]},
        {"types": ["FAILED"], "names": ["Running"]},
    ],
)
async def test_what_is_empty_or_contradicts_itself_finds_nothing(tables: Connection, layout: Layout, nothing: Question) -> None:
    filter = FlowRunStateFilter(**nothing)
    states = [model.state(run, uuid5(run, "0"), StateType.RUNNING, START) for run in RUNS[:4]]
    repository, analytics = FlowRunStateRepository(tables, layout=layout), FlowRunStateAnalytics(tables, layout=layout)
    asked: Question = {"since": START, "until": START + HOUR}
    async with stored(tables, layout, states):
        assert await repository.count_flow_run_states(filter) == 0
        for order in ("run", "time"):
            assert await repository.read_flow_run_state_page(filter, order=order) == ([], None, None)
        async with repository.stream_flow_run_states(filter) as stream:
            assert [state async for state in stream] == []
        assert not any(any(of.counts.values()) for of in await analytics.count_transitions(filter, **asked, step=HOUR))
        if not nothing.keys() & {"ids", "since", "until", "terminal"}:
            assert await analytics.measure_time_in_states(filter, **asked) == []
        assert await repository.read_flow_run_states_by_run([], last=1) == {}
        assert await repository.read_current_flow_run_states([]) == {}
        assert await repository.read_flow_run_states_as_of([], START) == {}
        assert await analytics.count_occupancy([], **asked, step=HOUR) == model.occupancy([], **asked, step=HOUR)


@one_of_layouts
async def test_an_open_visit_ends_by_the_servers_clock_or_where_the_window_ends(tables: Connection, layout: Layout) -> None:
    began = datetime.now(UTC) - HOUR
    analytics = FlowRunStateAnalytics(tables, layout=layout)
    async with stored(tables, layout, [model.state(RUNS[0], RUNS[2], StateType.RUNNING, began)]):
        (so_far,) = await analytics.measure_time_in_states(since=began, until=began + timedelta(days=1))
        assert HOUR - timedelta(seconds=5) < so_far.total < HOUR + timedelta(minutes=1)
        (cut,) = await analytics.measure_time_in_states(since=began, until=began + TEN_MINUTES)
        assert cut.total == cut.longest == cut.p50 == TEN_MINUTES


@one_of_layouts
async def test_a_history_whose_answers_were_worked_out_by_hand(tables: Connection, layout: Layout) -> None:
    minute = timedelta(minutes=1)
    told = [
        (0, StateType.SCHEDULED, "Scheduled"),
        (10, StateType.RUNNING, "Running"),
        (20, StateType.RUNNING, "Retrying"),
        (40, StateType.RUNNING, "Running"),
        (60, StateType.COMPLETED, "Completed"),
    ]
    states = [model.state(RUNS[2], uuid5(RUNS[2], name + str(at)), type_, START + at * minute, name=name) for at, type_, name in told]
    analytics = FlowRunStateAnalytics(tables, layout=layout)
    hour: Question = {"since": START, "until": START + 61 * minute}
    async with stored(tables, layout, states):
        by_type = {entry.state: (entry.visits, entry.total // minute) for entry in await analytics.measure_time_in_states(**hour)}
        by_name = {entry.state: (entry.visits, entry.total // minute) for entry in await analytics.measure_time_in_states(**hour, by="name")}
        # What is not shown cuts a visit in two.
        (cut,) = await analytics.measure_time_in_states(FlowRunStateFilter(names=["Running"]), **hour)
        occupied = await analytics.count_occupancy(**hour, step=10 * minute)
        begun = await analytics.count_transitions(**hour, step=10 * minute)
    assert by_type == {"SCHEDULED": (1, 10), "RUNNING": (1, 50), "COMPLETED": (1, 0)}
    assert by_name == {"Scheduled": (1, 10), "Running": (2, 30), "Retrying": (1, 20), "Completed": (1, 0)}
    assert (cut.visits, cut.total, cut.longest, cut.p50, cut.p95) == (2, 30 * minute, 20 * minute, 10 * minute, 20 * minute)
    assert [of.counts[StateType.RUNNING] for of in occupied] == [0, 1, 1, 1, 1, 1, 0]  # a state counts at the tick at which it begins
    assert [sum(of.counts.values()) for of in begun] == [1, 1, 1, 0, 1, 0, 1]


async def test_a_runs_states_are_in_order_however_the_server_joins_them(connection: Connection) -> None:
    await model.prepare(connection, "prefect")
    states = [model.state(run, uuid5(run, str(n)), StateType.RUNNING, START + n * US) for run in RUNS[:5] for n in range(9)]
    await model.store(connection, "prefect", states)
    await connection.execute("insert into artifact (id) select id from flow_run_state; update flow_run_state set result_artifact_id = id")
    await connection.execute("set enable_nestloop = off; set enable_hashjoin = off")  # a merge join: by the artifacts' ids
    seen = await FlowRunStateRepository(connection, layout="prefect").read_flow_run_states_by_run(RUNS[:5], last=9)
    assert {run: [state.id for state in of] for run, of in seen.items()} == {run: [uuid5(run, str(n)) for n in range(9)] for run in RUNS[:5]}


class Untouched:
    """What is neither asked for a connection nor for rows."""

    def acquire(self, *_: object, **__: object) -> None:
        raise AssertionError("was asked")

    fetch = fetchrow = fetchval = prepare = transaction = is_in_transaction = acquire


REPOSITORY, ANALYTICS = FlowRunStateRepository(Untouched()), FlowRunStateAnalytics(Untouched())  # type: ignore[arg-type]
NAIVE = START.replace(tzinfo=None)
WINDOW: Question = {"since": START, "until": START + HOUR}
Ask: TypeAlias = Callable[..., Coroutine[Any, Any, object]]

BAD: list[tuple[str, Ask, Question]] = [
    *(("limit", REPOSITORY.read_flow_run_state_page, {"limit": limit}) for limit in (0, -1, 1001, True, "x", 1.5, None)),
    *(("order", REPOSITORY.read_flow_run_state_page, {"order": order}) for order in ("id", None, "RUN")),
    *(("last", REPOSITORY.read_flow_run_states_by_run, {"flow_run_ids": RUNS[:1], "last": last}) for last in (0, -1, True, "x", 2**63)),
    ("flow_run_ids", REPOSITORY.read_flow_run_states_by_run, {"flow_run_ids": str(RUNS[0]), "last": 1}),
    ("flow_run_ids", REPOSITORY.read_current_flow_run_states, {"flow_run_ids": ["x"]}),
    ("flow_run_id", REPOSITORY.read_current_flow_run_state, {"flow_run_id": 5}),
    ("flow_run_ids", REPOSITORY.read_flow_run_states_as_of, {"flow_run_ids": RUNS[0], "at": START}),
    *(("at", REPOSITORY.read_flow_run_states_as_of, {"flow_run_ids": RUNS[:1], "at": at}) for at in (NAIVE, None, "2024-03-05", 5)),
    ("clock", REPOSITORY.read_flow_run_states_as_of, {"flow_run_ids": RUNS[:1], "at": START, "clock": "updated"}),
    *((field, ask, WINDOW | {"step": HOUR, field: time}) for ask in (ANALYTICS.count_transitions, ANALYTICS.count_occupancy)
      for field in ("since", "until") for time in (NAIVE, None, "x")),
    *(("until", ask, WINDOW | {"step": HOUR, "until": START - US}) for ask in (ANALYTICS.count_transitions, ANALYTICS.count_occupancy)),
    *(("step", ask, WINDOW | {"step": step}) for ask in (ANALYTICS.count_transitions, ANALYTICS.count_occupancy)
      for step in (timedelta(0), -HOUR, timedelta(microseconds=35_999), US, 60, "1 hour", None)),
    ("flow_run_ids", ANALYTICS.count_occupancy, WINDOW | {"step": HOUR, "flow_run_ids": ["x"]}),
    ("flow_run_ids", ANALYTICS.count_occupancy, WINDOW | {"step": HOUR, "flow_run_ids": RUNS[0]}),
    ("flow_run_ids", ANALYTICS.count_occupancy, WINDOW | {"step": HOUR, "flow_run_ids": str(RUNS[0])}),
    *((field, ANALYTICS.measure_time_in_states, WINDOW | {field: time}) for field in ("since", "until") for time in (NAIVE, None)),
    ("now", ANALYTICS.measure_time_in_states, WINDOW | {"now": NAIVE}),
    ("until", ANALYTICS.measure_time_in_states, WINDOW | {"until": START - US}),
    *(("by", ANALYTICS.measure_time_in_states, WINDOW | {"by": by}) for by in ("message", None, "TYPE")),
    *((f"filter.{field}", ANALYTICS.measure_time_in_states, WINDOW | {"filter": filter})
      for field, filter in (("ids", FlowRunStateFilter(ids=[])), ("since", FlowRunStateFilter(since=START)),
                            ("until", FlowRunStateFilter(until=START)), ("terminal", FlowRunStateFilter(terminal=False)),
                            ("current", FlowRunStateFilter(current=True)))),
    ("filter.current", ANALYTICS.count_transitions, WINDOW | {"step": HOUR, "filter": FlowRunStateFilter(current=True)}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "ask", "given"), BAD, ids=[f"{ask.__name__}-{field}-{number}" for number, (field, ask, _) in enumerate(BAD)])
async def test_bad_input_is_refused_by_name_before_anything_is_sent(field: str, ask: Ask, given: Question) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await ask(**given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("flow_run_ids", ["x"]), ("flow_run_ids", str(RUNS[0])), ("ids", [5]), ("types", ["SUSPENDED"]), ("types", "RUNNING"), ("names", [5]),
     ("names", ["\0"]), ("names", "Running"), ("since", NAIVE), ("until", "yesterday"), ("since", 5), ("terminal", "perhaps"), ("type", "RUNNING")],
)  # fmt: skip
def test_a_bad_filter_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateFilter(**{field: value})
    assert caught.value.field == field


WITH_FILTER: list[Callable[..., Any]] = [
    method for runner in (REPOSITORY, ANALYTICS) for _, method in getmembers(runner, ismethod) if "filter" in signature(method).parameters
]


@pytest.mark.parametrize("ask", WITH_FILTER, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("none", [{}, {"types": ["RUNNING"]}, "RUNNING", "", [], False, FlowRunStateFilter], ids=repr)
async def test_what_is_no_filter_is_refused_before_anything_is_sent(ask: Callable[..., Any], none: object) -> None:
    given: Question = {"since": START, "until": START, "step": HOUR}
    with pytest.raises(InvalidInputError) as caught:
        await ask(none, **{name: given[name] for name, parameter in signature(ask).parameters.items() if parameter.default is parameter.empty})
    assert caught.value.field == "filter"


async def test_a_window_in_a_zone_that_sets_its_clocks_back_is_as_long_as_it_is(connection: Connection) -> None:
    await model.prepare(connection, "flowstates")
    analytics, berlin = FlowRunStateAnalytics(connection), ZoneInfo("Europe/Berlin")
    night: Question = {"since": datetime(2024, 10, 27, 0, tzinfo=berlin), "until": datetime(2024, 10, 27, 6, tzinfo=berlin), "step": HOUR}
    expected = [datetime(2024, 10, 26, 22, tzinfo=UTC) + number * HOUR for number in range(7)]
    assert [of.at for of in await analytics.count_transitions(**night)] == expected
    assert [of.at for of in await analytics.count_occupancy(**night)] == expected
    # Half past two and a quarter past two, three quarters of an hour later.
    assert await analytics.measure_time_in_states(since=START.astimezone(berlin), until=(START + 45 * timedelta(minutes=1)).astimezone(berlin)) == []


async def answers(connection: Connection, layout: Layout, states: list[FlowRunState]) -> list[object]:
    """The answer to every question, as something that can be compared."""
    repository, analytics = FlowRunStateRepository(connection, layout=layout), FlowRunStateAnalytics(connection, layout=layout)
    runs = sorted({state.flow_run_id for state in states})
    filter = FlowRunStateFilter(
        flow_run_ids=runs, ids=[state.id for state in states], types=["RUNNING"], names=NAMES, since=START, until=START + HOUR, terminal=False
    )
    ours = FlowRunStateFilter(flow_run_ids=runs, types=["RUNNING", "FAILED"], names=NAMES)
    window: Question = {"since": START, "until": START + 2 * HOUR}
    pages = []
    for order in ("run", "time"):
        for newest_first in (False, True):
            page = await repository.read_flow_run_state_page(filter, limit=1, order=order, newest_first=newest_first)
            pages += [page, await repository.read_flow_run_state_page(filter, order=order, newest_first=newest_first, cursor=page.next)]
    async with repository.stream_flow_run_states(filter) as stream:
        streamed = [state async for state in stream]
    return [
        pages,
        streamed,
        await repository.count_flow_run_states(filter),
        await repository.read_flow_run_states_by_run(runs, last=2),
        await repository.read_current_flow_run_state(runs[0]),
        await repository.read_current_flow_run_states(runs),
        await repository.read_flow_run_states_as_of(runs, START + HOUR),
        await repository.read_flow_run_states_as_of(runs, START + HOUR, clock="created"),
        await analytics.measure_time_in_states(ours, **window, now=START + HOUR, by="name", per_run=True),
        await analytics.count_transitions(filter, **window, step=TEN_MINUTES),
        await analytics.count_occupancy(runs, **window, step=TEN_MINUTES, terminal=True),
    ]


# Types that nothing but a question of this kind sends or brings back.
OWN_SET_UPS = SET_UPS | {name: codec(name, encoder=lambda value: f"<{value}>", decoder=lambda _: object()) for name in ("int8", "bool", "numeric")}


# Citus plans nothing for several servers without the values, and does not know a zone that is a day ahead.
NOT_ON_CITUS = {"generic_plans", "more_than_a_day_ahead"}


@pytest.mark.parametrize(
    ("set_up", "layout"), [(set_up, layout) for set_up in OWN_SET_UPS for layout in LAYOUTS if layout != "citus" or set_up not in NOT_ON_CITUS]
)
async def test_the_answers_are_those_of_a_plain_connection(layout_dsns: dict[Layout, str], layout: Layout, set_up: str) -> None:
    states = [
        model.state(uuid5(RUNS[2], f"{set_up} {run}"), uuid5(RUNS[3], f"{set_up}{run}{number}"), type_, START + number * TEN_MINUTES, name=NAMES[run])
        for run in range(3)
        for number, type_ in enumerate((StateType.SCHEDULED, StateType.RUNNING, StateType.PAUSED, StateType.RUNNING, StateType.FAILED)[: 3 + run])
    ]  # fmt: skip
    async with connected(layout_dsns[layout]) as plain, connected(layout_dsns[layout]) as borrowed:
        await model.store(plain, layout, states)
        try:
            expected = await answers(plain, layout, states)
            assert expected[2] == 5
            await OWN_SET_UPS[set_up](borrowed)
            for _ in range(6):  # from the sixth on the server may use a generic plan
                assert await answers(borrowed, layout, states) == expected
            assert isinstance(borrowed, asyncpg.Connection)
            assert not borrowed.is_in_transaction()
        finally:
            await plain.execute("delete from flow_run_state where flow_run_id = any ($1::uuid[])", {state.flow_run_id for state in states})
