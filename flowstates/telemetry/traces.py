"""A run as a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from copy import copy
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import ValidationError

from flowstates.errors import InvalidInputError
from flowstates.records import FlowRunState, StateType
from flowstates.values import invalid_input, kind_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(2554, 1, 1, tzinfo=UTC)  # exporters send a time as 64 bits of nanoseconds
_MICROSECOND = timedelta(microseconds=1)
_ERRORS = frozenset({StateType.FAILED, StateType.CRASHED})


def export_trace(states: Iterable[FlowRunState], tracer: trace.Tracer) -> str | None:
    """Gives `tracer` the history of one run as spans: one for the run, `flow_run`, and in it one for each state, by the state's name. Returns the
    trace's id as 32 hex digits; None, and no span, without states.

    A state's span lasts until the run's next state began; the last one has no length, and the run's ends with it. So a run is best exported when it
    has ended. FAILED and CRASHED are errors, with the state's message, and the run is one if it ended so. Attributes: `flowstates.flow_run.id`,
    `flowstates.flow_run_state.id`, `flowstates.flow_run_state.type` (of the run: its last state's), and `error.type`, which is the type.

    The first valid `traceparent` of the states' details is the parent of the run's span, which is then in that trace, and is sampled as that is. One
    of a later state that is another is a link of that state's span.

    Ids are hashes of the run's id and of the states', so that a second export is the same trace and the same spans. OpenTelemetry's API lets nobody
    choose the id of a span; a tracer of its SDK asks the `id_generator` that it has, and a copy of the tracer is given one that answers so. Another
    tracer, also one that wraps the SDK's, gets the trace's id alone, by a remote parent that nobody has seen, and its spans have new ids at each
    export.

    InvalidInputError for `states` of several runs, or with one twice, or with one before 1970 or after 2553, at the year 9999 say: exporters send a
    time as 64 bits of nanoseconds since 1970. Also for a `tracer` that is none.
    """
    # By its method: a tracer that wraps another one need not be of the API's class.
    if not callable(getattr(tracer, "start_span", None)):
        raise InvalidInputError("tracer", f"is {kind_of(tracer)}, not a Tracer of OpenTelemetry")
    history = sorted(_checked(states), key=lambda state: state.timestamp)
    if not history:
        return None
    run, last = history[0].flow_run_id, history[-1]
    ids = _Ids(trace_id=_hash(b"trace", run, 16))
    tracer = ids.given_to(tracer)
    parents = {state.id: _parent(state.state_details.traceparent) for state in history}
    parent = next((found for found in parents.values() if found.is_valid), None)
    ids.span_id = _hash(b"run", run, 8)
    if parent is not None:
        begin = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    else:
        begin = Context() if ids.are_asked_for else ids.as_parent()
    attributes = {"flowstates.flow_run.id": str(run), "flowstates.flow_run_state.type": last.type.value}
    whole = tracer.start_span("flow_run", begin, attributes=attributes, start_time=_nanoseconds(history[0]))
    inside = trace.set_span_in_context(whole, Context())
    for state, following in zip(history, [*history[1:], last], strict=True):
        ids.span_id = _hash(b"state", state.id, 8)
        links = [trace.Link(other)] if (other := parents[state.id]).is_valid and other != parent else []
        attributes = {
            "flowstates.flow_run.id": str(run),
            "flowstates.flow_run_state.id": str(state.id),
            "flowstates.flow_run_state.type": state.type.value,
        }
        span = tracer.start_span(state.name, inside, attributes=attributes, links=links, start_time=_nanoseconds(state))
        _end(span, state, following)
    _end(whole, last, last)
    return f"{whole.get_span_context().trace_id:032x}"


def _checked(states: Iterable[FlowRunState]) -> list[FlowRunState]:
    if not isinstance(states, Iterable) or isinstance(states, FlowRunState):  # which can be iterated too, over its fields
        raise InvalidInputError("states", f"is {kind_of(states)}, not the states of a run")
    history: dict[UUID, FlowRunState] = {}
    run = None
    for index, given in enumerate(states):
        if not isinstance(given, FlowRunState):
            raise InvalidInputError("states", f"[{index}] is {kind_of(given)}, not a FlowRunState")
        try:
            state = FlowRunState.model_validate(vars(given))  # model_copy and model_construct check nothing
        except ValidationError as error:
            wrong = invalid_input(error)
            raise InvalidInputError("states", f"[{index}].{wrong.field}: {wrong.message}") from None
        run = run or state.flow_run_id
        if state.flow_run_id != run:
            raise InvalidInputError("states", f"[{index}] is of another run than the first one")
        if state.id in history:
            raise InvalidInputError("states", f"[{index}] has the id of one before it, {state.id}")
        if not _EPOCH <= state.timestamp < _END:
            raise InvalidInputError("states", f"[{index}] began at {state.timestamp.isoformat()}, which no trace can hold")
        history[state.id] = state
    return list(history.values())


def _parent(traceparent: str | None) -> trace.SpanContext:
    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, Context())).get_span_context()


def _end(span: trace.Span, state: FlowRunState, following: FlowRunState) -> None:
    if state.type in _ERRORS:
        span.set_attribute("error.type", state.type.value)
        span.set_status(trace.StatusCode.ERROR, state.message)
    span.end(_nanoseconds(following))


def _nanoseconds(state: FlowRunState) -> int:
    return (state.timestamp - _EPOCH) // _MICROSECOND * 1_000


def _hash(what: bytes, id: UUID, size: int) -> int:
    # Not the id itself: samplers by ratio look at half of it, in which every UUID has the same bits at the top.
    return int.from_bytes(blake2b(id.bytes, digest_size=size, person=what).digest()) or 1


class _Ids:
    """What a tracer of the SDK asks for ids; what else it asks, its own generator answers."""

    def __init__(self, *, trace_id: int) -> None:
        self.trace_id = trace_id
        self.span_id = 0
        self.are_asked_for = False
        self._others: Any = None

    def given_to(self, tracer: trace.Tracer) -> trace.Tracer:
        """A tracer that takes these ids, if this is one that can."""
        # A tracer that was asked for before there was a provider hands on to the provider's.
        real: Any = tracer._tracer if type(tracer) is trace.ProxyTracer else tracer
        # By what it is: one that wraps the SDK's may have all that it has, and does more with each span. A class that is not imported has no tracers.
        if type(real) is getattr(sys.modules.get("opentelemetry.sdk.trace"), "Tracer", None):
            self.are_asked_for, self._others = True, real.id_generator
            # A copy, since others go on with this one.
            real = copy(real)
            real.id_generator = self
            tracer = real
        return tracer

    def as_parent(self) -> Context:
        """These ids as those of a span elsewhere."""
        there = trace.SpanContext(self.trace_id, self.span_id, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
        return trace.set_span_in_context(trace.NonRecordingSpan(there), Context())

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)
