from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    Mismatch,
    UnexpectedStateError,
    batched,
    check,
    create_pool,
    migrate,
)
from tests.messages import noted
from tests.pgbouncer.conftest import SERVER_CONNECTIONS, Mode, through
from tests.test_messages import FIRST, KEPT, ON_BOTH, ON_OURS, UNKEPT, trips_of

PROCESSES = 4
TOLD = {"transaction_pooling": True}
LIMIT = 60.0  # seconds for a test's processes; a quiet machine needs 2


def in_processes(work: Callable[..., list[str]], *arguments: Any, processes: int = PROCESSES) -> list[str]:
    """What `work` returns in new processes at once; their statements are numbered from 1 on, as those of services that have just started."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        futures = [executor.submit(work, *arguments) for _ in range(processes)]
        return [item for future in futures for item in future.result(LIMIT)]


def live(dsn: str, connections: int, rounds: int, options: dict[str, Any]) -> list[str]:
    """Writes, reads and deletes runs of its own on as many connections; what was wrong in it, [] if all was right."""

    async def on_one_connection(pool: asyncpg.Pool[asyncpg.Record]) -> list[str]:
        wrong = []
        states = FlowRunStateRepository(pool)
        for number in range(rounds):
            try:
                run = uuid4()
                first = await states.create_flow_run_state(run, "PENDING", message=f"{run} {number}", timeout=20)
                second = await states.create_flow_run_state(run, "RUNNING", data={"number": number}, timeout=20)
                answers = [
                    (first.flow_run_id, first.message, second.data) == (run, f"{run} {number}", {"number": number}),
                    await states.read_flow_run_state(first.id) == first,
                    await states.read_flow_run_states(run) == [first, second],
                    await states.read_flow_run_state(uuid4()) is None,
                    await states.delete_flow_run_state(first.id) is True,
                    await states.delete_flow_run_state(first.id) is False,
                    await states.read_flow_run_states(run) == [second],
                ]
                wrong += [f"answer {index} of round {number}" for index, right in enumerate(answers) if not right]
            except Exception as error:  # whatever goes wrong is counted
                wrong.append(repr(error))
        return wrong

    async def on_all() -> list[str]:
        async with create_pool(dsn, max_size=connections, **options) as pool:
            found = await asyncio.gather(*[on_one_connection(pool) for _ in range(connections)])
        return [item for wrong in found for item in wrong]

    return asyncio.run(asyncio.wait_for(on_all(), LIMIT))


def consume(dsn: str, name: str, run: UUID, position: str, count: int) -> list[str]:
    """Consumes a run from a position on with others, until as many states have had an effect; the ids of those that had one here."""

    async def ask() -> list[str]:
        found: list[str] = []
        async with create_pool(dsn, max_size=1, transaction_pooling=True) as pool:
            feed = FlowRunStateFeed(pool)
            while await pool.fetchval("select count(*) from bouncer_effect where name = $1", name) < count:
                async with feed.consume(name, start=position, filter=FlowRunStateFilter(flow_run_ids=[run]), limit=3, timeout=20) as batch:
                    rows = [(state.id, name) for state in batch.states]
                    await batch.connection.executemany("insert into bouncer_effect values ($1, $2)", rows)
                found += [str(state.id) for state in batch.states]
        return found

    return asyncio.run(asyncio.wait_for(ask(), LIMIT))


def append(dsn: str, run: UUID, connections: int, count: int) -> list[str]:
    """Appends to one run on as many connections; the ids that were acknowledged."""

    async def on_all() -> list[str]:
        async with create_pool(dsn, max_size=connections, transaction_pooling=True) as pool:
            states = FlowRunStateRepository(pool)
            created = await asyncio.gather(*[states.create_flow_run_state(run, "RUNNING", timeout=40) for _ in range(count)])
        return [str(state.id) for state in created]

    return asyncio.run(asyncio.wait_for(on_all(), LIMIT))


def append_together(dsn: str, runs: list[UUID], connections: int) -> list[str]:
    """Claims each run, the creates together; the runs that were claimed here."""

    async def on_all() -> list[str]:
        async with create_pool(dsn, max_size=connections, transaction_pooling=True) as pool, batched(pool) as states:
            told = await asyncio.gather(
                *[states.create_flow_run_state(run, "RUNNING", expected=None, timeout=40) for run in runs], return_exceptions=True
            )
        lost = [error for error in told if isinstance(error, BaseException)]
        assert all(isinstance(error, UnexpectedStateError) for error in lost), lost
        return [str(state.flow_run_id) for state in told if not isinstance(state, BaseException)]

    return asyncio.run(asyncio.wait_for(on_all(), LIMIT))


def check_borrowed(dsn: str) -> list[str]:
    """What `check` names on a plain asyncpg pool, and what our own pool says."""

    async def ask() -> list[str]:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
            found = [str(mismatch) for mismatch in await check(pool)]
        try:
            async with create_pool(dsn):
                return [*found, "taken"]
        except InvalidInputError as error:
            return [*found, error.field]

    return asyncio.run(ask())


CACHE = Mismatch(
    "statement cache",
    "none behind a pooler in transaction mode: statement_cache_size=0, or create_pool(..., transaction_pooling=True)",
    "a pooler, and prepared statements that are kept",
)


def test_several_processes_get_right_answers_without_the_cache(pooled_dsn: str, mode: Mode) -> None:
    # In session mode a client keeps its server connection: one client a process, and those that find none free wait for a process to end.
    assert in_processes(live, pooled_dsn, 1 if mode == "session" else 4, 20, TOLD) == []


def test_creates_of_several_processes_go_together(pooled_dsn: str, mode: Mode) -> None:
    runs = [uuid4() for _ in range(100)]
    claimed = in_processes(append_together, pooled_dsn, runs, 1 if mode == "session" else 3, processes=2 if mode == "session" else 4)
    assert sorted(claimed) == sorted(map(str, runs))


def test_several_processes_get_right_answers_with_the_cache_in_session_mode(session_dsn: str) -> None:
    assert in_processes(live, session_dsn, 1, 20, {"statement_cache_size": 100}) == []


@pytest.mark.parametrize("kept", [5, 100])
def test_several_processes_get_right_answers_with_the_cache_where_statements_are_kept_apart(tracking_dsn: str, kept: int) -> None:
    assert in_processes(live, tracking_dsn, 4, 40, {"statement_cache_size": kept}) == []


def test_the_cache_in_transaction_mode_would_go_wrong_here(own_transaction_dsn: str) -> None:
    assert in_processes(live, own_transaction_dsn, 4, 20, {"statement_cache_size": 100}) != []


async def test_consumers_in_several_processes_share_a_feed_and_each_state_takes_effect_once(transaction_dsn: str, dsn: str) -> None:
    run, name = uuid4(), f"pgbouncer {uuid4()}"
    async with create_pool(dsn) as pool:
        await pool.execute("create table if not exists bouncer_effect (state_id uuid not null, name text not null)")
        feed = FlowRunStateFeed(pool)
        position = await feed.now()
        created = await asyncio.to_thread(append, transaction_dsn, run, 4, 20)
        found = await asyncio.to_thread(in_processes, consume, transaction_dsn, name, run, position, 20)
        assert sorted(found) == sorted(created)
        assert await pool.fetchval("select count(distinct state_id) from bouncer_effect where name = $1", name) == 20
        await pool.execute("drop table bouncer_effect")
        assert await feed.forget(name)


async def test_our_pool_refuses_the_cache_behind_a_pooler(pooled_dsn: str) -> None:
    called = []

    async def init(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        called.append(connection)

    with pytest.raises(InvalidInputError, match=r"^transaction_pooling: .*pass transaction_pooling=True, or statement_cache_size=100 if"):
        async with create_pool(pooled_dsn, init=init):
            pass
    assert called == []
    async with create_pool(pooled_dsn, min_size=0) as pool:
        with pytest.raises(InvalidInputError, match=r"^transaction_pooling: "):
            await FlowRunStateRepository(pool).read_flow_run_states(uuid4())


@pytest.mark.parametrize("options", [TOLD, {"statement_cache_size": 0}])
async def test_our_pool_that_was_told_works(pooled_dsn: str, options: dict[str, Any]) -> None:
    async with create_pool(pooled_dsn, max_size=1, **options) as pool:
        states = FlowRunStateRepository(pool)
        state = await states.create_flow_run_state(uuid4(), "PENDING")
        assert await states.read_flow_run_state(state.id) == state
        assert await check(pool) == []


async def test_check_names_a_borrowed_pool_and_connection_with_the_cache(pooled_dsn: str) -> None:
    async with asyncpg.create_pool(pooled_dsn, min_size=1, max_size=1) as pool:
        assert await check(pool) == [CACHE]
        async with pool.acquire() as connection, connection.transaction():
            assert await check(connection) == [CACHE]
            await connection.execute("select 1")  # the transaction goes on
        # What is there beyond the cache is named as well.
        assert {"statement cache", "table artifact"} <= {mismatch.where for mismatch in await check(pool, layout="prefect")}


async def test_check_takes_a_borrowed_pool_without_the_cache(pooled_dsn: str) -> None:
    async with asyncpg.create_pool(pooled_dsn, min_size=1, max_size=1, statement_cache_size=0) as pool:
        assert await check(pool) == []


async def test_what_others_left_on_the_server_confuses_neither_check_nor_our_pool(own_transaction_dsn: str) -> None:
    async def leave(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        async with connection.transaction():
            await connection.execute("select pg_sleep(0.2)")  # until the other transactions have server connections of their own
            for number in range(1, 50):
                await connection.execute(f"prepare __asyncpg_stmt_{number:x}__ as select 'of another process'")

    others = [await asyncpg.connect(own_transaction_dsn) for _ in range(SERVER_CONNECTIONS)]
    await asyncio.gather(*[leave(other) for other in others])
    for other in others:
        await other.close()
    found = await asyncio.to_thread(in_processes, check_borrowed, own_transaction_dsn, processes=1)
    assert found == [str(CACHE), "transaction_pooling"]


async def test_check_is_right_on_server_connections_that_others_use(transaction_dsn: str) -> None:
    checked = asyncio.Event()

    async def read(pool: asyncpg.Pool[asyncpg.Record]) -> None:
        while not checked.is_set():
            assert await FlowRunStateRepository(pool).read_flow_run_states(uuid4()) == []

    size = 4 * SERVER_CONNECTIONS
    async with (
        asyncpg.create_pool(transaction_dsn, min_size=1, max_size=size) as borrowed,
        create_pool(transaction_dsn, max_size=size, transaction_pooling=True) as pool,
        asyncio.TaskGroup() as readers,
    ):
        for _ in range(size):
            readers.create_task(read(pool))
        found = await asyncio.gather(*[check(borrowed) for _ in range(40)])
        checked.set()
    assert found == [[CACHE]] * 40


async def test_writers_of_one_run_in_several_processes(transaction_dsn: str, dsn: str) -> None:
    run = uuid4()
    acknowledged = await asyncio.to_thread(in_processes, append, transaction_dsn, run, 4, 10)
    async with create_pool(dsn) as pool:
        history = await FlowRunStateRepository(pool).read_flow_run_states(run)
        locks = await pool.fetchval(
            "select count(*) from pg_locks join pg_database on oid = database where locktype = 'advisory' and datname = current_database()"
        )
    assert locks == 0  # a lock of a session would stay with PgBouncer's
    assert len(history) == PROCESSES * 10
    assert {str(state.id) for state in history} == set(acknowledged)
    assert all(earlier.timestamp < later.timestamp for earlier, later in pairwise(history))


async def test_the_callers_transaction_is_one_on_the_server(pooled_dsn: str) -> None:
    run = uuid4()
    async with create_pool(pooled_dsn, max_size=1, transaction_pooling=True) as pool:
        async with pool.acquire() as connection:
            states = FlowRunStateRepository(connection)
            outer = connection.transaction()
            await outer.start()
            await states.create_flow_run_state(run, "PENDING")
            inner = connection.transaction()
            await inner.start()
            await states.create_flow_run_state(run, "RUNNING")
            await inner.rollback()
            assert [state.type for state in await states.read_flow_run_states(run)] == ["PENDING"]
            await outer.rollback()
        assert await FlowRunStateRepository(pool).read_flow_run_states(run) == []


async def test_migrate_through_pgbouncer(pgbouncers: dict[Mode, Path], mode: Mode, own_dsn: str) -> None:
    async with create_pool(through(pgbouncers[mode], own_dsn), max_size=1, transaction_pooling=True) as pool:
        assert await migrate(pool) != []
        assert await migrate(pool) == []
        assert await check(pool) == []


async def test_a_search_path_at_the_start_is_refused_by_pgbouncer(transaction_dsn: str) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: search_path"):
        await create_pool(transaction_dsn, transaction_pooling=True, server_settings={"search_path": "public"})


@pytest.mark.parametrize("name", ON_BOTH | ON_OURS)
async def test_what_a_call_sends_in_transaction_mode(transaction_dsn: str, name: str) -> None:
    async with noted(transaction_dsn) as (dsn, said), create_pool(dsn, max_size=1, transaction_pooling=True) as pool:
        assert await trips_of(pool, said, "flowstates", name) == [UNKEPT, UNKEPT, UNKEPT]


@pytest.mark.parametrize("name", ON_BOTH | ON_OURS)
@pytest.mark.parametrize("mode", ["session", "tracking"], indirect=True)
async def test_what_a_call_sends_where_the_cache_is_safe(pooled_dsn: str, name: str) -> None:
    async with noted(pooled_dsn) as (dsn, said), create_pool(dsn, max_size=1, statement_cache_size=100) as pool:
        assert await trips_of(pool, said, "flowstates", name) == [FIRST, KEPT, KEPT]
