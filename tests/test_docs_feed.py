"""What docs/feed.md shows is run here, as it stands there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from flowstates import FlowRunStateFeed, FlowRunStateRepository, StateType, create_pool
from tests.conftest import Pool
from tests.examples import BLOCK, names_of
from tests.feeds import told
from tests.test_feed_consume import own

pytestmark = pytest.mark.once

__all__ = ["own"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "feed.md"
BLOCKS = BLOCK.findall(PAGE.read_text())
FOLLOW, SERVICE, PRUNED = [code for language, code in BLOCKS if language == "python"]
(HOLDERS,) = [code for language, code in BLOCKS if language == "sql"]


async def test_following(own: Pool, own_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATABASE_URL", own_database)
    monkeypatch.chdir(tmp_path)
    states = FlowRunStateRepository(own)
    for message in ("first", "second"):
        await states.create_flow_run_state(uuid4(), StateType.RUNNING)
        await states.create_flow_run_state(uuid4(), StateType.FAILED, message=message)
        await asyncio.wait_for(names_of(FOLLOW)["watch"](1), 200)
        assert capsys.readouterr().out.split()[1:] == ["FAILED", message]


def test_a_worker_in_a_service(own_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", own_dsn)
    run = uuid4()

    async def billed() -> None:
        async with create_pool(own_dsn) as pool:
            await FlowRunStateRepository(pool).create_flow_run_state(run, StateType.COMPLETED)
            while await pool.fetchval("select run_id from bill") != run:  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)

    with TestClient(names_of(SERVICE)["app"]):
        asyncio.run(asyncio.wait_for(billed(), 200))


async def test_going_on_after_a_prune(own: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    feed, states, go_on = FlowRunStateFeed(own), FlowRunStateRepository(own), names_of(PRUNED)["go_on"]
    await states.create_flow_run_state(uuid4(), StateType.RUNNING)
    gone = await states.create_flow_run_state(uuid4(), StateType.RUNNING)
    await told(feed, None, [gone.id])
    await feed.move("billing", (await feed.read_page(limit=1)).position)
    await states.delete_flow_run_states(flow_run_ids=[gone.flow_run_id])
    for said in ("billing: states after this position", "0\n"):
        await go_on(feed, "billing")
        assert capsys.readouterr().out.startswith(said)


async def test_who_holds_a_feed(own: Pool) -> None:
    for statement in HOLDERS.split(";"):
        await own.fetch(statement)
