"""A feed that is followed: page after page, also across lost connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from random import uniform

import asyncpg

from flowstates.engine.feeding import Feed, FeedPage
from flowstates.engine.positions import AnyPosition
from flowstates.filters import FlowRunStateFilter

_logger = logging.getLogger("flowstates")

ANSWER = 30.0
"""Seconds that a page may take, waiting for a connection included. Else a network that passes nothing on would end a feed unseen."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds, after a lost connection; twice as long each time
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError too
)


async def follow(
    feed: Feed[AnyPosition], after: AnyPosition, filter: FlowRunStateFilter | None, limit: int, poll: float, wake: asyncio.Event | None
) -> AsyncGenerator[FeedPage, None]:
    """The pages after a position that have states, as they come."""
    pause = 0.0
    while True:
        if wake is not None:
            wake.clear()  # before it is looked: what is said from here on is looked for again
        try:
            async with asyncio.timeout(ANSWER):
                page, after = await feed.read(after, filter, limit)
        except _LOST as error:
            if not feed.can_reconnect():
                raise
            if not pause:
                _logger.warning("a feed has lost its connection, and goes on when there is one again: %r", error)
            pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            await asyncio.sleep(pause * uniform(0.5, 1))  # noqa: S311 (no secret)
            continue
        if pause:
            _logger.info("a feed has a connection again")
            pause = 0.0
        if page.states:
            yield page
        if page.is_caught_up:
            await _wait(poll, wake)


async def _wait(poll: float, wake: asyncio.Event | None) -> None:
    if wake is None:
        await asyncio.sleep(poll)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(poll):
            await wake.wait()
