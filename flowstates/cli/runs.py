"""The command that shows in which state runs are now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from flowstates.cli.database import exit_codes
from flowstates.cli.options import DatabaseUrl, Json, LayoutOption, Names, Types, ask_states, end_with_nothing, filter_of, length_of
from flowstates.cli.render import print_error_line, print_states
from flowstates.engine.pages import MOST_OF_A_PAGE
from flowstates.errors import InvalidInputError
from flowstates.pictures.bars import plain_table, type_text
from flowstates.pictures.text import escape, first_line
from flowstates.pictures.times import clock, relative
from flowstates.records import FlowRunState

_WIDTH_WITH_MESSAGES = 110  # below it a message has a line of its own
_WIDTH_OF_A_FILE = 1_000


def runs(
    types: Types = None,
    names: Names = None,
    longer_than: Annotated[
        timedelta | None, typer.Option(parser=length_of, metavar="LENGTH", help="Runs that are in their state for this long, such as 90s, 1h or 2d.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST_OF_A_PAGE, metavar="N", help="Runs of a page.")] = 100,
    cursor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The page after the one that named this cursor, with the same filters; not with --longer-than.")
    ] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print in which state runs are now, and since when: a line a run, those that moved last first."""
    now = datetime.now(UTC)
    if cursor is not None and longer_than is not None:
        with exit_codes():
            raise InvalidInputError("--cursor", "does not go with --longer-than, which means another time now")
    filter = filter_of(current=True, types=types, names=names, until=None if longer_than is None else now - longer_than)
    page = ask_states(
        database_url,
        layout,
        lambda states: states.read_flow_run_state_page(filter, limit=limit, order="time", newest_first=True, cursor=cursor),
    )
    if not page.states:
        end_with_nothing("no such runs")
    if json:
        print_states(page.states, json_lines=True)
    else:
        print_runs(Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE), page.states, now=now)
    if page.next:
        print_error_line("more runs: narrow it with --type, or a higher --limit" if longer_than is not None else f"next page: --cursor {page.next}")


def print_runs(console: Console, states: Sequence[FlowRunState], *, now: datetime) -> None:
    """A line a run with its current state; in a narrow terminal what is said of it has a second line."""
    ascii_only = console.options.ascii_only
    if console.width < _WIDTH_WITH_MESSAGES:
        for state in states:
            type_ = type_text(state.type, ascii_only=ascii_only)
            type_.pad_right(len("x CANCELLING") - type_.cell_len)
            line = (Text(str(state.flow_run_id)), type_, Text(clock(state.timestamp, "minutes")[5:]), Text(f"{relative(state.timestamp, now):>8}"))
            console.print(Text(" ").join(line))
            if said := "  ".join(part for part in (_name(state), first_line(state.message)) if part):
                console.print(Padding(Text(said), (0, 0, 0, 2)))
        return
    table = plain_table(padding=0)
    for header, justify in (("run", "left"), ("state", "left"), ("since (UTC)", "left"), ("", "right")):
        table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # it is a Literal
    table.add_column("message", overflow="ellipsis", no_wrap=True)
    for state in states:
        type_ = Text(" ").join(filter(None, (type_text(state.type, ascii_only=ascii_only), Text(_name(state)))))
        since = Text(clock(state.timestamp)), Text(relative(state.timestamp, now))
        table.add_row(Text(str(state.flow_run_id)), type_, *since, Text(first_line(state.message)))
    console.print(table)


def _name(state: FlowRunState) -> str:
    """The name, where it says more than the type."""
    return "" if state.name == state.type.title() else escape(state.name)
