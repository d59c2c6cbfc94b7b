"""The router over ASGI: its answers, on both layouts, whatever is asked."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import APIKeyQuery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flowstates import FlowRunStateRepository, InvalidInputError, NewFlowRunState, StateType, create_pool
from flowstates.engine import cursors
from flowstates.engine.cursors import Cursor
from flowstates.values import Layout
from flowstates.web import create_router
from tests.conftest import Pool
from tests.inserted import insert
from tests.model import LAYOUTS, prepare

pytestmark = pytest.mark.versions

Client: TypeAlias = httpx2.AsyncClient

NOW = datetime.now(UTC)
HOSTILE = "<script>alert(1)</script>&amp;\"'\u202e\u2028</title>{{ 7 * 7 }}<!--"
RUNS = [UUID(int=(7 << 76) + (2 << 62) + number) for number in range(4)]
_R, _F, _C = StateType.RUNNING, StateType.FAILED, StateType.COMPLETED


def minutes_ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


STATES = [
    NewFlowRunState(flow_run_id=RUNS[0], type=StateType.SCHEDULED, timestamp=minutes_ago(300), message="nightly\nimport"),
    NewFlowRunState(flow_run_id=RUNS[0], type=_R, timestamp=minutes_ago(290), state_details={"retriable": True, "from_tomorrow": [1]}),
    NewFlowRunState(flow_run_id=RUNS[0], type=_C, timestamp=minutes_ago(200), data={"rows": [1, None, "é"]}),
    NewFlowRunState(flow_run_id=RUNS[1], type=_R, timestamp=minutes_ago(100), name="Retrying"),
    NewFlowRunState(flow_run_id=RUNS[2], type=_F, timestamp=minutes_ago(50), name=HOSTILE, message=f"{HOSTILE}\n{HOSTILE}", data={HOSTILE: HOSTILE}),
    NewFlowRunState(flow_run_id=RUNS[3], type=StateType.PENDING, timestamp=minutes_ago(10)),
]


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
        yield client


def app_of(states: Any, **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(create_router(states, **options))
    return app


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture
async def filled(own_dsn: str, layout: Layout) -> AsyncIterator[Pool]:
    """A database with the states."""
    connection = await asyncpg.connect(own_dsn)
    await prepare(connection, layout)
    await insert(connection, layout, STATES)
    await connection.close()
    async with create_pool(own_dsn) as pool:
        yield pool


@pytest.fixture
async def client(filled: Pool, layout: Layout) -> AsyncIterator[Client]:
    async with client_of(app_of(FlowRunStateRepository(filled, layout=layout))) as client:
        yield client


# JSON


async def test_prefects_routes(client: Client, filled: Pool, layout: Layout) -> None:
    states = FlowRunStateRepository(filled, layout=layout)
    for new in STATES:
        stored = await states.read_flow_run_state(new.id)
        assert stored is not None
        answer = await client.get(f"/flow_run_states/{new.id}")
        assert (answer.status_code, answer.json()) == (200, stored.to_rest())
        assert list(answer.json()) == ["id", "type", "name", "timestamp", "message", "data", "state_details"]
    for run in RUNS:
        history = [state.to_rest() for state in await states.read_flow_run_states(run)]
        assert (await client.get("/flow_run_states/", params={"flow_run_id": str(run)})).json() == history
        assert (await client.get(f"/flow_runs/{run}/states")).json() == history
    for path in (f"/flow_run_states/?flow_run_id={uuid4()}", f"/flow_runs/{uuid4()}/states"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, [])


async def test_what_is_not_there_and_what_is_no_id_is_as_prefect_has_it(client: Client) -> None:
    unknown = await client.get(f"/flow_run_states/{uuid4()}")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Flow run state not found"})
    for path in ("/flow_run_states/x", "/flow_runs/x/states", "/runs/x"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    for query in ("", "?flow_run_id=", "?flow_run_id=x", "?flow_run_id=%00", f"?flow_run_id={uuid4()}&flow_run_id=7"):
        answer = await client.get(f"/flow_run_states/{query}")
        assert answer.status_code == 422
        assert list(answer.json()) == ["exception_message", "exception_detail", "request_body"]
        assert answer.json()["exception_detail"][0]["loc"] == ["query", "flow_run_id"]
    assert (await client.get(f"/flow_run_states?flow_run_id={RUNS[0]}")).status_code == 307


async def test_a_page_of_states_has_filters_and_cursors(client: Client) -> None:
    async def ids(query: str) -> list[str]:
        answer = await client.get(f"/flow_runs/states?{query}")
        assert answer.status_code == 200, answer.text
        return [state["id"] for state in answer.json()["states"]]

    def of(*numbers: int) -> list[str]:
        return [str(STATES[number].id) for number in numbers]

    assert await ids("") == of(0, 1, 2, 3, 4, 5)
    assert await ids("type=RUNNING&type=PENDING") == of(1, 3, 5)
    assert await ids("name=Retrying&name=Completed") == of(2, 3)
    assert await ids(f"flow_run_id={RUNS[0]}&flow_run_id={RUNS[3]}&terminal=false") == of(0, 1, 5)
    assert await ids(f"id={STATES[4].id}") == of(4)
    assert await ids("current=true&order=time&newest_first=true") == of(5, 4, 3, 2)
    assert await ids("since=150m&until=20m") == of(3, 4)
    assert await ids(f"since={quote(minutes_ago(100).isoformat())}&order=time") == of(3, 4, 5)
    page = (await client.get("/flow_runs/states?limit=4")).json()
    assert (len(page["states"]), page["previous"]) == (4, None)
    assert page["states"][0]["flow_run_id"] == str(RUNS[0])
    assert await ids(f"limit=4&cursor={page['next']}") == of(4, 5)


class Tenant(BaseModel):
    tenant: str = ""


def whose(of: Annotated[Tenant, Query()]) -> None:
    """Takes parameters of its own, as a model."""


def who(user_name: str = "") -> None:
    """Takes one."""


@pytest.mark.parametrize("where", ["router", "include_router", "application"])
async def test_a_parameter_of_a_dependency_passes_wherever_that_is_declared(filled: Pool, layout: Layout, where: str) -> None:
    depends = [Depends(APIKeyQuery(name="key")), Depends(whose), Depends(who)]
    app = FastAPI(dependencies=depends if where == "application" else [])
    router = create_router(FlowRunStateRepository(filled, layout=layout), dependencies=depends if where == "router" else [])
    app.include_router(router, dependencies=depends if where == "include_router" else [])
    async with client_of(app) as client:
        for path in ("/flow_runs/states", "/", f"/runs/{RUNS[0]}"):
            assert (await client.get(f"{path}?key=sesame&user_name=me&tenant=a")).status_code == 200
            assert (await client.get(path)).status_code in (401, 403)


WRONG = ["types=RUNNING", "status=RUNNING", "Type=RUNNING", "from=2h", "sinse=2h", "name=a&nmae=b", "cursor=x&cursor=y", "since=2h&since=1h"]
WRONG_OF_PAGES = ["name=a&name=b", "run=x&run=y", "flow_run_id=x"]
WRONG_OF_STATES = ["current=true&current=false", "limit=1&limit=2", "run=x", "ids=x", "since=", "until="]


async def test_a_parameter_that_would_let_more_through_than_is_meant_is_refused_by_name(client: Client) -> None:
    for path, queries in (
        ("/flow_runs/states", WRONG + WRONG_OF_STATES),
        ("/", WRONG + WRONG_OF_PAGES),
        (f"/runs/{RUNS[0]}", ["last=1&last=2", "lasts=1"]),
    ):
        for query in queries:
            answer = await client.get(f"{path}?{query}")
            said = answer.json()["detail"][0]["msg"] if path == "/flow_runs/states" else answer.text
            assert answer.status_code == 422, (path, query)
            assert any(f"{part.partition('=')[0]}: is " in said for part in query.split("&")), (path, query, said)
    # A form sends its empty fields.
    assert (await client.get("/?name=&run=&since=&until=&type=RUNNING&type=FAILED")).status_code == 200


async def test_a_plus_that_was_not_escaped_is_one(client: Client) -> None:
    for since in ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.5+0000"):
        for path in ("/flow_runs/states", "/"):
            assert (await client.get(f"{path}?since={since}")).status_code == 200, since


async def test_what_another_method_is_told(client: Client) -> None:
    for path in ("/", f"/runs/{RUNS[0]}", f"/flow_run_states/{STATES[0].id}", "/flow_run_states/", "/flow_runs/states"):
        for answer in (await client.post(path), await client.options(path)):
            assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


async def test_a_page_of_large_states_is_bounded(client: Client, filled: Pool, layout: Layout) -> None:
    run, large = uuid4(), "x" * 20_000
    times = [minutes_ago(9 - number / 100) for number in range(200)]
    await insert(filled, layout, [NewFlowRunState(flow_run_id=run, type=_R, timestamp=at, message=f"first\n{large}", data=[large]) for at in times])
    page = (await client.get(f"/runs/{run}?last=1000")).text
    assert len(page) < 3_000_000
    assert "more characters" in page


async def test_head_is_answered(client: Client) -> None:
    paths = ["/", f"/runs/{RUNS[0]}", f"/flow_run_states/{STATES[0].id}", f"/flow_run_states/?flow_run_id={RUNS[0]}"]
    for path in [*paths, "/flow_runs/states", f"/flow_runs/{RUNS[0]}/states"]:
        assert (await client.head(path)).status_code == 200, path
    assert (await client.head("/flow_runs/states?types=x")).status_code == 422


REFUSED = [
    "limit=0", "limit=1001", "limit=x", "limit=99999999999999999999999", "order=sideways", "newest_first=perhaps", "terminal=2", "type=running",
    "id=x", "flow_run_id=%F0", "name=%00", "since=soon", "since=2030-01-31", "since=2030-01-31T12:00", "since=0001-01-01T00:00:00%2B14:00",
    "until=9999-12-31T23:59:59-12:00", "since=999999w", "cursor=x", "cursor=%00", "cursor=", "since=2h&cursor=x", "until=15m&cursor=x",
]  # fmt: skip


async def test_what_cannot_be_asked_for_is_422_and_says_why(client: Client) -> None:
    for query in REFUSED:
        answer = await client.get(f"/flow_runs/states?{query}")
        assert answer.status_code == 422, query
        (first, *_) = answer.json()["detail"]
        assert first["loc"][1] == query.partition("=")[0]
        assert first["msg"]


def forged(layout: str, *position: str) -> str:
    """A cursor by somebody who knows how they are made."""
    return cursors.encode(Cursor((position[0], position[1]), backwards=False), f"{layout} run False {{}}")


async def test_a_forged_cursor_is_422(client: Client, layout: Layout) -> None:
    assert (await client.get(f"/flow_runs/states?cursor={forged(layout, str(UUID(int=0)), '2024-01-01T00:00:00+00:00')}")).status_code == 200
    for position in (("x", "y"), (str(UUID(int=0)), "now"), (str(UUID(int=0)), "'; drop table flow_run")):
        assert (await client.get(f"/flow_runs/states?cursor={forged(layout, *position)}")).status_code == 422


async def test_a_row_that_json_cannot_have_is_named(client: Client, filled: Pool, layout: Layout) -> None:
    state = STATES[2]
    await filled.execute(f"update flow_run_state set data = '[{10**400}.5]' where id = $1", state.id)
    for path in (f"/flow_run_states/{state.id}", f"/flow_runs/{RUNS[0]}/states", "/flow_runs/states"):
        answer = await client.get(path)
        assert answer.status_code == 500
        assert str(state.id) in answer.json()["detail"]


@pytest.mark.parametrize("layout", ["prefect"], indirect=True)
async def test_what_an_artifact_may_hold_is_answered_and_shown(client: Client, filled: Pool) -> None:
    deep = "[" * 400 + "]" * 400
    for text, shown in (('["\\ud800"]', "\\ud800"), ('{"\\u0000": "\\u0007"}', "\\u0000"), (deep, "[")):
        artifact = await filled.fetchval("insert into artifact (data) values ($1::text::json) returning id", text)
        await filled.execute("update flow_run_state set data = null, result_artifact_id = $1 where id = $2", artifact, STATES[2].id)
        answer = await client.get(f"/flow_run_states/{STATES[2].id}")
        assert (answer.status_code, answer.json()["data"]) == (200, json.loads(text))
        page = await client.get(f"/runs/{RUNS[0]}")
        assert page.status_code == 200
        assert shown in page.text


# The caller's


async def test_the_caller_brings_authentication_and_no_route_is_open_without_it(filled: Pool, layout: Layout) -> None:
    def let_in(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer sesame":
            raise HTTPException(401, "who are you?")

    app = app_of(FlowRunStateRepository(filled, layout=layout), prefix="/states", dependencies=[Depends(let_in)])
    paths = [path.replace("{id}", str(RUNS[0])) for path in app.openapi()["paths"]]
    paths += ["/states/", f"/states/runs/{RUNS[0]}"]
    assert len(paths) == 6
    async with client_of(app) as client:
        for path in paths:
            assert (await client.get(path)).status_code == 401, path
            answer = await client.get(path, headers={"authorization": "Bearer sesame"})
            assert answer.status_code != 401, path


async def test_a_dependency_gives_a_repository_whose_pool_is_opened_later(filled: Pool, layout: Layout) -> None:
    def repository(request: Request) -> FlowRunStateRepository:
        return FlowRunStateRepository(request.app.state.pool, layout=layout)

    app = app_of(repository, prefix="/states")
    app.state.pool = filled
    async with client_of(app) as client:
        assert len((await client.get(f"/states/flow_runs/{RUNS[0]}/states")).json()) == 3
        assert (await client.get("/states/")).status_code == 200


async def test_what_gives_no_repository_is_refused_by_name(filled: Pool) -> None:
    async with client_of(app_of(lambda: filled)) as client:
        with pytest.raises(InvalidInputError, match=r"^states: gave a Pool, not a FlowRunStateRepository$"):
            await client.get("/flow_runs/states")


def test_what_gives_no_repository_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="states: is an int, not a FlowRunStateRepository or a function that gives one"):
        create_router(5)  # type: ignore[arg-type]


async def test_nothing_changes_data(client: Client) -> None:
    for path in (
        "/",
        f"/runs/{RUNS[0]}",
        f"/flow_run_states/{STATES[0].id}",
        "/flow_run_states/",
        "/flow_runs/states",
        f"/flow_runs/{RUNS[0]}/states",
    ):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert (await client.request(method, path)).status_code == 405, (method, path)


async def test_a_database_that_does_not_answer_is_503(filled: Pool, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstates.web.router.PATIENCE", 0.0)
    monkeypatch.setattr("flowstates.web.pages.PATIENCE", 0.0)
    monkeypatch.setattr("flowstates.web.reading.PATIENCE", 0.0)
    async with client_of(app_of(FlowRunStateRepository(filled, layout=layout))) as client:
        for path in ("/", f"/runs/{RUNS[0]}", f"/flow_run_states/{STATES[0].id}", f"/flow_run_states/?flow_run_id={RUNS[0]}", "/flow_runs/states"):
            assert (await client.get(path)).status_code == 503, path


# Pages


async def test_the_runs(client: Client) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200
    rows = re.findall(r'href="runs/([0-9a-f-]{36})"', answer.text)
    assert rows == [str(run) for run in (RUNS[3], RUNS[2], RUNS[1], RUNS[0])]
    counts = dict(re.findall(r'value="([A-Z]+)".*?<b>([\d,]+)</b>', answer.text))
    assert counts == {type_.value: "1" if type_ in (_R, _F, _C, StateType.PENDING) else "0" for type_ in StateType}
    assert '<svg viewBox="0 0 97 100"' in answer.text or '<svg viewBox="0 0 96 100"' in answer.text


async def test_the_runs_that_are_asked_for(client: Client) -> None:
    async def runs(query: str) -> list[str]:
        answer = await client.get(f"/?{query}")
        assert answer.status_code == 200, answer.text
        return re.findall(r'href="runs/([0-9a-f-]{36})"', answer.text)

    def of(*numbers: int) -> list[str]:
        return [str(RUNS[number]) for number in numbers]

    assert await runs("type=RUNNING&type=failed") == of(2, 1)
    assert await runs("name=Retrying") == of(1)
    assert await runs("since=2h&until=20m") == of(2, 1)
    assert await runs(f"run=+{RUNS[3]}&name=&since=&until=&cursor=") == of(3)
    assert await runs("type=CRASHED") == []
    assert "No such runs." in (await client.get("/?type=CRASHED")).text


async def test_pages_of_runs_lead_on_and_back(client: Client, filled: Pool, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstates.web.pages.RUNS_OF_A_PAGE", 2)
    first = (await client.get("/?since=1d")).text
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = (await client.get("/" + unescape(older))).text
    assert re.findall(r'href="runs/([0-9a-f-]{36})"', second) == [str(RUNS[1]), str(RUNS[0])]
    assert 'rel="next"' not in second
    (newer,) = re.findall(r'rel="prev" href="([^"]+)"', second)
    assert re.findall(r'href="runs/([0-9a-f-]{36})"', (await client.get("/" + unescape(newer))).text) == [str(RUNS[3]), str(RUNS[2])]


async def test_a_run(client: Client) -> None:
    page = (await client.get(f"/runs/{RUNS[0]}")).text
    assert re.findall(r'<tr role="row" id="s-([^"]+)"', page) == [str(state.id) for state in STATES[:3]]
    assert 'data-open=""' in page
    assert "3 states in 1h 40m, ended COMPLETED." in page
    assert "nightly\nimport" in page
    assert "&#34;from_tomorrow&#34;" in page
    assert 'data-open="yes"' in (await client.get(f"/runs/{RUNS[1]}")).text
    unknown = await client.get(f"/runs/{uuid4()}")
    assert unknown.status_code == 404
    assert "No such run" in unknown.text


async def test_a_run_that_has_not_moved_is_no_page(client: Client) -> None:
    assert (await client.get(f"/runs/{RUNS[1]}?seen={STATES[3].id}")).status_code == 204
    for seen in (STATES[0].id, "", "x", "%00"):
        assert (await client.get(f"/runs/{RUNS[1]}?seen={seen}")).status_code == 200


async def test_a_long_run_shows_its_newest_states(client: Client, filled: Pool, layout: Layout) -> None:
    run = uuid4()
    history = [NewFlowRunState(flow_run_id=run, type=_R, timestamp=minutes_ago(120 - index)) for index in range(103)]
    await insert(filled, layout, history)
    page = (await client.get(f"/runs/{run}")).text
    assert re.findall(r'<tr role="row" id="s-([^"]+)"', page) == [str(state.id) for state in history[3:]]
    assert "103 states; here are the newest 100." in page
    assert "The chart has the newest 50 states." in page
    assert 'href="?last=103"' in page
    assert (await client.get(f"/runs/{run}?last=103")).text.count('<tr role="row" id="s-') == 103
    for last in ("0", "x", "1001", "-1", "%D9%A3", "9" * 5000):
        assert (await client.get(f"/runs/{run}?last={last}")).status_code == 422, last


REFUSED_BY_THE_PAGE = [
    "type=x", "type=%00", "name=%00", "run=x", "run=%F0", "since=soon", "until=2030-01-31", "since=0001-01-01T00:00:00%2B14:00", "since=999999w",
    "cursor=x", "since=2h&cursor=x",
]  # fmt: skip


async def test_what_the_page_cannot_be_asked_for_is_422_and_says_why(client: Client) -> None:
    for query in REFUSED_BY_THE_PAGE:
        answer = await client.get(f"/?{query}")
        assert answer.status_code == 422, query
        field, _, typed = query.partition("=")
        assert re.findall(r'id="wrong-(\w+)" role="alert">[^<]+<', answer.text) == [field]
        assert "(str)" not in answer.text
        if field in ("run", "since", "until"):
            assert f'aria-invalid="true" autofocus aria-describedby="wrong-{field}' in answer.text
        assert answer.text.count('id="shown"') == 1
        # The form is still there, with what was typed.
        assert 'value="RUNNING"' in answer.text
        if typed.isalpha() and field not in ("type", "cursor"):
            assert f'name="{field}" value="{typed}"' in answer.text


async def test_a_form_leads_to_its_results_and_a_keyboard_past_the_form(client: Client) -> None:
    page = (await client.get("/?type=RUNNING&since=soon")).text
    assert 'action="?#shown"' in page
    assert page.count('id="shown"') == 1
    assert 'class="skip" href="#shown"' in page
    assert 'id="shown" tabindex="-1"' in (await client.get("/")).text
    assert re.search(r'value="RUNNING" checked', page)
    page = (await client.get(f"/runs/{RUNS[0]}")).text
    assert 'class="skip" href="#table"' in page
    assert 'id="table"' in page


async def test_a_long_name_is_cut_and_whole_below(client: Client, filled: Pool, layout: Layout) -> None:
    run, name = uuid4(), "long " * 100 + "end"
    await insert(filled, layout, [NewFlowRunState(flow_run_id=run, type=_R, name=name, timestamp=NOW)])
    assert name not in (await client.get("/")).text
    page = (await client.get(f"/runs/{run}")).text
    assert page.count(name) == 1
    assert f"<dt>name</dt><dd><pre>{name}</pre>" in page


async def test_a_row_that_cannot_be_read_is_shown_in_its_place(client: Client, filled: Pool) -> None:
    await filled.execute("update flow_run_state set state_details = $1::text::jsonb where id = $2", '{"flow_run_id": "x"}', STATES[3].id)
    answer = await client.get("/")
    assert answer.status_code == 200
    assert re.findall(r'href="runs/([0-9a-f-]{36})"', answer.text) == [str(run) for run in (RUNS[3], RUNS[2], RUNS[1], RUNS[0])]
    for path in ("/", f"/runs/{RUNS[1]}"):
        page = await client.get(path)
        assert page.status_code == 200
        assert re.search(rf"cannot be read: state_details: .*{STATES[3].id}", page.text)
        assert "flowstates check --data" in page.text
    assert (await client.get(f"/runs/{RUNS[1]}?seen={STATES[3].id}")).status_code == 204


async def test_a_run_with_a_state_that_cannot_be_read_shows_the_others(client: Client, filled: Pool) -> None:
    await filled.execute("update flow_run_state set state_details = $1::text::jsonb where id = $2", '{"flow_run_id": "x"}', STATES[1].id)
    page = (await client.get(f"/runs/{RUNS[0]}")).text
    assert re.findall(r'<tr role="row" id="s-([^"]+)"', page) == [str(state.id) for state in STATES[:3]]
    assert "3 states, of which 1 cannot be read." in page
    assert 'data-open=""' in page


@pytest.mark.parametrize("layout", ["prefect"], indirect=True)
async def test_a_time_without_an_end_hides_no_other_run(client: Client, filled: Pool) -> None:
    await filled.execute("update flow_run_state set timestamp = 'infinity' where id = $1", STATES[3].id)
    await filled.execute("update flow_run set state_timestamp = 'infinity' where id = $1", RUNS[1])
    page = await client.get("/")
    assert page.status_code == 200
    assert re.findall(r'href="runs/([0-9a-f-]{36})"', page.text) == [str(run) for run in (RUNS[1], RUNS[3], RUNS[2], RUNS[0])]
    assert "cannot be read: timestamp: " in page.text
    assert "cannot be read: timestamp: " in (await client.get(f"/runs/{RUNS[1]}")).text


@pytest.mark.parametrize("layout", ["prefect"], indirect=True)
async def test_runs_that_cannot_be_counted_are_shown(client: Client, filled: Pool) -> None:
    await filled.execute("update flow_run set state_type = null where id = $1", RUNS[1])
    page = await client.get("/")
    assert page.status_code == 200
    assert str(RUNS[0]) in page.text
    assert "They cannot be counted: " in page.text


FIELDS = ("type", "name", "since", "until", "run", "cursor", "last", "seen", "limit", "flow_run_id", "id", "order", "terminal", "current")
TEXTS = st.one_of(
    st.text(max_size=40), st.sampled_from(["RUNNING", "2h", "today", str(RUNS[0]), "2024-01-01T00:00:00Z", "true", "1", "infinity", HOSTILE])
)


@pytest.mark.parametrize("layout", LAYOUTS[:1], indirect=True)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.lists(st.tuples(st.sampled_from(FIELDS), TEXTS), max_size=5))
async def test_no_query_breaks_anything(client: Client, query: list[tuple[str, str]]) -> None:
    text = "&".join(f"{field}={quote(value, errors='surrogatepass')}" for field, value in query)
    for path in ("/", f"/runs/{RUNS[0]}", "/flow_runs/states", "/flow_run_states/"):
        assert (await client.get(f"{path}?{text}")).status_code in (200, 204, 422), path


async def test_hostile_text_stays_text(client: Client) -> None:
    for path in ("/", f"/runs/{RUNS[2]}", f"/?name={quote(HOSTILE)}", f"/?type={quote(HOSTILE)}", f"/?since={quote(HOSTILE)}"):
        page = (await client.get(path)).text
        assert "<script>alert" not in page
        assert page.count("<script>") == (1 if path.startswith("/runs/") else 0)
        assert "{{ 7 * 7 }}" in page
        # A field of the form holds what was typed.
        assert "\u202e" not in re.sub(r'<input name="\w+" value="[^"]*"', "", page)


async def test_a_policy_lets_in_what_is_ours_alone(client: Client) -> None:
    for path in ("/", f"/runs/{RUNS[1]}", "/?type=x", f"/runs/{uuid4()}"):
        answer = await client.get(path)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        for tag, directive in (("style", "style-src"), ("script", "script-src")):
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(unescape(text).encode() if tag == "style" else text.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy[directive]
        assert not re.search(r"<[^>]* (style|on\w+)=", answer.text)


async def test_pages_need_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", f"/runs/{RUNS[1]}"):
        page = (await client.get(path)).text
        urls = set(re.findall(r'(?:href|src|action)="([^"]*)"', page))
        assert not [url for url in urls if url.startswith("/") or re.match(r"(?!data:)\w+:", url)]
        assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
        assert "@import" not in page


def test_the_routes_are_documented() -> None:
    def states() -> None:
        """Gives nothing here."""

    paths: dict[str, Any] = app_of(states).openapi()["paths"]
    assert sorted(paths) == ["/flow_run_states/", "/flow_run_states/{id}", "/flow_runs/states", "/flow_runs/{id}/states"]
    shown = json.dumps(paths)
    for model in ("RestState", "RestPage"):
        assert f"#/components/schemas/{model}" in shown
