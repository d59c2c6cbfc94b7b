"""A history that we thin, as Prefect sees it: what it answers about each run, what its rules say, what its vacuum finds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.server import models, schemas
from prefect.server.services import db_vacuum

from flowstates import FlowRunStateRetention, Keep, check
from tests.prefect.conftest import Clone, PrefectOn
from tests.prefect.test_questions import Sides, sides

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
OPEN = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
WALK = ("SCHEDULED", "PENDING", "RUNNING", "SCHEDULED", "PENDING", "RUNNING")


async def make_runs(prefect: Sides, age: timedelta = 30 * DAY) -> dict[str, UUID]:
    """A run in each state, with a walk of six states behind it."""
    begin = datetime.now(UTC).replace(microsecond=0) - age
    return {
        end: await prefect.make_history(*((type_, begin + number * MINUTE) for number, type_ in enumerate((*WALK, end)))) for end in (*ENDS, *OPEN)
    }


def of_runs(runs: dict[str, UUID]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [str(run) for run in runs.values()]}}}


def routes(runs: dict[str, UUID]) -> list[tuple[str, str, dict[str, Any] | None]]:
    """What the UI and the client ask about runs."""
    asked = of_runs(runs)
    month = {"history_start": str(datetime.now(UTC) - 60 * DAY), "history_end": str(datetime.now(UTC)), "history_interval_seconds": 86_400}
    found: list[tuple[str, str, dict[str, Any] | None]] = []
    for run in runs.values():
        found += [("get", f"/flow_runs/{run}", None), ("get", f"/flow_runs/{run}/graph", None), ("get", f"/flow_runs/{run}/graph-v2", None)]
        found += [("get", f"/flow_run_states/?flow_run_id={run}", None), ("post", f"/flow_runs/{run}/input/filter", {"prefix": ""})]
    for sort in (
        "ID_DESC",
        "START_TIME_ASC",
        "START_TIME_DESC",
        "EXPECTED_START_TIME_DESC",
        "NAME_ASC",
        "END_TIME_DESC",
        "NEXT_SCHEDULED_START_TIME_ASC",
    ):
        found.append(("post", "/flow_runs/filter", asked | {"sort": sort}))
    for type_ in (*ENDS, *OPEN):
        by_type = {"flow_runs": asked["flow_runs"] | {"state": {"type": {"any_": [type_]}}}}
        found += [("post", "/flow_runs/filter", by_type | {"sort": "ID_DESC"}), ("post", "/flow_runs/count", by_type)]
    found += [
        ("post", "/flow_runs/count", asked),
        ("post", "/flow_runs/paginate", asked | {"sort": "ID_DESC"}),
        ("post", "/flow_runs/history", asked | month),
        ("post", "/ui/flow_runs/history", asked | {"sort": "ID_DESC"}),
        ("post", "/ui/flow_runs/count-task-runs", {"flow_run_ids": [str(run) for run in runs.values()]}),
        ("post", "/task_runs/filter", asked),
        ("post", "/task_runs/count", asked),
        ("post", "/task_runs/history", asked | month),
        ("post", "/flows/filter", asked),
        ("post", "/flows/count", asked),
        ("post", "/flows/paginate", asked),
        ("post", "/artifacts/filter", asked),
        ("post", "/artifacts/count", asked),
        ("post", "/artifacts/latest/filter", asked),
        ("post", "/artifacts/latest/count", asked),
        ("post", "/logs/filter", {"logs": {"flow_run_id": {"any_": [str(run) for run in runs.values()]}}}),
        ("post", "/deployments/filter", asked),
        ("post", "/deployments/count", asked),
        ("post", "/work_queues/filter", {}),
        ("post", "/work_pools/filter", {}),
        ("post", "/ui/flows/count-deployments", {"flow_ids": []}),
    ]
    return found


async def answers(prefect: Sides, asked: list[tuple[str, str, dict[str, Any] | None]]) -> list[tuple[int, Any]]:
    found = []
    for method, path, body in asked:
        answer = await (prefect.rest.get(path) if method == "get" else prefect.rest.post(path, json=body))
        found.append((answer.status_code, without_now(answer.json())))
    return found


def without_now(value: Any) -> Any:
    """An answer without what moves with the clock where a run has not ended."""
    if isinstance(value, dict):
        moving = {"estimated_run_time", "estimated_start_time_delta", "sum_estimated_run_time", "sum_estimated_lateness"}
        if value.get("state_type") in OPEN:
            moving |= {"duration", "lateness"}
        return {key: without_now(item) for key, item in value.items() if key not in moving}
    return [without_now(item) for item in value] if isinstance(value, list) else value


def without_what_went(path: str, value: Any, left: set[str]) -> Any:
    """The markers of states in a graph, and the list of states, have those that are left."""
    if "/graph-v2" in path:
        return value | {"states": [state for state in value["states"] if state["id"] in left]}
    return [state for state in value if state["id"] in left] if path.startswith("/flow_run_states/?") else value


async def test_prefect_answers_as_before(clone: Clone, empty: str, prefect_on: PrefectOn) -> None:
    async with sides(await clone(empty), prefect_on) as prefect:
        runs = await make_runs(prefect)
        asked = routes(runs)
        before = await answers(prefect, asked)
        assert {status for status, _ in before} == {200}
        report = await FlowRunStateRetention(prefect.pool, layout="prefect").prune(older_than=7 * DAY, types=ENDS, keep=Keep(first=True))
        assert report.is_done
        counts = {end: len(await prefect.ours.read_flow_run_states(run)) for end, run in runs.items()}
        assert counts == dict.fromkeys(ENDS, 2) | dict.fromkeys(OPEN, 7)
        left = {str(state.id) for run in runs.values() for state in await prefect.ours.read_flow_run_states(run)}
        for (method, path, body), (_, first), (status, second) in zip(asked, before, await answers(prefect, asked), strict=True):
            shown = json.dumps(without_what_went(path, first, left), sort_keys=True)
            assert (status, json.dumps(second, sort_keys=True)) == (200, shown), (method, path, body)
        assert await check(prefect.pool, layout="prefect", data=True) == []
        await prefect.agree()


@pytest.mark.parametrize("next_", ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "CANCELLING", "PAUSED"])
async def test_a_run_goes_on_as_it_would_have(clone: Clone, empty: str, prefect_on: PrefectOn, next_: str) -> None:
    async with sides(await clone(empty), prefect_on) as prefect:
        thinned = await make_runs(prefect)
        await FlowRunStateRetention(prefect.pool, layout="prefect").prune(older_than=7 * DAY, keep=Keep())
        twins = await make_runs(prefect)
        counts = {end: len(await prefect.ours.read_flow_run_states(run)) for end, run in thinned.items()}
        assert counts == dict.fromkeys(ENDS, 1) | dict.fromkeys(OPEN, 7)
        for end, run in thinned.items():
            said = []
            for one in (twins[end], run):
                answer = await prefect.rest.post(f"/flow_runs/{one}/set_state", json={"state": {"type": next_}, "force": False})
                shown = answer.json()
                said.append((answer.status_code, shown.get("status"), shown.get("details", {}).get("reason"), (shown.get("state") or {}).get("type")))
            assert said[0] == said[1], end


async def test_prefects_vacuum_finds_nothing_that_we_left(clone: Clone, empty: str, prefect_on: PrefectOn) -> None:
    async with sides(await clone(empty), prefect_on) as prefect:
        runs = await make_runs(prefect, 100 * DAY)
        run = runs["COMPLETED"]
        history = await prefect.ours.read_flow_run_states(run)
        results = []
        for state in history[2:4]:
            async with prefect.prefect.session_context(begin_transaction=True) as session:
                artifact = schemas.core.Artifact(type="result", data={"a": 1}, flow_run_id=run)
                results.append((await models.artifacts.create_artifact(session, artifact)).id)
            await prefect.pool.execute("update flow_run_state set result_artifact_id = $1 where id = $2", results[-1], state.id)
        there = "select count(*) from artifact where id = any ($1)"
        retention = FlowRunStateRetention(prefect.pool, layout="prefect")
        await retention.prune(older_than=7 * DAY, keep=Keep(last=True))
        assert [state.id for state in await prefect.ours.read_flow_run_states(run)] == [*[state.id for state in history[2:4]], history[-1].id]
        assert await prefect.pool.fetchval(there, results) == 2
        await retention.prune(older_than=7 * DAY, keep=Keep(last=True), artifacts=True)
        assert await prefect.ours.read_flow_run_states(run) == history[-1:]
        assert await prefect.pool.fetchval(there, results) == 0
        # Its own limit is 90 days.
        await db_vacuum.vacuum_orphaned_artifacts(db=prefect.prefect)
        await db_vacuum.vacuum_old_flow_runs(db=prefect.prefect)
        for config in db_vacuum._MAINTENANCE_CONFIGS.values():
            await (await config.engine()).dispose()
        ended = [runs[end] for end in ENDS]
        assert await prefect.pool.fetchval("select count(*) from flow_run where id = any ($1)", ended) == 0
        assert await prefect.pool.fetchval("select count(*) from flow_run_state where flow_run_id = any ($1)", ended) == 0
