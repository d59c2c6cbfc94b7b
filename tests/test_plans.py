"""Plan guards: how each query file reads flow_run_state, by the plan for its arguments and by the generic one.

Not guarded, as they read the whole table or an index of it, and say so: on Prefect's tables pages by time, time ranges without runs,
transitions, occupancy.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from flowstates import FlowRunStateFilter, FlowRunStateRepository
from flowstates.engine import queries
from flowstates.engine.execution import Argument
from flowstates.engine.queries import Layout
from flowstates.filters import array_of
from tests.conftest import Connection
from tests.plans import RUNS, START, STATES, WHOLE, Mode, explain, filled, load, run_id, state_id
from tests.servers import create_database, drop_database
from tests.test_contract import FILES

pytestmark = pytest.mark.server

ID = {"pk_flow_run_state", "flow_run_state_pkey"}
HISTORY = {"uq_flow_run_state__flow_run_id_timestamp", "uq_flow_run_state__flow_run_id_timestamp_desc"}
RUN = {*HISTORY, "uq_flow_run_state__flow_run_id_sequence"}
TIME = {"ix_flow_run_state__timestamp_id"}
NAME, TYPE = {"ix_flow_run_state__name"}, {"ix_flow_run_state__type"}  # Prefect's
ALL = {WHOLE}

ASKED = [run_id(number) for number in range(1, RUNS, RUNS // 10)]
IDS = [state_id(number, 4) for number in range(1, RUNS, RUNS // 10)]
MIDDLE = START + timedelta(minutes=RUNS // 2)
SINCE, UNTIL = str(MIDDLE), str(MIDDLE + timedelta(hours=2))
MODES: tuple[Mode, ...] = ("custom", "generic")
STEP = "60000000 microseconds"
FILTERS: dict[str, FlowRunStateFilter | None] = {
    "": None,
    "flow_run_ids": FlowRunStateFilter(flow_run_ids=tuple(ASKED)),
    "ids": FlowRunStateFilter(ids=tuple(IDS)),
    "types": FlowRunStateFilter(types=("CRASHED",)),
    "names": FlowRunStateFilter(names=("Rare",)),
    "since": FlowRunStateFilter(since=START + timedelta(minutes=RUNS - 60)),
    "until": FlowRunStateFilter(until=START + timedelta(minutes=60)),
    "terminal": FlowRunStateFilter(terminal=True),
    "window": FlowRunStateFilter(since=MIDDLE, until=MIDDLE + timedelta(minutes=10)),
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


class Guard(NamedTuple):
    """What a plan is held to.

    `via` is how it may read the table. `asked` is by how many probes of an index: then pages are bounded by these and by the rows; 0 is for what may
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


PROBE = {name: Guard(RUN, 10) for name in ("flow_run_ids",)} | {"ids": Guard(ID, 10), "all": Guard(ID | RUN, 10, generic=ID | RUN | TIME)}
MAY_READ_ALL = Guard(HISTORY | ALL, 0)
ONE_RUN, RUNS_ASKED = {"": Guard(RUN)}, {"": Guard(HISTORY, 10, ordered=True)}
PAGES_BY_RUN = {
    "": Guard(HISTORY, ordered=True),
    **PROBE,
    **dict.fromkeys(("types", "names", "terminal"), Guard(RUN | ALL, 0)),
    **dict.fromkeys(("since", "until", "window"), Guard(RUN | TIME | ALL, 0)),
}
PAGES_BY_TIME = {
    "": Guard(TIME, ordered=True),
    **PROBE,
    **dict.fromkeys(("types", "names", "terminal"), Guard(TIME | ALL, 0)),
    **dict.fromkeys(("since", "until", "window"), Guard(TIME, 0, ordered=True)),  # RANGES bounds them
}
RANGES = dict.fromkeys(("since", "until", "window"), Guard(TIME, ordered=True))
BOTH: dict[str, dict[str, Guard]] = {
    "read_flow_run_state": {"": Guard(ID)},
    "read_flow_run_states": ONE_RUN,  # a run's few rows may be sorted
    "read_current_flow_run_state": {"": Guard(HISTORY, ordered=True)},
    "read_current_flow_run_states": RUNS_ASKED,
    "read_flow_run_states_by_run": RUNS_ASKED,
    "read_flow_run_states_as_of.timestamp": RUNS_ASKED,
    "read_flow_run_states_as_of.created": {"": Guard(HISTORY, 10 + 10 * STATES // 5, ordered=True)},  # it may walk back over all states of a run
    "read_flow_run_state_page.run": PAGES_BY_RUN,
    "read_flow_run_state_page.run_descending": PAGES_BY_RUN,
    "measure_time_in_states": {"": MAY_READ_ALL, "flow_run_ids": Guard(RUN, 10)},
    "delete_flow_run_state": {"": Guard(ID, a_row=10)},
    "delete_flow_run_states.ids": {"": Guard(ID, 10, a_row=10)},
    "delete_flow_run_states.runs": {"": Guard(RUN, 10, a_row=10)},
}
GUARDS: dict[Layout, dict[str, dict[str, Guard]]] = {
    "flowstates": {
        **BOTH,
        "read_flow_run_state_page.time": PAGES_BY_TIME,
        "read_flow_run_state_page.time_descending": PAGES_BY_TIME,
        "stream_flow_run_states": {
            "": Guard(HISTORY, ordered=True),
            **PROBE,
            **dict.fromkeys(("types", "names", "terminal"), MAY_READ_ALL),
            **dict.fromkeys(("since", "until"), Guard(TIME, generic=HISTORY | TIME | ALL)),
            "window": Guard(TIME),
        },
        "count_flow_run_states": {
            "": Guard(HISTORY | TIME | ID | ALL, 0),
            **PROBE,
            **dict.fromkeys(("types", "names", "terminal"), MAY_READ_ALL),
            **dict.fromkeys(("since", "until", "window"), Guard(TIME)),
        },
        "count_transitions": {
            **dict.fromkeys(("", "since", "until", "window"), Guard(TIME, a_row=1)),
            **dict.fromkeys(("types", "names", "terminal"), Guard(TIME, 0)),  # all states of the window are read
            "flow_run_ids": Guard(RUN | TIME, 10),
            "ids": Guard(ID | TIME, 10),
            "all": Guard(ID | RUN | TIME, 10),
        },
        "count_occupancy": {"": Guard(HISTORY, ordered=True), "flow_run_ids": Guard(RUN, 10)},
        "create_flow_run_state": {"": Guard(RUN, a_row=20, ordered=True)},
        "create_flow_run_state.miss": {"": Guard(ID | HISTORY, 2, ordered=True)},
        "create_flow_run_state.queue": {},
        "create_flow_run_states.heads": {"": Guard(RUN, 20, ordered=True)},
        "create_flow_run_states.taken": {"": Guard(HISTORY, 10)},
        "create_flow_run_states.present": {"": Guard(ID, 10)},
    },
    "prefect": {
        **BOTH,
        **{
            name: {
                "": Guard(HISTORY, ordered=True),
                **PROBE,
                "types": Guard(HISTORY | TYPE | ALL, 0),
                "names": Guard(NAME, generic=HISTORY | NAME | ALL),
                **dict.fromkeys(("terminal", "since", "until", "window"), Guard(HISTORY | TYPE | ALL, 0)),
            }
            for name in ("read_flow_run_state_page.run", "read_flow_run_state_page.run_descending")
        },
        "stream_flow_run_states": {
            **PROBE,
            "names": Guard(NAME, generic=HISTORY | NAME | ALL),
            # Prefect's index gives the order of runs only, so all of it may be sorted.
            **dict.fromkeys(("", "types", "terminal", "since", "until", "window"), Guard(HISTORY | TYPE | ALL, 0)),
        },
        **dict.fromkeys(("read_flow_run_state_page.time", "read_flow_run_state_page.time_descending"), PROBE),
        "count_flow_run_states": {**PROBE, "types": Guard(TYPE), "names": Guard(NAME), "terminal": Guard(TYPE)},
        "count_transitions": PROBE,
        "count_occupancy": {"flow_run_ids": Guard(RUN, 10)},
    },
}
RUN_7, NEW = run_id(RUNS // 2), str(UUID(int=1))
CONTENT = (None, "Running", None, "{}", None, None)
ARGUMENTS: dict[str, tuple[Argument, ...]] = {
    "read_flow_run_state": (IDS[3],),
    "read_flow_run_states": (RUN_7,),
    "read_current_flow_run_state": (RUN_7,),
    "read_current_flow_run_states": (array_of(ASKED),),
    "read_flow_run_states_by_run": (array_of(ASKED), "3"),
    "read_flow_run_states_as_of.timestamp": (array_of(ASKED), SINCE),
    "read_flow_run_states_as_of.created": (array_of(ASKED), SINCE),
    "count_transitions": (SINCE, UNTIL, STEP),
    "count_occupancy": (SINCE, UNTIL, STEP),
    "measure_time_in_states": (SINCE, UNTIL, UNTIL, "type", "false", None, None),
    "delete_flow_run_state": (IDS[3],),
    "delete_flow_run_states.ids": (IDS,),
    "delete_flow_run_states.runs": (ASKED,),
    "create_flow_run_state": (RUN_7, "RUNNING", NEW, *CONTENT, IDS[3], ["RUNNING"]),
    "create_flow_run_state.miss": (RUN_7, "RUNNING", IDS[3], *CONTENT),
    "create_flow_run_states.heads": (ASKED,),
    "create_flow_run_states.taken": (ASKED, [SINCE] * len(ASKED)),
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


async def _statement(name: str, layout: Layout, filter: FlowRunStateFilter | None) -> tuple[str, tuple[Argument, ...]]:
    method, _, order = name.partition(".")
    if method != "read_flow_run_state_page":
        return filled(name, layout, filter, *ARGUMENTS.get(name, ()))
    sent = _Sent()
    states = FlowRunStateRepository(sent, layout=layout)  # type: ignore[arg-type]
    await states.read_flow_run_state_page(filter, order="time" if order.startswith("time") else "run", newest_first=order.endswith("descending"))
    return sent.sent[0]


async def faults(connection: Connection, layout: Layout, name: str, guards: dict[str, Guard] | None = None) -> list[str]:
    """Which guards of a query file do not hold, in words."""
    found = []
    for case, guard in (GUARDS[layout][name] if guards is None else guards).items():
        text, arguments = await _statement(name, layout, FILTERS[case])
        for mode in MODES:
            may_differ = mode == "generic" and guard.generic is not None
            via = guard.generic or set() if may_differ else guard.via
            is_bounded = guard.asked > 0 and not may_differ
            plan = await explain(connection, text, arguments, mode, run=is_bounded)
            where = f"{name} [{case}] {mode}"
            if not plan.via or not plan.via <= via:
                found.append(f"{where}: reads by {sorted(plan.via)}")
            if guard.ordered and plan.sorts:
                found.append(f"{where}: sorts")
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


@pytest.mark.parametrize("name", ["read_flow_run_state_page.run", "stream_flow_run_states", "count_transitions"])
async def test_prefects_index_serves_a_rare_type(dsns: dict[Layout, str], name: str) -> None:
    async with connected(dsns["prefect"]) as connection:
        assert await faults(connection, "prefect", name, {"types": Guard(TYPE, 0, generic=HISTORY | TYPE | ALL)}) == []


def test_every_file_and_every_filter_field_is_guarded() -> None:
    assert {(layout, name) for layout, guards in GUARDS.items() for name in guards} == set(FILES)
    assert FILTERS.keys() >= FlowRunStateFilter.model_fields.keys()
    fields = {"", "all", "window", *FlowRunStateFilter.model_fields}
    own = GUARDS["flowstates"]
    for name, guards in own.items():
        if "slot: filter" in queries.query(name, "flowstates") and name not in ("count_occupancy", "measure_time_in_states"):
            assert guards.keys() == fields, name


async def test_occupancy_reads_one_index_alone(dsns: dict[Layout, str]) -> None:
    text, arguments = filled("count_occupancy", "flowstates", None, *ARGUMENTS["count_occupancy"])
    async with connected(dsns["flowstates"]) as connection:
        for mode in MODES:
            plan = await explain(connection, text, arguments, mode, run=True)
            assert plan.nodes >= {"Index Only Scan", "WindowAgg"}
            assert plan.pages < RUNS * STATES / 100  # those of the index, not of the table


@pytest.mark.parametrize(
    ("layout", "index", "name"),
    [
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", "read_current_flow_run_states"),
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", "read_flow_run_state_page.run"),
        ("flowstates", "uq_flow_run_state__flow_run_id_sequence", "create_flow_run_state"),
        ("flowstates", "ix_flow_run_state__timestamp_id", "count_transitions"),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", "read_flow_run_states_as_of.timestamp"),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", "delete_flow_run_states.runs"),
    ],
)
async def test_a_missing_index_is_caught(dsns: dict[Layout, str], layout: Layout, index: str, name: str) -> None:
    async with connected(dsns[layout]) as connection:
        await connection.transaction().start()  # undone with the connection
        await connection.execute(f"drop index {index}")
        assert await faults(connection, layout, name)
