"""The commands that measure and count."""

from __future__ import annotations

import json as json_format
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from flowstates.analytics import FlowRunStateAnalytics, StateCount, TimeInState
from flowstates.cli.database import exit_codes
from flowstates.cli.ids import Lookup
from flowstates.cli.options import (
    DatabaseUrl,
    Json,
    LayoutOption,
    Names,
    RunIds,
    Since,
    Step,
    Types,
    Until,
    all_of,
    ask_analytics,
    end_with_nothing,
    filter_of,
    window_of,
    with_ids,
)
from flowstates.cli.render import json_time, microseconds, print_json_lines
from flowstates.cli.terminal import is_file, output
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures.bars import print_counts, print_durations

_A_DAY = timedelta(days=1)
_AN_HOUR = timedelta(hours=1)
_STEPS_SHOWN = 24


class By(StrEnum):
    """What `measure_time_in_states` tells apart, as an option has it."""

    TYPE = "type"
    NAME = "name"


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
    given = filter_of(types=all_of(types), names=names)

    async def work(analytics: FlowRunStateAnalytics, lookup: Lookup) -> list[TimeInState]:
        filter = await with_ids(given, lookup, run_ids)
        return await analytics.measure_time_in_states(filter, since=begin, until=end, by=by.value, per_run=per_run)

    found = ask_analytics(database_url, layout, work)
    if not found:
        end_with_nothing(f"no states {_from_to(begin, end)}")
    if json:
        print_json_lines(json_format.dumps(_measured(time)) for time in found)
    else:
        print_durations(Console(), found, begin, end, whole=is_file(output(of_a_picture=True)))


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

    --until is now if left out, and --since 24 steps before it. The steps are whole ones and the current one, also where --since says how long ago,
    as 2d does. In JSON all types are there, the others' count is 0.
    """
    step = step or _AN_HOUR
    begin, end = window_of(since, until, step * _STEPS_SHOWN, step=step)
    if terminal and not occupancy:
        with exit_codes():
            raise InvalidInputError("--terminal", "goes with --occupancy")

    async def work(analytics: FlowRunStateAnalytics, lookup: Lookup) -> list[StateCount]:
        filter = await with_ids(FlowRunStateFilter(), lookup, run_ids)
        if occupancy:
            return await analytics.count_occupancy(filter.flow_run_ids, since=begin, until=end, step=step, terminal=bool(terminal))
        return await analytics.count_transitions(filter, since=begin, until=end, step=step)

    found = ask_analytics(database_url, layout, work)
    if json:
        print_json_lines(json_format.dumps({"at": json_time(count.at), "counts": count.counts}) for count in found)
    if not any(any(count.counts.values()) for count in found):
        what = "no runs at the beginnings of these steps," if occupancy else "no states"
        end_with_nothing(f"{what} {_from_to(begin, end)}")
    if not json:
        print_counts(Console(), found, step, of_runs=occupancy, whole=is_file(output(of_a_picture=True)))


def _from_to(begin: datetime, end: datetime) -> str:
    return f"from {json_time(begin)} to {json_time(end)}"


def _measured(time: TimeInState) -> dict[str, Any]:
    lengths = {f"{field}_microseconds": microseconds(getattr(time, field)) for field in ("total", "longest", "p50", "p95", "p99")}
    return {"flow_run_id": time.flow_run_id and str(time.flow_run_id), "state": time.state, "visits": time.visits, **lengths}
