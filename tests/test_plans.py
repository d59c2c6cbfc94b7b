"""Plan guards: how each query file reads flow_run_state and flow_run, by the plan for its arguments and by the generic one.

Not guarded, as they read the whole table or an index of it, and say so: on Prefect's tables pages by time without `since`, times without
`since`, and current states by time without types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from flowstates import FlowRunStateFilter, FlowRunStateRepository, StateType
from flowstates.engine import queries
from flowstates.engine.execution import Argument, filled, filled_of_runs
from flowstates.filters import array_of
from flowstates.values import Layout
from tests.conftest import Connection
from tests.plans import APART, RECENT, RUNS, START, STATES, WHOLE, WHOLE_RUNS, Mode, explain, load, run_id, state_id
from tests.servers import create_database, drop_database
from tests.test_contract import FILES

pytestmark = pytest.mark.server

ID = {"pk_flow_run_state", "flow_run_state_pkey"}
HISTORY = {"uq_flow_run_state__flow_run_id_timestamp", "uq_flow_run_state__flow_run_id_timestamp_desc"}
TIME = {"ix_flow_run_state__timestamp_id"}
FEED = {"ix_flow_run_state__transaction_timestamp_id"}
UPDATED = {"ix_flow_run_state__updated"}  # Prefect's, as those below
NAME, TYPE = {"ix_flow_run_state__name"}, {"ix_flow_run_state__type"}
ALL = {WHOLE}
RUN = {"pk_flow_run", "flow_run_pkey"}
CURRENT = {"ix_flow_run__state_type_state_timestamp_id"}
MOVED = {"ix_flow_run__state_timestamp"}  # Prefect's, as those below
RUN_NAME, RUN_TYPE = {"ix_flow_run__state_name"}, {"ix_flow_run__state_type", "ix_flow_run__state_type_start_time"}
POINTS = {"ix_flow_run__state_id"}
RESULTS = {"artifact_pkey", "ix_flow_run_state__result_artifact_id"}
ALL_RUNS = {WHOLE_RUNS}

ASKED = [run_id(number) for number in range(1, RUNS, RUNS // 10)]
IDS = [state_id(number, 4) for number in range(1, RUNS, RUNS // 10)]
CURRENT_IDS = [state_id(number, STATES) for number in range(1, RUNS, RUNS // 10)]
MIDDLE, LATE = START + RUNS // 2 * APART, START + (RUNS - 60) * APART
MODES: tuple[Mode, ...] = ("custom", "generic")
STEP = "60000000 microseconds"
FILTERS: dict[str, FlowRunStateFilter | None] = {
    "": None,
    "flow_run_ids": FlowRunStateFilter(flow_run_ids=tuple(ASKED)),
    "ids": FlowRunStateFilter(ids=tuple(IDS)),
    "types": FlowRunStateFilter(types=("CRASHED",)),
    "names": FlowRunStateFilter(names=("Rare",)),
    "since": FlowRunStateFilter(since=LATE),
    "until": FlowRunStateFilter(until=START + 60 * APART),
    "terminal": FlowRunStateFilter(terminal=True),
    "window": FlowRunStateFilter(since=LATE, until=LATE + 10 * APART),
    "all": FlowRunStateFilter(
        flow_run_ids=tuple(ASKED),
        ids=tuple(IDS),
        types=("RUNNING", "PAUSED"),
        names=("Running", "Paused"),
        since=START,
        until=MIDDLE,
        terminal=False,
    ),
}
CURRENT_FILTERS = {
    **{case: filter.model_copy(update={"current": True}) for case, filter in FILTERS.items() if filter is not None},
    "": FlowRunStateFilter(current=True),
    "ids": FlowRunStateFilter(ids=tuple(CURRENT_IDS), current=True),
    # Which all runs have had, so no plan begins with the states, however few of a rarer name are in the sample of an analyze.
    "names": FlowRunStateFilter(names=("Scheduled",), current=True),
    "open": FlowRunStateFilter(terminal=False, current=True),
    "stuck": FlowRunStateFilter(types=("PAUSED", "RUNNING"), until=LATE, current=True),
    "all": FlowRunStateFilter(
        flow_run_ids=tuple(ASKED),
        ids=tuple(CURRENT_IDS),
        types=("COMPLETED", "CRASHED"),
        names=("Completed", "Crashed"),
        since=START,
        until=MIDDLE,
        terminal=True,
        current=True,
    ),
}


class Guard(NamedTuple):
    """What a plan is held to.

    `via` is how it may read the tables. `asked` is by how many probes of an index: then pages are bounded by these and by the rows; 0 is for what may
    read everything, where only `via` is pinned. `generic` is `via` of a generic plan that may be worse, which the server takes only where it
    is estimated to cost no more than the plans for the arguments.
    """

    via: set[str]
    asked: int = 1
    ordered: bool = False  # whether nothing may be sorted
    a_row: int = 2  # pages
    generic: set[str] | None = None


def bound(guard: Guard, rows: int) -> int:
    """In pages: a probe goes down three levels, over a border at most, and to the row."""
    return 10 + 5 * guard.asked + guard.a_row * rows


def cases(names: str, guard: Guard) -> dict[str, Guard]:
    """The same guard for several cases."""
    return dict.fromkeys(names.split(), guard)


PROBE = {"flow_run_ids": Guard(HISTORY, 10), "ids": Guard(ID, 10), "all": Guard(ID | HISTORY, 10, generic=ID | HISTORY | TIME)}
MAY_READ_ALL = Guard(HISTORY | ALL, 0)
ONE_RUN, RUNS_ASKED = {"": Guard(HISTORY)}, {"": Guard(HISTORY, 10, ordered=True)}
PAGES_BY_RUN = {
    "": Guard(HISTORY, ordered=True),
    **PROBE,
    **cases("types names terminal", Guard(HISTORY | ALL, 0)),
    **cases("since until window", Guard(HISTORY | TIME | ALL, 0)),
}
PAGES_BY_TIME = {
    "": Guard(TIME, ordered=True),
    **PROBE,
    **cases("types names terminal", Guard(TIME | ALL, 0)),
    **cases("since until window", Guard(TIME, 0, ordered=True)),  # RANGES bounds them
}
RANGES = cases("since until window", Guard(TIME, ordered=True))
# Current states: each is a row of a run, and by its id the state.
A_RUN = 5  # pages
OWN_CURRENT = {
    "flow_run_ids": Guard(RUN | ID, 10, a_row=A_RUN),
    "ids": Guard(RUN | ID, 20, a_row=A_RUN),
    "all": Guard(RUN | ID | HISTORY, 20, a_row=A_RUN, generic=RUN | CURRENT | ID | HISTORY),
    **cases("types stuck", Guard(CURRENT | ID, 2, a_row=A_RUN, generic=CURRENT | RUN | ID | ALL)),
    **cases("open window until since", Guard(CURRENT | ID, 9, a_row=A_RUN, generic=CURRENT | RUN | ID | ALL | ALL_RUNS)),
}
# Nearly all runs are terminal, and only their rows have the names.
MAY_READ_ALL_RUNS = Guard(CURRENT | RUN | ID | ALL_RUNS | ALL, 0)
# A page in the order of runs may walk through them until it is full.
OWN_CURRENT_BY_RUN = {
    **OWN_CURRENT,
    **cases("since open", Guard(CURRENT | RUN | ID, 0)),
    **cases("terminal", Guard(RUN | ID, a_row=A_RUN, ordered=True)),
    **cases("names", Guard(CURRENT | RUN | ID | ALL_RUNS, 0)),
    "": Guard(RUN | ID, a_row=A_RUN, ordered=True),
}
# A page in the order of time is one of each type, of at most as many runs, and reads no more states than it has.
OWN_CURRENT_BY_TIME = {
    **cases("flow_run_ids ids all", Guard(RUN | CURRENT | ID | HISTORY, 10 * 9, a_row=A_RUN)),
    **cases("types stuck", Guard(CURRENT | ID, 2, a_row=A_RUN)),
    **cases("open window until since terminal", Guard(CURRENT | ID, 9, a_row=A_RUN)),
    **cases("names", Guard(CURRENT | ID | ALL_RUNS, 0)),
    "": Guard(CURRENT | ID, 9, a_row=A_RUN),
}
OWN_CURRENT_OF_A_TYPE = {"types": Guard(CURRENT | ID, 2, a_row=A_RUN, ordered=True), "stuck": Guard(CURRENT | ID, 2, a_row=A_RUN)}
PREFECTS_STUCK = Guard(MOVED | RUN_TYPE | ID, 2, a_row=A_RUN, generic=MOVED | RUN_TYPE | RUN | ID | TYPE | ALL)
PREFECTS_CURRENT = {
    "flow_run_ids": Guard(RUN | ID, 10, a_row=A_RUN),
    **cases("ids all", Guard(RUN | POINTS | ID, 20, a_row=A_RUN)),
    "types": Guard(RUN_TYPE | POINTS | ID | TYPE, a_row=A_RUN, generic=RUN_TYPE | POINTS | RUN | ID | TYPE | ALL),
    "open": Guard(RUN_TYPE | ID, 5, a_row=A_RUN, generic=RUN_TYPE | RUN | ID | TYPE | ALL | ALL_RUNS),
    "names": Guard(RUN_NAME | ID | NAME, a_row=A_RUN, generic=RUN_NAME | RUN_TYPE | RUN | ID | NAME | ALL | ALL_RUNS),
    "stuck": PREFECTS_STUCK,
    **cases("since until window", Guard(MOVED | ID, 2, a_row=A_RUN, generic=MOVED | RUN | ID | ALL)),
}
PREFECTS_ALL = Guard(RUN | RUN_TYPE | ID | TYPE | ALL | ALL_RUNS, 0)
# Runs that moved since the time or a day before it, and their histories from there on.
PREFECTS_SINCE = cases("since window", Guard(MOVED | HISTORY, 300, a_row=3))
PREFECTS_PAGES_BY_TIME = {**PROBE, **PREFECTS_SINCE}
# Runs that are open, or have moved since the window began, and their histories.
OWN_WINDOWS = {"": Guard(CURRENT | HISTORY, 9, a_row=A_RUN), "flow_run_ids": Guard(RUN | CURRENT | HISTORY, 20)}
PREFECTS_WINDOWS = {"": Guard(MOVED | RUN_TYPE | POINTS | HISTORY, 9, a_row=A_RUN), "flow_run_ids": Guard(RUN | HISTORY, 20)}
BOTH: dict[str, dict[str, Guard]] = {
    "read_flow_run_state": {"": Guard(ID)},
    "read_flow_run_states": ONE_RUN,  # a run's few rows may be sorted
    "read_flow_run_states_by_run": RUNS_ASKED,
    "read_flow_run_states_as_of.timestamp": RUNS_ASKED,
    "read_flow_run_states_as_of.created": {"": Guard(HISTORY, 10 + 10 * STATES // 5, ordered=True)},  # it may walk back over all states of a run
    "delete_flow_run_state": {"": Guard(ID, a_row=10)},
    "delete_flow_run_states.ids": {"": Guard(ID, 10, a_row=10)},
    "delete_flow_run_states.runs": {"": Guard(HISTORY, 10, a_row=10)},
}
# A page of a feed looks at so many states, whatever its filter lets through.
PAGES_OF_A_FEED = {case: Guard(FEED, 3) for case in FILTERS}
PREFECTS_PAGES_OF_A_FEED = {case: Guard(UPDATED, 3) for case in FILTERS}
NO_TABLE = {"": Guard(set())}
GUARDS: dict[Layout, dict[str, dict[str, Guard]]] = {
    "flowstates": {
        **BOTH,
        "read_page": PAGES_OF_A_FEED,
        "read_page.next": {"": Guard(FEED, 3)},
        "read_page.blocked": {"": Guard(FEED, 3)},
        "now": NO_TABLE,
        **dict.fromkeys(("consume.lock", "consume.lock_free", "consume.is_known", "consume.begin", "move.expected", "forget"), NO_TABLE),
        "move": {"": Guard({"pk_flowstates_consumer"})},
        "positions": {"": Guard(FEED, 2)},
        "read_current_flow_run_state": {"": Guard(HISTORY, ordered=True)},
        "read_current_flow_run_states": RUNS_ASKED,
        "read_flow_run_state_page.run": PAGES_BY_RUN,
        "read_flow_run_state_page.run_descending": PAGES_BY_RUN,
        "read_flow_run_state_page.time": PAGES_BY_TIME,
        "read_flow_run_state_page.time_descending": PAGES_BY_TIME,
        **dict.fromkeys(("read_flow_run_state_page.current_run", "read_flow_run_state_page.current_run_descending"), OWN_CURRENT_BY_RUN),
        **dict.fromkeys(("read_flow_run_state_page.current_time", "read_flow_run_state_page.current_time_descending"), OWN_CURRENT_BY_TIME),
        **dict.fromkeys(("read_flow_run_state_page.current_type", "read_flow_run_state_page.current_type_descending"), OWN_CURRENT_OF_A_TYPE),
        "stream_flow_run_states": {
            "": Guard(HISTORY, ordered=True),
            **PROBE,
            **cases("types names terminal", MAY_READ_ALL),
            **cases("since until", Guard(TIME, generic=HISTORY | TIME | ALL)),
            "window": Guard(TIME),
        },
        "stream_flow_run_states.current": {**OWN_CURRENT, **dict.fromkeys(("", "names", "terminal"), MAY_READ_ALL_RUNS)},
        "count_flow_run_states": {
            "": Guard(HISTORY | TIME | ID | ALL, 0),
            **PROBE,
            **cases("types names terminal", MAY_READ_ALL),
            **cases("since until window", Guard(TIME)),
        },
        # Of the runs' rows alone.
        "count_flow_run_states.current": {
            "flow_run_ids": Guard(RUN, 10),
            "ids": Guard(RUN | ID, 20),
            "all": OWN_CURRENT["all"],
            **cases("types stuck window until since", Guard(CURRENT, 9)),
            "open": Guard(CURRENT, 9, generic=CURRENT | ALL_RUNS),
            **dict.fromkeys(("", "names", "terminal"), Guard(CURRENT | RUN | ALL_RUNS, 0)),
        },
        "count_current": {"": Guard(CURRENT | ALL_RUNS, 0)},
        "count_transitions": {
            **cases("since until window", Guard(TIME, a_row=1)),
            "": Guard(TIME, a_row=1),
            **cases("types names terminal", Guard(TIME, 0)),  # all states of the window are read
            "flow_run_ids": Guard(HISTORY | TIME, 10),
            "ids": Guard(ID | TIME, 10),
            "all": Guard(ID | HISTORY | TIME, 10),
        },
        **dict.fromkeys(("count_occupancy", "measure_time_in_states"), OWN_WINDOWS),
        "create_flow_run_state": {"": Guard(RUN | ID, 4, a_row=20, ordered=True)},
        "create_flow_run_state.miss": {"": Guard(RUN | ID, 3, ordered=True)},
        # Each run's row is looked at, locked and changed, or looked at and made.
        "create_flow_run_state.together": {"": Guard(RUN | ID, 60, a_row=40)},
        "create_flow_run_state.together_miss": {"": Guard(RUN | ID, 30)},
        "create_flow_run_states.heads": {"": Guard(RUN, 30)},  # each row is written, and where it finds no room in both indexes
        "create_flow_run_states.currents": {"": Guard(RUN | HISTORY, 20, a_row=10, ordered=True)},
        "create_flow_run_states.unused": {"": Guard(RUN, 10, a_row=10)},
        "create_flow_run_states.meant": {"": Guard(RUN | HISTORY | ID, 30, a_row=10)},
        "create_flow_run_states.taken": {"": Guard(HISTORY, 10)},
        "create_flow_run_states.present": {"": Guard(ID, 10)},
        # Ten runs, whose rows are looked at, locked and changed.
        "prune.runs": {"": Guard(CURRENT | RUN | HISTORY, 40, a_row=10)},
        "prune.runs_dry": {"": Guard(CURRENT | HISTORY, 20)},
        "prune.states": {"": Guard(CURRENT | RUN | HISTORY | ID, 40, a_row=10)},
        "prune.states_dry": {"": Guard(CURRENT | HISTORY, 20)},
        "prune.oldest": {"": Guard(CURRENT, 9)},
    },
    "prefect": {
        "read_page": PREFECTS_PAGES_OF_A_FEED,
        "read_page.blocked": NO_TABLE,
        "now": NO_TABLE,
        **BOTH,
        "read_current_flow_run_state": {"": Guard(RUN | ID, 2, a_row=A_RUN, ordered=True)},
        "read_current_flow_run_states": {"": Guard(RUN | ID, 20, a_row=A_RUN, ordered=True)},
        **{
            name: {
                "": Guard(HISTORY, ordered=True),
                **PROBE,
                "types": Guard(HISTORY | TYPE | ALL, 0),
                "names": Guard(NAME, generic=HISTORY | NAME | ALL),
                **cases("terminal until", Guard(HISTORY | TYPE | ALL, 0)),
                # A page that has enough stops, so a plan may also walk through the runs.
                **cases("since window", Guard(MOVED | HISTORY, 300, a_row=3, generic=MOVED | HISTORY | RUN)),
            }
            for name in ("read_flow_run_state_page.run", "read_flow_run_state_page.run_descending")
        },
        **dict.fromkeys(("read_flow_run_state_page.time", "read_flow_run_state_page.time_descending"), PREFECTS_PAGES_BY_TIME),
        **{
            f"read_flow_run_state_page.current_run{suffix}": {
                **PREFECTS_CURRENT,
                "open": Guard(RUN_TYPE | RUN | ID, 0),
                **dict.fromkeys(("terminal", ""), Guard(RUN | ID, a_row=A_RUN, ordered=True)),
            }
            for suffix in ("", "_descending")
        },
        **{
            f"read_flow_run_state_page.current_time{suffix}": {**PREFECTS_CURRENT, "terminal": PREFECTS_ALL, "": PREFECTS_ALL}
            for suffix in ("", "_descending")
        },
        "stream_flow_run_states": {
            **PROBE,
            **PREFECTS_SINCE,
            "names": Guard(NAME, generic=HISTORY | NAME | ALL),
            # Prefect's index gives the order of runs only, so all of it may be sorted.
            **cases("types terminal until", Guard(HISTORY | TYPE | ALL, 0)),
            "": Guard(HISTORY | TYPE | ALL, 0),
        },
        "stream_flow_run_states.current": {**PREFECTS_CURRENT, "terminal": PREFECTS_ALL, "": PREFECTS_ALL},
        "count_flow_run_states": {**PROBE, **PREFECTS_SINCE, "types": Guard(TYPE), "names": Guard(NAME), "terminal": Guard(TYPE)},
        "count_flow_run_states.current": {
            **PREFECTS_CURRENT,
            "flow_run_ids": Guard(RUN, 10),
            "terminal": PREFECTS_ALL,
            "": Guard(RUN | POINTS | ALL_RUNS, 0),
        },
        "count_current": {"": Guard(RUN_TYPE | ALL_RUNS, 0)},
        "count_transitions": {
            **PROBE,
            **PREFECTS_SINCE,
            **cases("terminal until", Guard(MOVED | HISTORY, 300, a_row=3)),
            # What is rare of all time may be fewer than what moved.
            **cases("types names", Guard(MOVED | HISTORY | TYPE | NAME, 300, a_row=3)),
            "": Guard(MOVED | HISTORY, 300, a_row=3),
        },
        **dict.fromkeys(("count_occupancy", "measure_time_in_states"), PREFECTS_WINDOWS),
        # Beside them the server looks for rows that reference what goes.
        "prune.states": {"": Guard(RUN | HISTORY | ID, 40, a_row=10)},
        "prune.artifacts": {"": Guard(RUN | HISTORY | ID | RESULTS, 40, a_row=10)},
        "prune.states_dry": {"": Guard(RUN | HISTORY, 20)},
        "prune.oldest": {"": Guard(MOVED)},
    },
}
RUN_7, NEW, NEW_RUN = run_id(RUNS // 2), str(UUID(int=1)), str(UUID(int=2))
PLACE = (str(1000 + RUNS // 2), "-infinity", NEW)
CONTENT = (None, "Running", None, "{}", None, None)
WINDOW = (LATE.isoformat(), (LATE + 60 * APART).isoformat())
OLD = ("COMPLETED", LATE.isoformat(), MIDDLE.isoformat(), NEW, "10", "100", None)
PREFECTS_OLD = ("{COMPLETED}", LATE.isoformat(), RUN_7, "10", "100", None)
KEPT: tuple[Argument, ...] = ("true", "1", ["PAUSED"], ["Late"])
MEASURED = (*WINDOW, WINDOW[1], "type", "false", None, None)
TOGETHER = json.dumps(
    [[run, "RUNNING", str(UUID(int=3 + number)), *CONTENT, None, None] for number, run in enumerate(ASKED)]
    + [[str(UUID(int=100 + number)), "RUNNING", str(UUID(int=200 + number)), *CONTENT, None, [""]] for number in range(10)]
)
ARGUMENTS: dict[str, tuple[Argument, ...]] = {
    "read_flow_run_state": (IDS[3],),
    "read_flow_run_states": (RUN_7,),
    "read_current_flow_run_state": (RUN_7,),
    "read_current_flow_run_states": (array_of(ASKED),),
    "read_flow_run_states_by_run": (array_of(ASKED), "3"),
    "read_flow_run_states_as_of.timestamp": (array_of(ASKED), str(MIDDLE)),
    "read_flow_run_states_as_of.created": (array_of(ASKED), str(MIDDLE)),
    "count_transitions": (WINDOW[0], STEP),
    "count_occupancy": (*WINDOW, STEP, "false"),
    "measure_time_in_states": MEASURED,
    "delete_flow_run_state": (IDS[3],),
    "delete_flow_run_states.ids": (IDS,),
    "delete_flow_run_states.runs": (ASKED,),
    "create_flow_run_state": (RUN_7, "RUNNING", NEW, *CONTENT, state_id(RUNS // 2, STATES), ["RUNNING", "COMPLETED"]),
    "create_flow_run_state.miss": (RUN_7, "RUNNING", IDS[3], *CONTENT),
    "create_flow_run_state.together": (TOGETHER,),
    "create_flow_run_state.together_miss": (json.dumps([[run, "RUNNING", id, *CONTENT] for run, id in zip(ASKED, IDS, strict=True)]),),
    "create_flow_run_states.heads": (ASKED,),
    "create_flow_run_states.currents": (ASKED,),
    "create_flow_run_states.unused": (ASKED,),
    "create_flow_run_states.meant": (json.dumps([[RUN_7, "RUNNING", id, str(MIDDLE), "Running", "5"] for id in IDS]), ASKED),
    "create_flow_run_states.taken": (ASKED, [str(MIDDLE)] * len(ASKED)),
    "prune.oldest": (list(StateType),),
    "flowstates prune.runs": (*OLD, "false"),
    "flowstates prune.runs_dry": OLD,
    "flowstates prune.states": (*OLD, *KEPT, "false"),
    "flowstates prune.states_dry": (*OLD, *KEPT),
    "prefect prune.states": (*PREFECTS_OLD, *KEPT, "false", "false"),
    "prefect prune.states_dry": (*PREFECTS_OLD, *KEPT, "true"),
    "prefect prune.artifacts": (*PREFECTS_OLD, *KEPT, "true", "false"),
    "prefect read_page": (MIDDLE.isoformat(), NEW, LATE.isoformat(), "501", "10000", "5 seconds", "false"),
    "prefect read_page.blocked": ("5 seconds", "false"),
    "read_page": (*PLACE, "1:1:", "501", "10000", "true"),
    "read_page.next": (*PLACE, "1:1:", "501"),
    **dict.fromkeys(("consume.lock", "consume.lock_free", "consume.is_known", "forget"), ("billing",)),
    "move.expected": ("billing", *PLACE, "1:1:", *PLACE),
    **dict.fromkeys(("consume.begin", "move"), ("billing", *PLACE, "1:1:")),
    "create_flow_run_states.present": (json.dumps([[RUN_7, "RUNNING", id, *CONTENT] for id in IDS]),),
}


@pytest.fixture(scope="module")
def dsns(server_dsn: str) -> Iterator[dict[Layout, str]]:
    async def make(layout: Layout) -> str:
        dsn = await create_database(server_dsn)
        connection = await asyncpg.connect(dsn)
        await load(connection, layout)
        await connection.close()
        return dsn

    layouts: tuple[Layout, ...] = ("flowstates", "prefect")
    dsns = {layout: asyncio.run(make(layout)) for layout in layouts}
    yield dsns
    for dsn in dsns.values():
        asyncio.run(drop_database(server_dsn, dsn))


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


class _Sent:
    """Takes what a method sends in the place of a connection."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[Argument, ...]]] = []

    async def fetch(self, text: str, *arguments: Argument) -> list[Any]:
        self.sent.append((text, arguments))
        return []

    def get_settings(self) -> SimpleNamespace:
        return SimpleNamespace(client_encoding="utf-8")


async def _statement(name: str, layout: Layout, case: str) -> tuple[str, tuple[Argument, ...]]:
    method, _, part = name.partition(".")
    is_current = part == "current" or part.startswith("current_")
    filter = CURRENT_FILTERS[case] if is_current else FILTERS[case]
    if method in ("count_occupancy", "measure_time_in_states"):
        return filled_of_runs(name, layout, ARGUMENTS[name], None if filter is None else filter.flow_run_ids)
    if method == "count_transitions":
        # The method has the window in the filter.
        asked = filter or FlowRunStateFilter()
        window = {"since": asked.since or LATE, "until": asked.until if asked.until and asked.since else LATE + 60 * APART}
        return filled(name, layout, ARGUMENTS[name], asked.model_copy(update=window))
    if method != "read_flow_run_state_page":
        return filled(name, layout, ARGUMENTS.get(f"{layout} {name}", ARGUMENTS.get(name, ())), filter)
    sent = _Sent()
    states = FlowRunStateRepository(sent, layout=layout)  # type: ignore[arg-type]
    order = part.removeprefix("current_")
    by: Literal["time", "run"] = "time" if order.startswith(("time", "type")) else "run"
    await states.read_flow_run_state_page(filter, order=by, newest_first=order.endswith("descending"))
    return sent.sent[0]


async def faults(connection: Connection, layout: Layout, name: str, guards: dict[str, Guard] | None = None) -> list[str]:
    """Which guards of a query file do not hold, in words."""
    found = []
    for case, guard in (GUARDS[layout][name] if guards is None else guards).items():
        text, arguments = await _statement(name, layout, case)
        for mode in MODES:
            may_differ = mode == "generic" and guard.generic is not None
            via = guard.generic or set() if may_differ else guard.via
            is_bounded = guard.asked > 0 and not may_differ
            plan = await explain(connection, text, arguments, mode, run=is_bounded)
            where = f"{name} [{case}] {mode}"
            if bool(plan.via) != bool(via) or not plan.via <= via:
                found.append(f"{where}: reads by {sorted(plan.via)}")
            if guard.ordered and plan.sorts:
                found.append(f"{where}: sorts")
            if is_bounded and plan.pairs > plan.rows:
                found.append(f"{where}: a join throws {plan.pairs} pairs of rows away, of {plan.rows} rows that were read")
            if is_bounded and plan.pages > bound(guard, plan.rows):
                found.append(f"{where}: {plan.pages} pages for {plan.rows} rows, more than {bound(guard, plan.rows)}")
    return found


@pytest.mark.parametrize(("layout", "name"), FILES)
async def test_plans_are_as_guarded(dsns: dict[Layout, str], layout: Layout, name: str) -> None:
    async with connected(dsns[layout]) as connection:
        assert await faults(connection, layout, name) == []


@pytest.mark.parametrize("order", ["time", "time_descending"])
async def test_a_page_of_a_time_range_begins_where_the_range_does(dsns: dict[Layout, str], order: str) -> None:
    async with connected(dsns["flowstates"]) as connection:
        assert await faults(connection, "flowstates", f"read_flow_run_state_page.{order}", RANGES) == []


@pytest.mark.parametrize("name", ["read_flow_run_state_page.run", "stream_flow_run_states"])
async def test_prefects_index_serves_a_rare_type(dsns: dict[Layout, str], name: str) -> None:
    async with connected(dsns["prefect"]) as connection:
        assert await faults(connection, "prefect", name, {"types": Guard(TYPE, 0, generic=HISTORY | TYPE | ALL)}) == []


@pytest.fixture(scope="module")
def few(server_dsn: str) -> Iterator[dict[Layout, str]]:
    """The last tenth of the runs, under an index on histories that is as high a tree."""

    async def make(layout: Layout) -> str:
        dsn = await create_database(server_dsn)
        async with connected(dsn) as connection:
            await load(connection, layout, first=RUNS - RECENT + 1, fillfactor=40)
        return dsn

    layouts: tuple[Layout, ...] = ("flowstates", "prefect")
    dsns = {layout: asyncio.run(make(layout)) for layout in layouts}
    yield dsns
    for dsn in dsns.values():
        asyncio.run(drop_database(server_dsn, dsn))


@pytest.mark.parametrize(
    ("layout", "name", "case"),
    [
        ("flowstates", "count_occupancy", ""),
        ("prefect", "count_occupancy", ""),
        ("flowstates", "measure_time_in_states", ""),
        ("prefect", "measure_time_in_states", ""),
        ("flowstates", "count_transitions", ""),
        ("flowstates", "count_flow_run_states", "since"),
        ("flowstates", "count_flow_run_states.current", "since"),
    ],
)
async def test_a_window_costs_what_is_in_it(dsns: dict[Layout, str], few: dict[Layout, str], layout: Layout, name: str, case: str) -> None:
    """With ten times as many runs that ended before it."""
    text, arguments = await _statement(name, layout, case)
    async with connected(dsns[layout]) as many, connected(few[layout]) as connection:
        for mode in MODES:
            plan = await explain(connection, text, arguments, mode, run=True)
            assert 0 < (await explain(many, text, arguments, mode, run=True)).pages <= 1.5 * plan.pages


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_terminal_types_take_one_look_at_each_runs_row(dsns: dict[Layout, str], layout: Layout) -> None:
    text, arguments = filled_of_runs("count_occupancy", layout, (*WINDOW, STEP, "true"), None)
    guard = GUARDS[layout]["count_occupancy"][""]
    async with connected(dsns[layout]) as connection:
        pages: int = await connection.fetchval("select relpages from pg_class where relname = 'flow_run'")
        for mode in MODES:
            plan = await explain(connection, text, arguments, mode, run=True)
            assert plan.via <= guard.via | ALL_RUNS
            assert plan.pages <= pages + bound(guard, plan.rows - RUNS)


async def test_an_append_outside_of_a_transaction_asks_less(dsns: dict[Layout, str]) -> None:
    text = queries.fill(queries.query("create_flow_run_state", "flowstates"), "is_free", "true")
    known: tuple[Argument, ...] = (RUN_7, "RUNNING", NEW, *CONTENT, state_id(RUNS // 2, STATES), None)
    new: tuple[Argument, ...] = (NEW_RUN, "RUNNING", NEW, *CONTENT, None, [""])
    async with connected(dsns["flowstates"]) as connection:
        for arguments in (known, new):
            for mode in MODES:
                plan = await explain(connection, text, arguments, mode, run=True)
                assert plan.via == {"pk_flow_run"}
                assert plan.pages <= bound(Guard(RUN, 3, a_row=20), 1)


async def test_after_a_delete_the_runs_rows_are_found_by_indexes(dsns: dict[Layout, str]) -> None:
    scans = "select sum(seq_scan) from pg_stat_xact_user_tables where relname in ('flow_run', 'flow_run_state')"
    deletes: dict[str, list[tuple[Argument]]] = {
        "delete_flow_run_state": [(state_id(run, STATES),) for run in range(1, 9)],
        "delete_flow_run_states.ids": [([state_id(run, number) for number in (1, STATES)],) for run in range(11, 19)],
        "delete_flow_run_states.runs": [([run_id(run), run_id(run + 1)],) for run in range(21, 39, 2)],
    }
    async with connected(dsns["flowstates"]) as connection:
        await connection.transaction().start()  # undone with the connection
        for name, given in deletes.items():
            before = await connection.fetchval(scans)
            for arguments in given:  # from the sixth on by generic plans
                assert await connection.fetch(queries.query(name, "flowstates"), *arguments)
            assert await connection.fetchval(scans) == before, name


def test_every_file_and_every_filter_field_is_guarded() -> None:
    assert {(layout, name) for layout, guards in GUARDS.items() for name in guards} == set(FILES)
    assert FILTERS.keys() >= FlowRunStateFilter.model_fields.keys() - {"current"}
    fields = {"", "all", "window", *FlowRunStateFilter.model_fields} - {"current"}
    current = fields | {"open", "stuck"}
    for name, guards in GUARDS["flowstates"].items():
        if "slot: filter" in queries.query(name, "flowstates") and name not in ("count_current", "count_occupancy", "measure_time_in_states"):
            wanted = {"types", "stuck"} if ".current_type" in name else current if ".current" in name else fields
            assert guards.keys() == wanted, name


@pytest.mark.parametrize("name", ["count_occupancy", "count_transitions"])
async def test_what_needs_times_and_types_reads_the_index_alone(dsns: dict[Layout, str], name: str) -> None:
    text, arguments = await _statement(name, "flowstates", "")
    async with connected(dsns["flowstates"]) as connection:
        for mode in MODES:
            assert "Index Only Scan" in (await explain(connection, text, arguments, mode, run=True)).nodes


@pytest.mark.parametrize(
    ("layout", "index", "name"),
    [
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", "read_current_flow_run_states"),
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", "read_flow_run_state_page.run"),
        ("flowstates", "ix_flow_run_state__timestamp_id", "count_transitions"),
        ("flowstates", "ix_flow_run__state_type_state_timestamp_id", "count_occupancy"),
        ("flowstates", "ix_flow_run__state_type_state_timestamp_id", "read_flow_run_state_page.current_time"),
        ("flowstates", "ix_flow_run__state_type_state_timestamp_id", "count_flow_run_states.current"),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", "read_flow_run_states_as_of.timestamp"),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", "delete_flow_run_states.runs"),
        ("prefect", "ix_flow_run__state_timestamp", "count_flow_run_states"),
        ("prefect", "ix_flow_run__state_timestamp", "measure_time_in_states"),
        ("prefect", "ix_flow_run__state_name", "stream_flow_run_states.current"),
    ],
)
async def test_a_missing_index_is_caught(dsns: dict[Layout, str], layout: Layout, index: str, name: str) -> None:
    async with connected(dsns[layout]) as connection:
        await connection.transaction().start()  # undone with the connection
        await connection.execute(f"drop index {index}")
        assert await faults(connection, layout, name)
