"""What happened since: states in an order in which none that commits late is skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from flowstates.engine import positions
from flowstates.engine.connections import PoolOrConnection
from flowstates.engine.consuming import ConsumerPosition, FeedBatch, all_positions, consume
from flowstates.engine.execution import Execution
from flowstates.engine.feeding import Blocker, Feed, FeedPage, OwnFeed, PrefectFeed
from flowstates.engine.following import follow
from flowstates.engine.positions import BEGINNING, Position
from flowstates.errors import InvalidInputError, ReadOnlyLayoutError
from flowstates.filters import FlowRunStateFilter, checked_filter
from flowstates.values import Layout, flag, kind_of, seconds, shown, storable_text

__all__ = ["Blocker", "ConsumerPosition", "FeedBatch", "FeedPage", "FlowRunStateFeed"]

MOST_OF_A_PAGE = 10_000
_MOST_SECONDS = 10**9
_LONGEST_NAME = 500  # characters; an entry of an index takes 2,700 bytes


class FlowRunStateFeed:
    """The states of all runs as they were committed, on a pool or a connection that stays the caller's.

    They come in the order of the transactions that stored them, and within one of timestamp and id. That is each run's own order too, but for a
    state that was stored later than one that follows it: it is told when it came. A state is told when no transaction is open any more
    that could still store one before it: nothing that commits is skipped, whatever the isolation levels, savepoints and clocks of the writers. So an
    open transaction that has written, on any database of the server, holds the feed until it ends; FeedPage.blocked_by says which. Who only reads
    holds nothing.

    On the layout `prefect` nothing is installed, and no order of commits is stored. The order there is that of `updated`, the time at which a state
    was sent by the clock of who sent it, and id. A state is told when every transaction has ended that was open `clock_slack` seconds after that
    time, by the database's clock; so it is told that much later, and at the next look. Any open transaction of that database holds the feed, also
    one that only reads. States are skipped where a sender's clock is behind by more than the slack, or where somebody writes with a time from
    before. A named consumer takes a table of ours: ReadOnlyLayoutError. Read it outside of a transaction at REPEATABLE READ or above, and on the
    primary.

    On the layout `citus` there is no feed, as transactions of several servers have no order in common: InvalidInputError.

    Deleted states are not told, and nothing says that they went. `timeout` is in seconds and for the whole call, as in FlowRunStateRepository.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates", clock_slack: float = 5.0) -> None:
        self._execution = Execution(pool_or_connection, layout)
        if isinstance(clock_slack, bool) or not isinstance(clock_slack, int | float) or not 0 <= clock_slack <= _MOST_SECONDS:
            raise InvalidInputError("clock_slack", f"is {shown(clock_slack)}, not a number of seconds")
        if self._execution.layout == "citus":
            raise InvalidInputError("layout", "citus has no feed: on Citus each server numbers its own transactions")
        is_own = self._execution.layout == "flowstates"
        self._feed: Feed[Any] = OwnFeed(self._execution) if is_own else PrefectFeed(self._execution, float(clock_slack))

    async def read_page(
        self, after: str | None = None, *, filter: FlowRunStateFilter | None = None, limit: int = 500, timeout: float | None = None
    ) -> FeedPage:
        """The next states after a position, at most `limit`, 10,000 at most; from the beginning without a position.

        One round trip; a second one asks what holds the feed, where a page is empty and committed states wait. An empty page has a position too. On
        the layout `prefect` each page says up to where the next one may go, so the first one of all takes one more, and to get on is to go on from
        the position of each page, also of an empty one.

        A position is good for any filter. With a filter a page looks at 10,000 states at most, so it may be empty, or not be full, and not be caught
        up. A filter with `current` is refused: a feed tells each state as it came.

        Nothing is told twice for one position. In a transaction at REPEATABLE READ or above the feed stands still where the snapshot is; the
        caller's own states are told after the commit.

        HistoryPrunedError where a prune, or a delete of whole runs, has taken states that come after the position; deletes of single states are not
        noticed. From the beginning all that is left is told.

        ForeignPositionError for a position of another cluster, and, at the first page of a FlowRunStateFeed, for states of another one, as after the
        restore of a dump; FlowStatesError for what cannot be ordered: a copy by logical replication, a database with Citus.
        """
        timeout = seconds(timeout)
        arguments = self._feed.start(after), _checked(filter), _checked_limit(limit)
        async with asyncio.timeout(timeout):
            page, *_ = await self._feed.read(*arguments)
            return page

    def follow(
        self,
        after: str | None = None,
        *,
        filter: FlowRunStateFilter | None = None,
        limit: int = 500,
        poll: float = 0.5,
        wake: asyncio.Event | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[FeedPage]]:
        """The pages after a position as they come: `async with feed.follow() as pages: async for page in pages`. A page without states says, where a
        filter has let all out, that its position has moved on.

        Where nothing more may be told it waits for `poll` seconds, or until `wake` is set, by whoever has a signal of their own; it clears that
        before it looks. While an open transaction may hold committed states it waits for half a second at most; after 10 seconds of that a warning
        says which. Between two pages it holds no connection of a pool. No page takes longer than 30 seconds, waiting for a connection included.

        On a pool it goes on after a lost connection, with pauses of up to 5 seconds, for as long as it takes; a warning to the logger `flowstates`
        says so, once each time. On a connection of the caller's that is lost its error is raised. What read_page raises else ends it.

        A page counts as told when the next one is asked for: a reader that keeps the position of each page when it is done with it is told each state
        at least once.
        """
        if isinstance(poll, bool) or not isinstance(poll, int | float) or not 0 < poll <= _MOST_SECONDS:
            raise InvalidInputError("poll", f"is {shown(poll)}, not a number of seconds above 0 and up to {_MOST_SECONDS:,}")
        if wake is not None and not isinstance(wake, asyncio.Event):
            raise InvalidInputError("wake", f"is {kind_of(wake)}, not an asyncio.Event")
        return aclosing(follow(self._feed, self._feed.start(after), _checked(filter), _checked_limit(limit), poll, wake))

    async def now(self, *, timeout: float | None = None) -> str:
        """The position after all that has been told up to now: what open transactions store comes after it.

        On the layout `prefect` that is `clock_slack` seconds before the oldest open transaction began.
        """
        timeout = seconds(timeout)
        async with asyncio.timeout(timeout):
            return positions.encode(await self._feed.now())

    def consume(
        self,
        name: str,
        *,
        start: str | None = None,
        filter: FlowRunStateFilter | None = None,
        limit: int = 500,
        skip_locked: bool = False,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[FeedBatch]:
        """A page for a named consumer, in a transaction that moves the consumer's position with what the block writes on `batch.connection`:
        `async with feed.consume("billing", start="now") as batch`.

        Leaving the block commits both, so each state takes effect once; an error undoes both, and the next one gets the same states again. It is
        held by one at a time: another one waits, or with `skip_locked` gets a batch at once that `is_taken`. The transaction is at READ COMMITTED and
        holds what is told to others, so keep the block short; what is done outside of it, as a mail that is sent, may be done again.

        At its first use a consumer is to be given a `start`: "beginning", "now" or a position. That is committed before the block begins.
        Later on `start` says nothing. A name has 500 characters at most.

        In a transaction that is open on the caller's connection it is a savepoint, and the position is moved when that transaction commits. At
        REPEATABLE READ and above that is a SerializationError where somebody else has moved it meanwhile. On a session of SQLAlchemy it is the
        session's own savepoint, so that its objects become what they were with an undo; the caller commits after the block, and a block that ends
        the session's transaction is a FlowStatesError, which moves nothing.

        `timeout` is for what comes before the block, waiting for another one included, and for what comes after it. What read_page raises is raised
        here; the cure of HistoryPrunedError is `move(name, error.oldest, expected=error.position)`.
        """
        self._refuse_prefect()
        name, place, is_now = _checked_name(name), *self._place("start", start)
        return consume(
            self._execution,
            name,
            place,
            is_now=is_now,
            filter=_checked(filter),
            limit=_checked_limit(limit),
            skip_locked=flag("skip_locked", skip_locked),
            timeout=seconds(timeout),
        )

    async def positions(self, *, timeout: float | None = None) -> list[ConsumerPosition]:
        """How far all named consumers have come, by name. For each it reads up to 100,000 entries of an index."""
        self._refuse_prefect()
        timeout = seconds(timeout)
        async with asyncio.timeout(timeout):
            return await all_positions(self._execution)

    async def move(self, name: str, to: str, *, expected: str | None = None, timeout: float | None = None) -> bool:
        """Lets a named consumer, known or new, go on from "beginning", from "now" or from a position; whether it was moved. It waits for who has it.

        With `expected`, a position, it is moved only if it is there: of several workers that got one HistoryPrunedError none takes the others back.
        """
        self._refuse_prefect()
        timeout = seconds(timeout)
        name, place, is_now = _checked_name(name), *self._place("to", to)
        if place is None and not is_now:
            raise InvalidInputError("to", "is None, not 'beginning', 'now' or a position")
        was = None if expected is None else positions.decode("expected", expected, Position)
        async with asyncio.timeout(timeout):
            position = await OwnFeed(self._execution).now() if place is None else place
            if was is None:
                await self._execution.rows("move", name, *position, timeout=None)
                return True
            return bool(await self._execution.values("move.expected", name, *position, *was[:3], timeout=None))

    async def forget(self, name: str, *, timeout: float | None = None) -> bool:
        """Deletes a named consumer, and its position; whether there was one. It waits for who has it."""
        self._refuse_prefect()
        timeout = seconds(timeout)
        name = _checked_name(name)
        async with asyncio.timeout(timeout):
            return bool(await self._execution.values("forget", name, timeout=None))

    @staticmethod
    def _place(field: str, value: str | None) -> tuple[Position | None, bool]:
        """The position that is meant, None for none; and whether now is meant."""
        if value is None or value == "now":
            return None, value == "now"
        if value == "beginning":
            return BEGINNING, False
        try:
            return positions.decode(field, value, Position), False
        except InvalidInputError as error:
            raise InvalidInputError(field, f"{error.message}, nor 'beginning' or 'now'") from None

    def _refuse_prefect(self) -> None:
        if self._execution.layout == "prefect":
            raise ReadOnlyLayoutError("a named consumer takes a table of flowstates: on Prefect's, keep the position of read_page or follow yourself")


def _checked(filter: FlowRunStateFilter | None) -> FlowRunStateFilter | None:
    filter = checked_filter(filter)
    if filter is not None and filter.current:
        raise InvalidInputError("filter.current", "is not for a feed, which tells each state as it came, current or not")
    return filter


def _checked_limit(limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST_OF_A_PAGE:
        raise InvalidInputError("limit", f"is {shown(limit)}, not a number from 1 to {MOST_OF_A_PAGE:,}")
    return limit


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInputError("name", f"is {shown(name)}, not the name of a consumer")
    if len(name) > _LONGEST_NAME:
        raise InvalidInputError("name", f"has {len(name):,} characters, and a consumer's name {_LONGEST_NAME} at most")
    try:
        return storable_text(name)
    except ValueError as error:
        raise InvalidInputError("name", str(error)) from None
