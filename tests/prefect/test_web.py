"""The router answers what Prefect's REST interface answers: the same status codes and the same bodies."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prefect.server.api.server import create_api_app, validation_exception_handler

from flowstates import FlowRunStateRepository, create_pool
from flowstates.web import create_router
from tests.prefect.conftest import PrefectOn
from tests.prefect.rest import known
from tests.prefect.seed import Seed


@pytest.fixture
async def ours(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    async with create_pool(dsn) as pool:
        app = FastAPI()
        app.include_router(create_router(FlowRunStateRepository(pool, layout="prefect")))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://prefect") as client:
            yield client


async def test_answers_to_whatever_is_asked_are_prefects(ours: httpx.AsyncClient, dsn: str, seed: Seed, prefect_on: PrefectOn) -> None:
    some = [run for run in seed.runs if run in seed.current][:2]
    paths = [
        f"/flow_run_states/{uuid4()}",
        "/flow_run_states/x",
        "/flow_run_states/5e0b7a4c9d314f6e8a2bc7d915e03f86",
        f"/flow_run_states/{{{uuid4()}}}",
        "/flow_run_states/",
        "/flow_run_states",
        f"/flow_run_states?flow_run_id={uuid4()}",
        f"/flow_run_states/?flow_run_id={uuid4()}",
        f"/flow_run_states/?flow_run_id=%7B{uuid4()}%7D",
        f"/flow_run_states/?flow_run_id=urn:uuid:{uuid4()}",
        f"/flow_run_states/?flow_run_id={uuid4()}&flow_run_id=x",
        f"/flow_run_states/?flow_run_id=x&flow_run_id={uuid4()}",
        *(f"/flow_run_states/?flow_run_id={text}" for text in ("", "x", "%00", "%F0", "1", "5e0b7a4c-9d31-4f6e-8a2b-c7d915e03f8", "%F0%9F%8E%89")),
        f"/flow_run_states/?flow_run={some[0]}",
    ]
    # As Prefect's server makes it, with the handler that says what of a request is wrong.
    app = create_api_app(fast_api_app_kwargs={"exception_handlers": {RequestValidationError: validation_exception_handler}}, ignore_cache=True)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with prefect_on(dsn), httpx.AsyncClient(transport=transport, base_url="http://prefect") as prefect:
        for path in paths:
            mine, theirs = await ours.get(path), await prefect.get(path)
            assert mine.status_code == theirs.status_code, path
            assert mine.headers.get("location") == theirs.headers.get("location"), path
            if theirs.content:
                assert mine.json() == theirs.json(), path
        for run in some:
            query = f"/flow_run_states/?flow_run_id={run}"
            mine, theirs = (await ours.get(query)).json(), (await prefect.get(query)).json()
            assert [{**state, "state_details": known(state["state_details"])}["id"] for state in mine] == [state["id"] for state in theirs]
            for state, shown in zip(mine, theirs, strict=True):
                assert list(state) == list(shown)
                assert {key: state[key] for key in state if key != "state_details"} == {key: shown[key] for key in shown if key != "state_details"}
                alone = await ours.get(f"/flow_run_states/{state['id']}")
                assert alone.json() == state


async def test_pages_show_whatever_is_stored(ours: httpx.AsyncClient, seed: Seed) -> None:
    histories = {run: [state for state in seed.states if state.flow_run_id == run] for run in seed.runs}
    for run, history in histories.items():
        page = await ours.get(f"/runs/{run}")
        assert page.status_code == (200 if history else 404), page.text
        assert page.text.count('<tr role="row" id="s-') == len(history)
    seen: list[str] = []
    query = "/"
    while query:
        page = await ours.get(query)
        assert page.status_code == 200, page.text
        seen += re.findall(r'href="runs/([0-9a-f-]{36})"', page.text)
        following = re.findall(r'rel="next" href="([^"]+)"', page.text)
        query = f"/{unescape(following[0])}" if following else ""
    assert sorted(seen) == sorted(str(run) for run in seed.current)
