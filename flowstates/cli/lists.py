"""The command that lists states."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from flowstates.cli.database import exit_codes
from flowstates.cli.follow import follow_states
from flowstates.cli.ids import Id, Lookup
from flowstates.cli.lines import Lines, where_ids_are
from flowstates.cli.options import (
    DatabaseUrl,
    Ids,
    Json,
    LayoutOption,
    Names,
    RunIds,
    Since,
    Terminal,
    Types,
    Until,
    all_of,
    ask_states,
    end_with_nothing,
    filter_of,
    limit_option,
    moment_option,
    with_ids,
)
from flowstates.cli.render import json_time, print_error_line, print_history, print_line, print_states
from flowstates.cli.terminal import output
from flowstates.engine.pages import FlowRunStatePage
from flowstates.errors import InvalidInputError
from flowstates.pictures.moments import Moment
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository


class Order(StrEnum):
    """The orders of pages, as an option has them."""

    RUN = "run"
    TIME = "time"


class Clock(StrEnum):
    """The clocks of `read_flow_run_states_as_of`, as an option has them."""

    TIMESTAMP = "timestamp"
    CREATED = "created"


def list_states(
    run_ids: RunIds = None,
    ids: Ids = None,
    types: Types = None,
    names: Names = None,
    since: Since = None,
    until: Until = None,
    terminal: Terminal = None,
    limit: Annotated[int | None, limit_option("States of a page, 100 if left out; with --follow, those before new ones, 10 if left out.")] = None,
    order: Annotated[Order | None, typer.Option(help="By run and then time, or by time; oldest first.")] = None,
    newest_first: Annotated[bool | None, typer.Option("--newest-first", help="The whole order turned round.")] = None,
    cursor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The page after the one that named this cursor, with the same filters and order.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="The newest N states of each run.")] = None,
    as_of: Annotated[Moment | None, moment_option("The state that each run was in at this time, said as for --since.")] = None,
    clock: Annotated[
        Clock | None,
        typer.Option(help="For --as-of: when a state began, which is the default, or when it was recorded."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Go on with new states as they come, oldest first, until Ctrl-C. It asks every second for those of the last seconds:"
            " a state with an older time is not shown, nor is one that a long transaction commits late.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print a run's history, or states of any runs, a page at a time.

    A RUN_ID alone prints its whole history with the time spent in each state. With more of them, or with options, it is a table of the first 100
    states, run by run. Without a RUN_ID and --id it is all runs, by time and the newest first, unless --order says otherwise. stderr names the
    cursor of the next page. --last and --as-of take runs, and no filters or pages.
    """
    filters = {"--id": ids, "--type": types, "--name": names, "--since": since, "--until": until, "--terminal or --open": terminal}
    page = {"--limit": limit, "--order": order, "--newest-first": newest_first, "--cursor": cursor}
    of_runs = {"--last": last, "--as-of": as_of, "--clock": clock}
    given = [option for option, value in (filters | page | of_runs).items() if value not in (None, [])]
    with exit_codes():
        _refuse_contradictions(given, run_ids or (), follow=follow)
    filter = filter_of(types=all_of(types), names=names, since=since, until=until, terminal=terminal)
    if follow:
        follow_states(database_url, layout, lambda lookup: with_ids(filter, lookup, run_ids, ids), first=limit or 10, json=json)
        return
    if order is None and not run_ids and not ids:
        order, newest_first = Order.TIME, True
    is_history = len(set(run_ids or ())) == 1 and not given

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> FlowRunStatePage:
        if last is not None or as_of is not None or is_history:
            runs = await lookup.runs(run_ids)
            if last is not None:
                newest = await states.read_flow_run_states_by_run(runs, last=last)
                return _whole([state for run in runs for state in newest.get(run, ())])
            if as_of is not None:
                then = await states.read_flow_run_states_as_of(runs, as_of.at(datetime.now(UTC)), clock=(clock or Clock.TIMESTAMP).value)
                return _whole([then[run] for run in runs if run in then])
            return _whole(await states.read_flow_run_states(runs[0]))
        return await states.read_flow_run_state_page(
            await with_ids(filter, lookup, run_ids, ids),
            limit=limit or 100,
            order=(order or Order.RUN).value,
            newest_first=bool(newest_first),
            cursor=cursor,
        )

    found = ask_states(database_url, layout, work)
    if not found.states:
        end_with_nothing(f"no states of run {run_ids[0].text}" if is_history and run_ids else "no such states")
    if json:
        with exit_codes():
            print_states(found.states, json_lines=True)
    else:
        now, console = datetime.now(UTC), output(of_a_picture=is_history)
        if is_history:
            print_history(found.states, now=now)
        else:
            lines = Lines(console, now=now)
            lines.print_header()
            lines.print(found.states)
        if hint := where_ids_are(console):
            print_line(hint)
    if found.next:
        # As times, since those that are said from now mean others by then.
        window = [f"{option} {json_time(time)} " for option, time in (("--since", filter.since), ("--until", filter.until)) if time is not None]
        print_error_line(f"next page: {''.join(window)}--cursor {found.next}")


def _refuse_contradictions(given: Sequence[str], runs: Sequence[Id], *, follow: bool) -> None:
    if follow:
        others = [option for option in given if option not in ("--id", "--type", "--name", "--since", "--terminal or --open", "--limit")]
        if others:
            raise InvalidInputError("--follow", f"goes on for ever, oldest first: leave out {', '.join(others)}")
    if "--clock" in given and "--as-of" not in given:
        raise InvalidInputError("--clock", "goes with --as-of")
    for option, companions in (("--last", ()), ("--as-of", ("--clock",))):
        if option in given:
            others = [other for other in given if other not in (option, *companions)]
            if others:
                raise InvalidInputError(option, f"takes runs alone, not {', '.join(others)}")
            if not runs:
                raise InvalidInputError(option, "takes the runs that it is asked of: RUN_ID is missing")


def _whole(states: list[FlowRunState]) -> FlowRunStatePage:
    return FlowRunStatePage(states, None, None)
