"""Prefect's own client reads from the router, unchanged."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from flowstates import FlowRunStateRepository
from flowstates.values import Layout
from flowstates.web import create_router
from tests.conftest import Pool
from tests.inserted import insert
from tests.web.made import a_day
from tests.web.serving import serving


@pytest.fixture
async def client(states: FlowRunStateRepository) -> AsyncIterator[PrefectClient]:
    app = FastAPI()
    app.include_router(create_router(states, prefix="/api"))
    async with PrefectClient(app) as client:
        yield client


async def test_the_client_reads_histories_and_states(client: PrefectClient, own_pool: Pool, layout: Layout) -> None:
    made = a_day(datetime.now(UTC), runs=20)
    await insert(own_pool, layout, made)
    for run in {state.flow_run_id for state in made}:
        history = [state for state in made if state.flow_run_id == run]
        read = await client.read_flow_run_states(run)
        for found, new in zip(read, history, strict=True):
            assert (found.id, found.type.value, found.name, found.timestamp) == (new.id, new.type.value, new.name, new.timestamp)
            assert (found.message, found.data) == (new.message, new.data)
            assert found.state_details.scheduled_time == new.state_details.scheduled_time
            assert found.state_details.retriable == new.state_details.retriable
            assert (await client.read_flow_run_state(found.id)).model_dump() == found.model_dump()


async def test_the_client_is_told_what_is_not_there(client: PrefectClient) -> None:
    assert await client.read_flow_run_states(uuid4()) == []
    with pytest.raises(ObjectNotFound):
        await client.read_flow_run_state(uuid4())
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.read_flow_run_states("x")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 422


async def test_the_example_of_the_documentation(states: FlowRunStateRepository, own_pool: Pool, layout: Layout) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "web.md").read_text()
    (example,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    (made, *_) = a_day(datetime.now(UTC), runs=1)
    await insert(own_pool, layout, [made])
    async with serving(states) as address:
        names: dict[str, Any] = {}
        exec(compile(example.replace("http://127.0.0.1:8088", address.rstrip("/")), "web.md", "exec", dont_inherit=True), names)
        assert [state.id for state in await names["history"](str(made.flow_run_id))] == [made.id]
