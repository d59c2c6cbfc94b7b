"""What the commands print: tables for people, JSON Lines for programs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import IO, Any

import typer
from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowstates.records import FlowRunState, StateDetails, StateType

_STYLES = {StateType.COMPLETED: "green", StateType.FAILED: "red", StateType.CRASHED: "red", StateType.RUNNING: "cyan"}
_WIDTH_WITH_IDS = 120
_NARROWEST_BAR = 12
_MOST_OF_A_MESSAGE = 160  # characters in the table of a history; `show` prints all


def escape(text: str) -> str:
    """The text in one line that can do nothing to a terminal: control and format characters appear as their escapes."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode() for c in text)


def print_line(text: str = "") -> None:
    """One line for people."""
    typer.echo(escape(text))


def print_error_line(text: str) -> None:
    """One line for people on stderr."""
    typer.echo(escape(text), err=True)


def print_json_lines(lines: Iterable[str], file: IO[bytes] | None = None) -> None:
    """Lines of JSON on stdout or into a file, in UTF-8 whatever the terminal's encoding is."""
    # JSON lets these stand as they are in a string, but some readers end a line at them and some terminals obey them.
    safe = (re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines)
    typer.echo("".join(f"{line}\n" for line in safe).encode(), file, nl=False)


def print_error(error: Exception) -> None:
    """An error in one line on stderr, its further lines and its notes below."""
    if isinstance(error, TimeoutError):
        message, *more = ["no answer of the database in time"]
    else:
        message, *more = str(error).splitlines() or [type(error).__name__]
        if isinstance(error, OSError):
            message = f"no connection to the database: {message}"
    typer.echo(f"error: {escape(message)}", err=True)
    for line in (*more, *getattr(error, "__notes__", ())):
        typer.echo(f"  {escape(line)}", err=True)


def print_states(states: Sequence[FlowRunState], *, json_lines: bool) -> None:
    """Each state whole; of its details, what differs from the defaults."""
    if json_lines:
        print_json_lines(state.model_dump_json() for state in states)
        return
    for state in states:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for field in FlowRunState.model_fields:
            table.add_row(Text(field, style="bold"), _shown(getattr(state, field)))
        Console().print(table)


def _shown(value: Any) -> Text:
    match value:
        case None:
            return Text("-")
        case StateType():
            return Text(value, style=_STYLES.get(value, "yellow"))
        case datetime():
            return Text(f"{value.replace(tzinfo=None).isoformat(' ', 'microseconds')} UTC")
        case StateDetails():
            return _shown(value.model_dump(mode="json", exclude_defaults=True))
        case dict() | list() | bool() | int() | float():
            value = json.dumps(value, indent=2, ensure_ascii=False)
    return Text("\n".join(escape(line) for line in str(value).split("\n")))


def print_history(states: Sequence[FlowRunState], *, now: datetime) -> None:
    """The states of one run, oldest first, with the time spent in each and a bar on one scale; `now` ends the last unless it is terminal."""
    console = Console()
    last = states[-1]
    end = last.timestamp if last.type.is_terminal else max(now, last.timestamp)
    spent = [after - before for before, after in pairwise([*(state.timestamp for state in states), end])]
    with_ids = console.width >= _WIDTH_WITH_IDS
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("name", overflow="fold", max_width=24)
    table.add_column("spent", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", min_width=_NARROWEST_BAR, max_width=40)
    if with_ids:
        table.add_column("id", no_wrap=True)
    for state, time in zip(states, spent, strict=True):
        is_end = state is last and last.type.is_terminal
        style = _STYLES.get(state.type, "yellow")
        cells: list[RenderableType] = [
            Text(f"{state.timestamp:%Y-%m-%d %H:%M:%S}"),
            Text(state.type, style=style),
            Text(escape(state.name)),
            Text("-" if is_end else _duration(time) + ("+" if state is last else "")),
            Group(*_bar(time, max(spent), style, ascii_only=console.options.ascii_only), *_message(state.message)),
        ]
        table.add_row(*cells, *([Text(str(state.id))] if with_ids else ()))
    console.print(Text(f"run {last.flow_run_id}\n", style="bold"))
    console.print(table)
    count = "1 state" if len(states) == 1 else f"{len(states)} states"
    ending = f"ended {last.type}" if last.type.is_terminal else f"still {last.type} (+: until now)"
    console.print(Text(f"\n{count} in {_duration(end - states[0].timestamp)}, {ending}."))


def _bar(time: timedelta, longest: timedelta, style: str, *, ascii_only: bool) -> list[RenderableType]:
    if not time:
        return []
    part = max(time / longest, 1 / 60)  # what is not nothing is to be seen
    if ascii_only:
        return [Text("#" * max(1, round(part * _NARROWEST_BAR)), style=style)]
    return [Bar(1, 0, part, color=style)]


def _message(message: str | None) -> list[Text]:
    lines = (message or "").strip().splitlines()
    if not lines:
        return []
    first = lines[0][:_MOST_OF_A_MESSAGE]
    return [Text(escape(first) + (" ..." if len(lines) > 1 or first != lines[0] else ""))]


def _duration(time: timedelta) -> str:
    """The two greatest units of a time, at most 7 characters up to 99 days."""
    if time < timedelta(seconds=1):
        return f"{time // timedelta(milliseconds=1)}ms" if not time or time >= timedelta(milliseconds=1) else "<1ms"
    if time < timedelta(minutes=1):
        return f"{time // timedelta(milliseconds=100) / 10}s"
    minutes, seconds = divmod(time // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h"
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"
