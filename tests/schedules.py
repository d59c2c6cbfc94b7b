"""Calls that wait for each other as a test wants it, and plans that writers follow at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

from flowstates import FlowRunState, StateType, batched, create_pool
from flowstates.engine.appending import Expected
from flowstates.engine.connections import AnyConnection
from flowstates.values import Layout
from tests.conftest import Pool
from tests.transactions import Transaction
from tests.writers import Step, Writers, defaults

T = TypeVar("T")

LIMIT = 200
"""Seconds, for what would never end. What waits for a condition takes as long as the machine does."""


@asynccontextmanager
async def write_at_once(
    dsn: str, plan: list[list[Step]], runs: int, isolation: str, *, is_batched: bool = False, layout: Layout = "flowstates"
) -> AsyncIterator[Writers]:
    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=8, **defaults(isolation)) as pool, batched(pool) as creates:
        writers = Writers(pool, runs, creates=creates if is_batched else None, layout=layout)
        async with asyncio.TaskGroup() as group:
            for number, steps in enumerate(plan):
                group.create_task(writers.work(f"w{number}", steps))
        yield writers


class Schedule:
    """A run, and a transaction that is open and holds up what others begin. The database must be the test's own."""

    def __init__(self, pool: Pool, other: AnyConnection) -> None:
        self.pool = pool
        self.writers = Writers(pool, 1)
        self.run = self.writers.runs[0]
        self.other = other

    async def create(self, expected: Expected, *, id: UUID | None = None) -> FlowRunState | None:
        return await self.writers.create("w", self.run, StateType.RUNNING, expected=expected, id=id or uuid4())

    async def created(self, expected: Expected) -> FlowRunState:
        state = await self.create(expected)
        assert state is not None
        return state

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """The transaction that is open, and committed at the end of the block."""
        async with self.other.transaction():
            transaction = Transaction(self.writers.log, "other", self.other)
            yield transaction
        transaction.end("acknowledged")

    async def begin(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The call, when it is done or its server process waits for a lock."""
        before = await self._waiting()
        task = asyncio.create_task(call)
        while not task.done() and await self._waiting() <= before:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.005)
        return task

    async def _waiting(self) -> int:
        text = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        number: int = await self.pool.fetchval(text)
        return number


@asynccontextmanager
async def schedule(dsn: str, isolation: str = "read committed", **options: Any) -> AsyncIterator[Schedule]:
    """`isolation` is the default of all but the transaction that is open, which has READ COMMITTED; `options` are those of the pool."""
    async with (
        asyncio.timeout(LIMIT),
        create_pool(dsn, max_size=8, **defaults(isolation), **options) as pool,
        create_pool(dsn, max_size=1, **defaults("read committed")) as another,
        another.acquire() as other,
    ):
        yield Schedule(pool, other)
