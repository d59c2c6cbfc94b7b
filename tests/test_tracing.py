"""What OpenTelemetry's instrumentation of asyncpg makes of what is sent: it takes a span's name from the text."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowstates import FlowRunStateFeed, FlowRunStateFilter, FlowRunStateRepository, NewFlowRunState, StateType

pytestmark = pytest.mark.once


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()


async def test_a_span_is_named_by_its_keyword_and_its_text_by_the_query(dsn: str, exporter: InMemorySpanExporter) -> None:
    connection = await asyncpg.connect(dsn)
    states, run = FlowRunStateRepository(connection), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)
    await states.read_flow_run_states(run)
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING")])
    await states.delete_flow_run_states(flow_run_ids=[run])
    feed = FlowRunStateFeed(connection)
    for filter in (None, FlowRunStateFilter(flow_run_ids=[run])):
        await feed.read_page(await feed.now(), filter=filter)
        async with feed.consume(f"tracing {run}", start="beginning", limit=1):
            pass
    async with feed.consume(f"tracing {run}", skip_locked=True):
        pass
    await feed.positions()
    await feed.move(f"tracing {run}", "now", expected=await feed.now())
    await feed.move(f"tracing {run}", "now")
    await feed.read_page(await feed.now())
    await feed.forget(f"tracing {run}")
    await connection.close()
    spans = [(span.name, (span.attributes or {})["db.statement"]) for span in exporter.get_finished_spans()]
    ours = [(name, str(text).split()[1]) for name, text in spans if str(text).startswith("/*")]
    assert ("with", "create_flow_run_state") in ours
    assert ("select", "read_flow_run_states") in ours
    assert ("insert", "create_flow_run_states.heads") in ours
    assert ("delete", "delete_flow_run_states.runs") in ours
    of_the_feed = {
        ("with", "read_page"), ("select", "read_page.next"), ("select", "now"), ("select", "positions"), ("insert", "move"),
        ("update", "move.expected"), ("delete", "forget"), ("select", "consume.lock"), ("select", "consume.lock_free"),
        ("select", "consume.is_known"), ("insert", "consume.begin"), ("update", "move.expected"),
    }  # fmt: skip
    assert of_the_feed <= set(ours)
    assert {name for name, _ in spans} & {"--", "/*"} == set()
