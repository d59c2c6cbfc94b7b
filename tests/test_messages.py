"""A call is one round trip and sends nothing that it need not: no introspection, no BEGIN and COMMIT around one statement, no reset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateAnalytics, FlowRunStateFeed, FlowRunStateFilter, FlowRunStateRepository, create_pool
from flowstates.values import Layout
from tests.feeds import told
from tests.messages import Said, noted

Source: TypeAlias = "asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Call: TypeAlias = Callable[[FlowRunStateRepository, FlowRunStateAnalytics, UUID], Awaitable[object]]
FeedCall: TypeAlias = Callable[[FlowRunStateFeed, str], Awaitable[object]]

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
DAY: dict[str, Any] = {"since": NOW - timedelta(days=1), "until": NOW}
ON_BOTH: dict[str, Call] = {
    "read_flow_run_state": lambda states, _, run: states.read_flow_run_state(run),
    "read_flow_run_states": lambda states, _, run: states.read_flow_run_states(run),
    "read_flow_run_states_timeout": lambda states, _, run: states.read_flow_run_states(run, timeout=5),
    "read_flow_run_states_by_run": lambda states, _, run: states.read_flow_run_states_by_run([run], last=3),
    "read_current_flow_run_state": lambda states, _, run: states.read_current_flow_run_state(run),
    "read_current_flow_run_states": lambda states, _, run: states.read_current_flow_run_states([run, uuid4()]),
    "read_flow_run_states_as_of": lambda states, _, run: states.read_flow_run_states_as_of([run], NOW),
    "read_flow_run_state_page": lambda states, _, run: states.read_flow_run_state_page(FlowRunStateFilter(flow_run_ids=[run], types=["FAILED"])),
    "count_flow_run_states": lambda states, _, run: states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])),
    "delete_flow_run_state": lambda states, _, run: states.delete_flow_run_state(run),
    "delete_flow_run_states": lambda states, _, run: states.delete_flow_run_states(flow_run_ids=[run]),
    "measure_time_in_states": lambda _, analytics, run: analytics.measure_time_in_states(**DAY),
    "count_transitions": lambda _, analytics, run: analytics.count_transitions(**DAY, step=timedelta(hours=1)),
    "count_occupancy": lambda _, analytics, run: analytics.count_occupancy([run], **DAY, step=timedelta(hours=1)),
}
ON_OURS: dict[str, Call] = {
    "create_flow_run_state": lambda states, _, run: states.create_flow_run_state(run, "RUNNING", data={"a": 1}),
    "create_flow_run_state_expected": lambda states, _, run: states.create_flow_run_state(uuid4(), "PENDING", expected=None),
    "create_flow_run_state_timeout": lambda states, _, run: states.create_flow_run_state(run, "RUNNING", timeout=5),
}
CALLS: list[tuple[Layout, str]] = [*(("flowstates", name) for name in ON_BOTH | ON_OURS), *(("prefect", name) for name in ON_BOTH)]
KEPT = ["BES"]  # of a statement that is prepared already
FIRST = ["PDH", "BES"]  # asyncpg wants the answer to a preparation before it goes on
UNKEPT = ["PDH", "PBES"]  # and without a cache prepares once more, as behind a pooler another server may come to answer


async def trips_of(source: Source, said: Said, layout: Layout, name: str) -> list[list[str]]:
    """The round trips of a call, made three times."""
    states, analytics, run = FlowRunStateRepository(source, layout=layout), FlowRunStateAnalytics(source, layout=layout), uuid4()
    trips = []
    for _ in range(3):
        said.clear()
        await (ON_BOTH | ON_OURS)[name](states, analytics, run)
        trips.append(said.trips.copy())
    return trips


@pytest.mark.parametrize(("layout", "name"), CALLS)
async def test_on_a_connection(layout_dsns: dict[Layout, str], layout: Layout, name: str) -> None:
    async with noted(layout_dsns[layout]) as (dsn, said):
        connection = await asyncpg.connect(dsn)
        trips = await trips_of(connection, said, layout, name)
        await connection.close()
    assert trips == [FIRST, KEPT, KEPT]


@pytest.mark.parametrize(("layout", "name"), CALLS)
async def test_on_our_pool(layout_dsns: dict[Layout, str], layout: Layout, name: str) -> None:
    async with noted(layout_dsns[layout]) as (dsn, said), create_pool(dsn, max_size=1) as pool:
        assert await trips_of(pool, said, layout, name) == [FIRST, KEPT, KEPT]


async def test_on_a_pool_of_asyncpg_s_own_defaults_its_reset_is_a_second_trip(dsn: str) -> None:
    async with noted(dsn) as (address, said), asyncpg.create_pool(address, min_size=1, max_size=1) as pool:
        assert (await trips_of(pool, said, "flowstates", "read_flow_run_states"))[1:] == [["BES", "Q"], ["BES", "Q"]]


@pytest.mark.parametrize(("layout", "name"), CALLS)
async def test_without_a_statement_cache(layout_dsns: dict[Layout, str], layout: Layout, name: str) -> None:
    async with noted(layout_dsns[layout]) as (dsn, said), create_pool(dsn, max_size=1, transaction_pooling=True) as pool:
        assert await trips_of(pool, said, layout, name) == [UNKEPT, UNKEPT, UNKEPT]


async def test_inside_a_transaction_of_the_caller(dsn: str) -> None:
    async with noted(dsn) as (address, said):
        connection = await asyncpg.connect(address)
        async with connection.transaction():
            names = ("read_flow_run_states", "create_flow_run_state", "delete_flow_run_state")
            trips = [await trips_of(connection, said, "flowstates", name) for name in names]
        await connection.close()
    assert trips == [[FIRST, KEPT, KEPT]] * 3


async def test_a_new_connection_of_our_pool_asks_one_question_of_its_own(dsn: str) -> None:
    async with noted(dsn) as (address, said):
        async with create_pool(address):
            asked = said.trips.copy()
        said.clear()
        async with create_pool(address, transaction_pooling=True):
            told = said.trips.copy()
    assert asked == [*told, "Q"]


OF_A_FEED: dict[str, FeedCall] = {
    "read_page": lambda feed, position: feed.read_page(position, limit=1),
    "read_page_filter": lambda feed, _: feed.read_page(filter=FlowRunStateFilter(types=["RUNNING"]), limit=1),
    "read_page_timeout": lambda feed, position: feed.read_page(position, limit=1, timeout=5),
    "now": lambda feed, _: feed.now(),
    "positions": lambda feed, _: feed.positions(),
    "move": lambda feed, position: feed.move("messages", position),
    "move_expected": lambda feed, position: feed.move("messages", position, expected=position),
    "forget": lambda feed, _: feed.forget("messages"),
}


async def trips_of_a_feed(source: Source, said: Said, name: str) -> list[list[str]]:
    feed, trips = FlowRunStateFeed(source), []
    position = (await FlowRunStateFeed(source).read_page(limit=1)).position
    await feed.read_page(limit=1)  # the first page of all looks at what does not change
    for _ in range(3):
        said.clear()
        await OF_A_FEED[name](feed, position)
        trips.append(said.trips.copy())
    return trips


@pytest.fixture
async def told_dsn(own_database: str) -> str:
    """A database of its own, as others' consumers would be seen, with two states that are told."""
    async with create_pool(own_database) as pool:
        states = [await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), "RUNNING") for _ in range(2)]
        await told(FlowRunStateFeed(pool), None, [state.id for state in states])
    return own_database


@pytest.mark.parametrize("name", OF_A_FEED)
async def test_a_feed_on_a_connection(told_dsn: str, name: str) -> None:
    async with noted(told_dsn) as (dsn, said):
        connection = await asyncpg.connect(dsn)
        trips = await trips_of_a_feed(connection, said, name)
        await connection.close()
    assert trips == [FIRST, KEPT, KEPT]


@pytest.mark.parametrize("name", OF_A_FEED)
async def test_a_feed_on_our_pool(told_dsn: str, name: str) -> None:
    async with noted(told_dsn) as (dsn, said), create_pool(dsn, max_size=1) as pool:
        assert await trips_of_a_feed(pool, said, name) == [FIRST, KEPT, KEPT]


async def test_a_batch_is_one_transaction_that_moves_what_is_to_be_moved(told_dsn: str) -> None:
    async with noted(told_dsn) as (dsn, said), create_pool(dsn, max_size=1) as pool:
        feed = FlowRunStateFeed(pool)
        for _ in range(2):
            await feed.move("messages", "beginning")
            said.clear()
            async with feed.consume("messages", limit=1) as batch:
                assert len(batch.states) == 1
        assert said.trips == ["Q", *KEPT, *KEPT, *KEPT, "Q"]
        await feed.move("messages", "now")
        said.clear()
        async with feed.consume("messages", limit=1) as batch:
            assert batch.states == []
        assert said.trips in (["Q", *KEPT, *KEPT, "Q"], ["Q", *KEPT, *KEPT, *FIRST, "Q"])  # others' transactions may hold it: it is asked which


async def test_a_page_of_prefect_s_is_one_trip_after_the_first(layout_dsns: dict[Layout, str]) -> None:
    async with noted(layout_dsns["prefect"]) as (dsn, said), create_pool(dsn, max_size=1) as pool:
        feed = FlowRunStateFeed(pool, layout="prefect")
        position = (await feed.read_page(limit=1)).position
        said.clear()
        await feed.read_page(position, limit=1)
        assert said.trips[0] == KEPT[0]
        said.clear()
        await feed.now()
        assert said.trips == KEPT


@pytest.mark.parametrize("name", OF_A_FEED)
async def test_a_feed_without_a_statement_cache(told_dsn: str, name: str) -> None:
    async with noted(told_dsn) as (dsn, said), create_pool(dsn, max_size=1, transaction_pooling=True) as pool:
        assert await trips_of_a_feed(pool, said, name) == [UNKEPT, UNKEPT, UNKEPT]
