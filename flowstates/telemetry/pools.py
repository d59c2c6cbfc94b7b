"""Metrics of a pool."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import cache
from time import perf_counter
from typing import Any

import asyncpg
from asyncpg.pool import PoolAcquireContext
from opentelemetry import metrics

from flowstates.errors import InvalidInputError
from flowstates.telemetry import scope
from flowstates.values import kind_of

_POOL = "db.client.connection.pool.name"
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)  # seconds; as the conventions have them for an operation


def observe_pool(pool: asyncpg.Pool, *, name: str = "flowstates", meter_provider: metrics.MeterProvider | None = None) -> None:
    """Metrics of an asyncpg pool, for as long as it is open; `name` is their `db.client.connection.pool.name`, one for each pool.

    - `db.client.connection.count`, in connections: how many are open, by `db.client.connection.state`, which is `idle` or `used`.
    - `db.client.connection.max`, in connections: how many may be.
    - `db.client.connection.wait_time`, a histogram in seconds: how long each wait for a connection took, if it got one. These are the waits of all
      who ask the pool, not only of this library; a connection that had to be opened counts with the time that this took.

    A pool that is given twice, with another name or provider, is measured for both.

    `meter_provider` None is the global one, also if that is set later. InvalidInputError for what is no asyncpg pool, or a closed one, for a name
    that an open pool has or that is no text, and for what is no provider.
    """
    if not isinstance(pool, asyncpg.Pool):
        raise InvalidInputError("pool", f"is {kind_of(pool)}, not an asyncpg pool")
    if pool.is_closing():
        raise InvalidInputError("pool", "is closed")
    if not isinstance(name, str):
        raise InvalidInputError("name", f"is {kind_of(name)}, not a str")
    if not name:
        raise InvalidInputError("name", "is empty")
    # By its method: one that wraps another need not be of the API's class.
    if meter_provider is not None and not callable(getattr(meter_provider, "get_meter", None)):
        raise InvalidInputError("meter_provider", f"is {kind_of(meter_provider)}, not a MeterProvider of OpenTelemetry")
    _meters(meter_provider).observe(pool, name)


class _Meters:
    """The instruments of one provider, which takes each of them once."""

    def __init__(self, meter_provider: metrics.MeterProvider | None) -> None:
        self._pools: dict[str, asyncpg.Pool] = {}
        meter = metrics.get_meter(scope.NAME, scope.VERSION, meter_provider, scope.SCHEMA)
        unit = "{connection}"
        meter.create_observable_up_down_counter("db.client.connection.count", [self._count], unit, "Connections of the pool by their state.")
        meter.create_observable_up_down_counter("db.client.connection.max", [self._max], unit, "Connections that the pool may open.")
        self._wait = meter.create_histogram(
            "db.client.connection.wait_time", "s", "The time it took to get a connection of the pool.", explicit_bucket_boundaries_advisory=_BUCKETS
        )

    def observe(self, pool: asyncpg.Pool, name: str) -> None:
        other = self._pools.get(name)
        if other is pool:
            return
        if other is not None and not other.is_closing():
            raise InvalidInputError("name", f"{name} is that of another pool")
        self._pools[name] = pool
        attributes = {_POOL: name}
        # A pool has slots, so that nothing of it can be replaced in one alone.
        pool.__class__ = _timed(type(pool), lambda seconds: self._wait.record(seconds, attributes))

    def _open(self) -> Iterator[tuple[str, asyncpg.Pool]]:
        for name, pool in list(self._pools.items()):  # a reader of metrics has a thread of its own
            if not pool.is_closing():
                yield name, pool
            elif self._pools.get(name) is pool:
                del self._pools[name]

    def _count(self, options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        for name, pool in self._open():
            idle = pool.get_idle_size()
            for state, count in (("idle", idle), ("used", pool.get_size() - idle)):
                yield metrics.Observation(count, {_POOL: name, "db.client.connection.state": state})

    def _max(self, options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        for name, pool in self._open():
            yield metrics.Observation(pool.get_max_size(), {_POOL: name})


_meters = cache(_Meters)


def _timed(kind: type[asyncpg.Pool], waited: Callable[[float], None]) -> type[asyncpg.Pool]:
    """A pool of this kind that tells how long each wait for a connection took, in seconds."""

    @cache
    def timed(acquiring: type[PoolAcquireContext]) -> type[PoolAcquireContext]:
        # Of the class that it is, as the pool may be of a class of its own, or observed already.
        class Acquiring(acquiring):  # type: ignore[misc, valid-type]
            __slots__ = ()

            async def __aenter__(self) -> Any:
                begun = perf_counter()
                connection = await super().__aenter__()
                waited(perf_counter() - begun)
                return connection

            def __await__(self) -> Generator[Any, Any, Any]:
                begun = perf_counter()
                connection = yield from super().__await__()
                waited(perf_counter() - begun)
                return connection

        return Acquiring

    def acquire(self: asyncpg.Pool, *, timeout: float | None = None) -> PoolAcquireContext:
        acquiring = kind.acquire(self, timeout=timeout)
        if isinstance(acquiring, PoolAcquireContext):
            acquiring.__class__ = timed(type(acquiring))  # type: ignore[arg-type]  # a class has a hash of its own
        return acquiring

    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, "acquire": acquire})
