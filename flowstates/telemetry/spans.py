"""A span for each call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sized
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import wraps
from inspect import iscoroutinefunction, isfunction
from types import TracebackType
from typing import Any

import asyncpg
from opentelemetry import context, trace

from flowstates.analytics import FlowRunStateAnalytics
from flowstates.batches import BatchedCreates
from flowstates.engine import retries
from flowstates.engine.connections import Acquired, AnyConnection
from flowstates.errors import InvalidInputError
from flowstates.feed import FeedBatch, FeedPage, FlowRunStateFeed
from flowstates.repository import FlowRunStateRepository
from flowstates.retention import FlowRunStateRetention, PruneReport
from flowstates.telemetry import scope
from flowstates.values import kind_of

_CLASSES = (FlowRunStateRepository, BatchedCreates, FlowRunStateAnalytics, FlowRunStateRetention, FlowRunStateFeed)
_WITHOUT = frozenset({"follow"})
"""What lasts as long as its service."""
_TABLES = {"count_current": "flow_run", "positions": "flowstates_consumer", "move": "flowstates_consumer", "forget": "flowstates_consumer"}
"""Of what does not ask for states. All else is told of flow_run_state."""
_BATCH = "create_flow_run_states"
_CALL = context.create_key("flowstates-call")

_replaced: dict[tuple[type, str], Any] = {}


def instrument(*, tracer_provider: trace.TracerProvider | None = None) -> None:
    """Gives each call of a repository, analytics, retention or feed a span, until `uninstrument`. A second one takes the place of the first.

    A batched create has its own span, from its call to its answer. It has no connection where it went with others.

    The span is named by the method and the table, `read_flow_run_states flow_run_state`, is of kind CLIENT and is current while the call lasts,
    retries and the wait for a connection included. That of stream_flow_run_states and of consume begins and ends with the block, and is current in
    the library only: what the caller does in the block is not part of it. A feed's `follow` has none, as it would last for days: who wants one for
    each page goes by read_page.

    Attributes: `db.system.name`, `db.operation.name` (the method), `db.collection.name`, `db.query.summary` (the span's name); once a connection is
    there, `db.namespace` (its database), `server.address` and `server.port`; `db.operation.batch.size` of create_flow_run_states, if it is not 1;
    `flowstates.retries`, how often something was done again, if it was; `flowstates.prune.runs`, `.states` and `.batches`; `flowstates.feed.states`,
    how many states a page or a batch of a feed has.

    An error that a call raises, a cancellation too, makes its span an error: `error.type` is the SQLSTATE, which is `db.response.status_code` too,
    or else the name of the class; the status has the first line of the message. What the caller raises in a block does not.

    `tracer_provider` None is the global one, also if that is set later; InvalidInputError for what is no provider.
    """
    # By its method: one that wraps another need not be of the API's class.
    if tracer_provider is not None and not callable(getattr(tracer_provider, "get_tracer", None)):
        raise InvalidInputError("tracer_provider", f"is {kind_of(tracer_provider)}, not a TracerProvider of OpenTelemetry")
    uninstrument()
    tracer = trace.get_tracer(scope.NAME, scope.VERSION, tracer_provider, schema_url=scope.SCHEMA)
    for class_ in _CLASSES:
        for name, method in list(vars(class_).items()):
            if isfunction(method) and not name.startswith("_") and name not in _WITHOUT:
                _replace(class_, name, _with_span(tracer, method) if iscoroutinefunction(method) else _with_span_of_block(tracer, method))
    _replace(Acquired, "__aenter__", _telling_where(Acquired.__aenter__))
    retries.listeners.append(_count_retry)


def uninstrument() -> None:
    """Takes back what `instrument` did: the methods are the plain ones again. Without it, nothing."""
    while _replaced:
        (class_, name), method = _replaced.popitem()
        setattr(class_, name, method)
    if _count_retry in retries.listeners:
        retries.listeners.remove(_count_retry)


def _replace(class_: type, name: str, method: Any) -> None:
    _replaced[class_, name] = vars(class_)[name]
    setattr(class_, name, method)


class _Call:
    """The span of one call, which is current in each `with` block of it, and is ended by `end`."""

    __slots__ = ("_context", "_retries", "_token", "span")

    def __init__(self, tracer: trace.Tracer, name: str) -> None:
        table = _TABLES.get(name, "flow_run_state")
        summary = f"{name} {table}"
        attributes = {"db.system.name": "postgresql", "db.operation.name": name, "db.collection.name": table, "db.query.summary": summary}
        self.span = tracer.start_span(summary, kind=trace.SpanKind.CLIENT, attributes=attributes)
        self._context = context.set_value(_CALL, self, trace.set_span_in_context(self.span))
        self._retries = 0

    def __enter__(self) -> None:
        self._token = context.attach(self._context)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None) -> None:
        context.detach(self._token)
        if error is None or isinstance(error, StopAsyncIteration):
            return
        code = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
        if code is not None:
            self.span.set_attribute("db.response.status_code", code)
        self.span.set_attribute("error.type", code or _name_of(type(error)))
        self.span.set_status(trace.StatusCode.ERROR, str(error).partition("\n")[0] or None)

    def count_retry(self) -> None:
        self._retries += 1
        self.span.set_attribute("flowstates.retries", self._retries)

    def tell_connection(self, connection: AnyConnection) -> None:
        # asyncpg says both to whoever logs queries, but only after a query.
        database = getattr(getattr(connection, "_params", None), "database", None)
        address = getattr(connection, "_addr", None)
        if database is not None:
            self.span.set_attribute("db.namespace", database)
        if isinstance(address, tuple):
            self.span.set_attributes({"server.address": address[0], "server.port": address[1]})
        elif address is not None:
            self.span.set_attribute("server.address", address)

    def tell_batch(self, size: int) -> None:
        if size != 1:
            self.span.set_attribute("db.operation.batch.size", size)

    def tell_answer(self, answer: object) -> None:
        if isinstance(answer, PruneReport):
            for name in ("runs", "states", "batches"):
                self.span.set_attribute(f"flowstates.prune.{name}", getattr(answer, name))
        elif isinstance(answer, FeedPage | FeedBatch):
            self.span.set_attribute("flowstates.feed.states", len(answer.states))

    def end(self) -> None:
        self.span.end()


def _name_of(class_: type) -> str:
    return class_.__qualname__ if class_.__module__ == "builtins" else f"{class_.__module__}.{class_.__qualname__}"


def _current_call() -> _Call | None:
    call = context.get_value(_CALL)
    # What a task that has outlived its call does is nobody's.
    return call if isinstance(call, _Call) and call.span.is_recording() else None


def _count_retry() -> None:
    if (call := _current_call()) is not None:
        call.count_retry()


def _telling_where(enter: Callable[[Acquired], Any]) -> Callable[[Acquired], Any]:
    @wraps(enter)
    async def entered(self: Acquired) -> AnyConnection:
        connection: AnyConnection = await enter(self)
        if (call := _current_call()) is not None:
            call.tell_connection(connection)
        return connection

    return entered


def _with_span(tracer: trace.Tracer, method: Callable[..., Any]) -> Callable[..., Any]:
    name = method.__name__

    @wraps(method)
    async def spanned(*arguments: Any, **options: Any) -> Any:
        call = _Call(tracer, name)
        try:
            batch = options.get("states", arguments[-1] if arguments else None) if name == _BATCH else None
            if isinstance(batch, Sized):
                call.tell_batch(len(batch))
            with call:
                answer = await method(*arguments, **options)
            if name == _BATCH and not isinstance(batch, Sized):
                call.tell_batch(len(answer))
            call.tell_answer(answer)
            return answer
        finally:
            call.end()

    return spanned


def _with_span_of_block(tracer: trace.Tracer, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def spanned(*arguments: Any, **options: Any) -> _Block:
        try:
            inside = method(*arguments, **options)
        except Exception:  # whatever it is: the span is told of it, and it is raised on
            call = _Call(tracer, method.__name__)
            try:
                with call:
                    raise
            finally:
                call.end()
        return _Block(tracer, method.__name__, inside)

    return spanned


class _Block:
    """A context manager of ours, and the span of its block."""

    __slots__ = ("_call", "_inside", "_name", "_tracer")

    def __init__(self, tracer: trace.Tracer, name: str, inside: AbstractAsyncContextManager[Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._inside = inside

    async def __aenter__(self) -> Any:
        self._call = _Call(self._tracer, self._name)
        with ExitStack() as stack:
            stack.callback(self._call.end)
            with self._call:
                given = await self._inside.__aenter__()
            self._call.tell_answer(given)
            stack.pop_all()
        return _Items(given, self._call) if isinstance(given, AsyncGenerator) else given

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None) -> bool | None:
        try:
            with self._call:
                return await self._inside.__aexit__(kind, error, trace_)
        finally:
            self._call.end()


class _Items:
    """What a block gives, one after another, each asked for inside the span."""

    __slots__ = ("_call", "_items")

    def __init__(self, items: AsyncGenerator[Any], call: _Call) -> None:
        self._items = items
        self._call = call

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Any:
        with self._call:
            return await self._items.__anext__()

    async def aclose(self) -> None:
        with self._call:
            await self._items.aclose()
