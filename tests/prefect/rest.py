"""Prefect's REST interface in this process, and our records as it shows them."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
from prefect.server.api.server import create_api_app

from flowstates import FlowRunState
from tests.prefect.seed import EMPTY_DETAILS

_MOST_RUNS = 200  # of one answer of Prefect's


def in_process(*, raises: bool = True) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """Prefect's REST interface without a server: its start-up, and with that its services, does not run. Errors of it are raised, or are a 500."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_api_app(), raise_app_exceptions=raises), base_url="http://prefect")


async def posted(rest: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    answer = await rest.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def all_runs(rest: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Every run as Prefect shows it."""
    runs: list[dict[str, Any]] = []
    while found := await posted(rest, "/flow_runs/filter", {"sort": "ID_DESC", "limit": _MOST_RUNS, "offset": len(runs)}):
        runs += found
    return runs


async def schedule(rest: httpx.AsyncClient, name: str, schedule: dict[str, str], runs: int) -> None:
    """Lets Prefect make the next runs of a schedule."""
    flow = await posted(rest, "/flows/", {"name": name})
    deployment = await posted(rest, "/deployments/", {"name": name, "flow_id": flow["id"], "schedules": [{"schedule": schedule, "active": True}]})
    await posted(rest, f"/deployments/{deployment['id']}/schedule", {"min_runs": runs})


def known(details: dict[str, Any]) -> dict[str, Any]:
    """Our details as JSON, without the keys that Prefect drops."""
    return {key: details[key] for key in EMPTY_DETAILS}


def invents(record: FlowRunState) -> bool:
    """Whether Prefect makes up a time where it shows this state: see `scheduled_without_time` in test_differences."""
    return record.type == "SCHEDULED" and record.state_details.scheduled_time is None


def assert_shown(record: FlowRunState, shown: dict[str, Any]) -> None:
    """`to_rest()` is what Prefect's REST shows, but for the differences that have names."""
    mine = record.to_rest()
    assert list(mine) == list(shown)
    mine["state_details"] = known(mine["state_details"])
    if invents(record):
        assert shown["state_details"]["scheduled_time"] is not None
        shown = shown | {"state_details": shown["state_details"] | {"scheduled_time": None}}
    # Text tells 1, 1.0 and True apart.
    assert json.dumps(mine, sort_keys=True) == json.dumps(shown, sort_keys=True)
