import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext

import asyncpg
import httpx2
import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from flowstates import embedded_postgres
from flowstates.telemetry import instrument, uninstrument
from flowstates.testing import Databases
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.app import create_app
from tests.conftest import ROOT, upgrade


@pytest.fixture
def client(flowstates_dsn: str) -> Iterator[TestClient]:
    with TestClient(create_app(flowstates_dsn, "sesame")) as client:
        client.auth = ("any", "sesame")
        yield client


@pytest.fixture(scope="module")
def spans() -> Iterator[InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)  # a process has one
    instrument()
    yield spans
    uninstrument()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    id: int = span.context.trace_id
    return id


def test_a_job_from_its_request_to_its_trace(client: TestClient, spans: InMemorySpanExporter) -> None:
    submitted = client.post("/jobs", json={"customer": "north", "seconds": 0}).json()
    wait_for(lambda: client.get("/usage").json() == {"north": 1})
    job = client.get(f"/jobs/{submitted['run_id']}").json()
    assert job == {"customer": "north", "seconds": 0, "state": "COMPLETED"}
    assert submitted["run_id"] in client.get("/states/").text
    assert "Completed" in client.get(submitted["page"]).text

    finished = spans.get_finished_spans()
    (request,) = [span for span in finished if span.name == "submit"]
    same_trace = {span.name for span in finished if trace_of(span) == trace_of(request)}
    assert {
        "submit",
        "create_flow_run_state flow_run_state",
        "flow_run",
        "Scheduled",
        "Running",
        "Completed",
    } <= same_trace


@pytest.mark.parametrize("path", ["/usage", "/jobs/0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f", "/states/"])
def test_only_who_has_the_password_is_let_in(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (200, 404)
    assert client.get(path, auth=("any", "simsim")).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b'{"customer": "north", "seconds": NaN}',
        b'{"customer": "north", "seconds": -Infinity}',
        b'{"customer": "north", "seconds": 1e400}',
        b'{"customer": "north", "seconds": "1"}',
        b'{"customer": "north", "seconds": true}',
        b'{"customer": "\\ud800", "seconds": 1}',
        b'{"customer": "North", "seconds": 1}',
        b"NaN",
        b"{",
    ],
)
def test_what_is_no_job_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    (why,) = answer.json()["detail"]
    assert why.keys() == {"type", "loc", "msg"}


def test_while_its_server_is_away_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without workers: asyncpg 0.30 may wait for ever to close a pool whose connection was lost while it was busy.
    monkeypatch.setattr("service.app.workers", lambda pool: nullcontext())
    with ExitStack() as server:
        dsn = server.enter_context(embedded_postgres())
        upgrade(dsn)
        with TestClient(create_app(dsn, "sesame")) as client:
            client.auth = ("any", "sesame")
            assert client.get("/usage").status_code == 200
            server.close()
            for path in ("/usage", "/states/", "/jobs/0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f"):
                answer = client.get(path)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_deployed_it_ends_when_a_worker_has_ended(flowstates_dsn: str) -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:app_from_environment", "--port", "0"]
    environment = os.environ | {"DATABASE_URL": flowstates_dsn, "PASSWORD": "sesame"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while (running := re.search(r"running on (http://\S+)", said)) is None:
                said += (line := process.stderr.readline())
                assert line, said
            with httpx2.Client(trust_env=False, auth=("any", "sesame"), timeout=60) as client:
                assert client.get(f"{running[1]}/usage").json() == {}
            asyncio.run(break_the_table(flowstates_dsn))
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert re.search("the worker '.+' has ended\n", said)
    assert "Application shutdown complete" in said
    assert process.returncode == -signal.SIGTERM


async def break_the_table(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("alter table flow_run_state rename to elsewhere")
    await connection.close()


@pytest.fixture
def empty_dsn(flowstates_databases: Databases) -> Iterator[str]:
    dsn = flowstates_databases.create()
    yield dsn
    flowstates_databases.drop(dsn)


async def test_it_does_not_start_on_a_database_that_lacks_something(empty_dsn: str) -> None:
    app = create_app(empty_dsn, "sesame")
    with pytest.raises(RuntimeError, match="table flow_run: "):
        async with app.router.lifespan_context(app):
            pass


def test_the_tables_are_what_alembic_thinks(flowstates_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", flowstates_dsn)
    command.check(Config(ROOT / "alembic.ini"))
