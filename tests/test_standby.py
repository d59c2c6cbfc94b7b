"""On a standby: whatever reads works, at every default of isolation; whatever writes says where to write; what recovery cancels ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunStateAnalytics,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    FlowStatesError,
    NewFlowRunState,
    StateType,
    check,
    check_plans,
    create_pool,
    migrate,
)
from flowstates.engine import positions
from tests.conftest import Connection, Pool
from tests.examples import blocks_of, names_of
from tests.feeds import told
from tests.messages import noted
from tests.servers import PREFECT_TABLES
from tests.standby import Pair, primary_and_standby
from tests.writers import ISOLATION

pytestmark = pytest.mark.server

Source: TypeAlias = Any  # a pool or a connection
Call: TypeAlias = Callable[[Source], Awaitable[object]]

RUN, LONG = UUID(int=1), UUID(int=2)
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
DAY: dict[str, Any] = {"since": NOON, "until": NOON + timedelta(days=1)}
STATES = 1200


async def stream(source: Source) -> object:
    async with FlowRunStateRepository(source).stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[RUN, LONG])) as stream:
        return [state async for state in stream]


async def pages(source: Source) -> object:
    states, cursor, found = FlowRunStateRepository(source), None, []
    while True:
        page = await states.read_flow_run_state_page(FlowRunStateFilter(flow_run_ids=[RUN, LONG]), order="time", limit=1000, cursor=cursor)
        found += page.states
        if (cursor := page.next) is None:
            return found


READS: dict[str, Call] = {
    "read_flow_run_state": lambda source: FlowRunStateRepository(source).read_flow_run_state(RUN),
    "read_flow_run_states": lambda source: FlowRunStateRepository(source).read_flow_run_states(RUN),
    "read_flow_run_states_by_run": lambda source: FlowRunStateRepository(source).read_flow_run_states_by_run([RUN, LONG], last=2),
    "read_current_flow_run_state": lambda source: FlowRunStateRepository(source).read_current_flow_run_state(RUN),
    "read_current_flow_run_states": lambda source: FlowRunStateRepository(source).read_current_flow_run_states([RUN]),
    "read_flow_run_states_as_of": lambda source: FlowRunStateRepository(source).read_flow_run_states_as_of([RUN], NOON),
    "read_flow_run_state_page": pages,
    "stream_flow_run_states": stream,
    "count_flow_run_states": lambda source: FlowRunStateRepository(source).count_flow_run_states(FlowRunStateFilter(flow_run_ids=[RUN, LONG])),
    "measure_time_in_states": lambda source: FlowRunStateAnalytics(source).measure_time_in_states(**DAY, now=NOON),
    "count_transitions": lambda source: FlowRunStateAnalytics(source).count_transitions(**DAY, step=timedelta(hours=1)),
    "count_occupancy": lambda source: FlowRunStateAnalytics(source).count_occupancy([RUN], **DAY, step=timedelta(hours=1)),
    "check": check,
    "check_plans": check_plans,
}
WRITES: dict[str, Call] = {
    "create_flow_run_state": lambda source: FlowRunStateRepository(source).create_flow_run_state(uuid4(), "RUNNING"),
    "create_flow_run_state_known": lambda source: FlowRunStateRepository(source).create_flow_run_state(RUN, "RUNNING"),
    "create_flow_run_states": lambda source: FlowRunStateRepository(source).create_flow_run_states(
        [NewFlowRunState(flow_run_id=RUN, type="RUNNING")]
    ),
    "delete_flow_run_state": lambda source: FlowRunStateRepository(source).delete_flow_run_state(RUN),
    "delete_flow_run_states": lambda source: FlowRunStateRepository(source).delete_flow_run_states(flow_run_ids=[RUN]),
}
CURE = "target_session_attrs='read-write' in the address, and pool.expire_connections()"


async def fill(pair: Pair) -> None:
    async with create_pool(pair.primary) as pool:
        await migrate(pool)
        states = FlowRunStateRepository(pool)
        await states.create_flow_run_state(RUN, "RUNNING", id=RUN, timestamp=NOON)
        await states.create_flow_run_states(
            [NewFlowRunState(flow_run_id=LONG, type="RUNNING", timestamp=NOON + timedelta(seconds=n)) for n in range(STATES)]
        )
    await pair.caught_up()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with primary_and_standby() as pair:
        asyncio.run(fill(pair))
        yield pair


@asynccontextmanager
async def sources(dsn: str, **settings: str) -> AsyncIterator[list[Source]]:
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        async with create_pool(dsn, server_settings=settings) as ours, asyncpg.create_pool(dsn, min_size=1, server_settings=settings) as asyncpg_s:
            # On a standby the reset of asyncpg's own pool fails where the default is serializable, so that one is of no use there.
            yield [ours, connection] if "serializable" in settings.values() else [ours, connection, asyncpg_s]
    finally:
        await connection.close()


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_whatever_reads_works(pair: Pair, isolation: str) -> None:
    async with create_pool(pair.primary) as primary, sources(pair.standby, default_transaction_isolation=isolation) as standbys:
        for name, read in READS.items():
            expected = await read(primary)
            for standby in standbys:
                assert await read(standby) == expected, name


@pytest.mark.parametrize("name", ["read_flow_run_states", "count_transitions", "check"])
async def test_in_a_transaction_that_a_standby_can_have(pair: Pair, name: str) -> None:
    connection = await asyncpg.connect(pair.standby, server_settings={"default_transaction_isolation": "serializable"})
    async with create_pool(pair.primary) as primary, connection.transaction(isolation="repeatable_read"):
        assert await READS[name](connection) == await READS[name](primary)
        assert await stream(connection) == await stream(primary)
    # The caller's own choice of what it cannot have is the caller's.
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        async with connection.transaction():
            await READS[name](connection)
    await connection.close()


async def test_a_read_of_a_serializable_standby_is_a_few_statements(pair: Pair) -> None:
    async with noted(pair.standby) as (dsn, said):
        connection = await asyncpg.connect(dsn, server_settings={"default_transaction_isolation": "serializable"})
        said.clear()
        await FlowRunStateRepository(connection).read_flow_run_states(RUN)
        assert len(said.trips) <= 6  # what fails, begin, twice to prepare, the read, commit
        await connection.close()


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("name", WRITES)
async def test_whatever_writes_says_where_to_write(pair: Pair, name: str, isolation: str) -> None:
    async with sources(pair.standby, default_transaction_isolation=isolation) as standbys:
        for standby in standbys:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                await WRITES[name](standby)
            assert any(CURE in note for note in caught.value.__notes__)


@pytest.mark.parametrize("name", WRITES)
async def test_on_a_server_that_was_made_read_only_too(pair: Pair, name: str) -> None:
    async with sources(pair.primary, default_transaction_read_only="on") as read_only:
        for source in read_only:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                await WRITES[name](source)
            assert any(CURE in note for note in caught.value.__notes__)


async def test_a_feed_is_told_on_a_standby_as_on_the_primary(pair: Pair) -> None:
    async with create_pool(pair.primary) as primary, create_pool(pair.standby) as standby:
        ours, theirs, states = FlowRunStateFeed(primary), FlowRunStateFeed(standby), FlowRunStateRepository(primary)
        first = await states.create_flow_run_state(uuid4(), StateType.PENDING)
        found, position = await told(ours, None, [first.id])
        await pair.caught_up()
        assert await told(theirs, None, [first.id]) == (found, position)
        async with primary.acquire() as slow, slow.transaction():
            late = await FlowRunStateRepository(slow).create_flow_run_state(uuid4(), StateType.PENDING)
            quick = await states.create_flow_run_state(uuid4(), StateType.PENDING)
            await pair.caught_up()
            # It waits for what is open on the primary, and cannot say what that is.
            assert await theirs.read_page(position) == ([], position, True, ())
        await pair.caught_up()
        assert (await told(theirs, position, [late.id, quick.id]))[0] == [late.id, quick.id]
        # A position of the primary's may be ahead of what has been replayed.
        ahead = positions.encode(positions.before(str(10**9)))
        assert (await theirs.read_page(ahead)).states == []
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with theirs.consume("billing", start="now"):
                pass


async def test_a_feed_of_prefects_tables_is_refused_by_name(pair: Pair) -> None:
    async with create_pool(pair.primary) as primary, create_pool(pair.standby) as standby:
        async with primary.acquire() as connection:
            await connection.execute(f"create schema prefects; set search_path = prefects; {PREFECT_TABLES}")
        await pair.caught_up()
        async with standby.acquire() as connection:
            await connection.execute("set search_path = prefects")
            with pytest.raises(FlowStatesError, match="standby"):
                await FlowRunStateFeed(connection, layout="prefect").read_page()


async def test_a_migration_says_it_too(pair: Pair) -> None:
    primary = await asyncpg.connect(pair.primary)
    await primary.execute("create schema empty")
    await pair.caught_up()
    for isolation in ISOLATION:
        async with create_pool(pair.standby, server_settings={"search_path": "empty", "default_transaction_isolation": isolation}) as pool:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                await migrate(pool)
            assert caught.value.__notes__ == [f"the server or the session is read only; after a failover: {CURE}"]
    await primary.execute("drop schema empty")
    await primary.close()


class Cancelling:
    """On the primary: rows die and are cleaned up, and the standby does not wait for whoever may still see them."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    async def once(self, primary: Connection) -> None:
        await primary.execute("insert into died select")
        await primary.execute("delete from died")
        await primary.execute("vacuum died")

    async def until(self, stop: asyncio.Event) -> None:
        primary = await asyncpg.connect(self._pair.primary)
        while not stop.is_set():
            await self.once(primary)
        await primary.close()
        await self._pair.caught_up()  # from here on nobody is cancelled


@pytest.fixture
async def cancelling(pair: Pair) -> AsyncIterator[Cancelling]:
    """With it a schema `slow`, in which the states can be read, but not soon."""
    primary, standby = await asyncpg.connect(pair.primary), await asyncpg.connect(pair.standby)
    await primary.execute("create table died ()")
    await primary.execute("create schema slow")
    await primary.execute("create view slow.flow_run_state as select * from public.flow_run_state where (select pg_sleep(20)) is not null")
    await pair.caught_up()
    await standby.execute("alter system set max_standby_streaming_delay = 0")
    await standby.execute("select pg_reload_conf()")
    try:
        yield Cancelling(pair)
    finally:
        await standby.execute("alter system reset max_standby_streaming_delay")
        await standby.execute("select pg_reload_conf()")
        await primary.execute("drop schema slow cascade")
        await primary.execute("drop table died")
        await primary.close()
        await standby.close()


SLOW = {"search_path": "slow, public"}
# It holds its snapshot for as long as it sleeps, so it is this statement that is cancelled.
SLEEPS = "select exists (select from pg_stat_activity where query like '/* read_flow_run_states */%' and wait_event = 'PgSleep') from pg_sleep(0.02)"


async def is_asleep(standby: Connection) -> None:
    async with asyncio.timeout(30):
        while not await standby.fetchval(SLEEPS):
            pass


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_a_read_that_recovery_cancels_again_and_again_ends(pair: Pair, cancelling: Cancelling, isolation: str) -> None:
    settings = {**SLOW, "default_transaction_isolation": isolation}

    async def is_cancelled() -> bool:
        """Not where recovery met the session between two statements: then it ends that, and a write may be what finds the connection closed."""
        async with noted(pair.standby) as (dsn, said), create_pool(dsn, max_size=1, server_settings=settings) as pool:
            states, stop = FlowRunStateRepository(pool), asyncio.Event()
            said.clear()
            beside = asyncio.create_task(cancelling.until(stop))
            try:
                with pytest.raises((asyncpg.SerializationError, asyncpg.ConnectionDoesNotExistError)) as caught:
                    await states.read_flow_run_states(RUN, timeout=60)
            finally:
                stop.set()
                await beside
            if isinstance(caught.value, asyncpg.ConnectionDoesNotExistError):
                return False
            assert "conflict with recovery" in str(caught.value)
            assert [note for note in caught.value.__notes__ if note.startswith("undone by the server 5 times")]
            # Five of begin, read and rollback, and what prepares.
            assert 5 <= len(said.trips) <= 25
            # The pool's only connection is usable.
            assert await FlowRunStateAnalytics(pool).count_current(timeout=10)
            return True

    async with asyncio.timeout(100):
        while not await is_cancelled():
            pass


async def test_a_read_that_recovery_cancels_once_is_read_again(pair: Pair, cancelling: Cancelling) -> None:
    primary, standby = await asyncpg.connect(pair.primary), await asyncpg.connect(pair.standby)
    async with create_pool(pair.standby, max_size=1, server_settings=SLOW) as pool:
        task = asyncio.create_task(FlowRunStateRepository(pool).read_flow_run_states(RUN, timeout=60))
        await is_asleep(standby)
        # Whoever comes next does not sleep.
        await primary.execute("create or replace view slow.flow_run_state as select * from public.flow_run_state")
        await cancelling.once(primary)
        assert [state.id for state in await task] == [RUN]
    await primary.close()
    await standby.close()


async def test_in_the_callers_transaction_it_is_the_callers(pair: Pair, cancelling: Cancelling) -> None:
    primary, standby = await asyncpg.connect(pair.primary), await asyncpg.connect(pair.standby)
    connection = await asyncpg.connect(pair.standby, server_settings=SLOW)

    async def read() -> None:
        async with connection.transaction():
            await FlowRunStateRepository(connection).read_flow_run_states(RUN, timeout=60)

    reading = asyncio.create_task(read())
    await is_asleep(standby)
    await cancelling.once(primary)
    with pytest.raises(asyncpg.SerializationError, match="conflict with recovery") as caught:
        await reading
    assert not hasattr(caught.value, "__notes__")
    for each in (connection, primary, standby):
        await each.close()


async def test_a_stream_that_recovery_ends(pair: Pair, cancelling: Cancelling) -> None:
    primary, standby = await asyncpg.connect(pair.primary), await asyncpg.connect(pair.standby)
    waiting = "select count(*) from pg_stat_activity where state = 'idle in transaction'"

    async def is_waiting() -> bool:
        try:
            return bool(await standby.fetchval(waiting))
        except asyncpg.SerializationError:
            return True  # recovery has cancelled this too

    async def read_and_pause(states: FlowRunStateRepository, *, is_left: bool) -> int:
        async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[LONG])) as stream:
            await anext(stream)
            await cancelling.once(primary)
            async with asyncio.timeout(30):
                while await is_waiting():  # noqa: ASYNC110 (the server tells nobody)
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.05)
            return 1 if is_left else 1 + len([state async for state in stream])

    async with create_pool(pair.standby, max_size=1) as pool:
        states = FlowRunStateRepository(pool)
        assert await read_and_pause(states, is_left=True) == 1
        with pytest.raises((asyncpg.SerializationError, asyncpg.InterfaceError)):
            await read_and_pause(states, is_left=False)
        assert await states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[RUN, LONG]), timeout=10) == STATES + 1
    await primary.close()
    await standby.close()


async def standby_is_asked_for(pool: Pool) -> bool:
    return bool(await pool.fetchval("select exists (select from pg_stat_activity where query like '/* read_standbys */%') from pg_sleep(0.01)"))


async def test_a_prune_waits_for_a_standby_that_does_not_replay_and_goes_on_when_it_does(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "flowstates")
    runs = [uuid4() for _ in range(6)]
    batch = [NewFlowRunState(flow_run_id=run, type="COMPLETED", timestamp=NOON - timedelta(days=9)) for run in runs]
    async with create_pool(pair.primary) as pool, create_pool(pair.standby) as standby:
        states, retention = FlowRunStateRepository(pool), FlowRunStateRetention(pool)
        there = FlowRunStateFilter(flow_run_ids=runs)
        asked: dict[str, Any] = {"before": NOON - timedelta(days=8), "batch_size": 2, "max_lag": 0}
        await standby.execute("select pg_wal_replay_pause()")
        try:
            while await standby.fetchval("select pg_get_wal_replay_pause_state() <> 'paused' from pg_sleep(0.01)"):
                pass
            await states.create_flow_run_states(batch)
            pruning = asyncio.create_task(retention.prune(**asked, timeout=60))
            while not await standby_is_asked_for(pool):
                pass
            with pytest.raises(TimeoutError):
                await retention.prune(**asked, timeout=1)
            assert (pruning.done(), await states.count_flow_run_states(there)) == (False, len(runs))
        finally:
            await standby.execute("select pg_wal_replay_resume()")
        report = await pruning
        assert (report.runs, report.is_done) == (len(runs), True)
        assert report.batches > 1
        assert re.search(r"waiting for standbys: one is \d+\.\d s behind, and 0\.0 s are allowed$", caplog.text, re.MULTILINE)
        assert re.search(r"waited \d+\.\d s for standbys$", caplog.text, re.MULTILINE)
        await pair.caught_up()
        assert await FlowRunStateRepository(standby).count_flow_run_states(there) == 0


async def test_a_standby_that_is_promoted_takes_writes_on_the_connections_that_it_has() -> None:
    with primary_and_standby() as pair:
        await fill(pair)
        async with create_pool(pair.standby, max_size=1) as pool:
            states = FlowRunStateRepository(pool)
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await states.create_flow_run_state(RUN, "COMPLETED")
            pair.stop(pair.primary)
            await pair.promote()
            state = await states.create_flow_run_state(RUN, "COMPLETED", expected=RUN, timeout=10)
            assert await states.read_current_flow_run_state(RUN) == state


async def test_what_was_just_written_is_read_as_the_page_says(pair: Pair) -> None:
    (example,) = blocks_of("docs/replicas.md", "python")
    create_and_list = names_of(example)["create_and_list"]
    async with create_pool(pair.primary) as primary, create_pool(pair.standby) as standby:
        run = str(uuid4())
        for number in range(1, 21):
            assert len(await create_and_list(primary, standby, run)) == number
