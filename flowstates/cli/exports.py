"""The command that writes states out as JSON Lines."""

from __future__ import annotations

import sys
from typing import IO, Annotated

import typer

from flowstates.cli.ids import Lookup
from flowstates.cli.options import (
    DatabaseUrl,
    Ids,
    LayoutOption,
    Names,
    RunIds,
    Since,
    Terminal,
    Types,
    Until,
    all_of,
    ask_states,
    filter_of,
    with_ids,
)
from flowstates.cli.render import print_error_line, print_json_lines
from flowstates.engine.archives import json_of
from flowstates.errors import UnreadableRowError
from flowstates.filters import FlowRunStateFilter
from flowstates.repository import FlowRunStateRepository
from flowstates.values import counted


def export_states(
    run_ids: RunIds = None,
    ids: Ids = None,
    types: Types = None,
    names: Names = None,
    since: Since = None,
    until: Until = None,
    terminal: Terminal = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out states that cannot be read, name each on stderr, and go on.")
    ] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Annotated[bool, typer.Option("--json", help="What it prints in any case.")] = False,
) -> None:
    """Write states to standard output as JSON Lines, run by run.

    All of them, or those that the filters let through. A state that cannot be read ends it; with --skip-unreadable it is exit code 1 at the end.
    """
    given = filter_of(types=all_of(types), names=names, since=since, until=until, terminal=terminal)

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> tuple[int, int]:
        filter = await with_ids(given, lookup, run_ids, ids)
        return await _write_states(states, filter, sys.stdout.buffer, skip=skip_unreadable)

    count, left_out = ask_states(database_url, layout, work)
    more = f"; left out {left_out:,} that cannot be read" if left_out else ""
    print_error_line(f"exported {counted(count, 'state')}{more}")
    if left_out:
        raise typer.Exit(1)


async def _write_states(states: FlowRunStateRepository, filter: FlowRunStateFilter, file: IO[bytes], *, skip: bool) -> tuple[int, int]:
    """Writes the states of the filter to the file, one a line; how many, and how many were left out."""
    count = left_out = 0

    def leave_out(error: UnreadableRowError) -> None:
        nonlocal left_out
        if not skip:
            raise error
        left_out += 1
        print_error_line(f"left out: {error}")

    async with states.stream_flow_run_states(filter, on_unreadable=leave_out) as stream:
        async for state in stream:
            try:
                line = json_of(state)
            except UnreadableRowError as error:
                leave_out(error)
                continue
            print_json_lines([line], file)
            count += 1
    return count, left_out
