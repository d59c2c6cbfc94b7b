"""Old runs go on Citus, each where it is; and what is refused there by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunState,
    FlowRunStateFeed,
    FlowRunStateRepository,
    FlowRunStateRetention,
    InvalidInputError,
    Keep,
    NewFlowRunState,
    StateType,
    batched,
    check,
    check_plans,
    create_pool,
)
from flowstates.models import read_flow_run_states
from tests.conftest import Pool
from tests.test_sqlalchemy import engine_on

OLD, COMPLETED, RUNNING = datetime(2024, 3, 5, tzinfo=UTC), StateType.COMPLETED, StateType.RUNNING
DAY = timedelta(days=1)


async def a_run(pool: Pool, day: int, type_: StateType, states: int = 3) -> UUID:
    run = uuid4()
    types = [RUNNING] * (states - 1) + [type_]
    new = [NewFlowRunState(flow_run_id=run, type=one, timestamp=OLD + day * DAY + number * timedelta(minutes=1)) for number, one in enumerate(types)]
    await FlowRunStateRepository(pool, layout="citus").create_flow_run_states(new)
    return run


async def left(pool: Pool, runs: list[UUID]) -> list[int]:
    """How many states each has, whose row is there with them."""
    rows = await pool.fetch("select flow_run_id, count(*)::int as states from flow_run_state where flow_run_id = any ($1) group by 1", runs)
    counts = {row["flow_run_id"]: row["states"] for row in rows}
    assert {row["id"] for row in await pool.fetch("select id from flow_run where id = any ($1)", runs)} == counts.keys()
    return [counts.get(run, 0) for run in runs]


async def test_whole_runs_go_in_batches(own_dsn: str, tmp_path: Path) -> None:
    async with create_pool(own_dsn, max_size=3) as pool:
        runs = [await a_run(pool, day, COMPLETED) for day in range(10)]
        others = [await a_run(pool, 0, RUNNING), await a_run(pool, 20, COMPLETED), await a_run(pool, 0, StateType.FAILED)]
        retention = FlowRunStateRetention(pool, layout="citus")
        asked: dict[str, Any] = {"before": OLD + 15 * DAY, "types": [COMPLETED], "batch_size": 7}
        dry = await retention.prune(**asked, dry_run=True)
        assert (dry.runs, dry.states, dry.bytes, dry.is_done) == (10, 30, None, True)
        seen: list[int] = []
        first = await retention.prune(**asked, max_batches=1, on_batch=lambda report: seen.append(report.states))
        assert (first.runs, first.states, first.batches, first.is_done) == (1, 3, 1, False)
        assert await left(pool, runs) == [0, *[3] * 9]
        archive = tmp_path / "archive.jsonl"
        rest = await retention.prune(**asked, cursor=first.cursor, archive=archive)
        assert (rest.runs, rest.states, rest.passed, rest.held, rest.is_done) == (9, 27, 0, {}, True)
        assert rest.bytes is not None
        assert rest.bytes >= 27 * 100
        assert rest.oldest is not None
        assert (rest.oldest.flow_run_id, rest.oldest.why) in {(others[0], "type"), (others[2], "type")}
        archived = [json.loads(line)["flow_run_id"] for line in archive.read_text().splitlines()]
        assert sorted(archived) == sorted(str(run) for run in runs[1:] for _ in range(3))
        assert await left(pool, [*runs, *others]) == [*[0] * 10, 3, 3, 3]
        assert await check(pool, layout="citus", data=True) == []


async def test_what_is_locked_is_passed_and_what_is_referenced_is_held(own_dsn: str) -> None:
    async with create_pool(own_dsn, max_size=3) as pool:
        runs = [await a_run(pool, day, COMPLETED) for day in range(6)]
        await pool.execute("create table note (run uuid primary key)")
        await pool.execute("select create_distributed_table('note', 'run', colocate_with => 'flow_run')")
        await pool.execute("alter table note add constraint of_a_run foreign key (run) references flow_run (id)")
        await pool.execute("insert into note values ($1)", runs[1])
        retention = FlowRunStateRetention(pool, layout="citus")
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await FlowRunStateRepository(connection, layout="citus").create_flow_run_state(runs[4], RUNNING)
            report = await retention.prune(before=OLD + 9 * DAY)
            await transaction.commit()
        assert (report.runs, report.states, report.passed, report.held, report.is_done) == (4, 12, 1, {"23503": 1}, True)
        assert report.oldest is not None
        assert (report.oldest.flow_run_id, report.oldest.why) == (runs[1], "held")
        assert await left(pool, runs) == [0, 3, 0, 0, 4, 0]


async def test_in_a_transaction_of_the_callers(own_dsn: str) -> None:
    async with create_pool(own_dsn, max_size=3) as pool:
        runs = [await a_run(pool, day, COMPLETED) for day in range(4)]
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            archived: list[FlowRunState] = []

            async def archive(states: list[FlowRunState]) -> None:
                archived.extend(states)

            report = await FlowRunStateRetention(connection, layout="citus").prune(before=OLD + 9 * DAY, batch_size=4, archive=archive)
            assert (report.runs, len(archived)) == (4, 12)
            await transaction.rollback()
        assert await left(pool, runs) == [3] * 4


REFUSED: dict[str, tuple[str, Callable[[Pool], Any]]] = {
    "a feed": ("layout", lambda pool: FlowRunStateFeed(pool, layout="citus")),
    "plans": ("layout", lambda pool: check_plans(pool, layout="citus")),
    "thinning": ("keep", lambda pool: FlowRunStateRetention(pool, layout="citus").prune(older_than=DAY, keep=Keep(last=True))),
    "standbys": ("max_lag", lambda pool: FlowRunStateRetention(pool, layout="citus").prune(older_than=DAY, max_lag=1)),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_is_refused_by_name(pool: Pool, what: str) -> None:
    field, ask = REFUSED[what]
    with pytest.raises(InvalidInputError, match="on Citus") as caught:
        await ask(pool)
    assert caught.value.field == field


async def test_creates_that_go_together_are_not_for_these_tables(pool: Pool) -> None:
    async with batched(pool) as states:
        with pytest.raises(asyncpg.UndefinedColumnError) as caught:
            await states.create_flow_run_state(uuid4(), RUNNING)
    assert "layout='citus'" in " ".join(caught.value.__notes__)


async def test_a_session_with_generic_plans_is_told_why_it_is_refused(citus_dsn: str, pool: Pool) -> None:
    connection = await asyncpg.connect(citus_dsn, server_settings={"plan_cache_mode": "force_generic_plan"})
    states = FlowRunStateRepository(connection, layout="citus")
    run = uuid4()
    await states.create_flow_run_state(run, RUNNING)
    for ask in (states.create_flow_run_state(run, RUNNING), states.read_current_flow_run_states([run])):
        with pytest.raises(asyncpg.FeatureNotSupportedError) as caught:
            await ask
        assert "plan_cache_mode" in " ".join(caught.value.__notes__)
    await connection.close()
    assert len(await FlowRunStateRepository(pool, layout="citus").read_flow_run_states(run)) == 1


async def test_models_find_the_layout_by_themselves(citus_dsn: str, pool: Pool) -> None:
    state = await FlowRunStateRepository(pool, layout="citus").create_flow_run_state(uuid4(), RUNNING)
    engine = engine_on(citus_dsn)
    async with engine.connect() as connection:
        assert await read_flow_run_states(connection, state.flow_run_id) == [state]
    await engine.dispose()


async def test_two_prunes_at_once_do_not_hurt_each_other(own_dsn: str) -> None:
    async with create_pool(own_dsn, max_size=6) as pool:
        runs = [await a_run(pool, day, COMPLETED) for day in range(30)]
        retention = FlowRunStateRetention(pool, layout="citus")
        reports = await asyncio.gather(*[retention.prune(before=OLD + 90 * DAY, batch_size=10) for _ in range(3)])
        assert sum(report.runs for report in reports) == 30
        assert await left(pool, runs) == [0] * 30
