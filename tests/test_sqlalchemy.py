"""A session or a connection of SQLAlchemy is handed in as it is: its transaction is begun and joined, and stays the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Column, MetaData, NullPool, Table, Text, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, ResourceClosedError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, registry

from flowstates import (
    FlowRunStateAnalytics,
    FlowRunStateConflictError,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    FlowStatesError,
    InvalidInputError,
    Keep,
    NewFlowRunState,
    StateType,
    check,
    check_plans,
    is_retryable,
    migrate,
    models,
)
from flowstates.engine.connections import BROKEN
from flowstates.values import Layout
from tests import test_borrowed
from tests.conftest import Pool
from tests.feeds import told
from tests.proxy import Proxy

pytestmark = pytest.mark.versions

Given: TypeAlias = AsyncSession | AsyncConnection | async_scoped_session[AsyncSession]
Kind: TypeAlias = Callable[[AsyncEngine], AbstractAsyncContextManager[Given]]


def engine_on(dsn: str, scheme: str = "postgresql+asyncpg", **options: Any) -> AsyncEngine:
    return create_async_engine(dsn.replace("postgresql:", f"{scheme}:", 1), **options)


@pytest.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = engine_on(dsn)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def a_session(engine: AsyncEngine) -> AsyncIterator[Given]:
    async with AsyncSession(engine) as session:
        yield session


@asynccontextmanager
async def a_session_of_a_maker(engine: AsyncEngine) -> AsyncIterator[Given]:
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        yield session


@asynccontextmanager
async def a_scoped_session(engine: AsyncEngine) -> AsyncIterator[Given]:
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    try:
        yield scoped
    finally:
        await scoped.remove()


@asynccontextmanager
async def a_connection(engine: AsyncEngine) -> AsyncIterator[Given]:
    async with engine.connect() as connection:
        yield connection


@asynccontextmanager
async def a_session_on_a_connection(engine: AsyncEngine) -> AsyncIterator[Given]:
    async with engine.connect() as connection, AsyncSession(connection) as session:
        yield session


KINDS = [a_session, a_session_of_a_maker, a_scoped_session, a_connection, a_session_on_a_connection]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


async def driver_of(given: Given) -> asyncpg.Connection[asyncpg.Record]:
    connection = given if isinstance(given, AsyncConnection) else await given.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


def names_of(sent: list[str]) -> list[str]:
    return [query.removeprefix("/* ").partition(" */")[0] for query in sent]


@kinds
async def test_what_is_written_is_the_callers_to_commit(kind: Kind, engine: AsyncEngine, pool: Pool) -> None:
    theirs, run = FlowRunStateRepository(pool), uuid4()
    async with kind(engine) as given:
        ours = FlowRunStateRepository(given)
        for _ in range(2):  # a transaction that comes after one begins anew
            lost = await ours.create_flow_run_state(run, "PENDING")
            assert await ours.read_flow_run_states(run) == [lost]
            assert await theirs.read_flow_run_states(run) == []
            await given.rollback()
            assert await ours.read_flow_run_states(run) == []
            await given.rollback()
        state = await ours.create_flow_run_state(run, "PENDING")
        (count,) = (await given.execute(text("select count(*) from flow_run_state where flow_run_id = :run"), {"run": run})).one()
        assert count == 1
        await given.commit()
        assert await theirs.read_flow_run_states(run) == [state]
        assert await ours.delete_flow_run_state(state.id) is True
        await given.rollback()
        assert await ours.read_flow_run_states(run) == [state]
        await given.rollback()
        assert await ours.delete_flow_run_state(state.id) is True
        await given.commit()
    assert await theirs.read_flow_run_states(run) == []


@kinds
async def test_what_is_open_already_is_joined_without_a_statement(kind: Kind, engine: AsyncEngine) -> None:
    async with kind(engine) as given:
        ours, sent = FlowRunStateRepository(given), list[str]()
        await given.execute(text("select 1"))
        with (await driver_of(given)).query_logger(lambda record: sent.append(record.query)):
            await ours.read_flow_run_states(uuid4())
        await given.rollback()  # asyncpg tells a logger a moment later
        assert names_of(sent) == ["read_flow_run_states"]


async def test_a_block_of_the_callers_ends_its_transaction(engine: AsyncEngine, pool: Pool) -> None:
    theirs, run = FlowRunStateRepository(pool), uuid4()
    async with async_sessionmaker(engine).begin() as session:
        state = await FlowRunStateRepository(session).create_flow_run_state(run, "PENDING")
    assert await theirs.read_flow_run_states(run) == [state]

    async def fail(given: Given) -> None:
        ours = FlowRunStateRepository(given)
        await ours.create_flow_run_state(run, "RUNNING")
        await ours.create_flow_run_state(run, "PAUSED", id=state.id)

    for block in (engine.begin(), async_sessionmaker(engine).begin()):
        with pytest.raises(FlowRunStateConflictError):
            async with block as given:
                await fail(given)
        assert await theirs.read_flow_run_states(run) == [state]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_the_isolation_level_is_the_callers(dsn: str, engine: AsyncEngine, level: str) -> None:
    of_engine = engine_on(dsn, isolation_level=level, poolclass=NullPool)
    async with AsyncSession(of_engine) as session, AsyncSession(engine) as other, engine.connect() as connection:
        await other.connection(execution_options={"isolation_level": level})
        await connection.execution_options(isolation_level=level, postgresql_readonly=True)
        for given in (session, other, connection):
            await FlowRunStateRepository(given).read_flow_run_states(uuid4())
            assert await (await driver_of(given)).fetchval("show transaction_isolation") == level.lower()
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), "PENDING")
        await connection.rollback()


async def test_a_snapshot_of_the_callers_stays_one(engine: AsyncEngine, pool: Pool) -> None:
    theirs, run = FlowRunStateRepository(pool), uuid4()
    async with AsyncSession(engine) as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        ours = FlowRunStateRepository(session)
        assert await ours.read_flow_run_states(run) == []
        state = await theirs.create_flow_run_state(run, "PENDING")
        assert await ours.read_flow_run_states(run) == []
        with pytest.raises(asyncpg.SerializationError):
            await ours.create_flow_run_state(run, "RUNNING")
        await session.rollback()
        assert await ours.read_flow_run_states(run) == [state]


@pytest.mark.parametrize("where", ["engine", "connection", "session"])
async def test_autocommit_is_the_callers(dsn: str, engine: AsyncEngine, pool: Pool, where: str) -> None:
    run, sent = uuid4(), list[str]()
    own = engine_on(dsn, poolclass=NullPool, **({"isolation_level": "AUTOCOMMIT"} if where == "engine" else {}))
    async with own.connect() as connection, AsyncSession(own) as session:
        if where == "session":
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        elif where == "connection":
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        choices: dict[str, list[Given]] = {"engine": [session, connection], "session": [session], "connection": [connection]}
        for given in choices[where]:
            ours, driver = FlowRunStateRepository(given), await driver_of(given)
            with driver.query_logger(lambda record: sent.append(record.query)):
                state = await ours.create_flow_run_state(run, "PENDING")
            assert not driver.is_in_transaction()
            assert (await FlowRunStateRepository(pool).read_flow_run_states(run))[-1] == state
            async with ours.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])) as stream:
                assert [one async for one in stream][-1] == state
            (outcome,) = await ours.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING")])
            assert outcome.status == "created"
            await given.rollback()
            assert (await ours.read_flow_run_states(run))[-1].id == outcome.id
    assert sent
    assert names_of(sent) == ["create_flow_run_state"] * len(sent)


@kinds
async def test_after_an_error_the_caller_rolls_back_and_goes_on(kind: Kind, engine: AsyncEngine, pool: Pool) -> None:
    run = uuid4()
    async with kind(engine) as given:
        ours = FlowRunStateRepository(given)
        await ours.create_flow_run_state(run, "PENDING")
        with pytest.raises(DBAPIError):
            await given.execute(text("select 1 / 0"))
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await ours.read_flow_run_states(run)
        await given.rollback()
        assert await ours.read_flow_run_states(run) == []
        with pytest.raises(asyncpg.DivisionByZeroError):
            await (await driver_of(given)).fetch("select 1 / 0")  # as a statement of the library's own may fail
        await given.rollback()
        state = await ours.create_flow_run_state(run, "PENDING")
        await given.commit()
    assert await FlowRunStateRepository(pool).read_flow_run_states(run) == [state]


class Job:
    """A table of a service's own."""

    def __init__(self, name: str) -> None:
        self.name = name


async def jobs(engine: AsyncEngine) -> Table:
    table = Table(f"job_{uuid4().hex}", MetaData(), Column("name", Text, primary_key=True))
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    return table


@pytest.fixture
async def mapped(own_database: str) -> AsyncIterator[AsyncEngine]:
    engine, mappers = engine_on(own_database), registry()
    mappers.map_imperatively(Job, await jobs(engine))
    yield engine
    mappers.dispose()
    await engine.dispose()


async def count_jobs(driver: asyncpg.Connection[asyncpg.Record]) -> int:
    name = await driver.fetchval("select relname from pg_class where relname like 'job\\_%' and relkind = 'r'")
    return int(await driver.fetchval(f"select count(*) from {name}"))


async def test_what_was_added_to_a_session_is_sent_first_as_for_its_own_queries(mapped: AsyncEngine) -> None:
    async with AsyncSession(mapped) as session:
        ours = FlowRunStateRepository(session)
        session.add(Job("one"))
        await ours.create_flow_run_state(uuid4(), "PENDING")
        assert await count_jobs(await driver_of(session)) == 1
        session.add(Job("two"))
        with session.no_autoflush:
            await ours.create_flow_run_state(uuid4(), "PENDING")
        assert await count_jobs(await driver_of(session)) == 1
        await session.commit()
        assert await count_jobs(await driver_of(session)) == 2


async def test_a_session_that_could_not_send_says_so_itself(mapped: AsyncEngine) -> None:
    async with AsyncSession(mapped) as session:
        ours = FlowRunStateRepository(session)
        for name in ("same", "same"):
            session.add(Job(name))
            await asyncio.sleep(0)
        with pytest.raises(DBAPIError):
            await ours.read_flow_run_states(uuid4())
        with pytest.raises(PendingRollbackError):
            await ours.read_flow_run_states(uuid4())
        await session.rollback()
        assert await ours.read_flow_run_states(uuid4()) == []


async def test_savepoints(engine: AsyncEngine, pool: Pool) -> None:
    run, other = uuid4(), uuid4()
    async with AsyncSession(engine) as session:
        ours = FlowRunStateRepository(session)

        async def fail() -> None:
            await ours.create_flow_run_state(run, "PENDING")
            await (await driver_of(session)).execute("insert into flow_run select * from flow_run where id = $1", run)

        for _ in range(2):  # the first begins the transaction too
            with pytest.raises(asyncpg.UniqueViolationError):
                async with session.begin_nested():
                    await fail()
            assert await ours.read_flow_run_states(run) == []
        first = await ours.create_flow_run_state(run, "PENDING")
        async with session.begin_nested():
            await ours.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING"), NewFlowRunState(flow_run_id=other, type="PENDING")])
            async with session.begin_nested() as inner:
                await ours.delete_flow_run_state(first.id)
                await inner.rollback()
        await session.commit()
    theirs = FlowRunStateRepository(pool)
    assert [state.type for state in await theirs.read_flow_run_states(run)] == ["PENDING", "RUNNING"]
    assert [state.type for state in await theirs.read_flow_run_states(other)] == ["PENDING"]


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
@pytest.mark.parametrize("options", [{}, {"prepared_statement_cache_size": 0, "statement_cache_size": 0}], ids=["cached", "uncached"])
async def test_the_answers_are_those_of_a_plain_connection(layout_dsns: dict[Layout, str], layout: Layout, options: dict[str, int]) -> None:
    engine = engine_on(layout_dsns[layout], connect_args=options)
    async with test_borrowed.connected(layout_dsns[layout]) as plain, engine.connect() as connection:
        run = uuid4()
        await test_borrowed.fill(plain, layout, run)
        expected = await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run)
        ours = FlowRunStateRepository(connection, layout=layout)
        for _ in range(6):
            assert await ours.read_flow_run_states(run) == expected
            test_borrowed.assert_plain(await ours.read_flow_run_states(run))
        assert await ours.delete_flow_run_state(expected[0].id)
        await connection.commit()
        assert await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run) == expected[1:]
    await engine.dispose()


@pytest.mark.parametrize("kind", [a_session, a_connection], ids=lambda kind: kind.__name__)
async def test_whatever_takes_a_pool_takes_it(own_dsn: str, kind: Kind) -> None:
    engine = engine_on(own_dsn)
    async with kind(engine) as given:
        assert await migrate(given)
        await given.rollback()
        assert "table flow_run_state" in [mismatch.where for mismatch in await check(given)]
        assert await migrate(given)
        await given.commit()
        assert await migrate(given) == []
        assert await check(given, data=True) == []
        assert await check_plans(given) == []
        ours, analytics, retention = FlowRunStateRepository(given), FlowRunStateAnalytics(given), FlowRunStateRetention(given)
        states = [await ours.create_flow_run_state(uuid4(), "COMPLETED") for _ in range(7)]
        async with ours.stream_flow_run_states() as stream:
            assert {state.id async for state in stream} == {state.id for state in states}
        assert await ours.count_flow_run_states() == 7
        assert (await ours.read_flow_run_state_page(limit=3)).next is not None
        assert (await analytics.count_current()).counts[StateType.COMPLETED] == 7
        await given.commit()
        report = await retention.prune(older_than=timedelta(0), batch_size=2)
        assert (report.states, report.batches > 1, await ours.count_flow_run_states()) == (7, True, 0)
        await given.rollback()  # batches are savepoints of the caller's transaction
        assert await ours.count_flow_run_states() == 7
        with pytest.raises(InvalidInputError, match=r"^max_lag: cannot be used in a transaction"):
            await retention.prune(older_than=timedelta(0), keep=Keep(first=True), max_lag=1)
        await given.rollback()
    await engine.dispose()


async def test_two_calls_at_once_on_one_session_are_an_error_that_leaves_it_good(engine: AsyncEngine) -> None:
    run = uuid4()
    async with AsyncSession(engine) as session:
        ours = FlowRunStateRepository(session)
        await session.execute(text("select 1"))
        first, *others = await asyncio.gather(*(ours.read_flow_run_states(run) for _ in range(3)), return_exceptions=True)
        assert first == []
        assert [type(error) for error in others] == [asyncpg.InterfaceError] * 2
        assert await ours.read_flow_run_states(run) == []
        await session.commit()


async def test_a_timeout_leaves_a_session_that_can_be_rolled_back(engine: AsyncEngine, pool: Pool) -> None:
    run = uuid4()
    state = await FlowRunStateRepository(pool).create_flow_run_state(run, "PENDING")
    async with pool.acquire() as blocker, AsyncSession(engine) as session:
        ours = FlowRunStateRepository(session)
        transaction = blocker.transaction()
        await transaction.start()
        await FlowRunStateRepository(blocker).create_flow_run_state(run, "RUNNING")
        with pytest.raises(TimeoutError):
            await ours.create_flow_run_state(run, "PAUSED", timeout=0.2)
        await transaction.rollback()
        await session.rollback()
        assert await ours.read_flow_run_states(run) == [state]


async def test_a_begin_that_is_cut_off_leaves_a_session_that_can_be_rolled_back(dsn: str) -> None:
    async with Proxy(dsn) as proxy:
        engine = engine_on(proxy.dsn)
        async with AsyncSession(engine) as session:
            ours, run = FlowRunStateRepository(session), uuid4()
            await ours.read_flow_run_states(run)
            await session.rollback()
            proxy.hold_at(b"BEGIN")
            with pytest.raises(TimeoutError):
                await ours.create_flow_run_state(run, "PENDING", timeout=0.2)
            proxy.resume()
            with pytest.raises(PendingRollbackError):
                await ours.create_flow_run_state(run, "PENDING")
            await session.rollback()
            state = await ours.create_flow_run_state(run, "PENDING")
            assert await ours.read_flow_run_states(run) == [state]
            await session.rollback()
        await engine.dispose()


async def test_what_is_closed_says_so_itself(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        pass
    with pytest.raises(ResourceClosedError):
        await FlowRunStateRepository(connection).read_flow_run_states(uuid4())


class OwnSession(AsyncSession):
    """A service's own."""


async def test_another_driver_is_refused_by_name(dsn: str) -> None:
    engine = engine_on(dsn, "postgresql+psycopg", poolclass=NullPool)
    async with AsyncSession(engine) as session, OwnSession(engine) as own, engine.connect() as connection:
        calls: list[tuple[Any, Callable[[Any], Awaitable[object]]]] = [
            (session, lambda given: FlowRunStateRepository(given).read_flow_run_states(UUID(int=1))),
            (own, lambda given: FlowRunStateRepository(given).create_flow_run_state(UUID(int=1), "PENDING")),
            (connection, migrate),
            (connection, check),
            (session, check_plans),
        ]
        for given, call in calls:
            with pytest.raises(InvalidInputError) as caught:
                await call(given)
            assert str(caught.value) == f"pool_or_connection: is an {type(given).__name__} on psycopg, not on asyncpg"


async def test_what_is_not_a_session_or_a_connection_is_told_what_to_hand_in(dsn: str, engine: AsyncEngine) -> None:
    blocking = create_engine(dsn.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    with Session(blocking) as session, blocking.connect() as connection:
        wrong: list[tuple[object, str]] = [
            (session, "a Session"),
            (connection, "a Connection"),
            (blocking, "an Engine"),
            (engine, "an AsyncEngine"),
            (async_sessionmaker(engine), "an async_sessionmaker"),
        ]
        for given, kind in wrong:
            with pytest.raises(InvalidInputError) as caught:
                FlowRunStateRepository(given)  # type: ignore[arg-type]
            hint = "not an asyncpg pool or connection, nor an AsyncSession or AsyncConnection of SQLAlchemy"
            assert str(caught.value) == f"pool_or_connection: is {kind}, {hint}"


async def end(pool: Pool, driver: asyncpg.Connection[asyncpg.Record]) -> None:
    await pool.execute("select pg_terminate_backend($1)", driver.get_server_pid())
    while not driver.is_closed():  # noqa: ASYNC110 (asyncpg tells nobody)
        await asyncio.sleep(0)


CALLS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "read": lambda given: FlowRunStateRepository(given).read_flow_run_states(uuid4()),
    "create": lambda given: FlowRunStateRepository(given).create_flow_run_state(uuid4(), "PENDING"),
    "batch": lambda given: FlowRunStateRepository(given).create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="PENDING")]),
    "prune": lambda given: FlowRunStateRetention(given).prune(older_than=timedelta(0)),
    "models": lambda given: models.read_flow_run_states(given, uuid4()),
    "check": check,
    "consume": lambda given: consume_all(given),
}


async def consume_all(given: Given) -> None:
    async with FlowRunStateFeed(given).consume("all", start="beginning"):
        pass


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
async def test_a_lost_connection_is_the_error_that_leaves_the_callers_block(engine: AsyncEngine, pool: Pool, call: str, nested: bool) -> None:
    for begin in (async_sessionmaker(engine).begin, engine.begin):
        with pytest.raises(DBAPIError if call == "consume" else BROKEN) as caught:  # consume begins with a savepoint, which is SQLAlchemy's  # noqa: PT012
            async with begin() as given:
                await given.execute(text("select 1"))
                if nested:
                    async with given.begin_nested():
                        await end(pool, await driver_of(given))
                        await CALLS[call](given)
                else:
                    await end(pool, await driver_of(given))
                    await CALLS[call](given)
        assert is_retryable(caught.value)


@kinds
async def test_after_a_lost_connection_the_caller_rolls_back_and_goes_on(kind: Kind, engine: AsyncEngine, pool: Pool) -> None:
    async with kind(engine) as given:
        ours = FlowRunStateRepository(given)
        for name, call in CALLS.items():
            await ours.read_flow_run_states(uuid4())
            await end(pool, await driver_of(given))
            with pytest.raises(DBAPIError if name == "consume" else BROKEN):
                await call(given)
            with pytest.raises(PendingRollbackError):
                await ours.read_flow_run_states(uuid4())
            await given.rollback()
            assert await ours.read_flow_run_states(uuid4()) == []
            await given.commit()


async def test_a_connection_that_is_ended_in_a_call_is_the_error_that_leaves_the_callers_block(engine: AsyncEngine, pool: Pool) -> None:
    run = uuid4()

    async def fail(block: AbstractAsyncContextManager[Given], started: asyncio.Future[int]) -> None:
        async with block as given:
            started.set_result((await driver_of(given)).get_server_pid())
            await FlowRunStateRepository(given).create_flow_run_state(run, "RUNNING")

    blocks: list[AbstractAsyncContextManager[Given]] = [async_sessionmaker(engine).begin(), engine.begin()]
    for block in blocks:
        async with pool.acquire() as blocker, blocker.transaction():
            await FlowRunStateRepository(blocker).create_flow_run_state(run, "PENDING")
            started = asyncio.get_running_loop().create_future()
            task = asyncio.ensure_future(fail(block, started))
            pid = await started
            while not await pool.fetchval("select pg_blocking_pids($1) <> '{}'", pid):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0)
            await pool.execute("select pg_terminate_backend($1)", pid)
            with pytest.raises(BROKEN) as caught:
                await task
            assert is_retryable(caught.value)


async def test_errors_of_the_callers_own_are_known_too(dsn: str, engine: AsyncEngine, pool: Pool) -> None:
    small = engine_on(dsn, pool_size=1, max_overflow=0, pool_timeout=0.01)
    async with small.connect() as connection, AsyncSession(small) as session:
        await connection.execute(text("select 1"))
        with pytest.raises(PoolTimeoutError) as no_connection:
            await FlowRunStateRepository(session).read_flow_run_states(uuid4())
    await small.dispose()
    serializable, runs = engine.execution_options(isolation_level="SERIALIZABLE"), [uuid4(), uuid4()]
    for run in runs:
        await FlowRunStateRepository(pool).create_flow_run_state(run, "PENDING")
    with pytest.raises(DBAPIError) as at_commit:  # noqa: PT012
        async with AsyncSession(serializable) as one, AsyncSession(serializable) as two:
            for session in (one, two):
                await FlowRunStateRepository(session).read_current_flow_run_states(runs)
            for session, run in zip((one, two), runs, strict=True):
                await FlowRunStateRepository(session).create_flow_run_state(run, "RUNNING")
            await one.commit()
            await two.commit()
    with pytest.raises(DBAPIError) as lost:  # noqa: PT012
        async with AsyncSession(engine) as session:
            await session.execute(text("select 1"))
            await end(pool, await driver_of(session))
            await session.execute(text("select 1"))
    with pytest.raises(DBAPIError) as wrong:
        async with AsyncSession(engine) as session:
            await session.execute(text("select 1 / 0"))
    for caught in (no_connection, at_commit, lost):
        assert is_retryable(caught.value)
    assert not is_retryable(wrong.value)


@pytest.fixture
async def mapped_pool(mapped: AsyncEngine) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(mapped.url.set(drivername="postgresql").render_as_string(hide_password=False)) as pool:
        state = await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), "PENDING")
        await told(FlowRunStateFeed(pool), None, [state.id])
        yield pool


@pytest.mark.parametrize("kind", [a_session, a_scoped_session, a_connection], ids=lambda kind: kind.__name__)
async def test_what_a_batch_has_written_is_undone_to_its_savepoint_alone(kind: Kind, mapped: AsyncEngine, mapped_pool: Pool) -> None:
    async with kind(mapped) as given:
        ours, feed, run = FlowRunStateRepository(given), FlowRunStateFeed(given), uuid4()
        first = await ours.create_flow_run_state(run, "PENDING")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with feed.consume("jobs", start="beginning") as batch:
                await FlowRunStateRepository(batch.connection).create_flow_run_state(run, "RUNNING")
                raise ZeroDivisionError
        assert await ours.read_flow_run_states(run) == [first]
        async with feed.consume("jobs", start="beginning") as batch:
            assert len(batch.states) == 1
            second = await FlowRunStateRepository(batch.connection).create_flow_run_state(run, "RUNNING")
        await given.commit()
        assert await ours.read_flow_run_states(run) == [first, second]


async def test_a_session_knows_of_a_batch_that_was_undone(mapped: AsyncEngine, mapped_pool: Pool) -> None:
    async with AsyncSession(mapped) as session:
        feed, job = FlowRunStateFeed(session), Job("one")
        before = Job("before")
        session.add(before)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with feed.consume("jobs", start="beginning") as batch:
                    assert len(batch.states) == 1
                    session.add(job)
                    await session.flush()
                    raise ZeroDivisionError
            assert inspect(job).transient
            assert inspect(before).persistent
        async with feed.consume("jobs", start="beginning") as batch:
            assert len(batch.states) == 1
            session.add(job)  # sent with the end of the block
        await session.commit()
        assert await count_jobs(await driver_of(session)) == 2
        async with feed.consume("jobs") as batch:
            assert batch.states == []


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
async def test_a_block_that_ends_the_transaction_of_a_session_is_told(mapped: AsyncEngine, mapped_pool: Pool, how: str) -> None:
    async with AsyncSession(mapped) as session:
        feed = FlowRunStateFeed(session)
        with pytest.raises(FlowStatesError, match="has ended the transaction"):  # noqa: PT012
            async with feed.consume("jobs", start="beginning") as batch:
                assert len(batch.states) == 1
                await getattr(session, how)()
        await session.rollback()
        async with feed.consume("jobs", start="beginning") as batch:
            assert len(batch.states) == 1


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_connection_that_is_lost_in_a_batch_of_a_session(mapped: AsyncEngine, mapped_pool: Pool, swallows: bool) -> None:
    async with AsyncSession(mapped) as session:
        with pytest.raises(BROKEN if swallows else DBAPIError) as caught:  # noqa: PT012
            async with FlowRunStateFeed(session).consume("jobs", start="beginning") as batch:
                await end(mapped_pool, await driver_of(session))
                try:
                    await session.execute(text("select 1"))
                except DBAPIError:
                    if not swallows:
                        raise
        assert is_retryable(caught.value)
        await session.rollback()
        async with FlowRunStateFeed(session).consume("jobs", start="beginning") as batch:
            assert len(batch.states) == 1
