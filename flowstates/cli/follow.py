"""States as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID

import typer

from flowstates.cli.ids import Lookup
from flowstates.cli.lines import Lines
from flowstates.cli.options import LayoutName, ask_states
from flowstates.cli.render import print_states
from flowstates.cli.terminal import output
from flowstates.engine.pages import MOST_OF_A_PAGE
from flowstates.filters import FlowRunStateFilter
from flowstates.interrupts import CODE
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository

_PAUSE = 1.0  # seconds
_EVER = datetime.min.replace(tzinfo=UTC)
_OVERLAP = timedelta(seconds=5)  # between two questions: what is committed later than that after its time is missed


def follow_states(
    url: str | None, layout: LayoutName | None, filter_of: Callable[[Lookup], Awaitable[FlowRunStateFilter]], *, first: int, json: bool
) -> None:
    """Prints the newest `first` states of a filter or, if it has a `since`, all of them, and then new ones as they come, until Ctrl-C."""
    lines = Lines(output(), now=None)

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> None:
        if not json:
            lines.print_header()
        async for found in _new(states, await filter_of(lookup), await lookup.clock(), first):
            if json:
                print_states(found, json_lines=True)
            else:
                lines.print(found)

    try:
        ask_states(url, layout, work)
    except KeyboardInterrupt:
        raise typer.Exit(CODE) from None


async def _new(states: FlowRunStateRepository, filter: FlowRunStateFilter, clock: datetime, first: int) -> AsyncIterator[Sequence[FlowRunState]]:
    """The states that are there, and then the new ones, by the server's clock."""
    begun = monotonic()
    seen: dict[UUID, datetime] = {}

    async def unseen(since: datetime) -> AsyncIterator[list[FlowRunState]]:
        cursor = None
        while True:
            page = await states.read_flow_run_state_page(
                filter.model_copy(update={"since": since}), limit=MOST_OF_A_PAGE, order="time", cursor=cursor
            )
            found = [state for state in page.states if state.id not in seen]
            seen.update({state.id: state.timestamp for state in page.states})
            yield found
            if (cursor := page.next) is None:
                return

    since = filter.since
    if since is None:
        since = clock - _OVERLAP
        # What is there is not new, also where its time is yet to come.
        there = {state.id: state.timestamp async for some in unseen(since) for state in some}
        page = await states.read_flow_run_state_page(filter, limit=first, order="time", newest_first=True)
        seen = there | {state.id: state.timestamp for state in page.states}
        yield page.states[::-1]
    while True:
        asked = clock + timedelta(seconds=monotonic() - begun)
        async for some in unseen(since):
            yield some
        since = max(asked - _OVERLAP, filter.since or _EVER)
        seen = {id: time for id, time in seen.items() if time >= since}
        await asyncio.sleep(_PAUSE)
