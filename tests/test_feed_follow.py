"""A feed that is followed: pages as they come, across whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateFeed, FlowRunStateFilter, FlowRunStateRepository, InvalidInputError, StateType, create_pool
from flowstates.engine import following
from tests.conftest import Pool
from tests.feeds import told
from tests.proxy import Proxy

pytestmark = pytest.mark.server

PENDING, FAILED = StateType.PENDING, StateType.FAILED
LIMIT = 200  # seconds, for what would never end
LONG = 10_000.0  # seconds


@pytest.fixture
async def own(own_database: str) -> AsyncIterator[Pool]:
    async with asyncio.timeout(LIMIT), create_pool(own_database) as pool:
        yield pool


class Reader:
    """Follows a feed in a task of its own, and keeps what it was told."""

    def __init__(self, pool: Pool, after: str | None = None, **options: Any) -> None:
        self.found: list[UUID] = []
        self.position: str | None = after
        self._more = asyncio.Event()
        self._feed = FlowRunStateFeed(pool)
        self.task = asyncio.create_task(self._run(after, options))

    async def _run(self, after: str | None, options: dict[str, Any]) -> None:
        async with self._feed.follow(after, **{"poll": 0.01} | options) as pages:
            async for page in pages:
                self.found += [state.id for state in page.states]
                self.position = page.position
                self._more.set()

    async def until(self, *ids: UUID) -> None:
        while not set(ids) <= set(self.found):
            self._more.clear()
            waiting = asyncio.create_task(self._more.wait())
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self.task.done():
                self.task.result()

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def create(pool: Pool, type_: StateType = PENDING) -> UUID:
    return (await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), type_)).id


async def test_pages_come_as_states_do_and_each_once(own: Pool) -> None:
    ids = [await create(own) for _ in range(3)]
    reader = Reader(own, limit=2)
    await reader.until(*ids)
    for _ in range(3):
        ids.append(await create(own))
        await reader.until(ids[-1])
    await reader.stop()
    assert reader.found == ids
    assert own.get_idle_size() == own.get_size()


async def test_a_position_goes_on_where_a_reader_has_stopped(own: Pool) -> None:
    first = Reader(own)
    await first.until(await create(own))
    await first.stop()
    state = await create(own)
    second = Reader(own, first.position)
    await second.until(state)
    await second.stop()
    assert second.found == [state]


async def test_a_filter_lets_only_its_states_through(own: Pool) -> None:
    reader = Reader(own, filter=FlowRunStateFilter(types=("FAILED",)))
    await create(own)
    failed = await create(own, FAILED)
    await reader.until(failed)
    await reader.stop()
    assert reader.found == [failed]


async def test_an_event_wakes_it_before_the_poll(own: Pool) -> None:
    wake = asyncio.Event()
    first = await create(own)
    await told(FlowRunStateFeed(own), None, [first])
    reader = Reader(own, poll=LONG, wake=wake)
    await reader.until(first)
    ids = [await create(own) for _ in range(2)]
    while not set(ids) <= set(reader.found):
        wake.set()
        await asyncio.sleep(0.01)  # others' transactions may hold it
    await reader.stop()
    assert reader.found == [first, *ids]


async def test_a_block_that_is_left_gives_the_connection_back(own: Pool) -> None:
    await create(own)
    async with FlowRunStateFeed(own).follow(poll=0.01) as pages:
        async for page in pages:
            assert page.states
            break
    assert own.get_idle_size() == own.get_size()


async def test_it_goes_on_after_lost_connections_and_tells_each_once(own_database: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowstates")
    async with asyncio.timeout(LIMIT), Proxy(own_database) as proxy, create_pool(own_database) as writing, create_pool(proxy.dsn) as pool:
        reader = Reader(pool)
        ids = [await create(writing)]
        await reader.until(*ids)
        server, proxy.server = proxy.server, "postgresql:///?host=/none"
        proxy.cut()
        ids.append(await create(writing))
        while not caplog.records:  # noqa: ASYNC110 (a logger tells nobody)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # it tries some times, and says so once
        proxy.server = server
        await reader.until(*ids)
        assert [record.levelname for record in caplog.records if record.name == "flowstates" and "connection" in record.getMessage()] == [
            "WARNING",
            "INFO",
        ]
        await writing.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        ids.append(await create(writing))
        await reader.until(*ids)
        await reader.stop()
        assert reader.found == ids


async def test_a_network_that_passes_nothing_on_is_noticed(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANSWER", 0.5)
    async with asyncio.timeout(LIMIT), Proxy(own_database) as proxy, create_pool(own_database) as writing, create_pool(proxy.dsn) as pool:
        reader = Reader(pool)
        ids = [await create(writing)]
        await reader.until(*ids)
        proxy.hold()
        await proxy.held_back.wait()
        proxy.cut()  # else the old connection would be answered too
        proxy.resume()
        ids.append(await create(writing))
        await reader.until(*ids)
        await reader.stop()
        assert reader.found == ids


async def test_a_connection_of_the_callers_that_is_lost_ends_it(own_database: str) -> None:
    connection = await asyncpg.connect(own_database)
    async with asyncio.timeout(LIMIT), create_pool(own_database) as pool:
        state = await create(pool)
        seen = []
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):  # noqa: PT012
            async with FlowRunStateFeed(connection).follow(poll=0.01) as pages:
                async for page in pages:
                    seen += [state.id for state in page.states]
                    await pool.execute("select pg_terminate_backend($1)", connection.get_server_pid())
        assert seen == [state]


async def test_a_pool_that_is_closed_ends_it(own_database: str) -> None:
    pool = await create_pool(own_database)
    reader = Reader(pool)
    await reader.until(await create(pool))
    await pool.close()
    with pytest.raises(asyncpg.InterfaceError, match="clos"):
        await asyncio.wait_for(reader.task, LIMIT)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("after", {"after": "x"}),
        ("poll", {"poll": 0}),
        ("poll", {"poll": -1}),
        ("poll", {"poll": "1"}),
        ("poll", {"poll": True}),
        ("poll", {"poll": float("nan")}),
        ("poll", {"poll": float("inf")}),
        ("wake", {"wake": True}),
        ("limit", {"limit": 0}),
        ("filter", {"filter": "x"}),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(pool: Pool, field: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateFeed(pool).follow(**options)
    assert caught.value.field == field


async def test_what_is_held_is_looked_for_soon_however_long_the_poll_is(own: Pool) -> None:
    first, wake = await create(own), asyncio.Event()
    reader = Reader(own, poll=3600.0, wake=wake)
    async with asyncio.timeout(LIMIT):
        await reader.until(first)
        async with own.acquire() as slow, slow.transaction():
            await slow.execute("select pg_current_xact_id()")
            state = await create(own)
            wake.set()
            while wake.is_set():  # noqa: ASYNC110 (it clears it before it looks)
                await asyncio.sleep(0.01)
        await reader.until(first, state)
    await reader.stop()


async def test_a_page_says_that_a_filter_has_let_all_out(own: Pool) -> None:
    begin = await FlowRunStateFeed(own).now()
    state = await create(own)
    async with asyncio.timeout(LIMIT), FlowRunStateFeed(own).follow(begin, filter=FlowRunStateFilter(types=["CRASHED"]), poll=0.01) as pages:
        page = await anext(pages)
    assert page.states == []
    assert (await FlowRunStateFeed(own).read_page(page.position)).states == []
    assert [told.id for told in (await FlowRunStateFeed(own).read_page(begin)).states] == [state]
