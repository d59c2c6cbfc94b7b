import time
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from flowstates.telemetry import instrument, uninstrument
from flowstates.testing import Databases
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.app import create_app
from tests.conftest import ROOT


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
