"""A feed that is followed: page after page, also across lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from random import uniform
from time import monotonic

from flowstates.engine.connections import BROKEN
from flowstates.engine.feeding import Blocker, Feed, FeedPage
from flowstates.engine.positions import AnyPosition
from flowstates.engine.retries import LOG, is_retryable
from flowstates.filters import FlowRunStateFilter

ANSWER = 30.0
"""Seconds that a page may take, waiting for a connection included. Else a network that passes nothing on would end a feed unseen."""
_HELD = 0.5  # seconds at most between two looks, where a transaction may hold what is there: nobody gives a sign when that ends
_LONG = 10.0  # seconds that a feed is held until the log says so
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds, after a lost connection; twice as long each time


async def follow(
    feed: Feed[AnyPosition], after: AnyPosition, filter: FlowRunStateFilter | None, limit: int, poll: float, wake: asyncio.Event | None
) -> AsyncGenerator[FeedPage, None]:
    """The pages after a position as they come: those that have states or, where a filter has let all out, have moved on."""
    pause, held_until, has_said = 0.0, 0.0, False
    while True:
        if wake is not None:
            wake.clear()  # before it is looked: what is said from here on is looked for again
        try:
            async with asyncio.timeout(ANSWER):
                was, (page, after, may_be_held) = after, await feed.read(after, filter, limit)
        except BROKEN as error:
            if not (is_retryable(error) and feed.can_reconnect()):
                raise
            if not pause:
                LOG.warning("a feed has lost its connection, and goes on when there is one again: %r", error)
            pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            await asyncio.sleep(pause * uniform(0.5, 1))  # noqa: S311 (no secret)
            continue
        if pause:
            LOG.info("a feed has a connection again")
            pause = 0.0
        if page.states or after.place != was.place:
            yield page
        if not page.blocked_by:
            held_until, has_said = monotonic() + _LONG, False
        elif not has_said and monotonic() > held_until:
            has_said = True
            LOG.warning("a feed is held by %s", named(page.blocked_by))
        if page.is_caught_up:
            await _wait(min(poll, _HELD) if may_be_held else poll, wake)


def named(blockers: Sequence[Blocker]) -> str:
    """The transactions that hold a feed, for people."""
    return ", ".join(
        f"the prepared transaction {one.gid!r}"
        if one.is_prepared
        else f"an open transaction of pid {one.pid} ({one.application_name or one.database})"
        for one in blockers
    )


async def _wait(poll: float, wake: asyncio.Event | None) -> None:
    if wake is None:
        await asyncio.sleep(poll)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(poll):
            await wake.wait()
