import asyncio
from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import asyncpg
import pytest
from flowstates import FlowRunStateFeed, FlowRunStateRepository, new_run_id
from flowstates.testing import assert_history, history

from service import jobs, usage
from service.jobs import give_up_lost, submit, work
from service.workers import DAY, KEPT, prune, seconds_until, workers

ENDED = "SCHEDULED +1s RUNNING +5s COMPLETED"


async def states_of(pool: asyncpg.Pool, run: UUID, text: str) -> None:
    assert_history(await FlowRunStateRepository(pool).read_flow_run_states(run), text)


async def make(pool: asyncpg.Pool, text: str, *, ago: timedelta = timedelta(0)) -> UUID:
    """A job with a history that ended so long ago."""
    run = new_run_id()
    begin = datetime.now(UTC) - ago if ago else None
    await FlowRunStateRepository(pool).create_flow_run_states(history(run, text, begin=begin))
    await pool.execute("insert into job values ($1, 'north', 0)", run)
    return run


async def count_all(feed: FlowRunStateFeed) -> None:
    """Asks until nothing is left: transactions of other tests, on the same server, hold a feed while they last."""
    async with asyncio.timeout(60):
        while not (known := await feed.positions()) or known[0].states:
            await usage.count(feed)


async def counted(pool: asyncpg.Pool) -> dict[str, int]:
    return {row["customer"]: row["jobs"] for row in await pool.fetch("select * from usage")}


async def test_a_job_is_done(flowstates_pool: asyncpg.Pool) -> None:
    run = await submit(flowstates_pool, "north", 0)
    await states_of(flowstates_pool, run, "SCHEDULED")
    assert await work(flowstates_pool) is True
    await states_of(flowstates_pool, run, "SCHEDULED RUNNING COMPLETED")
    assert await work(flowstates_pool) is False


async def test_a_job_that_takes_too_long_fails(flowstates_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LIMIT", 0.01)
    run = await submit(flowstates_pool, "north", 60)
    assert await work(flowstates_pool) is True
    await states_of(flowstates_pool, run, "SCHEDULED RUNNING FAILED")


async def test_a_run_that_somebody_else_has_made_fails(flowstates_pool: asyncpg.Pool) -> None:
    run = new_run_id()
    await FlowRunStateRepository(flowstates_pool).create_flow_run_state(run, "SCHEDULED")
    assert await work(flowstates_pool) is True
    await states_of(flowstates_pool, run, "SCHEDULED RUNNING FAILED")


async def test_of_several_workers_one_does_a_job(flowstates_pool: asyncpg.Pool) -> None:
    run = await submit(flowstates_pool, "north", 0)
    assert sorted(await asyncio.gather(*[work(flowstates_pool) for _ in range(4)])) == [False, False, False, True]
    await states_of(flowstates_pool, run, "SCHEDULED RUNNING COMPLETED")


async def test_a_job_whose_worker_is_gone_has_crashed(flowstates_pool: asyncpg.Pool) -> None:
    lost = await make(flowstates_pool, "SCHEDULED +1s RUNNING +2m")
    busy = await make(flowstates_pool, "SCHEDULED +1s RUNNING +2s")
    assert await give_up_lost(flowstates_pool) is False
    await states_of(flowstates_pool, lost, "SCHEDULED +1s RUNNING CRASHED")
    await states_of(flowstates_pool, busy, "SCHEDULED +1s RUNNING")


async def test_each_job_is_counted_once(flowstates_pool: asyncpg.Pool) -> None:
    for text in [ENDED, "SCHEDULED +1s RUNNING +5s FAILED", "SCHEDULED +1s RUNNING"]:
        await make(flowstates_pool, text)
    feed = FlowRunStateFeed(flowstates_pool)
    # Here the block fails, and what it wrote is undone.
    await flowstates_pool.execute("alter table usage add constraint at_most check (jobs < 2)")
    with pytest.raises(asyncpg.CheckViolationError):
        await count_all(feed)
    assert await counted(flowstates_pool) == {}
    await flowstates_pool.execute("alter table usage drop constraint at_most")
    await asyncio.gather(*[count_all(feed) for _ in range(4)])
    assert await counted(flowstates_pool) == {"north": 2}


async def test_a_job_whose_run_can_be_no_trace_is_counted(
    flowstates_pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    far = await make(flowstates_pool, ENDED, ago=datetime.now(UTC) - datetime(9998, 1, 1, tzinfo=UTC))
    await make(flowstates_pool, ENDED)
    await count_all(FlowRunStateFeed(flowstates_pool))
    assert await counted(flowstates_pool) == {"north": 2}
    assert f"run {far} has no trace: states: [0] began at 9998-" in caplog.text


async def test_a_worker_that_ends_is_told_and_one_that_is_ended_is_not(
    flowstates_pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()
    async with workers(flowstates_pool, give_up=ended.set):
        await asyncio.sleep(0)
    assert not ended.is_set()
    await flowstates_pool.execute("alter table flow_run_state rename to elsewhere")
    async with workers(flowstates_pool, give_up=ended.set), asyncio.timeout(60):
        await ended.wait()
    assert 'relation "flow_run_state" does not exist' in caplog.text


async def test_old_jobs_go_with_their_runs(flowstates_pool: asyncpg.Pool) -> None:
    old, new = [await make(flowstates_pool, ENDED, ago=KEPT + ago) for ago in (DAY, -DAY)]
    await count_all(FlowRunStateFeed(flowstates_pool))
    await prune(flowstates_pool)
    await states_of(flowstates_pool, old, "")
    assert [row["run_id"] for row in await flowstates_pool.fetch("select run_id from job")] == [new]
    assert await counted(flowstates_pool) == {"north": 2}


async def test_jobs_that_were_pruned_too_early_do_not_stop_the_count(
    flowstates_pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    feed = FlowRunStateFeed(flowstates_pool)
    await make(flowstates_pool, ENDED)
    await count_all(feed)
    await make(flowstates_pool, ENDED, ago=KEPT + DAY)
    await prune(flowstates_pool)
    await make(flowstates_pool, ENDED)
    await count_all(feed)
    assert await counted(flowstates_pool) == {"north": 2}
    assert "jobs were pruned before they were counted" in caplog.text


@pytest.mark.parametrize(("now", "seconds"), [("02:59:00", 60), ("03:00:00", 86_400), ("03:00:01", 86_399)])
def test_three_at_night(now: str, seconds: float) -> None:
    at = datetime.fromisoformat(f"2030-01-31T{now}Z")
    assert seconds_until(time(3, tzinfo=UTC), at) == seconds
