"""The command that shows in which state runs are now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flowstates.cli.database import exit_codes
from flowstates.cli.lines import ID, NAME, TIME, TYPE, name_of, print_columns, print_state, said, type_cell
from flowstates.cli.options import (
    DatabaseUrl,
    Json,
    LayoutOption,
    Names,
    Types,
    all_of,
    ask_states,
    end_with_nothing,
    filter_of,
    length_of,
    limit_option,
)
from flowstates.cli.render import print_error_line, print_states
from flowstates.cli.terminal import is_file, output
from flowstates.errors import InvalidInputError
from flowstates.pictures.text import first_line
from flowstates.pictures.times import ago, clock, relative
from flowstates.records import FlowRunState

_WIDTH_WITH_MESSAGES = 110  # below it a message has a line of its own
_RELATIVE = len("99d 23h ago")
_AGO = len("9999y ago")


def runs(
    types: Types = None,
    names: Names = None,
    longer_than: Annotated[
        timedelta | None, typer.Option(parser=length_of, metavar="LENGTH", help="Runs that are in their state for this long, such as 90s, 1h or 2d.")
    ] = None,
    limit: Annotated[int, limit_option("Runs of a page.")] = 100,
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
    filter = filter_of(current=True, types=all_of(types), names=names, until=None if longer_than is None else now - longer_than)
    page = ask_states(
        database_url,
        layout,
        lambda states, _: states.read_flow_run_state_page(filter, limit=limit, order="time", newest_first=True, cursor=cursor),
    )
    if not page.states:
        end_with_nothing("no such runs")
    if json:
        with exit_codes():
            print_states(page.states, json_lines=True)
    else:
        print_runs(output(), page.states, now=now)
    if page.next:
        print_error_line("more runs: narrow it with --type, or a higher --limit" if longer_than is not None else f"next page: --cursor {page.next}")


def print_runs(console: Console, states: Sequence[FlowRunState], *, now: datetime) -> None:
    """A line a run with its current state; in a narrow terminal what is said of it has a second line, in a narrower one the run a line before."""
    in_file, is_one_line = is_file(console), console.width >= _WIDTH_WITH_MESSAGES
    has_runs = console.width >= ID + 1 + TYPE + 1 + TIME + 1 + _AGO
    if has_runs:
        names = [f"{'name':{NAME}}"] if in_file else []
        more = [" " * _RELATIVE, "message"] if is_one_line else [" " * _AGO]
        print_columns(console, [f"{'run':{ID}}", f"{'state':{TYPE}}", *names, f"{'since (UTC)':{TIME}}", *more])
    for state in states:
        if not has_runs:
            console.print(Text(f"run {state.flow_run_id}"))
        since = f"{relative(state.timestamp, now):>{_RELATIVE}}" if is_one_line else f"{ago(state.timestamp, now):>{_AGO}}"
        cells = [
            *([Text(str(state.flow_run_id))] if has_runs else ()),
            type_cell(state.type, ascii_only=console.options.ascii_only),
            *([Text(f"{name_of(state):{NAME}}")] if in_file else ()),
            Text(clock(state.timestamp)),
            Text(since),
        ]
        print_state(console, cells, first_line(state.message) if in_file else said(state), in_one_line=is_one_line)
