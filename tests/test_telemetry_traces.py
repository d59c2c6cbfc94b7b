"""A run as one trace, the same at each export."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode
from wrapt import ObjectProxy

from flowstates import FlowRunState, FlowRunStateRepository, InvalidInputError, StateDetails, StateType, TypeName
from flowstates.telemetry import export_trace
from tests.conftest import Pool
from tests.spans import Spans, attributes, context_of, id_of, parent_id, times_of, trace_id_of

pytestmark = pytest.mark.versions

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11f7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"


def state(run: UUID, type: TypeName, second: float, **values: Any) -> FlowRunState:
    at = NOON + timedelta(seconds=second)
    said = {"id": uuid4(), "name": type.title(), "message": None, "state_details": StateDetails(), "data": None, "result_artifact_id": None}
    return FlowRunState(created=at, updated=at, flow_run_id=run, type=StateType(type), timestamp=at, **said | values)


def history(run: UUID | None = None) -> list[FlowRunState]:
    run = run or uuid4()
    return [
        state(run, "SCHEDULED", 0),
        state(run, "RUNNING", 5),
        state(run, "FAILED", 8.5, message="no disk"),
        state(run, "SCHEDULED", 9, name="AwaitingRetry"),
        state(run, "RUNNING", 12),
        state(run, "COMPLETED", 20.000001),
    ]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def nanoseconds(second: float) -> int:
    return int(NOON.timestamp()) * 1_000_000_000 + round(second * 1_000_000) * 1_000


def test_a_run_is_a_span_with_one_for_each_state(spans: Spans) -> None:
    states = history()
    tracer = spans.provider.get_tracer("mine", "1.0")
    # The caller's own span, which is current here, is no part of the run's story.
    with tracer.start_as_current_span("mine"):
        answer = export_trace(reversed(states), tracer)
    *made, whole, _ = spans.all
    assert answer == f"{trace_id_of(whole):032x}"
    assert (whole.name, whole.kind, whole.parent, times_of(whole)) == ("flow_run", SpanKind.INTERNAL, None, (nanoseconds(0), nanoseconds(20.000001)))
    assert [span.name for span in made] == ["Scheduled", "Running", "Failed", "AwaitingRetry", "Running", "Completed"]
    ends = [0, 5, 8.5, 9, 12, 20.000001, 20.000001]
    assert [times_of(span) for span in made] == [(nanoseconds(begin), nanoseconds(end)) for begin, end in pairwise(ends)]
    assert {(trace_id_of(span), parent_id(span)) for span in made} == {(trace_id_of(whole), id_of(whole))}
    assert attributes(made[1]) == {
        "flowstates.flow_run.id": str(states[0].flow_run_id),
        "flowstates.flow_run_state.id": str(states[1].id),
        "flowstates.flow_run_state.type": "RUNNING",
    }
    assert attributes(whole) == {"flowstates.flow_run.id": str(states[0].flow_run_id), "flowstates.flow_run_state.type": "COMPLETED"}
    assert [(span.status.status_code, span.status.description) for span in made] == [
        (StatusCode.ERROR, "no disk") if span.name == "Failed" else (StatusCode.UNSET, None) for span in made
    ]
    assert (attributes(made[2])["error.type"], whole.status.status_code) == ("FAILED", StatusCode.UNSET)


@pytest.mark.parametrize("type", list(StateType))
def test_how_a_run_ended(spans: Spans, type: StateType) -> None:
    run = uuid4()
    export_trace([state(run, "RUNNING", 0), state(run, type.value, 1, message="why")], spans.provider.get_tracer("mine"))
    is_error = type in ("FAILED", "CRASHED")
    for span in spans.all[1:]:
        assert (span.status.status_code, span.status.description) == ((StatusCode.ERROR, "why") if is_error else (StatusCode.UNSET, None))
        assert attributes(span).get("error.type") == (type.value if is_error else None)


def test_a_second_export_is_the_same_trace_and_the_same_spans(spans: Spans) -> None:
    states = history()
    answers = {export_trace(states, spans.provider.get_tracer(name)) for name in ("mine", "yours")}
    assert len(answers) == 1
    half = len(spans.all) // 2
    first, second = spans.all[:half], spans.all[half:]
    assert [context_of(span) for span in first] == [context_of(span) for span in second]
    assert len({id_of(span) for span in first}) == len(states) + 1
    # As long as a run goes on, what was there stays what it was.
    spans.clear()
    export_trace(states[:3], spans.provider.get_tracer("mine"))
    assert [id_of(span) for span in spans.all] == [id_of(span) for span in [*first[:3], first[-1]]]


def test_the_tracer_and_others_go_on_with_ids_of_their_own(spans: Spans) -> None:
    tracer, states = spans.provider.get_tracer("mine"), history()
    export_trace(states, tracer)
    exported = {id_of(span) for span in spans.all}
    spans.clear()
    for _ in range(3):
        tracer.start_span("mine").end()
    assert len({trace_id_of(span) for span in spans.all}) == 3
    assert not {id_of(span) for span in spans.all} & exported


def test_the_first_traceparent_is_the_parent(spans: Spans) -> None:
    states = history()
    for index, traceparent in ((0, "nonsense"), (1, PARENT), (4, OTHER)):
        states[index] = states[index].model_copy(update={"state_details": StateDetails(traceparent=traceparent)})
    for _ in range(2):
        spans.clear()
        answer = export_trace(states, spans.provider.get_tracer("mine"))
        *made, whole = spans.all
        assert (answer, f"{parent_id(whole):016x}") == (PARENT.split("-")[1], PARENT.split("-")[2])
        assert whole.parent is not None
        assert whole.parent.is_remote
        assert {trace_id_of(span) for span in spans.all} == {int(PARENT.split("-")[1], 16)}
        links = {span.name: [f"{link.context.trace_id:032x}" for link in span.links] for span in made if span.links}
        assert links == {"Running": [OTHER.split("-")[1]]}


def test_one_that_its_parent_did_not_sample_is_not_sampled(spans: Spans) -> None:
    one = state(uuid4(), "COMPLETED", 0, state_details=StateDetails(traceparent=f"{PARENT[:-2]}00"))
    assert export_trace([one], spans.provider.get_tracer("mine")) == PARENT.split("-")[1]
    assert spans.all == []


def test_a_sampler_by_ratio_takes_its_share_of_runs() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=TraceIdRatioBased(0.25), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for number in range(1_000):
        run = UUID(int=0x0195F2A07D1C_7CC3_98C4_DC0C0C070000 + number)
        export_trace([state(run, "COMPLETED", 0)], provider.get_tracer("mine"))
    assert 200 < len([span for span in exporter.get_finished_spans() if span.name == "flow_run"]) < 300


class Others(trace.Tracer):
    """A tracer that is not the SDK's: it hands on to one, and lets nobody at its ids."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._real = tracer

    def start_span(self, *arguments: Any, **options: Any) -> trace.Span:
        return self._real.start_span(*arguments, **options)

    def start_as_current_span(self, *arguments: Any, **options: Any) -> Any:
        return self._real.start_as_current_span(*arguments, **options)


class HandingOn(Others):
    """One that has all that the SDK's has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Keeping(Others):
    """One that keeps the SDK's where the API's proxy keeps it."""

    @property
    def _tracer(self) -> trace.Tracer:
        return self._real


@pytest.mark.parametrize("kind", [Others, HandingOn, Keeping, ObjectProxy])
def test_another_tracer_gets_the_same_trace(spans: Spans, kind: Callable[[trace.Tracer], trace.Tracer]) -> None:
    states = history()
    tracer = spans.provider.get_tracer("mine")
    answers = {export_trace(states, one) for one in (tracer, kind(tracer), kind(tracer))}
    assert len(answers) == 1
    assert len({trace_id_of(span) for span in spans.all}) == 1
    (whole, *others) = [span for span in spans.all if span.name == "flow_run"]
    assert {parent_id(other) for other in others} == {id_of(whole)}


@pytest.mark.parametrize("base", [Others, HandingOn, Keeping, ObjectProxy])
def test_each_span_goes_through_a_tracer_that_wraps_the_sdks(spans: Spans, base: Any) -> None:
    class Marking(base):  # type: ignore[misc]
        def start_span(self, name: str, *arguments: Any, **options: Any) -> trace.Span:
            inner: Any = getattr(self, "__wrapped__", super())
            span: trace.Span = inner.start_span(name, *arguments, **options)
            span.set_attribute("marked", True)
            return span

    export_trace(history(), Marking(spans.provider.get_tracer("mine")))
    assert len(spans.all) == 7
    assert all(attributes(span)["marked"] for span in spans.all)


def test_a_proxy_that_was_made_before_its_provider_gives_the_same_spans() -> None:
    code = """
from opentelemetry import trace
from tests.spans import Spans, id_of
from tests.test_telemetry_traces import history
from flowstates.telemetry import export_trace

early, spans, states = trace.get_tracer("mine"), Spans(), history()
trace.set_tracer_provider(spans.provider)
for _ in range(2):
    export_trace(states, early)
print(type(early).__name__, len(spans.all), len({id_of(span) for span in spans.all}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)
    assert done.stdout == "ProxyTracer 14 7\n"


def test_without_a_provider_nothing_is_recorded() -> None:
    assert export_trace(history(), trace.NoOpTracer()) is not None
    assert export_trace(history(), trace.ProxyTracerProvider().get_tracer("mine")) is not None


def test_what_cannot_be_exported(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("mine")
    assert export_trace([], tracer) is None
    one = state(uuid4(), "RUNNING", 0)
    other = state(one.flow_run_id, "COMPLETED", 1)
    partial: Any = FlowRunState.model_construct
    refused: list[tuple[list[Any], str]] = [
        ([state(uuid4(), "RUNNING", 0), state(uuid4(), "RUNNING", 1)], r"\[1\] is of another run"),
        ([state(uuid4(), "RUNNING", -(60 * 86_400) * 365)], r"\[0\] began at 1964-\S+, which no trace can hold"),
        ([state(uuid4(), "RUNNING", 3600 * 24 * 365 * 531)], r"\[0\] began at 2554-\S+, which no trace can hold"),
        ([{}], r"\[0\] is a dict, not a FlowRunState"),
        ([one, other, one], rf"\[2\] has the id of one before it, {one.id}$"),
        ([one, other.model_copy(update={"id": one.id})], rf"\[1\] has the id of one before it, {one.id}$"),
        ([one, other.model_copy(update={"timestamp": NOON.replace(tzinfo=None)})], r"\[1\]\.timestamp: .* has no time zone"),
        ([one.model_copy(update={"timestamp": None})], r"\[0\]\.timestamp: is None, not a datetime$"),
        ([one.model_copy(update={"id": 5})], r"\[0\]\.id: "),
        ([one.model_copy(update={"name": None})], r"\[0\]\.name: is None, not a str$"),
        ([partial(id=one.id)], r"\[0\]\.created: is missing$"),
    ]
    for states, message in refused:
        with pytest.raises(InvalidInputError, match=rf"^states: {message}"):
            export_trace(states, tracer)
    assert spans.all == []


@pytest.mark.once
@pytest.mark.parametrize("states", [None, 5, state(uuid4(), "RUNNING", 0)], ids=["None", "int", "state"])
def test_what_is_no_states_is_refused(states: Any, spans: Spans) -> None:
    with pytest.raises(InvalidInputError, match=r"is (None|an int|a FlowRunState), not the states of a run") as caught:
        export_trace(states, spans.provider.get_tracer("mine"))
    assert caught.value.field == "states"


@pytest.mark.once
@pytest.mark.parametrize("states", [[], [state(uuid4(), "RUNNING", 0)]], ids=["without states", "with one"])
def test_what_is_no_tracer_is_refused(states: list[FlowRunState], spans: Spans) -> None:
    for tracer in (None, "jobs", spans.provider):
        with pytest.raises(InvalidInputError, match=r"is .*, not a Tracer of OpenTelemetry") as caught:
            export_trace(states, tracer)  # type: ignore[arg-type]
        assert caught.value.field == "tracer"


def test_any_id_makes_an_id_of_its_own() -> None:
    spans = Spans()  # once: a provider looks around in its surroundings

    @given(st.lists(st.uuids(allow_nil=True), min_size=1, max_size=9, unique=True))
    def test(ids: list[UUID]) -> None:
        spans.clear()
        for id in ids:
            export_trace([state(id, "COMPLETED", 0, id=id)], spans.provider.get_tracer("mine"))
        assert len({id_of(span) for span in spans.all}) == 2 * len(ids)
        assert len({trace_id_of(span) for span in spans.all}) == len(ids)

    test()


def test_a_copy_with_values_that_can_be_read_is_taken(spans: Spans) -> None:
    changes = {"type": "FAILED", "state_details": {"traceparent": PARENT}, "timestamp": NOON.astimezone(timezone(timedelta(hours=5)))}
    assert export_trace([history()[0].model_copy(update=changes)], spans.provider.get_tracer("mine")) == PARENT.split("-")[1]
    made, whole = spans.all
    assert (times_of(made)[0], attributes(whole)["flowstates.flow_run_state.type"]) == (nanoseconds(0), "FAILED")


async def test_a_history_as_it_is_read(pool: Pool, spans: Spans) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    tracer = spans.provider.get_tracer("mine")
    remote = trace.SpanContext(7, 9, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    with tracer.start_as_current_span("request", trace.set_span_in_context(NonRecordingSpan(remote), Context())) as request:
        context = request.get_span_context()
        traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
        await states.create_flow_run_state(run, "PENDING", state_details={"traceparent": traceparent})
    await states.create_flow_run_state(run, "CRASHED", message="lost")
    assert export_trace(await states.read_flow_run_states(run), tracer) == f"{7:032x}"
    assert parent_id(spans.all[-1]) == context.span_id
    assert spans.all[-1].status.description == "lost"
