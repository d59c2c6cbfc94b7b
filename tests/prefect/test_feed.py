"""Prefect's states as a feed tells them, while Prefect writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from uuid import UUID

import asyncpg
from prefect.server import models, schemas

from flowstates import FlowRunStateFeed
from tests.prefect.conftest import Clone, PrefectOn
from tests.prefect.rest import assert_shown, posted, schedule
from tests.prefect.test_questions import Sides, sides

LIMIT = 300  # seconds, for what would never end
WALK = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "RUNNING", "COMPLETED")


async def orchestrate(prefect: Sides, dice: Random) -> None:
    """Runs through Prefect's rules and routes, and in transactions of its models that last, of which some are undone."""
    flow = UUID((await posted(prefect.rest, "/flows/", {"name": "load"}))["id"])
    for _ in range(5):
        async with prefect.prefect.session_context() as session:
            run = await models.flow_runs.create_flow_run(session, schemas.core.FlowRun(flow_id=flow))
            await session.commit()
        for type_ in WALK:
            if dice.random() < 0.5:
                await prefect.set_state(run.id, type_)
                continue
            async with prefect.prefect.session_context() as session:
                state = schemas.states.State(type=schemas.states.StateType(type_))
                await models.flow_runs.set_flow_run_state(session, run.id, state, force=True)
                await asyncio.sleep(dice.random() * 0.1)
                await (session.rollback() if dice.random() < 0.2 else session.commit())


async def test_beside_a_prefect_that_writes_every_state_is_told_once_as_prefect_shows_it(clone: Clone, prefect_on: PrefectOn, empty: str) -> None:
    dsn = await clone(empty)
    async with asyncio.timeout(LIMIT), sides(dsn, prefect_on) as both, asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        writers = asyncio.gather(*(orchestrate(both, Random(seed)) for seed in range(4)), schedule(both.rest, "nightly", {"cron": "0 1 * * *"}, 10))
        told = []
        position, stored = None, None
        feed = FlowRunStateFeed(pool, layout="prefect", clock_slack=1.0)
        while stored is None or stored - {state.id for state in told}:
            if writers.done() and stored is None:
                await writers
                stored = {row["id"] for row in await pool.fetch("select id from flow_run_state")}
            page = await feed.read_page(position, limit=10)
            told += page.states
            position = page.position
            if not page.states:
                await asyncio.sleep(0.05)
        assert Counter(state.id for state in told) == Counter(stored)
        shown = {}
        for run in {state.flow_run_id for state in told}:
            answer = await both.rest.get("/flow_run_states/", params={"flow_run_id": str(run)})
            shown |= {UUID(state["id"]): state for state in answer.json()}
        for state in told:
            assert_shown(state, shown[state.id])
