"""The commands on the feed: what happens, and how far those who follow it have come."""

from __future__ import annotations

import asyncio
import json as json_format
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flowstates.cli.lines import TIME, Lines, print_columns
from flowstates.cli.options import DatabaseUrl, Json, LayoutOption, Types, all_of, ask_feed, end_with_nothing, filter_of
from flowstates.cli.render import json_time, print_error_line, print_json_lines, print_states
from flowstates.cli.terminal import output
from flowstates.engine.connections import BROKEN
from flowstates.engine.consuming import ConsumerPosition
from flowstates.engine.feeding import FeedPage
from flowstates.engine.following import named
from flowstates.engine.retries import is_retryable
from flowstates.errors import FlowStatesError, HistoryPrunedError
from flowstates.feed import FlowRunStateFeed
from flowstates.filters import FlowRunStateFilter
from flowstates.interrupts import CODE
from flowstates.pictures.text import escape
from flowstates.pictures.times import ago, clock
from flowstates.records import FlowRunState

_POLL = 0.5  # seconds
_MANY = 100_000  # states, which stand for that or more

Show = Callable[[Sequence[FlowRunState]], None]


def tail(
    types: Types = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="CONSUMER", help="Go on where this consumer has come to, and keep how far it comes; a new one begins with new states."),
    ] = None,
    beginning: Annotated[bool, typer.Option("--beginning", help="Begin with the oldest state; with --name, at its first use.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when all is told that may be told now.")] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print new states as they are committed, until Ctrl-C.

    None is skipped, also if it commits late: behind a transaction that is open the states wait. With --name each is printed at least once, however
    often the command is broken off.
    """
    lines = Lines(output(), now=None)
    filter = filter_of(types=all_of(types))
    logging.getLogger("asyncpg").addHandler(logging.NullHandler())  # of a lost connection the feed's own line says enough

    async def work(feed: FlowRunStateFeed) -> bool:
        tailing = _Tail(feed, name, await _begin(feed, name, "beginning" if beginning else "now"))
        if not json:
            lines.print_header()
        while not await tailing.go_on(filter, (lambda states: print_states(states, json_lines=True)) if json else lines.print, once=once):
            pass
        return tailing.has_lost

    try:
        has_lost = ask_feed(database_url, layout, work)
    except KeyboardInterrupt:
        raise typer.Exit(CODE) from None
    raise typer.Exit(1 if has_lost else 0)


class _Undone(Exception):  # noqa: N818 (it is no error)
    """Leaves a block whose position is to stay."""


async def _begin(feed: FlowRunStateFeed, name: str | None, start: str) -> str | None:
    """Where to go on. A new consumer is made on the way."""
    if name is None:
        return None if start == "beginning" else await feed.now()
    with suppress(_Undone, HistoryPrunedError):
        async with feed.consume(name, start=start, limit=1, skip_locked=True):
            raise _Undone
    return await _position(feed, name)


async def _position(feed: FlowRunStateFeed, name: str) -> str:
    for one in await feed.positions():
        if one.name == name:
            return one.position
    raise FlowStatesError(f"the consumer {name!r} was deleted meanwhile")


class _Tail:
    """Prints what a feed tells, and then keeps how far that was. No transaction is open while it prints, which may take as long as a reader likes."""

    def __init__(self, feed: FlowRunStateFeed, name: str | None, after: str | None) -> None:
        self._feed, self._name, self._after = feed, name, after
        self.has_lost = False

    async def go_on(self, filter: FlowRunStateFilter, show: Show, *, once: bool) -> bool:
        """Whether all is told that may be told now, if it is for `once`; else until something is in the way."""
        try:
            if once:
                page = await self._feed.read_page(self._after, filter=filter)
                if page.blocked_by:
                    print_error_line(f"warning: states that are committed wait for {named(page.blocked_by)}")
                return await self._tell(page, show, once=True) and page.is_caught_up
            async with self._feed.follow(self._after, filter=filter, poll=_POLL) as pages:
                async for page in pages:
                    if not await self._tell(page, show, once=False):
                        break
        except HistoryPrunedError as error:
            self.has_lost, self._after = True, error.oldest
            whose = "" if self._name is None else f"{self._name}: "
            print_error_line(f"warning: {whose}states were pruned before they were told; it goes on with what is left")
            if self._name is not None and not await self._feed.move(self._name, error.oldest, expected=error.position):
                self._after = await _position(self._feed, self._name)
        return False

    async def _tell(self, page: FeedPage, show: Show, *, once: bool) -> bool:
        """Whether it was also kept: not where somebody else has moved the consumer."""
        show(page.states)
        was, self._after = self._after, page.position
        while self._name is not None:
            try:
                if await self._feed.move(self._name, page.position, expected=was):
                    return True
                self._after = await _position(self._feed, self._name)
                return False
            except BROKEN as error:
                if once or not is_retryable(error):
                    raise
                await asyncio.sleep(_POLL)
        return True


def consumers(
    forget: Annotated[
        str | None, typer.Option(metavar="CONSUMER", help="Delete this consumer instead; who consumes under its name then begins anew.")
    ] = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Print how far the named consumers of the feed have come, and how far each is behind."""
    if forget is not None:
        if not ask_feed(database_url, None, lambda feed: feed.forget(forget)):
            end_with_nothing(f"no consumer {forget!r}")
        return
    found = ask_feed(database_url, None, lambda feed: feed.positions())
    if not found:
        end_with_nothing("no consumers")
    if json:
        print_json_lines(map(_as_json, found))
    else:
        _print(output(), found, datetime.now(UTC))


def _as_json(one: ConsumerPosition) -> str:
    values = {
        "name": one.name,
        "states": one.states,
        "behind": one.behind.total_seconds(),
        "is_pruned": one.is_pruned,
        "updated": json_time(one.updated),
        "position": one.position,
    }
    return json_format.dumps(values)


def _print(console: Console, found: Sequence[ConsumerPosition], now: datetime) -> None:
    width = max(len("consumer"), *(len(escape(one.name)) for one in found))
    print_columns(console, [f"{'consumer':{width}}", "states behind", f"{'since':>9}", f"{'moved (UTC)':{TIME}}"])
    for one in found:
        states = f"{one.states:,}" + ("+" if one.states >= _MANY else "")
        since = ago(now - one.behind, now) if one.states else ""
        pruned = "  others were pruned before they were told" if one.is_pruned else ""
        line = f"{escape(one.name):{width}} {states:>13} {since:>9} {clock(one.updated)}{pruned}"
        console.print(Text(line), soft_wrap=True)
