"""Named positions: a batch is worked on in the transaction that moves its consumer's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import asyncpg

from flowstates.engine import positions, sessions
from flowstates.engine.connections import AnyConnection, Transaction, is_lost
from flowstates.engine.execution import Execution
from flowstates.engine.feeding import Blocker, OwnFeed, refuse
from flowstates.engine.positions import BEGINNING, Position
from flowstates.errors import FlowStatesError, HistoryPrunedError, InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import FlowRunState


class FeedBatch(NamedTuple):
    """A page for a named consumer, and the connection of the transaction that moves its position.

    What is written on `connection` takes effect with the position, or not at all. `position`, `is_caught_up` and `blocked_by` are as in FeedPage.
    `is_taken` says that somebody else has this consumer, where `skip_locked` was asked for: there are no states then, and nothing is moved.
    """

    states: list[FlowRunState]
    connection: AnyConnection
    position: str
    is_caught_up: bool
    blocked_by: tuple[Blocker, ...]
    is_taken: bool


class ConsumerPosition(NamedTuple):
    """How far a named consumer has come, and since when. `states` come after it, 100,000 standing for that or more, also those that its filter lets
    out or that an open transaction holds; `behind` is for how long the first of them has been there, by its `created`.
    With `is_pruned` others that came after it are gone, and its next batch is a HistoryPrunedError."""

    name: str
    position: str
    updated: datetime
    states: int
    behind: timedelta
    is_pruned: bool


@asynccontextmanager
async def consume(
    execution: Execution,
    name: str,
    start: Position | None,
    *,
    is_now: bool,
    filter: FlowRunStateFilter | None,
    limit: int,
    skip_locked: bool,
    timeout: float | None,
) -> AsyncIterator[FeedBatch]:
    """See FlowRunStateFeed.consume. `start` is where a new consumer begins, None if that was not said; with `is_now` it begins at now."""
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(timeout):
            acquired, savepoint = execution.connection(is_lent=True), None
            connection = await stack.enter_async_context(acquired)
            own = Execution(connection, execution.layout)
            is_joined = connection.is_in_transaction()
            inside = await stack.enter_async_context(AsyncExitStack())
            isolation: Literal["read_committed"] | None = None if is_joined else "read_committed"

            async def begin() -> Position | None:
                nonlocal savepoint
                if is_joined and acquired.joined is not None:
                    savepoint = await inside.enter_async_context(sessions.savepoint(acquired.joined))
                    return await _lock(own, name, skip_locked)
                transaction = Transaction(connection, isolation, is_of_pool=execution.is_of_pool, timeout=timeout)
                await inside.enter_async_context(transaction)
                return await _lock(own, name, skip_locked)

            before = await begin()
            if before is None:
                is_known = (await own.values("consume.is_known", name, timeout=None))[0] == "true"
                if not is_known:
                    if not is_joined:
                        # Committed before the block: what fails there is begun again from the same place, and nobody else waits for it.
                        await inside.aclose()
                    await _begin(own, name, start, is_now)
                # It is there now, of somebody else's making perhaps, or somebody else has it.
                before = await (_lock(own, name, skip_locked) if is_joined or is_known else begin())
            if before is None:
                if not skip_locked:
                    raise FlowStatesError(f"the consumer {name!r} was deleted meanwhile")
                batch, after = FeedBatch([], connection, "", is_caught_up=True, blocked_by=(), is_taken=True), None
            else:
                page, after, _ = await OwnFeed(own).read(before, filter, limit)
                batch = FeedBatch(page.states, connection, page.position, page.is_caught_up, page.blocked_by, is_taken=False)
        yield batch
        if is_lost(connection):
            raise asyncpg.ConnectionDoesNotExistError(f"the connection was lost in the block: the consumer {name!r} is where it was before")
        if not (connection.is_in_transaction() if savepoint is None else savepoint.is_active):
            raise FlowStatesError(f"the block has ended the transaction in which the consumer {name!r} was to be moved")
        if before is not None and after is not None:
            # Where nothing is to be moved, a block that has swallowed an error of the server's is to hear of it: what it wrote will not be stored.
            at_end = ("consume.is_known", name) if after == before else ("move.expected", name, *after, *before.place)
            async with asyncio.timeout(timeout):
                if (await own.values(*at_end, timeout=None)) in ([], ["false"]):
                    raise FlowStatesError(f"the consumer {name!r} was moved or deleted in the block")


async def _lock(execution: Execution, name: str, skip_locked: bool) -> Position | None:
    rows = await execution.rows("consume.lock_free" if skip_locked else "consume.lock", name, timeout=None)
    if not rows:
        return None
    *position, is_foreign = rows[0]
    before = positions.stored(*position)
    if is_foreign == "true":
        refuse("states", before)
    return before


async def _begin(execution: Execution, name: str, start: Position | None, is_now: bool) -> None:
    if is_now:
        start = await OwnFeed(execution).now()
    if start is None:
        raise InvalidInputError("start", f"is to be said at the first use of the consumer {name!r}: 'beginning', 'now' or a position")
    if not is_now and start != BEGINNING:
        # Another cluster's is refused before the consumer is there, which would then stay at it. What is pruned is said of a consumer that is there.
        with suppress(HistoryPrunedError):
            await OwnFeed(execution).read(start, None, 1)
    await execution.rows("consume.begin", name, *start, timeout=None)


async def all_positions(execution: Execution) -> list[ConsumerPosition]:
    """How far the consumers have come, by name."""
    return [
        ConsumerPosition(
            name=name,
            position=positions.encode(positions.stored(transaction, timestamp, id_, known)),
            updated=datetime.fromisoformat(updated[1:-1] + "Z"),
            states=int(states),
            is_pruned=is_pruned == "true",
            behind=timedelta(microseconds=max(0, int(behind or 0))),
        )
        for name, transaction, timestamp, id_, known, updated, states, is_pruned, behind in await execution.rows("positions", timeout=None)
    ]
