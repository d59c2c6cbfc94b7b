"""What docs/observing.md shows is run here, as it stands there."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from opentelemetry import trace

from flowstates import FlowRunStateFeed, FlowRunStateRepository, FlowRunStateRetention, NewFlowRunState, UnexpectedStateError, create_pool
from flowstates.telemetry import instrument, uninstrument
from tests.conftest import Pool
from tests.examples import BLOCK, names_of
from tests.spans import Spans, attributes, id_of, parent_id, trace_id_of
from tests.test_retries import UNDO_TWICE

pytestmark = pytest.mark.versions

PAGE = (Path(__file__).parent.parent / "docs" / "observing.md").read_text()
SERVICE, TRACE, LOGGING, AGAIN = [code for language, code in BLOCK.findall(PAGE) if language == "python"]


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    instrument(tracer_provider=spans.provider)
    yield spans
    uninstrument()


def values(text: str) -> list[Any]:
    """The values of JSON that stand one after another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_spans_and_metrics_of_a_service(own_dsn: str) -> None:
    environment = os.environ | {"DATABASE_URL": own_dsn}
    done = subprocess.run([sys.executable, "-W", "error", "-c", SERVICE], check=True, env=environment, capture_output=True, text=True, timeout=60)
    told = values(done.stdout)
    create, submit = [value for value in told if "span_id" in value.get("context", {})]
    assert (create["name"], submit["name"], create["kind"]) == ("create_flow_run_state flow_run_state", "submit", "SpanKind.CLIENT")
    assert create["parent_id"] == submit["context"]["span_id"]
    told_metrics = {
        metric["name"]: metric["unit"]
        for value in told
        for resource in value.get("resource_metrics", [])
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    # The pool is closed when the last metrics are read, so that the waits alone are left.
    assert told_metrics == {"db.client.connection.wait_time": "s"}
    assert done.stderr == ""


async def test_the_attributes_that_are_listed_are_those_that_there_are(own_database: str, spans: Spans) -> None:
    rows = re.findall(r"^\| (.*`[a-z_.]+`.*) \| .+ \|$", PAGE, re.MULTILINE)
    names = {name for row in rows if "db.client" not in row for name in re.findall(r"`([a-z_.]+)`", row)}
    listed = {f"flowstates.prune{name}" if name.startswith(".") else name for name in names}
    async with create_pool(own_database) as pool:
        states = FlowRunStateRepository(pool)
        await pool.execute(UNDO_TWICE)
        await states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="COMPLETED") for _ in range(2)])
        await FlowRunStateFeed(pool).read_page()
        await FlowRunStateRetention(pool).prune(older_than=timedelta(0))
        await pool.execute("alter table flow_run_state rename to elsewhere")
        with pytest.raises(asyncpg.UndefinedTableError):
            await states.read_flow_run_states(uuid4())
    # A socket has no port.
    assert {name for span in spans.all for name in attributes(span)} | {"server.port"} == listed


async def test_a_run_as_a_trace(pool: Pool, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer", spans.provider.get_tracer)
    names, states, run = names_of(TRACE), FlowRunStateRepository(pool), uuid4()
    with spans.provider.get_tracer("service").start_as_current_span("request") as request:
        await names["submit"](states, run)
    await states.create_flow_run_state(run, "FAILED")
    spans.clear()
    answer = await names["export"](states, run)
    whole = spans.all[-1]
    assert (whole.name, answer, parent_id(whole)) == ("flow_run", f"{trace_id_of(whole):032x}", request.get_span_context().span_id)
    assert {parent_id(span) for span in spans.all if span.name in ("Scheduled", "Failed")} == {id_of(whole)}


def test_the_log() -> None:
    code = f"{LOGGING}\nimport flowstates\nprint(logging.getLogger('flowstates').isEnabledFor(logging.INFO))"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout == "True\n"
    assert logging.getLogger("flowstates").handlers == []


async def test_what_to_do_again(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, states, run = names_of(AGAIN)["complete"], FlowRunStateRepository(pool), uuid4()
    real, errors = FlowRunStateRepository.create_flow_run_state, [asyncpg.InterfaceError("connection is closed"), TimeoutError()]

    async def create(*arguments: Any, **options: Any) -> Any:
        state = await real(*arguments, **options)
        if errors:
            raise errors.pop()
        return state

    monkeypatch.setattr(FlowRunStateRepository, "create_flow_run_state", create)
    state = await complete(states, run)
    assert await states.read_flow_run_states(run) == [state]
    errors.append(UnexpectedStateError(None, run, "no state"))
    with pytest.raises(UnexpectedStateError):
        await complete(states, run)
