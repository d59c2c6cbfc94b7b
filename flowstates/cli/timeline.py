"""The command that draws a run."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flowstates.cli.database import exit_codes
from flowstates.cli.ids import Lookup
from flowstates.cli.options import DatabaseUrl, Json, LayoutOption, RunId, ask_states, end_with_nothing
from flowstates.cli.render import json_time, microseconds, print_error_line, print_json_lines
from flowstates.errors import InvalidInputError
from flowstates.pictures.strip import print_timeline
from flowstates.pictures.svg import timeline_svg
from flowstates.pictures.times import times_spent
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository


def timeline(
    run_id: RunId,
    svg: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a chart there as SVG, instead of printing the picture; - is standard output.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=40, max=1000, metavar="N", help="Of the printed picture, in characters; the terminal's if left out.")
    ] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Print a picture of a run: its states on a scale of time.

    In JSON, a line a state with the time spent in it in microseconds. A state that is still open lasts until now.
    """
    with exit_codes():
        if svg is not None and width is not None:
            raise InvalidInputError("--width", "goes with the printed picture, not with --svg: a chart is as wide as the place that it is put in")
        if svg == "-" and json:
            raise InvalidInputError("--svg", "- is standard output, where --json prints: name a file")

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> list[FlowRunState]:
        return await states.read_flow_run_states(await lookup.run(run_id))

    states = ask_states(database_url, layout, work)
    if not states:
        end_with_nothing(f"no states of run {run_id.text}")
    now = datetime.now(UTC)
    if svg is not None:
        _write(timeline_svg(states, now=now), svg)
    if json:
        print_json_lines(json_format.dumps(segment) for segment in _segments(states, now))
    elif svg is None:
        print_timeline(Console(width=width), states, now=now)


def _write(chart: str, file: str) -> None:
    if file == "-":
        typer.echo(chart.encode(), nl=False)  # UTF-8, whatever the terminal's encoding is
        return
    with exit_codes():
        try:
            Path(file).write_text(chart, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidInputError("--svg", f"cannot be written: {error}") from None
    print_error_line(f"written: {file}")


def _segments(states: Sequence[FlowRunState], now: datetime) -> list[dict[str, Any]]:
    """Each state with when the next one began, None if it is the last, and the time spent in it up to then or to `now`."""
    ends = [*(json_time(state.timestamp) for state in states[1:]), None]
    return [
        {
            "id": str(state.id),
            "flow_run_id": str(state.flow_run_id),
            "type": state.type,
            "name": state.name,
            "since": json_time(state.timestamp),
            "until": end,
            "microseconds": microseconds(time),
        }
        for state, end, time in zip(states, ends, times_spent(states, now), strict=True)
    ]
