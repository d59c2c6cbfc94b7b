"""Positions of a primary on a real standby: what is there is said to be there, and what is not never is, also after a promotion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import FlowRunStateRepository, InvalidInputError, batched, create_pool, has_reached, migrate, position
from flowstates.database.embedded import embedded_postgres
from tests.conftest import Connection, Pool
from tests.faults import folder_for_a_server
from tests.proxy import Proxy
from tests.schedules import LIMIT
from tests.standby import Pair, primary_and_standby
from tests.statements import counting
from tests.writers import ISOLATION

pytestmark = pytest.mark.server


async def fill(pair: Pair) -> None:
    async with create_pool(pair.primary) as pool:
        await migrate(pool)
    await pair.caught_up()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with primary_and_standby() as pair:
        asyncio.run(fill(pair))
        yield pair


@asynccontextmanager
async def both(pair: Pair, **settings: str) -> AsyncIterator[tuple[Pool, Pool]]:
    async with (
        asyncio.timeout(LIMIT),
        create_pool(pair.primary) as primary,
        create_pool(pair.standby, server_settings=settings) as standby,
    ):
        yield primary, standby


@asynccontextmanager
async def paused(standby: Pool) -> AsyncIterator[None]:
    """The standby replays nothing in the block."""
    await standby.execute("select pg_wal_replay_pause()")
    try:
        while await standby.fetchval("select pg_get_wal_replay_pause_state() <> 'paused' from pg_sleep(0.01)"):
            pass
        yield
    finally:
        await standby.execute("select pg_wal_replay_resume()")


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_no_read_with_a_position_is_stale(pair: Pair, isolation: str) -> None:
    async with both(pair, default_transaction_isolation=isolation) as (primary, standby), batched(primary) as states:
        theirs = FlowRunStateRepository(standby)

        async def create_and_read() -> None:
            state = await states.create_flow_run_state(uuid4(), "RUNNING")
            assert await has_reached(standby, await position(primary), timeout=60)
            assert await theirs.read_flow_run_state(state.id) == state

        for _ in range(10):
            await asyncio.gather(*[create_and_read() for _ in range(10)])


async def test_what_is_not_replayed_is_not_said_to_be_there(pair: Pair) -> None:
    async with both(pair) as (primary, standby):
        async with paused(standby):
            state = await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING")
            after = await position(primary)
            begun = time.monotonic()
            assert await has_reached(standby, after, timeout=0.3) is False
            assert time.monotonic() - begun >= 0.3
            waiting = asyncio.create_task(has_reached(standby, after, timeout=None))
            assert await FlowRunStateRepository(standby).read_flow_run_state(state.id) is None
        assert await waiting is True
        assert await FlowRunStateRepository(standby).read_flow_run_state(state.id) == state


async def test_the_server_waits_where_it_can(pair: Pair) -> None:
    text = "select count(*) from pg_stat_activity where query like '/* wait_for_place */ wait for lsn%' and state = 'active'"
    async with both(pair) as (primary, standby):
        can = (await standby.fetchval("show server_version_num")) >= "19"
        async with paused(standby):
            await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING")
            waiting = asyncio.create_task(has_reached(standby, await position(primary), timeout=None))
            while can and await standby.fetchval(f"{text} and pg_sleep(0.01) is not null") == 0:
                assert not waiting.done()
            assert await standby.fetchval(text) == can
        assert await waiting is True


async def test_each_is_one_statement_where_the_replica_is_there(pair: Pair) -> None:
    connection_class, counts = counting()
    async with both(pair) as (primary, _), create_pool(pair.standby, connection_class=connection_class) as standby:
        after = await position(primary)
        await pair.caught_up()
        assert await has_reached(standby, after) is True
        assert counts == {"read_reached": 1}
        assert await has_reached(primary, after) is True


async def test_after_a_promotion_no_old_position_is_true() -> None:
    """Not on the promoted server, and not on one that followed it, though both have passed its place."""
    with primary_and_standby() as pair:
        await fill(pair)
        with pair.standby_of_the_standby() as dsn:
            async with both(pair) as (primary, standby), create_pool(dsn) as third:
                kept = await position(primary)
                assert await has_reached(third, kept, timeout=60) is True
                await pair.cut_off()
                gone = await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING", message="x" * 10_000)
                lost = await position(primary)
                await pair.promote()
                states = FlowRunStateRepository(standby)
                for _ in range(20):
                    await states.create_flow_run_state(uuid4(), "RUNNING", message="x" * 10_000)
                new = await position(standby)
                assert await has_reached(third, new, timeout=60) is True
                for server in (standby, third):
                    passed = "select coalesce(pg_last_wal_replay_lsn(), '0/0') > $1::text::pg_lsn"
                    assert server is standby or await server.fetchval(passed, lost.rpartition(":")[2])
                    assert await FlowRunStateRepository(server).read_flow_run_state(gone.id) is None
                    for old in (kept, lost):
                        begun = time.monotonic()
                        assert await has_reached(server, old, timeout=60) is False
                        assert time.monotonic() - begun < 30  # at once
                assert await has_reached(standby, new) is True
                # The old primary goes on, on its own timeline.
                assert await has_reached(primary, new, timeout=0.1) is False
                assert await has_reached(primary, lost) is True


@pytest.fixture
def archived() -> Iterator[tuple[Pair, str, Path]]:
    """A primary, a standby that archives its log once it is promoted, and the address of one that follows that standby."""
    with folder_for_a_server() as folder:
        archive = folder / "archive"
        archive.mkdir()
        archive.chmod(0o777)
        with primary_and_standby(archive_mode="on", archive_command=f"cp %p {archive}/%f") as pair, pair.standby_of_the_standby() as dsn:
            yield pair, dsn, archive


def test_while_the_log_comes_from_an_archive_no_old_position_is_true(archived: tuple[Pair, str, Path]) -> None:
    """Its receiver waits then, and the log is that of a promoted server, which passes the place of a write that was lost."""
    pair, dsn, archive = archived

    async def look() -> None:
        await fill(pair)
        async with both(pair) as (primary, standby), create_pool(dsn) as third:
            await third.execute(f"alter system set restore_command = 'sleep 0.1; cp {archive}/%f %p'")
            await third.execute("select pg_reload_conf()")
            assert await has_reached(third, await position(primary), timeout=60) is True
            async with paused(third):
                await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING")
                await pair.caught_up()
                await pair.cut_off()
                await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING", message="x" * 10_000)
                lost = await position(primary)
                await pair.promote()
                for _ in range(4):
                    await FlowRunStateRepository(standby).create_flow_run_state(uuid4(), "RUNNING", message="y" * 100_000)
                    await standby.execute("select pg_switch_wal()")
                while len(list(archive.glob("00000002" + "?" * 16))) < 4:  # noqa: ASYNC110 (the server tells nobody)
                    await asyncio.sleep(0.01)
            new = await position(standby)
            while not await has_reached(third, new, timeout=0.05):
                assert await has_reached(third, lost, timeout=0.01) is False

    asyncio.run(look())


async def test_a_position_at_the_begin_of_a_segment_is_reached(pair: Pair) -> None:
    async with both(pair) as (primary, standby):
        for _ in range(2):
            await primary.execute("select pg_switch_wal()")
            assert await has_reached(standby, await position(primary), timeout=60) is True
            # Nothing is there behind it.
            await FlowRunStateRepository(primary).create_flow_run_state(uuid4(), "RUNNING")


async def test_a_standby_that_receives_nothing_is_not_known_to_be_there() -> None:
    with primary_and_standby() as pair:
        await fill(pair)
        async with create_pool(pair.standby) as standby:
            async with create_pool(pair.primary) as primary:
                after = await position(primary)
            assert await has_reached(standby, after, timeout=60) is True
            pair.stop(pair.primary)
            while await standby.fetchval("select exists (select from pg_stat_wal_receiver) from pg_sleep(0.01)"):
                pass
            assert await has_reached(standby, after, timeout=0.1) is False


async def test_what_it_takes(pair: Pair) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    async with both(pair) as (primary, standby):
        await primary.execute(f"create role {role}")
        # Any role may ask for a position.
        async with primary.acquire() as connection:
            await connection.execute(f"set role {role}")
            after = await position(connection)
            await connection.execute("reset role")
        await pair.caught_up()
        async with standby.acquire() as connection:
            await connection.execute(f"set role {role}")
            with pytest.raises(InvalidInputError, match=r"^replica: .*grant pg_read_all_stats, or pg_monitor"):
                await has_reached(connection, after)
            await primary.execute(f"grant pg_read_all_stats to {role}")
            await pair.caught_up()
            assert await has_reached(connection, await position(primary), timeout=60) is True
            await connection.execute("reset role")
        await primary.execute(f"drop role {role}")


async def test_what_cannot_be_asked_is_refused(pair: Pair) -> None:
    async with both(pair) as (primary, standby):
        after = await position(primary)
        with pytest.raises(InvalidInputError, match=r"^primary: is a standby"):
            await position(standby)
        async with primary.acquire() as connection, connection.transaction():
            with pytest.raises(InvalidInputError, match=r"^primary: is in a transaction"):
                await position(connection)
        async with standby.acquire() as connection:
            for isolation in ("read_committed", "read_uncommitted"):  # which PostgreSQL takes for one
                async with connection.transaction(isolation=isolation):
                    assert await has_reached(connection, after, timeout=60) is True
            async with connection.transaction(isolation="repeatable_read"):
                with pytest.raises(InvalidInputError, match=r"^replica: is in a transaction at REPEATABLE READ"):
                    await has_reached(connection, after)
        for wrong in ("", "0/0", after + " ", after.replace(":", ";"), after.lower() + "g", None, 5, after.encode()):
            with pytest.raises(InvalidInputError, match=r"^position: "):
                await has_reached(standby, wrong)  # type: ignore[arg-type]
        cluster, _, rest = after.partition(":")
        with pytest.raises(InvalidInputError, match="of another cluster"):
            await has_reached(standby, f"{int(cluster) + 1}:{rest}")


async def test_a_position_of_another_cluster_is_refused(pair: Pair) -> None:
    with embedded_postgres() as dsn:
        other = await asyncpg.connect(dsn)
        after = await position(other)
        await other.close()
    async with create_pool(pair.standby) as standby:
        with pytest.raises(InvalidInputError, match="of another cluster"):
            await has_reached(standby, after)


async def test_a_session_of_sqlalchemy_asks_in_its_transaction(pair: Pair) -> None:
    async with create_pool(pair.primary) as primary:
        after = await position(primary)
    for dsn, is_primary in ((pair.primary, True), (pair.standby, False)):
        engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
        async with AsyncSession(engine) as session:
            assert await has_reached(session, after, timeout=60) is True
            if is_primary:
                with pytest.raises(InvalidInputError, match=r"^primary: is in a transaction"):
                    await position(session)
        await engine.dispose()


async def test_both_end_at_their_timeouts_on_a_dead_network(own_dsn: str) -> None:
    async with asyncio.timeout(LIMIT), Proxy(own_dsn) as proxy, create_pool(proxy.dsn) as pool:
        after = await position(pool)
        async with proxy.stalled():
            with pytest.raises(TimeoutError):
                await position(pool, timeout=0.2)
            assert await has_reached(pool, after, timeout=0.2) is False
        assert await has_reached(pool, after, timeout=0) is False
        assert await has_reached(pool, after) is True


async def test_what_the_connection_breaks_of_is_said(own_dsn: str) -> None:
    connection: Connection = await asyncpg.connect(own_dsn)
    after = await position(connection)
    await connection.close()
    with pytest.raises(asyncpg.InterfaceError):
        await has_reached(connection, after)
