"""A feed in a database that came from elsewhere, by the server's own programs: a dump, a backup, a subscription."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FeedPage,
    FlowRunState,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowStatesError,
    ForeignPositionError,
    HistoryPrunedError,
    StateType,
    check,
    create_pool,
    embedded_postgres,
    migrate,
)
from tests.conftest import Pool
from tests.faults import folder_for_a_server
from tests.feeds import told
from tests.servers import with_database
from tests.standby import version_for_tests
from tests.test_borrowed import connected
from tests.tools import psql, run, without_versions_of_attributes

pytestmark = pytest.mark.server

PENDING, RUNNING, COMPLETED = StateType.PENDING, StateType.RUNNING, StateType.COMPLETED
LIMIT = 200  # seconds, for what would never end


async def come_further(pool: Pool, transactions: int) -> None:
    """Uses up that many numbers of transactions."""
    await pool.execute(f"do $$ begin for number in 1..{transactions} loop perform pg_current_xact_id(); commit; end loop; end $$")


async def consumed(pool: Pool, name: str) -> list[UUID]:
    async with FlowRunStateFeed(pool).consume(name) as batch:
        assert batch.is_caught_up
        return [state.id for state in batch.states]


async def mend(dsn: str, pool: Pool, how: str, text: str) -> None:
    if how == "execute":
        await pool.execute(text)
    else:
        await psql(dsn, text, *(["--single-transaction"] if how == "psql in a transaction" else []))


class Origin:
    """A database whose cluster has come far, with runs, consumers and a loss."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.feed, self.states = pool, FlowRunStateFeed(pool), FlowRunStateRepository(pool)
        self.run, self.gone = uuid4(), uuid4()

    async def create(self, run: UUID, type_: StateType) -> FlowRunState:
        return await self.states.create_flow_run_state(run, type_)

    async def fill(self) -> None:
        await self.feed.move("from the beginning", "beginning")
        self.early = [await self.create(self.run, PENDING), await self.create(uuid4(), PENDING)]
        await come_further(self.pool, 20_000)
        await told(self.feed, None, [state.id for state in self.early])
        await self.feed.move("loses some", (await self.feed.read_page()).position)
        await self.create(self.gone, PENDING)
        self.late = [await self.create(self.run, RUNNING), await self.create(uuid4(), RUNNING)]
        await told(self.feed, None, [state.id for state in self.late])
        await self.feed.move("in the middle", await self.feed.now())
        self.late.append(await self.create(self.run, COMPLETED))
        await told(self.feed, None, [state.id for state in self.late])
        await self.feed.move("at the end", await self.feed.now())
        self.position = (await self.feed.read_page()).position
        await self.states.delete_flow_run_states(flow_run_ids=[self.gone])


@pytest.mark.parametrize("how", ["psql", "psql in a transaction", "execute"])
async def test_a_dump_in_a_younger_cluster_is_said_and_mended(own_database: str, how: str) -> None:
    with folder_for_a_server() as folder, embedded_postgres(folder, version=version_for_tests()) as dsn:
        async with asyncio.timeout(LIMIT), create_pool(own_database) as far, create_pool(dsn) as pool:
            origin = Origin(far)
            await origin.fill()
            await psql(dsn, without_versions_of_attributes(await run("pg_dump", own_database, "--no-owner", "--no-privileges")))
            feed, states = FlowRunStateFeed(pool), FlowRunStateRepository(pool)
            # Somebody writes before anybody reads.
            soon = [await states.create_flow_run_state(origin.run, PENDING), await states.create_flow_run_state(uuid4(), PENDING)]
            texts = set()
            for after in (None, origin.position):
                with pytest.raises(ForeignPositionError) as caught:
                    await FlowRunStateFeed(pool).read_page(after)
                texts.add(caught.value.mend)
            with pytest.raises(ForeignPositionError) as caught:
                async with feed.follow(poll=0.01) as pages:
                    await anext(pages)
            for name in ("from the beginning", "in the middle", "at the end"):
                with pytest.raises(ForeignPositionError):
                    await consumed(pool, name)
            assert caught.value.mend is not None
            assert texts <= {None, caught.value.mend}
            await mend(dsn, pool, how, caught.value.mend)
            await mend(dsn, pool, how, caught.value.mend)  # once more is no harm
            assert await check(pool, data=True) == []

            page: FeedPage = await feed.read_page()
            assert page.is_caught_up
            before = [*origin.early, *origin.late, *soon]
            assert {state.id for state in page.states} == {state.id for state in before}
            assert len(page.states) == len(before)
            of_run = [state.id for state in page.states if state.flow_run_id == origin.run]
            assert of_run == [state.id for state in await states.read_flow_run_states(origin.run)]
            # Each consumer is told at least what it was not told before, and the loss is one to whom it was.
            owed = {"from the beginning": before, "in the middle": [origin.late[-1], *soon], "at the end": soon}
            for name, missing in owed.items():
                found = await consumed(pool, name)
                assert {state.id for state in missing} <= set(found)
                assert len(found) == len(set(found))
                assert await consumed(pool, name) == []
            with pytest.raises(HistoryPrunedError) as lost:
                await consumed(pool, "loses some")
            assert await feed.move("loses some", lost.value.oldest, expected=lost.value.position)
            assert {state.id for state in (*origin.late, *soon)} <= set(await consumed(pool, "loses some"))
            # What comes now comes behind all of it.
            new = [await states.create_flow_run_state(one, RUNNING) for one in (origin.run, uuid4())]
            assert [state.id for state in (await feed.read_page(page.position)).states] == [state.id for state in new]
            for name in (*owed, "loses some"):
                assert await consumed(pool, name) == [state.id for state in new]


def copied(folder: Path, to: Path) -> None:
    """A backup of a server that is stopped; its files are of whom they were."""
    shutil.copytree(folder, to, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        owner = path.lstat()
        os.chown(to / path.relative_to(folder), owner.st_uid, owner.st_gid, follow_symlinks=False)


async def test_after_a_backup_is_restored_positions_that_are_ahead_are_refused_and_older_ones_go_on() -> None:
    with folder_for_a_server() as folder:
        async with asyncio.timeout(LIMIT):
            with embedded_postgres(folder / "server", version=version_for_tests()) as dsn:
                async with create_pool(dsn) as pool:
                    await migrate(pool)
                    states, feed = FlowRunStateRepository(pool), FlowRunStateFeed(pool)
                    kept = [(await states.create_flow_run_state(uuid4(), PENDING)).id for _ in range(3)]
                    _, old = await told(feed, None, kept[:2], limit=2)
                    async with feed.consume("billing", start="beginning", limit=1) as batch:
                        assert [state.id for state in batch.states] == kept[:1]
            copied(folder / "server", folder / "backup")
            with embedded_postgres(folder / "server", version=version_for_tests()) as dsn:
                async with create_pool(dsn) as pool:
                    await come_further(pool, 1000)
                    states, feed = FlowRunStateRepository(pool), FlowRunStateFeed(pool)
                    lost = await states.create_flow_run_state(uuid4(), PENDING)
                    _, ahead = await told(feed, None, [lost.id])
                    now = await feed.now()
                    await consumed(pool, "billing")
            with embedded_postgres(folder / "backup", version=version_for_tests()) as dsn:
                async with create_pool(dsn) as pool:
                    feed = FlowRunStateFeed(pool)
                    for _ in range(2):  # the first page, and a later one
                        for position in (ahead, now):
                            for filter in (None, FlowRunStateFilter(types=["PENDING"])):
                                with pytest.raises(ForeignPositionError, match="before a restore") as caught:
                                    await feed.read_page(position, filter=filter)
                                assert (caught.value.position, caught.value.mend) == (position, None)
                            with pytest.raises(ForeignPositionError):
                                async with feed.follow(position, poll=0.01) as pages:
                                    await anext(pages)
                        assert [state.id for state in (await feed.read_page()).states] == kept
                    new = (await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), RUNNING)).id
                    assert [state.id for state in (await feed.read_page(old)).states] == [kept[2], new]
                    # Its consumers came with it.
                    assert await consumed(pool, "billing") == [*kept[1:], new]
                    with pytest.raises(ForeignPositionError):
                        async with feed.consume("mails", start=ahead):
                            pass
                    assert [one.name for one in await feed.positions()] == ["billing"]
                    async with feed.consume("mails", start=old) as batch:
                        assert [state.id for state in batch.states] == [kept[2], new]


@asynccontextmanager
async def server_of_subscriptions() -> AsyncIterator[str]:
    with folder_for_a_server() as folder:
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            async with connected(dsn) as connection:
                await connection.execute("alter system set wal_level = logical")
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            async with connected(dsn) as connection:
                await connection.execute("create database origin")
                await connection.execute("create database copy")
            yield dsn


async def test_a_subscription_s_copy_is_refused_by_name_and_its_origin_is_read() -> None:
    async with (
        asyncio.timeout(LIMIT),
        server_of_subscriptions() as dsn,
        create_pool(with_database(dsn, "origin")) as origin,
        create_pool(with_database(dsn, "copy")) as copy,
    ):
        for pool in (origin, copy):
            await migrate(pool)
        states = FlowRunStateRepository(origin)
        first = await states.create_flow_run_state(uuid4(), PENDING)
        assert (await FlowRunStateFeed(copy).read_page()).states == []
        await origin.execute("create publication of_states for table flow_run_state, flow_run")
        # On one server a subscription that made its slot would wait for itself.
        await origin.execute("select pg_create_logical_replication_slot('of_copy', 'pgoutput')")
        address = with_database(dsn, "origin").replace("'", "''")
        await copy.execute(f"create subscription of_copy connection '{address}' publication of_states with (create_slot = false)")
        second = await states.create_flow_run_state(uuid4(), PENDING)
        count = "select count(*) from flow_run_state"
        while await copy.fetchval(count) < 2:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.01)
        await copy.execute("create role reader; grant select on all tables in schema public to reader")
        async with copy.acquire() as connection:
            for role in (None, "reader"):
                if role:
                    await connection.execute(f"set role {role}")
                feed = FlowRunStateFeed(connection)
                for after in (None, await feed.now()):
                    with pytest.raises(FlowStatesError, match="flow_run_state is a subscription's copy"):
                        await feed.read_page(after)
                with pytest.raises(FlowStatesError, match="flow_run_state is a subscription's copy"):
                    async with feed.follow(poll=0.01) as pages:
                        await anext(pages)
            await connection.execute("reset role")
        with pytest.raises(FlowStatesError, match="flow_run_state is a subscription's copy"):
            async with FlowRunStateFeed(copy).consume("billing", start="beginning"):
                pass
        ids = [first.id, second.id]
        assert (await told(FlowRunStateFeed(origin), None, ids))[0] == ids
        # One that was a copy and is none any more has the numbers of this server.
        await copy.execute("alter subscription of_copy disable")
        await copy.execute("alter subscription of_copy set (slot_name = none)")
        await copy.execute("drop subscription of_copy")
        assert set((await told(FlowRunStateFeed(copy), None, ids))[0]) == set(ids)
        await drop_slot(origin)


async def drop_slot(pool: Pool) -> None:
    while True:
        try:
            await pool.execute("select pg_drop_replication_slot('of_copy')")
        except asyncpg.ObjectInUseError:
            await asyncio.sleep(0.01)
        else:
            return
