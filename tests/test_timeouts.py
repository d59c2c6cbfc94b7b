"""A call ends at its timeout, also where the network passes nothing on, and what it used is usable afterwards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

import flowstates
from flowstates import (
    FlowRunStateAnalytics,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    NewFlowRunState,
    check,
    check_plans,
    create_pool,
    migrate,
)
from flowstates.engine import positions
from tests.conftest import Pool
from tests.messages import noted
from tests.proxy import Proxy

TIMEOUT = 0.5  # seconds
LATEST = 8.0  # seconds after which a call counts as one that waits for the network; a quiet machine needs 0.8
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
DAY: dict[str, Any] = {"since": NOON - timedelta(days=1), "until": NOON}
BEGINNING = positions.encode(positions.BEGINNING)
CONSUMERS = f"of process {uuid4()}"
RUN, LONG, STORED = UUID(int=1), UUID(int=2), UUID(int=3)
STATES = 1200  # more than two batches of a stream


@dataclass
class At:
    source: Any
    proxy: Proxy

    def __post_init__(self) -> None:
        self.states, self.analytics = FlowRunStateRepository(self.source), FlowRunStateAnalytics(self.source)
        self.feed, self.consumer = FlowRunStateFeed(self.source), f"{CONSUMERS} {uuid4()}"


class Call(NamedTuple):
    name: str
    make: Callable[[At, Any], Coroutine[Any, Any, Any]]
    cue: bytes = b""  # what the client says when the network fails; without it that is before the call


async def stream(at: At, timeout: Any, hold_after: int | None = None) -> int:
    seen = 0
    async with at.states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[LONG]), timeout=timeout) as stream:
        async for _ in stream:
            seen += 1
            if seen == hold_after:
                at.proxy.hold()
    return seen


async def consume(at: At, timeout: Any, *, is_new: bool = False, hold: bool = False) -> int:
    """`known` makes the consumer beforehand, else this is its first use."""
    name = f"new {at.consumer}" if is_new else at.consumer
    async with at.feed.consume(name, start="beginning", limit=1, timeout=timeout) as batch:
        await batch.connection.fetchval("select 1")
        if hold:
            at.proxy.hold()
        return len(batch.states)


async def consume_anew(at: At, timeout: Any) -> int:
    return await consume(at, timeout, is_new=True)


async def known(dsn: str, at: At, call: Call) -> None:
    """For a call that consumes there is the consumer already. It is made elsewhere, so that nothing is prepared on the connection of the call."""
    if call.name == "consume":
        connection = await asyncpg.connect(dsn)
        await FlowRunStateFeed(connection).move(at.consumer, "beginning")
        await connection.close()


def large(run: UUID) -> list[NewFlowRunState]:
    """Two messages of COPY, and the second has the cue."""
    return [NewFlowRunState(flow_run_id=run, type="RUNNING", message=text) for text in ("x" * 2**20, "midway")]


ONE_STATEMENT = [
    Call("read_flow_run_state", lambda at, t: at.states.read_flow_run_state(RUN, timeout=t)),
    Call("read_flow_run_states", lambda at, t: at.states.read_flow_run_states(RUN, timeout=t)),
    Call("read_flow_run_states_by_run", lambda at, t: at.states.read_flow_run_states_by_run([RUN], last=2, timeout=t)),
    Call("read_current_flow_run_state", lambda at, t: at.states.read_current_flow_run_state(RUN, timeout=t)),
    Call("read_current_flow_run_states", lambda at, t: at.states.read_current_flow_run_states([RUN], timeout=t)),
    Call("read_flow_run_states_as_of", lambda at, t: at.states.read_flow_run_states_as_of([RUN], NOON, timeout=t)),
    Call("read_flow_run_state_page", lambda at, t: at.states.read_flow_run_state_page(timeout=t)),
    Call("count_flow_run_states", lambda at, t: at.states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[RUN]), timeout=t)),
    Call("create_flow_run_state", lambda at, t: at.states.create_flow_run_state(uuid4(), "RUNNING", timeout=t)),
    # A repeat is two statements, and the second fails.
    Call("create_flow_run_state", lambda at, t: at.states.create_flow_run_state(RUN, "RUNNING", id=STORED, timeout=t), b"create_flow_run_state.miss"),
    Call("delete_flow_run_state", lambda at, t: at.states.delete_flow_run_state(uuid4(), timeout=t)),
    Call("delete_flow_run_states", lambda at, t: at.states.delete_flow_run_states(flow_run_ids=[uuid4()], timeout=t)),
    Call("measure_time_in_states", lambda at, t: at.analytics.measure_time_in_states(**DAY, timeout=t)),
    Call("count_transitions", lambda at, t: at.analytics.count_transitions(**DAY, step=timedelta(hours=1), timeout=t)),
    Call("count_occupancy", lambda at, t: at.analytics.count_occupancy(**DAY, step=timedelta(hours=1), timeout=t)),
    Call("count_current", lambda at, t: at.analytics.count_current(timeout=t)),
    Call("check", lambda at, t: check(at.source, timeout=t)),
    Call("check", lambda at, t: check(at.source, timeout=t), b"read_columns"),
    Call("read_page", lambda at, t: at.feed.read_page(timeout=t)),
    Call("read_page", lambda at, t: at.feed.read_page(filter=FlowRunStateFilter(flow_run_ids=[RUN]), timeout=t), b"read_page"),
    Call("now", lambda at, t: at.feed.now(timeout=t)),
    Call("positions", lambda at, t: at.feed.positions(timeout=t)),
    Call("move", lambda at, t: at.feed.move(at.consumer, BEGINNING, timeout=t)),
    Call("move", lambda at, t: at.feed.move(at.consumer, "now", timeout=t)),
    # It asks where now is, and the second statement fails.
    Call("move", lambda at, t: at.feed.move(at.consumer, "now", timeout=t), b"/* move"),
    Call("move", lambda at, t: at.feed.move(at.consumer, "now", expected=BEGINNING, timeout=t), b"/* move.expected"),
    Call("forget", lambda at, t: at.feed.forget("nobody", timeout=t)),
]
IN_A_TRANSACTION = [
    Call("create_flow_run_states", lambda at, t: at.states.create_flow_run_states(large(uuid4()), timeout=t)),
    Call("create_flow_run_states", lambda at, t: at.states.create_flow_run_states(large(uuid4()), timeout=t), b"create_flow_run_states.heads"),
    Call("create_flow_run_states", lambda at, t: at.states.create_flow_run_states(large(uuid4()), timeout=t), b"midway"),
    Call("create_flow_run_states", lambda at, t: at.states.create_flow_run_states(large(uuid4()), timeout=t), b"COMMIT"),
    Call("stream_flow_run_states", stream),
    Call("stream_flow_run_states", stream, b"stream_flow_run_states"),
    Call("stream_flow_run_states", partial(stream, hold_after=10)),
    Call("check_plans", lambda at, t: check_plans(at.source, timeout=t)),
    Call("check_plans", lambda at, t: check_plans(at.source, timeout=t), b"explain"),
    Call("consume", consume),
    Call("consume", consume, b"/* consume.lock"),
    Call("consume", consume, b"/* read_page"),
    Call("consume", partial(consume, hold=True)),
    Call("consume", consume, b"/* move.expected"),
    Call("consume", consume, b"COMMIT"),
    Call("consume", consume_anew, b"/* consume.is_known"),
    Call("consume", consume_anew, b"COMMIT"),
    Call("consume", consume_anew, b"/* consume.begin"),
]
MIGRATE = [Call("migrate", lambda at, t: migrate(at.source, timeout=t))]
CALLS = ONE_STATEMENT + IN_A_TRANSACTION + MIGRATE
ON_THE_CALLERS = ONE_STATEMENT + IN_A_TRANSACTION  # a migration does not begin its transaction by flowstates.engine.connections.Transaction yet

Source: TypeAlias = Callable[[str], Any]
POOLS: dict[str, Source] = {
    "ours": create_pool,
    "ours_of_one": partial(create_pool, max_size=1),
    "ours_without_a_cache": partial(create_pool, max_size=1, transaction_pooling=True),
    "asyncpg_s_of_one": partial(asyncpg.create_pool, min_size=1, max_size=1),
}


@pytest.fixture(scope="module")
def filled_dsn(layout_dsns: dict[str, str]) -> Iterator[str]:
    """The shared database, with states that fill some batches of a stream."""

    async def forget() -> None:
        connection = await asyncpg.connect(layout_dsns["flowstates"])
        await connection.execute("delete from flowstates_consumer where strpos(name, $1) > 0", CONSUMERS)
        await connection.close()

    async def fill() -> None:
        async with create_pool(layout_dsns["flowstates"]) as pool:
            states = [NewFlowRunState(flow_run_id=LONG, type="RUNNING") for _ in range(STATES)]
            await FlowRunStateRepository(pool).create_flow_run_states([NewFlowRunState(flow_run_id=RUN, type="RUNNING", id=STORED), *states])

    asyncio.run(fill())
    yield layout_dsns["flowstates"]
    asyncio.run(forget())


@asynccontextmanager
async def behind_a_proxy(dsn: str, make: Source) -> AsyncIterator[At]:
    async with Proxy(dsn) as proxy:
        source = make(proxy.dsn)
        await source
        # A pool has its connection, and asyncpg has sent what it says on a new one.
        await source.fetchval("select 1")
        yield At(source, proxy)
        async with asyncio.timeout(LATEST):
            await source.close()


async def ended(task: asyncio.Task[Any]) -> str:
    """How a task ended, in time."""
    await asyncio.wait([task], timeout=LATEST)
    if not task.done():
        return "it waits for the network"
    if task.cancelled():
        return "CancelledError"
    error = task.exception()
    return f"returned {task.result()!r:.80}" if error is None else repr(error).removesuffix("()")


async def ends(dsn: str, make: Source, call: Call, *, is_expired: bool = False, is_cancelled: bool = False) -> str:
    async with behind_a_proxy(dsn, make) as at:
        if is_expired:
            await at.source.expire_connections()
        await known(dsn, at, call)
        if call.cue:
            at.proxy.hold_at(call.cue)
        elif not isinstance(call.make, partial):
            at.proxy.hold()
        task = asyncio.create_task(call.make(at, None if is_cancelled else TIMEOUT))
        if is_cancelled:
            await at.proxy.held()
            await asyncio.sleep(0.1)  # it has asked by now; where it has not, a cancellation is no harder
            task.cancel()
        how = await ended(task)
        if not at.proxy.is_held:
            how += ", and the network did not fail"
        at.proxy.resume()
        _, waiting = await asyncio.wait([task], timeout=LATEST)
        if waiting:
            at.source.terminate()
            return f"{how}, and goes on when that is back"
        try:
            async with asyncio.timeout(LATEST):
                await at.states.read_flow_run_state(RUN)
                async with at.source.acquire() as connection:
                    assert not connection.is_in_transaction()
                    assert await connection.fetchval("select count(*) from pg_cursors where name <> ''") == 0
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            how += f", and the pool is not usable: {error!r}"
        return how


async def wrong(calls: list[Call], expected: str, attempt: Callable[[Call], Awaitable[str]]) -> dict[str, str]:
    """The calls that ended otherwise, a few at a time."""
    found: dict[str, str] = {}
    for first in range(0, len(calls), 10):
        some = calls[first : first + 10]
        for call, how in zip(some, await asyncio.gather(*map(attempt, some)), strict=True):
            if how != expected:
                found[f"{call.name} {call.cue.decode()} {call.make}"] = how
    return found


@pytest.mark.parametrize("pool", POOLS)
async def test_on_a_pool_a_call_ends_while_the_network_stands_still(filled_dsn: str, pool: str) -> None:
    assert await wrong(CALLS, "TimeoutError", partial(ends, filled_dsn, POOLS[pool])) == {}


async def test_a_call_that_waits_for_a_new_connection_ends(filled_dsn: str) -> None:
    calls = [call for call in CALLS if not call.cue and not isinstance(call.make, partial)]
    assert await wrong(calls, "TimeoutError", partial(ends, filled_dsn, POOLS["ours_of_one"], is_expired=True)) == {}


@pytest.mark.parametrize("pool", ["ours_of_one", "asyncpg_s_of_one"])
async def test_a_call_that_is_cancelled_ends_while_the_network_stands_still(filled_dsn: str, pool: str) -> None:
    assert await wrong(CALLS, "CancelledError", partial(ends, filled_dsn, POOLS[pool], is_cancelled=True)) == {}


@pytest.mark.parametrize("is_left_early", [False, True])
@pytest.mark.parametrize("pool", ["ours_of_one", "asyncpg_s_of_one"])
async def test_leaving_a_stream_ends_while_the_network_stands_still(filled_dsn: str, pool: str, is_left_early: bool) -> None:
    async def read(at: At) -> int:
        seen = 0
        async with at.states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[LONG]), timeout=TIMEOUT) as stream:
            async for _ in stream:
                seen += 1
                if is_left_early:
                    break
            at.proxy.hold()
        return seen

    async with behind_a_proxy(filled_dsn, POOLS[pool]) as at:
        task = asyncio.create_task(read(at))
        # Only asyncpg's own reset has something to say afterwards, and that is not the stream's.
        assert await ended(task) == f"returned {1 if is_left_early else STATES}"
        at.proxy.resume()
        assert await at.states.read_flow_run_state(STORED, timeout=LATEST)


async def on_the_callers(dsn: str, call: Call, *, is_cancelled: bool = False) -> str:
    async with Proxy(dsn) as proxy:
        connection = await asyncpg.connect(proxy.dsn)
        await connection.fetchval("select 1")
        at = At(connection, proxy)
        await known(dsn, at, call)
        if call.cue:
            proxy.hold_at(call.cue)
        elif not isinstance(call.make, partial):
            proxy.hold()
        task = asyncio.create_task(call.make(at, None if is_cancelled else TIMEOUT))
        await proxy.held()
        if is_cancelled:
            await asyncio.sleep(0.1)
            task.cancel()
        if call in ONE_STATEMENT:
            how = await ended(task)
        else:
            await asyncio.wait([task], timeout=2 * TIMEOUT)
        proxy.resume()
        if call not in ONE_STATEMENT:
            how = await ended(task)
        # What is asked afterwards is not in a transaction that is left open, nor is there one half made.
        new = await at.states.create_flow_run_state(uuid4(), "RUNNING", timeout=LATEST)
        async with connection.transaction():
            assert await connection.fetchval("select count(*) from pg_cursors where name <> ''") == 0
        await connection.close()
    connection = await asyncpg.connect(dsn)
    if await FlowRunStateRepository(connection).read_flow_run_state(new.id) != new:
        how += ", and what was created afterwards is lost"
    await connection.close()
    return how


async def test_on_the_callers_connection_a_statement_ends_and_a_transaction_when_the_network_goes_on(filled_dsn: str) -> None:
    assert await wrong(ON_THE_CALLERS, "TimeoutError", partial(on_the_callers, filled_dsn)) == {}


async def test_a_call_on_the_callers_connection_that_is_cancelled_leaves_no_transaction(filled_dsn: str) -> None:
    assert await wrong(ON_THE_CALLERS, "CancelledError", partial(on_the_callers, filled_dsn, is_cancelled=True)) == {}


async def test_in_a_transaction_of_the_callers_a_batch_ends(filled_dsn: str) -> None:
    async with Proxy(filled_dsn) as proxy:
        connection = await asyncpg.connect(proxy.dsn)
        transaction = connection.transaction()
        await transaction.start()
        task = asyncio.create_task(stream(At(connection, proxy), TIMEOUT, hold_after=10))
        assert await ended(task) == "TimeoutError"
        proxy.resume()
        await transaction.rollback()
        assert await stream(At(connection, proxy), LATEST) == STATES
        await connection.close()


class Limit(float):
    """A number of the caller's own class."""


@pytest.mark.parametrize("timeout", [float("nan"), "5", b"5", True, False, Decimal(5), timedelta(seconds=5), object(), [5], 5j])
async def test_a_timeout_that_is_none_is_refused(pool: Pool, timeout: Any) -> None:
    for call in CALLS:
        with pytest.raises(InvalidInputError, match=r"^timeout: is "):
            await call.make(At(pool, Proxy("")), timeout)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, -0.0, -0.5, float("-inf"), pytest.param(-(10**400), id="huge")])
async def test_where_no_time_is_left_nothing_is_sent(dsn: str, timeout: float) -> None:
    async with noted(dsn) as (address, said), create_pool(address, max_size=1) as pool:
        connection = await asyncpg.connect(address)
        said.clear()
        for source in (pool, connection):
            for call in CALLS:
                with pytest.raises(TimeoutError):
                    await call.make(At(source, Proxy("")), timeout)
        assert said.trips == []
        await connection.close()


@pytest.mark.parametrize("timeout", [5, 60.0, Limit(60), float("inf"), pytest.param(10**400, id="huge"), None])
async def test_a_timeout_is_any_number_of_seconds(own_dsn: str, timeout: float | None) -> None:
    async with create_pool(own_dsn) as pool:
        for call in [*MIGRATE, *ONE_STATEMENT, *IN_A_TRANSACTION]:
            if not isinstance(call.make, partial):
                await call.make(At(pool, Proxy("")), timeout)
        assert await pool.fetchval("select count(*) from flow_run_state") > 0


def test_every_call_is_among_them() -> None:
    places = [FlowRunStateRepository, FlowRunStateAnalytics, FlowRunStateFeed, flowstates]
    functions = dict(found for place in places for found in inspect.getmembers(place, inspect.isfunction) if found[0][0] != "_")
    asked = {name for name, function in functions.items() if "timeout" in inspect.signature(function).parameters}
    assert asked - {call.name for call in CALLS} == {"position", "has_reached"}  # in test_replicas
    assert {call.name for call in CALLS} <= asked


@pytest.mark.parametrize("is_pool", [True, False])
@pytest.mark.parametrize("times", [1, 2])
async def test_what_a_call_used_is_usable_wherever_it_was_cancelled(dsn: str, is_pool: bool, times: int) -> None:
    """Also once its statement is prepared, and once more while that is cleaned up."""
    random, run = Random(1), uuid4()
    async with create_pool(dsn, max_size=1, transaction_pooling=True) as pool, pool.acquire() if not is_pool else nullcontext(pool) as source:
        states = FlowRunStateRepository(source)

        async def read() -> None:
            # A transaction at a higher level is refused in one that has read.
            async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run]), timeout=LATEST) as stream:
                assert [state async for state in stream] == []

        for begin in (read, partial(states.read_current_flow_run_state, run)):
            for _ in range(100):
                call = asyncio.ensure_future(begin())
                for _ in range(times):
                    for _ in range(random.randrange(60)):
                        await asyncio.sleep(0)
                    call.cancel()
                await asyncio.wait([call])
                await read()


async def test_a_wrapped_pool_gets_back_a_connection_that_was_cut_off(dsn: str) -> None:
    given_out = given_back = 0

    class Wrapped:
        """Counts what it has given out, as one with a semaphore does."""

        def __init__(self, acquiring: Any) -> None:
            self._acquiring = acquiring

        async def __aenter__(self) -> Any:
            nonlocal given_out
            connection = await self._acquiring.__aenter__()
            given_out += 1
            return connection

        async def __aexit__(self, *error: Any) -> None:
            nonlocal given_back
            given_back += 1
            await self._acquiring.__aexit__(*error)

    random = Random(1)
    async with Proxy(dsn) as proxy, create_pool(proxy.dsn, max_size=1, transaction_pooling=True) as pool:
        source: Any = SimpleNamespace(acquire=lambda: Wrapped(pool.acquire()), is_closing=pool.is_closing)
        states = FlowRunStateRepository(source)
        await states.read_current_flow_run_state(uuid4())
        proxy.hold_at(b"/* ping */")
        async with asyncio.timeout(60):
            while not proxy.is_held:
                call = asyncio.create_task(states.read_current_flow_run_state(uuid4()))
                for _ in range(3 + random.randrange(60)):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                assert given_back == given_out
        proxy.resume()
        assert await states.read_current_flow_run_state(uuid4(), timeout=LATEST) is None
