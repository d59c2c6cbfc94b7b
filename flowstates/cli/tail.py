"""The commands on the feed: what happens, and how far those who follow it have come."""

from __future__ import annotations

import asyncio
import json as json_format
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flowstates.cli.lines import TIME, Lines, print_columns
from flowstates.cli.options import DatabaseUrl, Json, LayoutOption, Types, all_of, ask_feed, end_with_nothing, filter_of
from flowstates.cli.render import json_time, print_error_line, print_json_lines, print_states
from flowstates.cli.terminal import output
from flowstates.engine.consuming import ConsumerPosition
from flowstates.errors import HistoryPrunedError
from flowstates.feed import FlowRunStateFeed
from flowstates.filters import FlowRunStateFilter
from flowstates.interrupts import CODE
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

    def show(states: Sequence[FlowRunState]) -> None:
        if json:
            print_states(states, json_lines=True)
        else:
            lines.print(states)

    async def work(feed: FlowRunStateFeed) -> None:
        if not json:
            lines.print_header()
        if name is None:
            await _follow(feed, filter, show, None if beginning else await feed.now(), once=once)
        else:
            await _consume(feed, name, "beginning" if beginning else "now", filter, show, once=once)

    try:
        ask_feed(database_url, layout, work)
    except KeyboardInterrupt:
        raise typer.Exit(CODE) from None


async def _follow(feed: FlowRunStateFeed, filter: FlowRunStateFilter, show: Show, after: str | None, *, once: bool) -> None:
    while True:
        try:
            page = await feed.read_page(after, filter=filter)
        except HistoryPrunedError as error:
            print_error_line(f"error: {error}")
            after = error.oldest
            continue
        show(page.states)
        after = page.position
        if page.is_caught_up:
            if once:
                return
            await asyncio.sleep(_POLL)


async def _consume(feed: FlowRunStateFeed, name: str, start: str, filter: FlowRunStateFilter, show: Show, *, once: bool) -> None:
    while True:
        try:
            async with feed.consume(name, start=start, filter=filter) as batch:
                show(batch.states)  # before it is committed that they were told
        except HistoryPrunedError as error:
            print_error_line(f"error: {error}")
            await feed.move(name, error.oldest, expected=error.position)
            continue
        if batch.is_caught_up:
            if once:
                return
            await asyncio.sleep(_POLL)


def consumers(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Print how far the named consumers of the feed have come, and how far each is behind."""
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
        "updated": json_time(one.updated),
        "position": one.position,
    }
    return json_format.dumps(values)


def _print(console: Console, found: Sequence[ConsumerPosition], now: datetime) -> None:
    width = max(len("consumer"), *(len(one.name) for one in found))
    print_columns(console, [f"{'consumer':{width}}", "states behind", f"{'for':>9}", f"{'moved (UTC)':{TIME}}"])
    for one in found:
        states = f"{one.states:,}" + ("+" if one.states >= _MANY else "")
        since = ago(now - one.behind, now) if one.states else ""
        line = f"{one.name:{width}} {states:>13} {since:>9} {clock(one.updated)}"
        console.print(Text(line), soft_wrap=True)
