"""Metrics of a pool: what it holds, and the waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from asyncpg.pool import PoolAcquireContext
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flowstates import FlowRunStateRepository, InvalidInputError, create_pool
from flowstates.telemetry import observe_pool
from tests.conftest import Pool

pytestmark = pytest.mark.versions

COUNT, MOST, WAIT = (f"db.client.connection.{name}" for name in ("count", "max", "wait_time"))
POOL, STATE = (f"db.client.connection.{name}" for name in ("pool.name", "state"))


class Metrics:
    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def read(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        return {metric.name: metric for of in (data.resource_metrics if data else []) for scope in of.scope_metrics for metric in scope.metrics}

    def points(self, name: str) -> list[Any]:
        metric = self.read().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def numbers(self, name: str) -> dict[tuple[str, ...], int]:
        """The value of each point by what it is of."""
        return {tuple(point.attributes.values()): point.value for point in self.points(name)}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.provider.shutdown()


async def test_what_a_pool_holds(dsn: str, metrics: Metrics) -> None:
    pool = create_pool(dsn, min_size=2, max_size=5)
    observe_pool(pool, meter_provider=metrics.provider)
    assert metrics.numbers(COUNT) == {("flowstates", "idle"): 0, ("flowstates", "used"): 0}
    async with pool:
        assert metrics.numbers(COUNT) == {("flowstates", "idle"): 2, ("flowstates", "used"): 0}
        async with pool.acquire(), pool.acquire(), pool.acquire():
            assert metrics.numbers(COUNT) == {("flowstates", "idle"): 0, ("flowstates", "used"): 3}
            assert metrics.numbers(MOST) == {("flowstates",): 5}
        (point, _) = metrics.points(COUNT)
        assert dict(point.attributes) == {POOL: "flowstates", STATE: "idle"}
        assert {name: metric.unit for name, metric in metrics.read().items()} == {COUNT: "{connection}", MOST: "{connection}", WAIT: "s"}
    assert (metrics.points(COUNT), metrics.points(MOST)) == ([], [])


async def waited(metrics: Metrics, name: str = "flowstates") -> tuple[int, float]:
    """How many waits there were, and how long all of them took."""
    (point,) = [point for point in metrics.points(WAIT) if point.attributes == {POOL: name}]
    return point.count, point.sum


async def test_each_wait_for_a_connection(dsn: str, metrics: Metrics) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        observe_pool(pool, name="mine", meter_provider=metrics.provider)
        states = FlowRunStateRepository(pool)
        assert await states.read_flow_run_states(uuid4()) == []
        assert (await waited(metrics, "mine"))[0] == 1
        async with pool.acquire():
            read = asyncio.ensure_future(states.read_flow_run_states(uuid4()))
            await asyncio.sleep(0.1)
        assert await read == []
        count, seconds = await waited(metrics, "mine")
        assert (count, seconds > 0.09) == (3, True)
        connection = await pool.acquire()
        await pool.release(connection)
        assert await pool.fetchval("select 1") == 1
        assert (await waited(metrics, "mine"))[0] == 5
        (point,) = metrics.points(WAIT)
        assert point.explicit_bounds[:2] == (0.001, 0.005)


async def test_a_wait_that_got_no_connection_is_none(dsn: str, metrics: Metrics) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        observe_pool(pool, meter_provider=metrics.provider)
        async with pool.acquire():
            with pytest.raises(TimeoutError):
                await FlowRunStateRepository(pool).read_flow_run_states(uuid4(), timeout=0.01)
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=0.01)
        assert (await waited(metrics))[0] == 1


async def test_several_pools(dsn: str, metrics: Metrics) -> None:
    async with create_pool(dsn, max_size=2) as one, create_pool(dsn, max_size=3) as two:
        for _ in range(2):
            observe_pool(one, name="one", meter_provider=metrics.provider)
            observe_pool(two, name="two", meter_provider=metrics.provider)
        assert metrics.numbers(MOST) == {("one",): 2, ("two",): 3}
        await one.fetchval("select 1")
        assert [dict(point.attributes) for point in metrics.points(WAIT)] == [{POOL: "one"}]
        assert (await waited(metrics, "one"))[0] == 1
        with pytest.raises(InvalidInputError, match=r"^name: one is that of another pool$"):
            observe_pool(two, name="one", meter_provider=metrics.provider)
    async with create_pool(dsn, max_size=4) as three:
        observe_pool(three, name="one", meter_provider=metrics.provider)
        assert metrics.numbers(MOST) == {("one",): 4}


async def test_a_pool_that_is_observed_twice(dsn: str, metrics: Metrics) -> None:
    others = Metrics()
    async with create_pool(dsn, max_size=1) as pool:
        for provider, name in ((metrics.provider, "one"), (metrics.provider, "two"), (others.provider, "one")):
            observe_pool(pool, name=name, meter_provider=provider)
        await pool.fetchval("select 1")
        connection = await pool.acquire()
        await pool.release(connection)
        for of, name in ((metrics, "one"), (metrics, "two"), (others, "one")):
            assert (await waited(of, name))[0] == 2
        assert (metrics.numbers(MOST), others.numbers(MOST)) == ({("one",): 1, ("two",): 1}, {("one",): 1})
    others.provider.shutdown()


async def test_a_pool_whose_waits_are_of_a_class_of_their_own(dsn: str, metrics: Metrics) -> None:
    class Waiting(PoolAcquireContext):
        __slots__ = ()

    class Mine(asyncpg.Pool):
        __slots__ = ()

        def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext:
            acquiring = super().acquire(timeout=timeout)
            acquiring.__class__ = Waiting
            return acquiring

    async with create_pool(dsn) as pool:
        pool.__class__ = Mine
        observe_pool(pool, meter_provider=metrics.provider)
        async with pool.acquire():
            pass
        assert (await waited(metrics))[0] == 1


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": []}, "name: is a list, not a str"),
        ({"name": 5}, "name: is an int, not a str"),
        ({"name": None}, "name: is None, not a str"),
        ({"name": b"x"}, "name: is a bytes, not a str"),
        ({"name": ""}, "name: is empty"),
        ({"meter_provider": "x"}, "meter_provider: is a str, not a MeterProvider of OpenTelemetry"),
        ({"meter_provider": []}, "meter_provider: is a list, not a MeterProvider of OpenTelemetry"),
    ],
)
async def test_what_is_no_name_or_provider_is_refused(dsn: str, metrics: Metrics, options: dict[str, Any], message: str) -> None:
    async with create_pool(dsn) as pool:
        with pytest.raises(InvalidInputError) as caught:
            observe_pool(pool, **{"meter_provider": metrics.provider} | options)
        assert str(caught.value) == message
        assert type(pool) is asyncpg.Pool
    assert metrics.read() == {}


@pytest.mark.once
async def test_a_closed_pool_is_refused(dsn: str, metrics: Metrics) -> None:
    async with create_pool(dsn) as pool:
        pass
    with pytest.raises(InvalidInputError, match=r"^pool: is closed$"):
        observe_pool(pool, meter_provider=metrics.provider)


async def test_a_pool_stays_what_it_was(dsn: str, metrics: Metrics) -> None:
    class Mine(asyncpg.Pool):
        acquired = 0

        def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext:
            Mine.acquired += 1
            return super().acquire(timeout=timeout)

    async with create_pool(dsn) as plain, create_pool(dsn) as other:
        observe_pool(plain, meter_provider=metrics.provider)
        assert isinstance(plain, asyncpg.Pool)
        assert repr(type(plain)) == repr(asyncpg.Pool)
        assert type(other) is asyncpg.Pool
    pool: Pool = Mine(
        dsn,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        min_size=1,
        max_size=1,
        max_queries=9,
        max_inactive_connection_lifetime=9,
        setup=None,
        init=None,
        loop=None,
    )
    async with pool:
        observe_pool(pool, name="of a class of its own", meter_provider=metrics.provider)
        assert await FlowRunStateRepository(pool).read_flow_run_states(uuid4()) == []
        assert Mine.acquired == (await waited(metrics, "of a class of its own"))[0] == 1


async def test_a_connection_is_no_pool(connection: asyncpg.Connection) -> None:
    with pytest.raises(InvalidInputError, match=r"^pool: is a .*Connection, not an asyncpg pool$"):
        observe_pool(connection)  # type: ignore[arg-type]
