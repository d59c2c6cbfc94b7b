"""A feed that is read until what a test waits for was told: other tests' transactions hold it too, as they do on any server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from uuid import UUID

from flowstates import FeedPage, FlowRunStateFeed, FlowRunStateFilter


async def told(
    feed: FlowRunStateFeed, after: str | None, ids: Collection[UUID], *, filter: FlowRunStateFilter | None = None, limit: int = 500
) -> tuple[list[UUID], str]:
    """The ids of the states after a position, in the order in which they are told, until all of `ids` were; and the position behind them."""
    found: list[UUID] = []
    while not set(ids) <= set(found):
        page = await feed.read_page(after, filter=filter, limit=limit)
        found += [state.id for state in page.states]
        assert page.position is not None
        if not page.states and page.is_caught_up:
            await asyncio.sleep(0.01)
        after = page.position
    return found, after or ""


async def held(feed: FlowRunStateFeed, after: str | None, pid: int | None) -> FeedPage:
    """The empty page that says that a session, or for None a prepared transaction, holds the feed."""
    while True:
        page = await feed.read_page(after)
        assert page.states == []
        if any(blocker.pid == pid for blocker in page.blocked_by):
            return page
        await asyncio.sleep(0.01)
