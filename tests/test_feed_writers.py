"""A feed beside random writers and faults: every state that stays is told once, in each run's own order. What would be wrong is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from flowstates import (
    ContentionError,
    FlowRunStateFeed,
    FlowRunStateRepository,
    HistoryPrunedError,
    StateType,
    create_pool,
    embedded_postgres,
    migrate,
)
from flowstates.engine import execution, queries
from flowstates.values import Layout
from tests.calls import Create
from tests.conftest import Pool
from tests.faults import folder_for_a_server
from tests.servers import create_database
from tests.standby import version_for_tests
from tests.stored import read_stored
from tests.telling import Told, check_told
from tests.test_borrowed import connected
from tests.writers import BROKEN, ISOLATION, MIXED, Writers, defaults, level, random_steps

pytestmark = pytest.mark.server

LIMIT = 100  # seconds, for what would never end


@pytest.fixture(scope="module")
def prepared_dsn() -> Iterator[str]:
    """A server of its own, on which transactions may be prepared."""

    async def allow(dsn: str) -> None:
        async with connected(dsn) as connection:
            await connection.execute("alter system set max_prepared_transactions = 20")
            await connection.execute("alter system set fsync = off")

    with folder_for_a_server() as folder:
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            asyncio.run(allow(dsn))
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            yield dsn


class Reader:
    """Reads pages, and dies between a page and where it would keep its position."""

    def __init__(self, pool: Pool, random: Random) -> None:
        self.told: list[Told] = []
        self._feed, self._random, self._position = FlowRunStateFeed(pool), random, ""

    async def read(self) -> bool:
        """Another page; whether it was empty."""
        try:
            page = await self._feed.read_page(self._position or None, limit=self._random.choice([1, 3, 50]))
        except HistoryPrunedError as error:
            self._position = error.oldest
            return False
        if self._random.random() < 0.2:
            return False
        self.told += [Told(state.id, state.timestamp) for state in page.states]
        self._position = page.position
        return not page.states and page.is_caught_up


class Consumer:
    """Notes what it was told in the database, and is killed at every place of its block."""

    def __init__(self, pool: Pool, random: Random, name: str) -> None:
        self._pool, self._feed, self._random, self._name = pool, FlowRunStateFeed(pool), random, name

    async def read(self) -> bool:
        random = self._random
        fate = random.choice(["raise", "kill", "late", *["live"] * 6])
        try:
            async with self._feed.consume(self._name, start="beginning", limit=random.choice([1, 3, 50]), skip_locked=random.random() < 0.5) as batch:
                pid = batch.connection.get_server_pid()
                if fate == "kill":
                    await self._pool.execute("select pg_terminate_backend($1)", pid)
                told = [(self._name, state.id, state.timestamp) for state in batch.states]
                await batch.connection.executemany("insert into effect (name, id, timestamp) values ($1, $2, $3)", told)
                if fate == "late":
                    await self._pool.execute("select pg_terminate_backend($1)", pid)
                if fate == "raise":
                    raise ZeroDivisionError
                return not batch.states and batch.is_caught_up
        except HistoryPrunedError as error:
            await self._feed.move(self._name, error.oldest, expected=error.position)
        except (ZeroDivisionError, *BROKEN):
            pass
        return False

    async def told(self) -> list[Told]:
        rows = await self._pool.fetch("select id, timestamp from effect where name = $1 order by number", self._name)
        return [Told(*row) for row in rows]


async def until_stopped(reader: Reader | Consumer, stop: asyncio.Event) -> None:
    """Reads until the writers are done, and then what is left."""
    while not (stop.is_set() and await reader.read()):
        if not stop.is_set():
            await reader.read()
        await asyncio.sleep(0.001)


async def prepare(pool: Pool, runs: Writers, random: Random, stop: asyncio.Event) -> None:
    """Transactions in two phases, some of which stay for a while between these."""
    while not stop.is_set():
        name = uuid4().hex
        with suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError, ContentionError):
            async with pool.acquire() as connection:
                await connection.execute(f"begin isolation level {random.choice(ISOLATION)}")
                try:
                    for _ in range(random.randint(1, 3)):
                        await FlowRunStateRepository(connection).create_flow_run_state(random.choice(runs.runs), StateType.PAUSED)
                    await connection.execute(f"prepare transaction '{name}'")
                except BaseException:
                    await connection.execute("rollback")
                    raise
            try:
                await asyncio.sleep(random.choice([0, 0.01, 0.1]))
            finally:  # else it would hold the feeds of the tests that follow
                await asyncio.shield(pool.execute(f"{random.choice(['commit', 'rollback'])} prepared '{name}'"))


async def elsewhere(dsn: str, random: Random, stop: asyncio.Event) -> None:
    """Long transactions on another database."""
    async with connected(dsn) as connection:
        while not stop.is_set():
            async with connection.transaction(isolation=level(random.choice(ISOLATION))):
                await connection.execute("select pg_current_xact_id()")
                await asyncio.sleep(random.choice([0.01, 0.1]))


@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_every_state_is_told_once_and_in_order_beside_random_writers(prepared_dsn: str, isolation: str) -> None:
    random = Random(f"feed {isolation}")
    dsn, other = await create_database(prepared_dsn), await create_database(prepared_dsn)
    async with (
        asyncio.timeout(LIMIT),
        create_pool(dsn, min_size=1, max_size=8, **defaults(isolation)) as pool,
        create_pool(dsn, min_size=1, max_size=8) as reading,
    ):
        await migrate(pool)
        await pool.execute("create table effect (number bigserial, name text, id uuid, timestamp timestamptz)")
        writers = Writers(pool, 4)
        readers = [Reader(reading, random) for _ in range(2)]
        consumers = [Consumer(reading, random, name) for name in ("a", "b", "b")]
        stop, done = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            everybody: list[Reader | Consumer] = [*readers, *consumers]
            for one in everybody:
                group.create_task(until_stopped(one, done))
            group.create_task(finish(pool, stop, done, group, writers, other, random))
        stored, _ = await read_stored(reading, writers.runs)
        assert len(stored) > 20
        backfilled = {call.id for call in writers.log.calls if isinstance(call, Create) and call.batch is not None and call.id}
        for reader in readers:
            assert check_told(reader.told, stored, backfilled=backfilled) == []
        for consumer in consumers:
            assert check_told(await consumer.told(), stored, backfilled=backfilled) == []


async def finish(
    pool: Pool, stop: asyncio.Event, done: asyncio.Event, group: asyncio.TaskGroup, writers: Writers, other: str, random: Random
) -> None:
    """Lets writers work, and says when nothing that they have begun is open any more."""
    beside = [group.create_task(prepare(pool, writers, random, stop)), group.create_task(elsewhere(other, random, stop))]
    await asyncio.gather(*(writers.work(f"w{number}", random_steps(random, 40)) for number in range(5)))
    stop.set()
    await asyncio.wait(beside)
    await nothing_open(pool)
    done.set()


async def nothing_open(pool: Pool) -> None:
    """Until all that is stored may be told."""
    text = "select coalesce(max(transaction), '0') < pg_snapshot_xmin(pg_current_snapshot()) from flow_run_state"
    while not await pool.fetchval(text):  # noqa: ASYNC110 (the server tells nobody)
        await asyncio.sleep(0.01)


# What would be wrong with a feed: each fault is planted, and a schedule shows it.


async def read_all(pool: Pool, reader: Reader) -> None:
    while not await reader.read():
        pass


async def commit_late(pool: Pool, reader: Reader) -> Writers:
    writers = Writers(pool, 2)
    async with pool.acquire() as slow, slow.transaction():
        await FlowRunStateRepository(slow).create_flow_run_state(writers.runs[0], StateType.PENDING)
        await FlowRunStateRepository(pool).create_flow_run_state(writers.runs[1], StateType.PENDING)
        for _ in range(20):
            await reader.read()
    return writers


async def append_with_an_early_number(pool: Pool, reader: Reader) -> Writers:
    writers = Writers(pool, 1)
    async with pool.acquire() as slow, slow.transaction():
        await slow.execute("select pg_current_xact_id()")
        await FlowRunStateRepository(pool).create_flow_run_state(writers.runs[0], StateType.PENDING)
        await FlowRunStateRepository(slow).create_flow_run_state(writers.runs[0], StateType.RUNNING)
    return writers


GATE = "state.transaction < (select horizon from bound)"
FAULTS = {
    "gated by nothing": ("read_page", [(GATE, "true")], commit_late, "lost"),
    "ordered by created": (
        "read_page",
        [
            ("(state.transaction, state.timestamp, state.id)", "(to_xid8(state.created), state.timestamp, state.id)"),
            ("order by state.transaction,", "order by to_xid8(state.created),"),
            (GATE, "true"),
            ("state.transaction::text", "to_xid8(state.created)::text"),
            ("when $1::text::xid8 > bound.next", "when false"),
        ],
        commit_late,
        "lost",
    ),
    "the writer's own number": (
        "create_flow_run_state",
        [("greatest(pg_current_xact_id(), flow_run.transaction)", "pg_current_xact_id()")],
        append_with_an_early_number,
        "disorder",
    ),
}


@contextmanager
def planted(monkeypatch: pytest.MonkeyPatch, name: str, changes: list[tuple[str, str]]) -> Iterator[None]:
    whole = queries.query

    def query(asked: str, layout: Layout) -> str:
        text = whole(asked, layout)
        if asked == name:
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
        return text

    execution._insert_text.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(queries, "query", query)
        yield
    execution._insert_text.cache_clear()


@asynccontextmanager
async def told_by(dsn: str) -> AsyncIterator[tuple[Pool, Reader]]:
    async with asyncio.timeout(LIMIT), create_pool(dsn) as pool:
        text = "create function to_xid8(timestamptz) returns xid8 language sql as 'select (extract(epoch from $1) * 1000000)::bigint::text::xid8'"
        await pool.execute(text)
        yield pool, Reader(pool, Random(0))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_fault_is_found(own_database: str, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name, changes, schedule, kind = FAULTS[fault]
    for is_planted in (False, True):
        async with told_by(own_database) if not is_planted else again(own_database) as (pool, reader):
            with planted(monkeypatch, name, changes if is_planted else []):
                writers = await schedule(pool, reader)
                await nothing_open(pool)
                await read_all(pool, reader)
            stored, _ = await read_stored(pool, writers.runs)
            kinds = {problem.partition(":")[0] for problem in check_told(reader.told, stored)}
            assert kinds == ({kind} if is_planted else set())


@asynccontextmanager
async def again(dsn: str) -> AsyncIterator[tuple[Pool, Reader]]:
    async with asyncio.timeout(LIMIT), create_pool(dsn) as pool:
        yield pool, Reader(pool, Random(0))
