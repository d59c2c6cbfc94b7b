"""The commands that ask about histories."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from flowstates.analytics import FlowRunStateAnalytics, StateCount, TimeInState
from flowstates.cli.database import exit_codes
from flowstates.cli.options import (
    DatabaseUrl,
    Ids,
    Json,
    LayoutOption,
    Names,
    RunIds,
    Since,
    Step,
    Terminal,
    Types,
    Until,
    ask_analytics,
    ask_states,
    end_with_nothing,
    filter_of,
    time_option,
    window_of,
)
from flowstates.cli.render import (
    json_time,
    microseconds,
    print_error_line,
    print_history,
    print_json_lines,
    print_line,
    print_state_table,
    print_states,
    where_ids_are,
)
from flowstates.engine.pages import MOST_OF_A_PAGE, FlowRunStatePage
from flowstates.errors import InvalidInputError
from flowstates.pictures.bars import print_counts, print_durations
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository

_A_DAY = timedelta(days=1)
_AN_HOUR = timedelta(hours=1)
_STEPS_SHOWN = 24


class Order(StrEnum):
    """The orders of pages, as an option has them."""

    RUN = "run"
    TIME = "time"


class Clock(StrEnum):
    """The clocks of `read_flow_run_states_as_of`, as an option has them."""

    TIMESTAMP = "timestamp"
    CREATED = "created"


class By(StrEnum):
    """What `measure_time_in_states` tells apart, as an option has it."""

    TYPE = "type"
    NAME = "name"


def list_states(
    run_ids: RunIds = None,
    ids: Ids = None,
    types: Types = None,
    names: Names = None,
    since: Since = None,
    until: Until = None,
    terminal: Terminal = None,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST_OF_A_PAGE, metavar="N", help="States of a page; 100 if left out.")] = None,
    order: Annotated[Order | None, typer.Option(help="By run and then time, which is the default, or by time.")] = None,
    newest_first: Annotated[bool | None, typer.Option("--newest-first", help="The whole order turned round.")] = None,
    cursor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The page after the one that named this cursor, with the same filters and order.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="The newest N states of each run.")] = None,
    as_of: Annotated[datetime | None, time_option("The state that each run was in at this time.")] = None,
    clock: Annotated[
        Clock | None,
        typer.Option(help="For --as-of: when a state began, which is the default, or when it was recorded."),
    ] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print a run's history, or states of any runs, a page at a time.

    A RUN_ID alone prints its whole history with the time spent in each state. With more of them, or none, or with options, it is a table of the
    first 100 states; stderr names the cursor of the next page. --last and --as-of take runs, and no filters or pages.
    """
    filters = {"--id": ids, "--type": types, "--name": names, "--since": since, "--until": until, "--terminal or --open": terminal}
    page = {"--limit": limit, "--order": order, "--newest-first": newest_first, "--cursor": cursor}
    of_runs = {"--last": last, "--as-of": as_of, "--clock": clock}
    given = [option for option, value in (filters | page | of_runs).items() if value not in (None, [])]
    runs = list(dict.fromkeys(run_ids or ()))
    with exit_codes():
        _refuse_contradictions(given, runs)

    async def work(states: FlowRunStateRepository) -> FlowRunStatePage:
        if last is not None:
            newest = await states.read_flow_run_states_by_run(runs, last=last)
            return _whole([state for run in runs for state in newest.get(run, ())])
        if as_of is not None:
            then = await states.read_flow_run_states_as_of(runs, as_of, clock=(clock or Clock.TIMESTAMP).value)
            return _whole([then[run] for run in runs if run in then])
        if is_history:
            return _whole(await states.read_flow_run_states(runs[0]))
        return await states.read_flow_run_state_page(
            filter, limit=limit or 100, order=(order or Order.RUN).value, newest_first=bool(newest_first), cursor=cursor
        )

    is_history = len(runs) == 1 and not given
    filter = filter_of(flow_run_ids=runs, ids=ids, types=types, names=names, since=since, until=until, terminal=terminal)
    found = ask_states(database_url, layout, work)
    if not found.states:
        end_with_nothing(f"no states of run {runs[0]}" if is_history else "no such states")
    if json:
        print_states(found.states, json_lines=True)
    elif is_history:
        print_history(found.states, now=datetime.now(UTC))
    else:
        print_state_table(found.states)
    if not json and (hint := where_ids_are()):
        print_line(hint)
    if found.next:
        print_error_line(f"next page: --cursor {found.next}")


def durations(
    run_ids: RunIds = None,
    types: Types = None,
    names: Names = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[By, typer.Option(help="What is told apart.")] = By.TYPE,
    per_run: Annotated[bool, typer.Option("--per-run", help="Each run by itself, not all together.")] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print how often and how long runs were in each state.

    Only the part of a visit inside the window counts. --until is now if left out, and --since 24 hours before it. In JSON, times are in
    microseconds.
    """
    begin, end = window_of(since, until, _A_DAY)
    filter = filter_of(flow_run_ids=run_ids, types=types, names=names)

    async def work(analytics: FlowRunStateAnalytics) -> list[TimeInState]:
        return await analytics.measure_time_in_states(filter, since=begin, until=end, by=by.value, per_run=per_run)

    found = ask_analytics(database_url, layout, work)
    if not found:
        end_with_nothing(f"no states {_from_to(begin, end)}")
    if json:
        print_json_lines(json_format.dumps(_measured(time)) for time in found)
    else:
        print_durations(Console(), found, begin, end)


def counts(
    run_ids: RunIds = None,
    since: Since = None,
    until: Until = None,
    step: Step = None,
    occupancy: Annotated[
        bool, typer.Option("--occupancy", help="Count the runs that are in each type at the beginning of each step, not the states that began in it.")
    ] = False,
    terminal: Annotated[bool | None, typer.Option("--terminal", help="With --occupancy: count runs that have ended too.")] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print how many states of each type began, step by step.

    --until is now if left out, and --since 24 steps before it, on a whole step. In JSON all types are there, the others' count is 0.
    """
    step = step or _AN_HOUR
    begin, end = window_of(since, until, step * _STEPS_SHOWN, step=step)
    filter = filter_of(flow_run_ids=run_ids)
    if terminal and not occupancy:
        with exit_codes():
            raise InvalidInputError("--terminal", "goes with --occupancy")

    async def work(analytics: FlowRunStateAnalytics) -> list[StateCount]:
        if occupancy:
            return await analytics.count_occupancy(filter.flow_run_ids, since=begin, until=end, step=step, terminal=bool(terminal))
        return await analytics.count_transitions(filter, since=begin, until=end, step=step)

    found = ask_analytics(database_url, layout, work)
    if json:
        print_json_lines(json_format.dumps({"at": json_time(count.at), "counts": count.counts}) for count in found)
    if not any(any(count.counts.values()) for count in found):
        end_with_nothing(f"no {'runs' if occupancy else 'states'} {_from_to(begin, end)}")
    if not json:
        print_counts(Console(), found, step, of_runs=occupancy)


def _refuse_contradictions(given: Sequence[str], runs: Sequence[UUID]) -> None:
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


def _from_to(begin: datetime, end: datetime) -> str:
    return f"from {json_time(begin)} to {json_time(end)}"


def _measured(time: TimeInState) -> dict[str, Any]:
    lengths = {f"{field}_microseconds": microseconds(getattr(time, field)) for field in ("total", "longest", "p50", "p95", "p99")}
    return {"flow_run_id": time.flow_run_id and str(time.flow_run_id), "state": time.state, "visits": time.visits, **lengths}
