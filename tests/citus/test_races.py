"""Writers at once on Citus: no history forks, whatever they ask, and whatever becomes of a worker meanwhile."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import ContentionError, FlowRunStateRepository, StateType, UnexpectedStateError, create_pool, is_retryable
from tests.conftest import Pool
from tests.distributed import CitusDatabases
from tests.schedules import LIMIT, write_at_once
from tests.stored import read_stored
from tests.writers import ISOLATION, MIXED, defaults, random_steps

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING


async def rows_agree(pool: Pool, runs: list[UUID]) -> bool:
    """Whether the row of each run says what its newest state says, and there is none without a state."""
    stored, rows = await read_stored(pool, runs, "citus")
    newest = {one.state.flow_run_id: (one.state.id, one.state.type, one.state.name, one.state.timestamp) for one in stored}
    return newest == {row.id: row.current for row in rows}


@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_no_compare_and_set_wins_against_a_state_that_is_not_current(citus_dsn: str, isolation: str) -> None:
    """A state that a transaction appends and deletes is never seen, so all that was current at any time is in the history at the end."""
    runs, wins, transactions = [uuid4() for _ in range(3)], dict[UUID, UUID](), 0
    random = Random(0)

    async with asyncio.timeout(LIMIT), create_pool(citus_dsn, max_size=16, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool, layout="citus")
        for run in runs:
            await states.create_flow_run_state(run, PENDING)

        async def compare_and_set() -> None:
            while len(wins) < 300:
                current = await states.read_current_flow_run_state(random.choice(runs))
                assert current is not None
                try:
                    won = await states.create_flow_run_state(current.flow_run_id, RUNNING, expected=current.id)
                except (UnexpectedStateError, ContentionError):
                    continue
                wins[won.id] = current.id

        async def append_twice_and_delete_the_first() -> None:
            nonlocal transactions
            while len(wins) < 300:
                if transactions > len(wins) / 3:  # or nobody else would win
                    await asyncio.sleep(0.001)
                    continue
                async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                    mine, run = FlowRunStateRepository(connection, layout="citus"), random.choice(runs)
                    first = await mine.create_flow_run_state(run, PENDING)
                    await mine.create_flow_run_state(run, RUNNING)
                    await mine.delete_flow_run_state(first.id)
                transactions += 1

        await asyncio.gather(*[compare_and_set() for _ in range(12)], *[append_twice_and_delete_the_first() for _ in range(4)])
        histories = [await states.read_flow_run_states(run) for run in runs]
        followed = {state.id: before.id for history in histories for before, state in pairwise(history)}
        stale = {id_: expected for id_, expected in wins.items() if followed.get(id_) != expected}
        assert not stale, f"{len(stale)} of {len(wins)} wins"
        assert sum(map(len, histories)) == 3 + len(wins) + transactions
        assert await rows_agree(pool, runs)


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_of_those_who_make_and_delete_one_run_nobody_is_told_what_is_not_so(citus_dsn: str, isolation: str) -> None:
    run, wins = uuid4(), 0
    async with asyncio.timeout(LIMIT), create_pool(citus_dsn, max_size=8, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool, layout="citus")

        async def come_and_go() -> None:
            nonlocal wins
            while wins < 200:
                try:
                    state = await states.create_flow_run_state(run, RUNNING, expected=None)
                except (UnexpectedStateError, ContentionError):
                    continue
                assert await states.delete_flow_run_state(state.id)
                wins += 1

        await asyncio.gather(*[come_and_go() for _ in range(8)])
        assert await states.read_flow_run_states(run) == []
        assert await pool.fetch("select from flow_run where id = $1", run) == []


@pytest.mark.parametrize("runs", [2, 8])
@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_many_steps_of_many_writers_leave_a_right_history(citus_dsn: str, isolation: str, runs: int) -> None:
    random = Random(isolation)
    plan = [[step for step in random_steps(random, 25) if not (step.kind == "prune" and step.pick % 4)] for _ in range(12)]  # none that keeps
    async with write_at_once(citus_dsn, plan, runs, isolation, layout="citus") as writers:
        assert await writers.problems() == []


async def test_writers_of_two_runs_in_opposite_orders_do_not_wait_for_ever(pool: Pool) -> None:
    """The runs may be on two servers, of which neither sees a deadlock: Citus does."""
    runs, turn = [uuid4(), uuid4()], asyncio.Barrier(2)
    states = FlowRunStateRepository(pool, layout="citus")
    for run in runs:
        await states.create_flow_run_state(run, PENDING)

    async def both(first: UUID, second: UUID) -> None:
        async with pool.acquire() as connection, connection.transaction():
            mine = FlowRunStateRepository(connection, layout="citus")
            await mine.create_flow_run_state(first, RUNNING)
            await turn.wait()
            await mine.create_flow_run_state(second, RUNNING)

    async with asyncio.timeout(LIMIT):
        done = await asyncio.gather(both(*runs), both(*reversed(runs)), return_exceptions=True)
    errors = [one for one in done if one is not None]
    # Where both are on one worker, its own look for deadlocks may end the one and Citus's the other.
    assert errors
    assert all(isinstance(error, asyncpg.DeadlockDetectedError) and is_retryable(error) for error in errors)
    assert [len(await states.read_flow_run_states(run)) for run in runs] == [3 - len(errors)] * 2


async def test_a_worker_that_ends_a_session_in_mid_append(pool: Pool, citus_dsn: str, citus_databases: CitusDatabases) -> None:
    """An append waits for a run that is held, and its session on the worker is ended there: nothing is stored, and it may be done again."""
    states, run = FlowRunStateRepository(pool, layout="citus"), uuid4()
    first = await states.create_flow_run_state(run, PENDING)
    worker = await citus_databases.on_worker_of(citus_dsn, run)
    try:
        for ends in ("the append", "a transaction"):
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                mine = FlowRunStateRepository(connection, layout="citus")
                await mine.create_flow_run_state(run, RUNNING)
                append = asyncio.ensure_future(states.create_flow_run_state(run, RUNNING))
                async with asyncio.timeout(LIMIT):
                    while not (waiting := await worker.fetchval(WAITING)):  # noqa: ASYNC110 (the server tells nobody)
                        await asyncio.sleep(0.01)
                    if ends == "the append":
                        await worker.execute("select pg_terminate_backend($1::int)", waiting)
                        with pytest.raises(asyncpg.PostgresError) as caught:
                            await append
                        assert is_retryable(caught.value), repr(caught.value)
                        await transaction.rollback()
                    else:
                        await worker.execute("select pg_terminate_backend(held) from unnest(pg_blocking_pids($1::int)) as held", waiting)
                        second = await append
                        with pytest.raises(asyncpg.PostgresError) as caught:
                            await mine.create_flow_run_state(run, RUNNING)
                        assert is_retryable(caught.value), repr(caught.value)
                        await transaction.rollback()
            assert await states.read_flow_run_states(run) == [first] + [second for _ in range(ends == "a transaction")]
            assert await rows_agree(pool, [run])
    finally:
        await worker.close()


WAITING = """
select pid
  from pg_stat_activity
 where datname = current_database()
   and wait_event_type = 'Lock'
   and query like '%append_flow_run_state%'
"""
