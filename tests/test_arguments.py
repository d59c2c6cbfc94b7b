"""Whatever is handed to a public parameter works and reads back equal, or is InvalidInputError with the parameter's name and nothing was sent."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import uuid_utils
from asyncpg.pgproto import pgproto
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flowstates import (
    ContentionError,
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateConflictError,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    ForeignPositionError,
    InvalidInputError,
    NewFlowRunState,
    StateDetails,
    StateType,
    UnexpectedStateError,
    check,
    check_plans,
    create_pool,
    embedded_postgres,
    migrate,
)
from flowstates.engine import positions
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.test_round_trip import FIELDS, same

pytestmark = pytest.mark.versions

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUN = UUID(int=5)


class NoTime(datetime):
    """A time that is none, as pandas has one: it is a datetime, and its methods raise ValueError."""

    def utcoffset(self, *_: Any) -> Any:
        raise ValueError("no time")

    astimezone = isoformat = timestamp = date = time = replace = strftime = utcoffset  # type: ignore[assignment]


class NoRepr(NoTime):
    def __repr__(self) -> str:
        raise ValueError("no text")


class OtherUUID(UUID):
    pass


class Text(str):
    __slots__ = ()


class Word(str, Enum):  # noqa: UP042 (a StrEnum is shown as the word)
    """As an f-string shows it, it is not the word."""

    RUN, TIME, TIMESTAMP, CREATED, TYPE, NUDGE, RUNNING, OURS = "run", "time", "timestamp", "created", "type", "nudge", "RUNNING", "flowstates"


class Number(IntEnum):
    ONE = 1


class OtherNumber(int, Enum):
    TWO = 2


class Model(BaseModel):
    id: UUID = RUN


class SixtyFour:
    """An integer of another library, as numpy has one: it is of no subclass of int, and does what an int does."""

    def __index__(self) -> int:
        return 1

    __int__ = __index__

    def __float__(self) -> float:
        return 1.0

    def __le__(self, _: Any) -> bool:
        return True

    __lt__ = __ge__ = __gt__ = __le__


def recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BEGINNING, PREFECTS_BEGINNING = positions.encode(positions.BEGINNING), positions.encode(positions.PREFECTS_BEGINNING)
FIXED = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**5000, -(10**5000), 0.0, 1.5, -0.5, 1e300, float("nan"), float("inf"), float("-inf"),
    1j, Decimal("NaN"), Decimal(1), Fraction(1, 3), Number.ONE, OtherNumber.TWO,
    "", "x", "\0", "\ud800", "é☃", "x" * 100_000, "\t\n\\.", "RUNNING", "running", "run", "time", "flowstates", "prefect", "None", "5", "nan",
    str(RUN), RUN.hex, f"{{{RUN}}}", f"urn:uuid:{RUN}", "2024-03-05T12:00:00Z", "2024-03-05T12:00:00", "2024-03-05", "0001-01-01T00:00:00+14:00",
    "now", "beginning", Text("now"), Text(BEGINNING), BEGINNING, BEGINNING[:-1], BEGINNING + "A", BEGINNING.swapcase(), BEGINNING + "=",
    f" {BEGINNING}", PREFECTS_BEGINNING, "".join(map(chr, range(1, 55_000))), SixtyFour(),
    Text("RUNNING"), Text(str(RUN)), StateType.PAUSED, *Word,
    b"", b"RUNNING", RUN.bytes, bytearray(b"x"), memoryview(b"x"),
    RUN, OtherUUID(int=6), pgproto.UUID(str(RUN)), uuid_utils.uuid7(),
    date(2024, 3, 5), time(12), time(12, tzinfo=UTC), timedelta(0), timedelta(hours=1), timedelta.max, -timedelta.resolution,
    NOON, NOON.replace(tzinfo=None), NOON.astimezone(ZoneInfo("Asia/Kolkata")), datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    NoTime(2024, 3, 5), NoTime(2024, 3, 5, tzinfo=UTC), NoRepr(2024, 3, 5, tzinfo=UTC),
    object(), object, ..., len, RuntimeError("x"), range(3), Model(), StateDetails(retriable=True),
    FlowRunStateFilter(flow_run_ids=[RUN]), NewFlowRunState(flow_run_id=RUN, type="RUNNING"),
]  # fmt: skip
FRESH: list[Callable[[], Any]] = [
    list, dict, set, tuple, recursive, lambda: deep(150), lambda: deep(300), lambda: iter([RUN]), lambda: (x for x in ["RUNNING"]),
    lambda: {"a": 1.5, "b": [None, "☃"]}, lambda: {RUN: 1}, lambda: {1: 1}, lambda: {None: ["RUNNING"]}, lambda: {"retriable": "maybe"},
    lambda: {"scheduled_time": NOON.isoformat(), "from_tomorrow": [1]}, lambda: {"cache_key": "\0"}, lambda: {"x": object()},
]  # fmt: skip
simple = st.sampled_from(FIXED) | st.sampled_from(FRESH).map(lambda make: make())
several = st.lists(simple, min_size=1, max_size=2)
COLLECTIONS: list[Callable[[list[Any]], Any]] = [list, tuple, iter, lambda found: (x for x in found), lambda found: dict(enumerate(found)).values()]


@st.composite
def changed_models(draw: st.DrawFn) -> Any:
    """A model of ours past its checks, by a copy or by a construction."""
    model = draw(st.sampled_from([NewFlowRunState(flow_run_id=RUN, type="RUNNING"), FlowRunStateFilter(flow_run_ids=[RUN]), StateDetails()]))
    changes = draw(st.dictionaries(st.sampled_from([*type(model).model_fields, "unknown"]), simple, max_size=2))
    return model.model_copy(update=changes) if draw(st.booleans()) else type(model).model_construct(**changes)


anything = simple | st.builds(lambda make, found: make(found), st.sampled_from(COLLECTIONS), several) | changed_models()
anything |= st.lists(changed_models(), max_size=2)


class Counting:
    """A connection of the caller's that counts what is asked of it. It is known by its methods, as a wrapped one is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.asked = 0

    def assert_untouched(self) -> None:
        assert self.asked == 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in ("fetch", "execute", "prepare", "transaction", "copy_to_table", "copy_from_query", "cursor"):
            return found

        def ask(*arguments: Any, **options: Any) -> Any:
            self.asked += 1
            return found(*arguments, **options)

        return ask


class Target(NamedTuple):
    name: str
    call: Callable[..., Awaitable[object]]
    parameters: list[str]


def valid() -> dict[str, Any]:
    """A value for each parameter, with which the calls work."""
    return {
        "flow_run_state_id": uuid4(), "flow_run_id": uuid4(), "flow_run_ids": [uuid4()], "last": 2, "at": NOON, "limit": 10, "type": "RUNNING",
        "states": [NewFlowRunState(flow_run_id=uuid4(), type="RUNNING")], "since": NOON, "until": NOON + timedelta(hours=2),
        "step": timedelta(hours=1), "filter": FlowRunStateFilter(flow_run_ids=[RUN]), "timeout": 30, "name": "arguments", "to": "now", "start": "now",
    }  # fmt: skip


async def read_stream(states: FlowRunStateRepository, **arguments: Any) -> None:
    async with states.stream_flow_run_states(**arguments) as stream:
        async for _ in stream:
            pass


async def follow(feed: FlowRunStateFeed, **arguments: Any) -> None:
    with suppress(TimeoutError):
        async with feed.follow(**arguments) as pages, asyncio.timeout(0.01):
            async for _ in pages:
                pass


async def consume(feed: FlowRunStateFeed, **arguments: Any) -> None:
    async with feed.consume(**arguments):
        pass


BLOCKS: dict[str, Callable[..., Awaitable[object]]] = {"stream_flow_run_states": read_stream, "follow": follow, "consume": consume}


def targets(source: Any) -> list[Target]:
    found = []
    for instance in (FlowRunStateRepository(source), FlowRunStateAnalytics(source), FlowRunStateFeed(source)):
        for name, method in inspect.getmembers(instance, inspect.ismethod):
            if not name.startswith("_"):
                call = method if inspect.iscoroutinefunction(method) else partial(BLOCKS[name], instance)
                found.append(Target(name, call, list(inspect.signature(method).parameters)))
    return found


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def connection_of_the_module(loop: asyncio.AbstractEventLoop, layout_dsns: dict[Layout, str]) -> Iterator[Connection]:
    """All examples in one event loop and on one connection."""
    connection = loop.run_until_complete(asyncpg.connect(layout_dsns["flowstates"]))
    yield connection
    names = [value for value in FIXED if isinstance(value, str) and "\0" not in value and value.isprintable()]
    loop.run_until_complete(connection.execute("delete from flowstates_consumer where name = any ($1)", [*names, "arguments"]))
    loop.run_until_complete(connection.close())


examples = settings(deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))


def assert_names(error: InvalidInputError, parameters: set[str]) -> None:
    """It names one of the parameters, perhaps with a place inside of it."""
    assert re.split(r"[.\[]", error.field)[0] in parameters, repr(error)


async def attempt(target: Target, arguments: dict[str, Any], changed: set[str], source: Counting) -> object:
    source.asked = 0
    try:
        return await target.call(**arguments)
    except InvalidInputError as error:
        assert_names(error, changed)
        if target.name != "consume" or arguments.get("start") is not None:  # else it depends on whether the consumer is known
            source.assert_untouched()
        return None
    except (UnexpectedStateError, FlowRunStateConflictError, ContentionError):
        assert target.name == "create_flow_run_state"
        return None
    except ForeignPositionError:
        assert "after" in changed
        return None
    except TimeoutError:
        assert "timeout" in changed
        return None


@examples
@given(st.data())
def test_a_call(loop: asyncio.AbstractEventLoop, connection_of_the_module: Connection, data: st.DataObject) -> None:
    source = Counting(connection_of_the_module)
    target = data.draw(st.sampled_from(targets(source)), label="call")
    changes = data.draw(st.dictionaries(st.sampled_from(target.parameters), anything, min_size=1, max_size=2), label="arguments")
    usual = {name: value for name, value in valid().items() if name in target.parameters}
    if target.name == "delete_flow_run_states" and "flow_run_state_ids" in changes:
        del usual["flow_run_ids"]
    # What contradicts another parameter may be told of that one.
    named = {*changes, "flow_run_state_ids"} | ({"until", "step"} if {"since", "until"} & changes.keys() else set())
    loop.run_until_complete(attempt(target, usual | changes, named, source))


def plain(value: Any) -> Any:
    """A JSON value without subclasses."""
    return json.loads(json.dumps(value))


KEPT = ["flow_run_id", "type", "id", "timestamp", "name", "message", "state_details", "data", "result_artifact_id"]


@examples
@given(st.dictionaries(st.sampled_from(KEPT), anything, min_size=1, max_size=3), st.booleans())
def test_what_is_created_reads_back_equal(
    loop: asyncio.AbstractEventLoop, connection_of_the_module: Connection, changes: dict[str, Any], is_bulk: bool
) -> None:
    source = Counting(connection_of_the_module)
    states = FlowRunStateRepository(source)
    arguments: dict[str, Any] = {"flow_run_id": uuid4(), "type": "RUNNING", "id": uuid4()} | changes
    try:
        asked = NewFlowRunState(**arguments)
    except InvalidInputError as error:
        assert_names(error, set(changes))
        with pytest.raises(InvalidInputError):
            loop.run_until_complete(states.create_flow_run_state(**arguments))
        source.assert_untouched()
        return

    async def create() -> FlowRunState | None:
        # An id that is fixed would meet the one of the example before.
        await states.delete_flow_run_states(flow_run_state_ids=[asked.id])
        if is_bulk:
            (outcome,) = await states.create_flow_run_states([asked])
            assert outcome.status == "created"
        else:
            await states.create_flow_run_state(**{field: getattr(asked, field) for field in KEPT})
        return await states.read_flow_run_state(asked.id)

    read = loop.run_until_complete(create())
    assert read is not None
    for field in ("flow_run_id", "type", "id", "name", "message", "result_artifact_id"):
        assert getattr(read, field) == getattr(asked, field)
    assert asked.timestamp is None or asked.timestamp <= read.timestamp
    assert same(plain(asked.data), read.data)
    assert {field: getattr(asked.state_details, field) for field in FIELDS} == {field: getattr(read.state_details, field) for field in FIELDS}
    assert same(plain(asked.state_details.model_extra), plain(read.state_details.model_extra))


CONSTRUCTORS: dict[str, tuple[Callable[..., object], list[str]]] = {
    "FlowRunStateRepository": (FlowRunStateRepository, ["pool_or_connection", "layout", "transitions"]),
    "FlowRunStateAnalytics": (FlowRunStateAnalytics, ["pool_or_connection", "layout"]),
    "FlowRunStateFeed": (FlowRunStateFeed, ["pool_or_connection", "layout", "clock_slack"]),
    "FlowRunStateFeed of Prefect's": (partial(FlowRunStateFeed, layout="prefect"), ["pool_or_connection", "clock_slack"]),
    "FlowRunStateFilter": (FlowRunStateFilter, [*FlowRunStateFilter.model_fields, "unknown"]),
    "NewFlowRunState": (NewFlowRunState, [*KEPT, "unknown"]),
    "StateDetails": (StateDetails, [*FIELDS, "unknown"]),
    "create_pool": (create_pool, ["dsn", "transaction_pooling"]),
}


@examples
@given(st.data())
def test_a_constructor(loop: asyncio.AbstractEventLoop, connection_of_the_module: Connection, data: st.DataObject) -> None:
    make, parameters = CONSTRUCTORS[data.draw(st.sampled_from(sorted(CONSTRUCTORS)), label="constructor")]
    changes = data.draw(st.dictionaries(st.sampled_from(parameters), anything, min_size=1, max_size=2), label="arguments")
    usual = {"pool_or_connection": connection_of_the_module, "flow_run_id": RUN, "type": "RUNNING"}
    if isinstance(changes.get("dsn"), str):
        return  # an address is no matter of its type

    async def made() -> None:  # a pool belongs to an event loop
        make(**{name: value for name, value in usual.items() if name in parameters} | changes)

    try:
        loop.run_until_complete(made())
    except InvalidInputError as error:
        assert_names(error, set(changes))
    except ValidationError as error:
        # Pydantic's own, as StateDetails are read too.
        assert make is StateDetails
        assert {item["loc"][0] for item in error.errors()} <= set(changes)  # noqa: PT017


@examples
@given(st.sampled_from([migrate, check, check_plans]), st.sampled_from(["pool_or_connection", "layout", "timeout"]), anything)
@example(check_plans, "layout", Word.OURS)
def test_what_looks_at_a_database(
    loop: asyncio.AbstractEventLoop, connection_of_the_module: Connection, call: Callable[..., Awaitable[object]], parameter: str, value: Any
) -> None:
    parameters = inspect.signature(call).parameters
    if parameter not in parameters or value == "prefect":
        return  # or Prefect's tables are asked for, which are not there
    source = Counting(connection_of_the_module)
    target = Target("", call, list(parameters))
    loop.run_until_complete(attempt(target, {"pool_or_connection": source, "timeout": 30, parameter: value}, {parameter}, source))


@pytest.mark.parametrize("value", [True, 18.5, "18", b"18", None, [18], {}, object(), 10**5000], ids=lambda value: type(value).__name__)
def test_the_embedded_server_refuses_a_version(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^version: "), embedded_postgres(version=value):
        pass


@pytest.mark.parametrize("value", [5, 0.5, b"x", [], {}, object(), NOON, RUN, "\ud800", "\0"], ids=lambda value: type(value).__name__)
def test_the_embedded_server_refuses_a_folder(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^data: "), embedded_postgres(value):
        pass


NOTHING: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "create": lambda pool, timeout: FlowRunStateRepository(pool).create_flow_run_states([], timeout=timeout),
    "delete": lambda pool, timeout: FlowRunStateRepository(pool).delete_flow_run_states(flow_run_ids=[], timeout=timeout),
    "by run": lambda pool, timeout: FlowRunStateRepository(pool).read_flow_run_states_by_run([], last=1, timeout=timeout),
    "current": lambda pool, timeout: FlowRunStateRepository(pool).read_current_flow_run_states([], timeout=timeout),
    "as of": lambda pool, timeout: FlowRunStateRepository(pool).read_flow_run_states_as_of([], NOON, timeout=timeout),
    "transitions": lambda pool, timeout: FlowRunStateAnalytics(pool).count_transitions(since=NOON, until=NOON, step=HOUR, timeout=timeout),
    "occupancy": lambda pool, timeout: FlowRunStateAnalytics(pool).count_occupancy(since=NOON, until=NOON, step=HOUR, timeout=timeout),
}


@pytest.mark.parametrize("what", NOTHING)
async def test_a_timeout_is_checked_where_nothing_is_asked(what: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^timeout: "):
        await NOTHING[what](create_pool(), "5")
    with pytest.raises(TimeoutError):
        await NOTHING[what](create_pool(), 0)
    await NOTHING[what](create_pool(), 5)


SECONDS: list[Any] = [Number.ONE, OtherNumber.TWO, 1, 0.25, 1e9, 1e-300]
NO_SECONDS: list[Any] = [
    True, "1", "1 second", None, timedelta(seconds=1), Decimal(1), Fraction(1, 3), SixtyFour(), -1, -0.5, float("nan"), float("inf"), 1e10, 10**5000,
    1j,
]  # fmt: skip


@pytest.mark.parametrize("value", SECONDS)
async def test_seconds_of_a_feed_are_any_number(prefect_pool: Pool, value: float) -> None:
    feed = FlowRunStateFeed(prefect_pool, layout="prefect", clock_slack=value)
    assert await feed.now()
    await feed.read_page()
    async with feed.follow(poll=value):
        pass


@pytest.mark.parametrize("value", NO_SECONDS, ids=lambda value: type(value).__name__)
async def test_what_is_no_number_of_seconds_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^clock_slack: "):
        FlowRunStateFeed(create_pool(), layout="prefect", clock_slack=value)
    with pytest.raises(InvalidInputError, match=r"^poll: "):
        FlowRunStateFeed(create_pool()).follow(poll=value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 501,
        "x" * 100_000,
        "".join(map(chr, range(1, 55_000))),
        "a\0",
        "\ud800",
        "x\udfff",
        None,
        5,
        True,
        b"x",
        bytearray(b"x"),
        ["x"],
        object(),
    ],
)
async def test_a_name_that_no_consumer_can_have_is_refused(name: Any) -> None:
    feed = FlowRunStateFeed(create_pool())
    asked: list[Callable[[], Awaitable[object]]] = [lambda: feed.move(name, "now"), lambda: feed.forget(name), lambda: consume(feed, name=name)]
    for ask in asked:
        with pytest.raises(InvalidInputError, match=r"^name: ") as caught:
            await ask()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "name",
    [
        "x" * 500,
        "☃" * 500,
        "".join(map(chr, range(0x10000, 0x10000 + 500))),
        " ",
        "'",
        '"',
        "\\",
        "$1",
        "%s",
        "\t\n",
        "é☃\U0001f600",
        "null",
        Text("of a subclass"),
    ],
)
async def test_a_name_is_any_text_that_fits_an_index(own_database: str, name: str) -> None:
    async with create_pool(own_database) as pool:
        feed = FlowRunStateFeed(pool)
        for skip_locked in (False, True):
            async with feed.consume(name, start="beginning", skip_locked=skip_locked) as batch:
                assert not batch.is_taken
        assert await feed.move(name, "now")
        assert [one.name for one in await feed.positions()] == [name]
        assert [await feed.forget(name), await feed.forget(name)] == [True, False]


class Wrapped:
    """A pool of the caller's that hands on what it does not do itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class Measured(Wrapped):
    """One with a way of its own to lend a connection, which is wrapped too."""

    in_use = 0

    @asynccontextmanager
    async def acquire(self) -> Any:
        async with self._pool.acquire() as connection:
            Measured.in_use += 1
            try:
                yield Counting(connection)  # type: ignore[arg-type]
            finally:
                Measured.in_use -= 1


@pytest.mark.parametrize("wrap", [Wrapped, Measured])
async def test_a_wrapped_pool(dsn: str, wrap: type[Wrapped]) -> None:
    async with create_pool(dsn, max_size=2) as pool:
        source: Any = wrap(pool)
        states, analytics, run = FlowRunStateRepository(source), FlowRunStateAnalytics(source), uuid4()
        first = await states.create_flow_run_state(run, "PENDING", timeout=30)
        (outcome,) = await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING")], timeout=30)
        assert outcome.status == "created"
        assert [state.id for state in await states.read_flow_run_states(run)] == [first.id, outcome.id]
        async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run]), timeout=30) as stream:
            assert [state.id async for state in stream] == [first.id, outcome.id]
        async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])) as stream:
            assert (await anext(stream)).id == first.id
        assert (await analytics.count_current(timeout=30)).counts[StateType.RUNNING] > 0
        assert await migrate(source, timeout=30) == []
        assert isinstance(await check(source, timeout=30), list)
        feed, name = FlowRunStateFeed(source), f"wrapped {run}"
        async with feed.follow(poll=0.01) as pages:
            assert (await anext(pages)).states
        async with feed.consume(name, start="now", timeout=30) as batch:
            assert await batch.connection.fetchval("select 1") == 1
        async with feed.consume(name, skip_locked=True) as batch, feed.consume(name, skip_locked=True) as other:
            assert (batch.is_taken, other.is_taken) == (False, True)
        assert name in [one.name for one in await feed.positions(timeout=30)]
        assert await feed.forget(name, timeout=30)
        task = asyncio.create_task(states.read_flow_run_states(run))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await states.read_flow_run_states(run, timeout=1e-9)
        assert await states.delete_flow_run_states(flow_run_ids=[run], timeout=30)
        assert Measured.in_use == 0


@pytest.mark.parametrize("wrap", [Counting, Wrapped])
async def test_a_wrapped_connection(dsn: str, wrap: Callable[[Any], Any]) -> None:
    connection = await asyncpg.connect(dsn)
    states, run = FlowRunStateRepository(wrap(connection)), uuid4()
    first = await states.create_flow_run_state(run, "PENDING")
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING")])
    async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])) as stream:
        assert (await anext(stream)) == first
    feed = FlowRunStateFeed(wrap(connection))
    assert (await feed.read_page(limit=1)).states
    async with feed.consume(f"wrapped {run}", start="beginning", limit=1) as batch:
        assert batch.states
    assert await feed.forget(f"wrapped {run}")
    assert len(await states.delete_flow_run_states(flow_run_ids=[run])) == 2
    await connection.close()
