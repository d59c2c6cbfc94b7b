"""All layouts' answers on equal data are equal, for each question."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeAlias
from uuid import UUID, uuid5

import pytest

from flowstates import FlowRunState, FlowRunStateAnalytics, FlowRunStateFeed, FlowRunStateFilter, FlowRunStateRepository, StateType
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection
from tests.contract import method_of
from tests.distributed import CitusDatabases
from tests.model import LAYOUTS
from tests.servers import create_database, drop_database
from tests.test_borrowed import connected
from tests.test_contract import FILES

START, MINUTE = datetime(2024, 3, 5, 12, tzinfo=UTC), timedelta(minutes=1)
RUNS = [UUID(int=0), UUID(int=2**128 - 1), *(uuid5(UUID(int=0), str(number)) for number in range(58))]
UNKNOWN = UUID(int=5)


def history() -> list[FlowRunState]:
    """Runs of one to eight states, a third of them ended, at few moments."""
    random = Random(7)
    states = []
    for run in RUNS:
        moments = sorted(random.sample(range(90), random.randint(1, 8)))
        for number, moment in enumerate(moments):
            is_last = number == len(moments) - 1
            type_ = random.choice([type_ for type_ in StateType if not type_.is_terminal or (is_last and random.random() < 0.5)])
            name = random.choice([type_.title(), "Late", "Ошибка"])
            created = START + (moment + random.randint(-20, 20)) * MINUTE
            states.append(model.state(run, uuid5(run, str(number)), type_, START + moment * MINUTE, name=name, created=created))
    return states


STATES = history()
NUMBER = "('x' || left(id::text, 4))::bit(16)::int"
# By what Citus lets an update call.
DRESS = f"""
update flow_run_state
   set message = case when {NUMBER} % 3 > 0 then 'message ' || {NUMBER}::text end,
       data = case when {NUMBER} % 2 > 0 then ('{{"n": ' || {NUMBER}::text || ', "of": ["é", null]}}')::jsonb end,
       state_details = case when {NUMBER} % 5 > 0 then ('{{"cache_key": "' || {NUMBER}::text || '", "new": ' || {NUMBER}::text || '}}')::jsonb
                            else '{{}}' end
"""

WINDOWS: list[dict[str, Any]] = [
    {"since": START + begin * MINUTE, "until": START + end * MINUTE} for begin, end in ((-10, 200), (0, 1), (30, 60), (60, 61), (95, 300), (5, 5))
]
ASKED: list[dict[str, Any]] = [
    {},
    {"flow_run_ids": [*RUNS[:9], UNKNOWN]},
    {"ids": [state.id for state in STATES[::3]]},
    {"types": ["RUNNING"]},
    {"types": ["RUNNING", "FAILED", "PAUSED"], "names": ["Late", "Running"]},
    {"names": ["Ошибка"]},
    {"terminal": True},
    {"terminal": False, "until": START + 40 * MINUTE},
    {"since": START + 40 * MINUTE},
    *WINDOWS,
]
FILTERS = [FlowRunStateFilter(**asked) for asked in ASKED]
ALL_FILTERS = [None, *FILTERS, *(FlowRunStateFilter(**asked, current=True) for asked in ASKED)]
Case: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def case(*positional: Any, **named: Any) -> Case:
    return positional, named


SEVERAL = [*RUNS[:40], UNKNOWN]
CASES: dict[str, list[Case]] = {
    "read_flow_run_state": [case(id) for id in (STATES[0].id, STATES[-1].id, UNKNOWN)],
    "read_flow_run_states": [case(run) for run in SEVERAL],
    "read_flow_run_states_by_run": [case(SEVERAL, last=last) for last in (1, 3, 100)],
    "read_current_flow_run_state": [case(run) for run in SEVERAL],
    "read_current_flow_run_states": [case(SEVERAL)],
    "read_flow_run_states_as_of": [case(SEVERAL, START + at * MINUTE, clock=clock) for at in (-1, 0, 45, 100) for clock in ("timestamp", "created")],
    "read_flow_run_state_page": [
        case(filter, order=order, newest_first=newest_first, limit=40)
        for filter in ALL_FILTERS
        for order in ("run", "time")
        for newest_first in (False, True)
    ],
    "stream_flow_run_states": [case(filter) for filter in ALL_FILTERS],
    "count_flow_run_states": [case(filter) for filter in ALL_FILTERS],
    "measure_time_in_states": [
        case(filter, **window, **asked)
        for window in WINDOWS
        for asked in ({}, {"now": START + 50 * MINUTE, "by": "name"}, {"now": START + 80 * MINUTE, "per_run": True})
        for filter in (None, FlowRunStateFilter(flow_run_ids=SEVERAL, types=["RUNNING", "PAUSED"]), FlowRunStateFilter(names=["Late"]))
    ],
    "count_transitions": [case(filter, **window, step=7 * MINUTE) for window in WINDOWS for filter in (None, *FILTERS)],
    "count_occupancy": [
        case(runs, **window, step=7 * MINUTE, terminal=terminal) for window in WINDOWS for runs in (None, SEVERAL) for terminal in (False, True)
    ],
    "count_current": [case()],
}


async def answer(states: FlowRunStateRepository, analytics: FlowRunStateAnalytics, name: str, asked: Case) -> object:
    positional, named = asked
    ask = getattr(states if hasattr(states, name) else analytics, name)
    match name:
        case "stream_flow_run_states":
            async with ask(*positional, **named) as stream:
                return [state async for state in stream]
        case "count_current":
            return (await ask()).counts  # the clock is each server's
        case "read_flow_run_state_page":  # all pages, there and back; cursors are each layout's
            seen = [page := await ask(*positional, **named)]
            while page.next is not None:
                seen.append(page := await ask(*positional, **named, cursor=page.next))
            while page.previous is not None:
                seen.append(page := await ask(*positional, **named, cursor=page.previous))
            return [page.states for page in seen if page.states]
        case _:
            return await ask(*positional, **named)


@pytest.fixture
async def filled(request: pytest.FixtureRequest, server_dsn: str) -> AsyncIterator[dict[Layout, Connection]]:
    async with AsyncExitStack() as stack:
        connections: dict[Layout, Connection] = {}
        for layout in LAYOUTS:
            if layout == "citus":
                databases: CitusDatabases = request.getfixturevalue("citus_databases")
                dsn = databases.create()
                stack.callback(databases.drop, dsn)
            else:
                dsn = await create_database(server_dsn)
                stack.push_async_callback(drop_database, server_dsn, dsn)
            connections[layout] = connection = await stack.enter_async_context(connected(dsn))
            await model.prepare(connection, layout)
            await model.store(connection, layout, STATES)
            await connection.execute(DRESS)
        yield connections


def test_every_question_has_a_case() -> None:
    methods = {name for runner in (FlowRunStateRepository, FlowRunStateAnalytics) for name in vars(runner) if not name.startswith("_")}
    assert CASES.keys() == {name for name in methods if not name.startswith(("create_", "delete_"))}


async def test_the_answers_are_equal(filled: dict[Layout, Connection]) -> None:
    sent: set[str] = set()

    def note(logged: Any) -> None:
        sent.update(re.findall(r"^/\* ([\w.]+) \*/", logged.query))

    runners = {}
    for layout, connection in filled.items():
        connection.add_query_logger(note)
        runners[layout] = FlowRunStateRepository(connection, layout=layout), FlowRunStateAnalytics(connection, layout=layout)
    for name, cases in CASES.items():
        answers = [[await answer(*runners[layout], name, asked) for asked in cases] for layout in LAYOUTS]
        for asked, ours, *others in zip(cases, *answers, strict=True):
            for theirs in others:
                assert theirs == ours, (name, asked)
        assert any(answers[0]), f"{name}: no case has an answer"
    # asyncpg logs what it fetches, and nothing of a cursor.
    not_asked = ("create_", "delete_", "prune.", "stream_")
    questions = {name for _, name in FILES if not name.startswith(not_asked) and not hasattr(FlowRunStateFeed, method_of(name))}
    assert questions - sent == set()
