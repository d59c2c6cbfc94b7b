"""A span for each call: its name, what it says, and when it is an error."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.trace import SpanKind, StatusCode

from flowstates import (
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    HistoryPrunedError,
    InvalidInputError,
    Keep,
    NewFlowRunState,
    UnexpectedStateError,
    batched,
    check,
    create_pool,
)
from flowstates.telemetry import instrument, uninstrument
from flowstates.values import Layout
from tests.conftest import Pool
from tests.feeds import told
from tests.spans import Spans, attributes, id_of, parent_id, times_of, trace_id_of
from tests.test_retries import UNDO_TWICE

pytestmark = pytest.mark.versions

CALLED = (FlowRunStateRepository, FlowRunStateAnalytics, FlowRunStateRetention, FlowRunStateFeed)
PLAIN = {(class_, name): method for class_ in CALLED for name, method in vars(class_).items()}
SPANNED = {(class_, name) for class_, name in PLAIN if not name.startswith("_") and name != "follow"}
OTHER_TABLES = {"count_current": "flow_run", "positions": "flowstates_consumer", "move": "flowstates_consumer", "forget": "flowstates_consumer"}


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    instrument(tracer_provider=spans.provider)
    yield spans
    uninstrument()


@pytest.fixture
async def own_pool(own_database: str) -> AsyncIterator[Pool]:
    async with create_pool(own_database) as pool:
        yield pool


def test_without_it_nothing_is_imported() -> None:
    code = "import sys, flowstates, flowstates.cli.app; print([name for name in sys.modules if 'opentelemetry' in name or 'telemetry' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_importing_it_sets_up_nothing() -> None:
    code = """
import sys, flowstates.telemetry
from opentelemetry import metrics, trace
from flowstates import FlowRunStateRepository
flowstates.telemetry.instrument()
flowstates.telemetry.uninstrument()
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.instrumentation"))])
print(type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\nProxyTracerProvider _ProxyMeterProvider\n"


async def test_batched_creates_have_a_span_each_and_retries_of_their_own(spans: Spans, own_pool: Pool) -> None:
    async with batched(own_pool, workers=1) as states:
        await asyncio.gather(*[states.create_flow_run_state(UUID(int=number + 1), "RUNNING") for number in range(5)])
    assert [span.name for span in spans.all] == ["create_flow_run_state flow_run_state"] * 5
    assert ["db.namespace" in attributes(span) for span in spans.all].count(True) == 1  # that of the one that went alone
    assert {attributes(span).get("flowstates.retries") for span in spans.all} == {None}


def test_a_provider_that_is_set_later_gets_the_spans() -> None:
    code = """
import asyncio
from opentelemetry import trace
from flowstates import FlowRunStateRepository, InvalidInputError, create_pool
from flowstates.telemetry import instrument
from tests.spans import Spans

async def read():
    try:
        await FlowRunStateRepository(create_pool()).read_flow_run_state("nonsense")
    except InvalidInputError:
        pass

instrument()
asyncio.run(read())
spans = Spans()
trace.set_tracer_provider(spans.provider)
asyncio.run(read())
print(spans.one.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)
    assert done.stdout == "read_flow_run_state flow_run_state\n"


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import flowstates.telemetry"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'flowstates[telemetry]'" in done.stderr


def test_the_methods_are_the_plain_functions_before_and_after() -> None:
    assert {type(method) for (_, name), method in PLAIN.items() if not name.startswith("_")} == {FunctionType}
    for _ in range(2):
        instrument()
    changed = {(class_, name) for (class_, name), method in PLAIN.items() if vars(class_)[name] is not method}
    assert changed == SPANNED
    for class_, name in changed:
        assert inspect.signature(vars(class_)[name]) == inspect.signature(PLAIN[class_, name])
        assert inspect.iscoroutinefunction(vars(class_)[name]) is inspect.iscoroutinefunction(PLAIN[class_, name])
        assert vars(class_)[name].__doc__ == PLAIN[class_, name].__doc__
    for _ in range(2):
        uninstrument()
    assert {(class_, name): method for class_ in CALLED for name, method in vars(class_).items()} == PLAIN


@pytest.mark.once
def test_what_is_no_provider_is_refused_and_changes_nothing(spans: Spans) -> None:
    before = {(class_, name): method for class_ in CALLED for name, method in vars(class_).items()}
    with pytest.raises(InvalidInputError, match=r"^tracer_provider: is a str, not a TracerProvider of OpenTelemetry$"):
        instrument(tracer_provider="x")  # type: ignore[arg-type]
    assert {(class_, name): method for class_ in CALLED for name, method in vars(class_).items()} == before


async def make(pool: Pool, layout: Layout) -> FlowRunState:
    if layout == "flowstates":
        return await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), "RUNNING")
    run = await pool.fetchval("insert into flow_run default values returning id")
    id = await pool.fetchval("insert into flow_run_state (flow_run_id, type, name) values ($1, 'RUNNING', 'Running') returning id", run)
    state = await FlowRunStateRepository(pool, layout="prefect").read_flow_run_state(id)
    assert state is not None
    return state


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_a_read_has_the_names_of_the_conventions(layout_dsns: dict[Layout, str], layout: Layout, spans: Spans) -> None:
    address = urlsplit(layout_dsns[layout])
    async with create_pool(layout_dsns[layout]) as pool:
        state = await make(pool, layout)
        for pool_or_connection in (pool, await asyncpg.connect(layout_dsns[layout])):
            spans.clear()
            states = FlowRunStateRepository(pool_or_connection, layout=layout)
            assert await states.read_flow_run_states(state.flow_run_id) == [state]
            span = spans.one
            assert (span.name, span.kind, span.status.status_code) == ("read_flow_run_states flow_run_state", SpanKind.CLIENT, StatusCode.UNSET)
            said = dict(attributes(span))
            where = {"server.address": said.pop("server.address", None), "server.port": said.pop("server.port", address.port)}
            assert where["server.address"]
            assert said == {
                "db.system.name": "postgresql",
                "db.namespace": address.path[1:],
                "db.operation.name": "read_flow_run_states",
                "db.collection.name": "flow_run_state",
                "db.query.summary": "read_flow_run_states flow_run_state",
            }
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.name == "flowstates"
        assert isinstance(pool_or_connection, asyncpg.Connection)
        await pool_or_connection.close()


async def test_each_public_method_has_one_span(own_pool: Pool, spans: Spans) -> None:
    states, analytics, retention = FlowRunStateRepository(own_pool), FlowRunStateAnalytics(own_pool), FlowRunStateRetention(own_pool)
    state = await states.create_flow_run_state(uuid4(), "RUNNING")
    run, since, until = state.flow_run_id, state.timestamp, state.timestamp + timedelta(hours=1)
    await states.create_flow_run_states([])
    await states.read_flow_run_state(state.id)
    await states.read_flow_run_states(run)
    await states.read_flow_run_states_by_run([run], last=1)
    await states.read_current_flow_run_state(run)
    await states.read_current_flow_run_states([run])
    await states.read_flow_run_states_as_of([run], until)
    await states.read_flow_run_state_page()
    async with states.stream_flow_run_states() as stream:
        assert [state async for state in stream] == [state]
    await states.count_flow_run_states()
    await states.delete_flow_run_states(flow_run_ids=[run])
    await states.delete_flow_run_state(state.id)
    await analytics.measure_time_in_states(since=since, until=until)
    await analytics.count_transitions(since=since, until=until, step=timedelta(hours=1))
    await analytics.count_occupancy(since=since, until=until, step=timedelta(hours=1))
    await analytics.count_current()
    await retention.prune(older_than=timedelta(0))
    feed = FlowRunStateFeed(own_pool)
    await feed.read_page(await feed.now())
    async with feed.consume("billing", start="now"):
        pass
    await feed.positions()
    await feed.move("billing", "now")
    await feed.forget("billing")
    assert sorted(span.name for span in spans.all) == sorted(f"{name} {OTHER_TABLES.get(name, 'flow_run_state')}" for _, name in SPANNED)
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}


async def test_a_call_is_part_of_what_its_caller_does(pool: Pool, spans: Spans) -> None:
    tracer, states = spans.provider.get_tracer("service"), FlowRunStateRepository(pool)

    async def handle(name: str) -> None:
        with tracer.start_as_current_span(name):
            state = await states.create_flow_run_state(uuid4(), "PENDING", message=name)
            await asyncio.gather(*[states.read_flow_run_state(state.id) for _ in range(3)])
            assert trace.get_current_span().get_span_context().is_valid

    await asyncio.gather(*[handle(f"request {number}") for number in range(5)])
    assert not trace.get_current_span().get_span_context().is_valid
    requests = {id_of(span): span for span in spans.all if span.name.startswith("request")}
    calls = [span for span in spans.all if not span.name.startswith("request")]
    assert (len(requests), len(calls)) == (5, 20)
    for id, request in requests.items():
        mine = [span for span in calls if parent_id(span) == id]
        assert len(mine) == 4
        assert {trace_id_of(span) for span in mine} == {trace_id_of(request)}


async def test_the_drivers_spans_are_inside_of_it(pool: Pool, spans: Spans) -> None:
    driver = AsyncPGInstrumentor()  # type: ignore[no-untyped-call]
    states = FlowRunStateRepository(pool)
    state = await states.create_flow_run_state(uuid4(), "RUNNING")
    spans.clear()
    driver.instrument(tracer_provider=spans.provider)
    try:
        await states.read_flow_run_states(state.flow_run_id)
        fetch, call = spans.all
        assert (fetch.name, parent_id(fetch)) == ("select", id_of(call))
        spans.clear()
        async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[state.flow_run_id])) as stream:
            async for _ in stream:
                await pool.fetchval("select 1")
    finally:
        driver.uninstrument()
    *inside, call = spans.all
    assert call.name == "stream_flow_run_states flow_run_state"
    mine = [span for span in inside if parent_id(span) is None]
    assert [attributes(span)["db.statement"] for span in mine] == ["select 1"]
    assert {parent_id(span) for span in inside if span not in mine} == {id_of(call)}
    assert "CURSOR: select" in {span.name for span in inside}


async def test_the_size_of_a_batch(pool: Pool, spans: Spans) -> None:
    states = FlowRunStateRepository(pool)
    for size in (0, 1, 2, 30):
        new = [NewFlowRunState(flow_run_id=uuid4(), type="RUNNING") for _ in range(size)]
        for given in (new, iter(new)):
            spans.clear()
            await states.create_flow_run_states(given)
            assert attributes(spans.one).get("db.operation.batch.size") == (None if size == 1 else size)
            assert spans.one.name == "create_flow_run_states flow_run_state"
    spans.clear()
    await states.create_flow_run_states(states=new)
    assert attributes(spans.one)["db.operation.batch.size"] == 30


@pytest.mark.parametrize("call", ["create_flow_run_state", "create_flow_run_states", "delete_flow_run_state", "prune"])
async def test_what_was_done_again_is_counted_and_is_no_error(own_pool: Pool, spans: Spans, call: str) -> None:
    states = FlowRunStateRepository(own_pool)
    state = await states.create_flow_run_state(uuid4(), "COMPLETED")
    assert "flowstates.retries" not in attributes(spans.one)
    await own_pool.execute(UNDO_TWICE)
    spans.clear()
    if call == "create_flow_run_state":
        await states.create_flow_run_state(uuid4(), "RUNNING")
    elif call == "create_flow_run_states":
        await states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="RUNNING")])
    elif call == "delete_flow_run_state":
        await states.delete_flow_run_state(state.id)
    else:
        await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0))
        said = {name: value for name, value in attributes(spans.one).items() if name.startswith("flowstates.prune.")}
        assert said == {"flowstates.prune.runs": 1, "flowstates.prune.states": 1, "flowstates.prune.batches": 1}
    assert attributes(spans.one)["flowstates.retries"] == 2
    assert (spans.one.status.status_code, spans.one.events) == (StatusCode.UNSET, ())


async def test_an_error_of_the_server(own_pool: Pool, spans: Spans) -> None:
    states = FlowRunStateRepository(own_pool)
    await own_pool.execute("alter table flow_run_state rename to elsewhere")
    with pytest.raises(asyncpg.UndefinedTableError):
        await states.read_flow_run_states(uuid4())
    said = attributes(spans.one)
    assert (said["error.type"], said["db.response.status_code"]) == ("42P01", "42P01")
    assert (spans.one.status.status_code, spans.one.status.description) == (StatusCode.ERROR, 'relation "flow_run_state" does not exist')
    assert spans.one.events == ()


async def test_errors_of_others(pool: Pool, spans: Spans) -> None:
    states = FlowRunStateRepository(pool)
    run = (await states.create_flow_run_state(uuid4(), "RUNNING")).flow_run_id
    calls: list[tuple[Any, type[Exception], str]] = [
        (states.create_flow_run_state(run, "RUNNING", expected={"PENDING"}), UnexpectedStateError, "flowstates.errors.UnexpectedStateError"),
        (states.read_flow_run_states("nonsense"), InvalidInputError, "flowstates.errors.InvalidInputError"),
    ]
    for call, error, name in calls:
        spans.clear()
        with pytest.raises(error) as caught:
            await call
        said = attributes(spans.one)
        assert (said["error.type"], "db.response.status_code" in said) == (name, False)
        assert (spans.one.status.status_code, spans.one.status.description) == (StatusCode.ERROR, str(caught.value))


async def test_a_timeout_and_a_cancellation_while_waiting_for_a_connection(dsn: str, spans: Spans) -> None:
    async with create_pool(dsn, max_size=1) as pool, pool.acquire():
        with pytest.raises(TimeoutError):
            await FlowRunStateRepository(pool).read_flow_run_states(uuid4(), timeout=0.01)
        assert attributes(spans.one)["error.type"] == "TimeoutError"
        assert "db.namespace" not in attributes(spans.one)
        assert spans.one.status.status_code is StatusCode.ERROR
        spans.clear()
        call = asyncio.ensure_future(FlowRunStateRepository(pool).read_flow_run_states(uuid4()))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (spans.one.status.status_code, attributes(spans.one)["error.type"]) == (StatusCode.ERROR, "asyncio.exceptions.CancelledError")


async def some(pool: Pool) -> UUID:
    states, run = FlowRunStateRepository(pool), uuid4()
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING") for _ in range(5)])
    return run


async def test_a_stream_has_one_span_for_as_long_as_its_block(pool: Pool, spans: Spans) -> None:
    states, of = FlowRunStateRepository(pool), FlowRunStateFilter(flow_run_ids=[await some(pool)])
    spans.clear()
    block = states.stream_flow_run_states(of)
    async with block as stream:
        assert spans.all == []
        assert len([state async for state in stream]) == 5
        assert not trace.get_current_span().get_span_context().is_valid
        inside = await states.count_flow_run_states(of)
        counted = spans.one
    call = spans.all[-1]
    assert (inside, call.name, call.status.status_code) == (5, "stream_flow_run_states flow_run_state", StatusCode.UNSET)
    assert attributes(call)["db.namespace"] == attributes(counted)["db.namespace"]
    (begin, end), (inside_begin, inside_end) = times_of(call), times_of(counted)
    assert begin < inside_begin < inside_end < end
    assert parent_id(counted) is None


async def test_what_the_caller_raises_in_a_streams_block_is_no_error_of_the_stream(pool: Pool, spans: Spans) -> None:
    of = FlowRunStateFilter(flow_run_ids=[await some(pool)])

    async def read(error: type[BaseException]) -> None:
        async with FlowRunStateRepository(pool).stream_flow_run_states(of) as stream:
            async for _ in stream:
                raise error

    for error in (ZeroDivisionError, asyncio.CancelledError, GeneratorExit):
        spans.clear()
        with pytest.raises(error):
            await read(error)
        assert (spans.one.status.status_code, "error.type" in attributes(spans.one)) == (StatusCode.UNSET, False)


async def test_an_error_of_a_stream(own_database: str, own_pool: Pool, spans: Spans) -> None:
    await some(own_pool)

    async def read_and_terminate() -> None:
        async with FlowRunStateRepository(own_pool).stream_flow_run_states() as stream:
            async for _ in stream:
                connection = await asyncpg.connect(own_database)
                await connection.execute(
                    "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                )
                await connection.close()

    spans.clear()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await read_and_terminate()
    assert spans.one.status.status_code is StatusCode.ERROR
    await own_pool.execute("alter table flow_run_state rename to elsewhere")
    spans.clear()
    with pytest.raises(asyncpg.UndefinedTableError):
        await read_and_terminate()
    assert attributes(spans.one)["error.type"] == "42P01"


async def test_a_stream_can_be_closed_before_its_end(pool: Pool, spans: Spans) -> None:
    of = FlowRunStateFilter(flow_run_ids=[await some(pool)])
    spans.clear()
    async with FlowRunStateRepository(pool).stream_flow_run_states(of) as stream:
        async with aclosing(stream) as closing:  # type: ignore[type-var]
            async for _ in closing:
                break
        assert [state async for state in stream] == []
    assert spans.one.status.status_code is StatusCode.UNSET


async def test_a_stream_that_cannot_begin(dsn: str, spans: Spans) -> None:
    async with create_pool(dsn, max_size=1) as pool, pool.acquire():
        states = FlowRunStateRepository(pool)
        with pytest.raises(InvalidInputError):
            states.stream_flow_run_states("nonsense")  # type: ignore[arg-type]
        assert (spans.one.name, attributes(spans.one)["error.type"]) == (
            "stream_flow_run_states flow_run_state",
            "flowstates.errors.InvalidInputError",
        )
        assert (spans.one.status.status_code, spans.one.status.description) == (StatusCode.ERROR, "filter: is a str, not a FlowRunStateFilter")
        spans.clear()
        with pytest.raises(InvalidInputError):
            FlowRunStateFeed(pool).consume("billing", limit=0)
        assert (spans.one.name, spans.one.status.description) == ("consume flow_run_state", "limit: is 0, not a number from 1 to 10,000")
        spans.clear()
        with pytest.raises(TimeoutError):
            async with states.stream_flow_run_states(timeout=0.01):
                pass
    assert (spans.one.status.status_code, attributes(spans.one)["error.type"]) == (StatusCode.ERROR, "TimeoutError")


async def test_what_is_no_call_leaves_the_callers_span_alone(dsn: str, pool: Pool, spans: Spans) -> None:
    with spans.provider.get_tracer("service").start_as_current_span("mine"):
        assert await check(pool) == []
    assert (spans.one.name, attributes(spans.one)) == ("mine", {})


async def test_a_task_that_outlives_its_call_says_nothing_of_it(own_pool: Pool, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    await FlowRunStateRepository(own_pool).create_flow_run_state(uuid4(), "COMPLETED")
    go, later = asyncio.Event(), []

    async def read() -> None:
        await go.wait()
        await check(own_pool)

    async def archive(states: list[FlowRunState]) -> None:
        later.append(asyncio.ensure_future(read()))

    spans.clear()
    await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0), archive=archive)
    go.set()
    await later[0]
    assert caplog.text == ""


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_a_prune_of_either_layout(layout_dsns: dict[Layout, str], layout: Layout, spans: Spans) -> None:
    async with create_pool(layout_dsns[layout]) as pool:
        await FlowRunStateRetention(pool, layout=layout).prune(older_than=timedelta(days=9999), keep=Keep(first=True))
    assert attributes(spans.one)["flowstates.prune.batches"] == 0


async def test_the_span_of_a_consumers_block(own_pool: Pool, spans: Spans) -> None:
    states, feed = FlowRunStateRepository(own_pool), FlowRunStateFeed(own_pool)
    run = await some(own_pool)
    await told(feed, None, [state.id for state in await states.read_flow_run_states(run)])
    spans.clear()
    async with feed.consume("billing", start="beginning", limit=3) as batch:
        assert spans.all == []
        assert not trace.get_current_span().get_span_context().is_valid
        assert await FlowRunStateRepository(batch.connection).count_flow_run_states() == 5
    counted, call = spans.all
    assert (call.name, call.status.status_code, parent_id(counted)) == ("consume flow_run_state", StatusCode.UNSET, None)
    assert attributes(call)["flowstates.feed.states"] == len(batch.states) == 3
    assert attributes(call)["db.namespace"] == attributes(counted)["db.namespace"]
    (begin, end), (inside_begin, inside_end) = times_of(call), times_of(counted)
    assert begin < inside_begin < inside_end < end

    spans.clear()
    with pytest.raises(ZeroDivisionError):
        async with feed.consume("billing"):
            raise ZeroDivisionError
    assert (spans.one.status.status_code, attributes(spans.one)["flowstates.feed.states"]) == (StatusCode.UNSET, 2)

    await states.delete_flow_run_states(flow_run_ids=[run])
    spans.clear()
    with pytest.raises(HistoryPrunedError):
        async with feed.consume("billing"):
            pass
    assert attributes(spans.one)["error.type"] == "flowstates.errors.HistoryPrunedError"


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_how_many_states_a_page_has(layout_dsns: dict[Layout, str], layout: Layout, spans: Spans) -> None:
    async with create_pool(layout_dsns[layout]) as pool:
        feed = FlowRunStateFeed(pool, layout=layout)
        page = await feed.read_page(await feed.now(), limit=1)
    now, read = spans.all
    assert (now.name, read.name) == ("now flow_run_state", "read_page flow_run_state")
    assert attributes(read)["flowstates.feed.states"] == len(page.states)
    assert attributes(read)["db.namespace"] == urlsplit(layout_dsns[layout]).path[1:]


async def test_a_feed_that_is_followed_has_no_span(pool: Pool, spans: Spans) -> None:
    of = FlowRunStateFilter(flow_run_ids=[await some(pool)])
    spans.clear()
    async with FlowRunStateFeed(pool).follow(filter=of, limit=5) as pages:
        async for page in pages:
            if page.states:
                break
    assert len(page.states) == 5
    assert spans.all == []
