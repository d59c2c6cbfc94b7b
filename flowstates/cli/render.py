"""What the commands print: tables for people, JSON Lines for programs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flowstates.database.plans import SlowQuestion
from flowstates.records import FlowRunState, StateDetails, StateType

_STYLES = {
    StateType.SCHEDULED: "yellow",
    StateType.PENDING: "bright_blue",
    StateType.RUNNING: "cyan",
    StateType.COMPLETED: "green",
    StateType.FAILED: "red",
    StateType.CANCELLED: "white",
    StateType.CRASHED: "bright_red",
    StateType.PAUSED: "magenta",
    StateType.CANCELLING: "bright_magenta",
}
_NARROWEST_TABLE = 76
_WIDTH_WITH_IDS = 120
_WIDTH_WITH_MESSAGES = 160  # of a table with a column for the run
_WIDTH_BEFORE_MESSAGES = 131  # of that table's other columns
_WIDEST_NAME = 24
NARROWEST_BAR = 12
_MOST_OF_A_MESSAGE = 160  # characters in the table of a history; `show` prints all


class OutputError(OSError):
    """Standard output takes no more. Its own class for where an OSError would be taken for the database's."""


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
            return Text("null", style="dim")  # not "-", which a text may be
        case StateType():
            return Text(value, style=_STYLES[value])
        case datetime():
            return Text(f"{value.replace(tzinfo=None).isoformat(' ', 'microseconds')} UTC")
        case StateDetails():
            return _shown(value.model_dump(mode="json", exclude_defaults=True))
        case dict() | list() | bool() | int() | float():
            value = json.dumps(value, indent=2, ensure_ascii=False)
    return Text("\n".join(escape(line) for line in str(value).split("\n")))


def print_slow_questions(slow: Sequence[SlowQuestion]) -> None:
    """Each question that would be slow, how the server would answer it, and the index that would help."""
    for question in slow:
        print_line(f"slow: {question.question}: about {question.rows:,} rows")
        for line in question.plan.splitlines():
            print_line(f"  {line}")
        print_line(f"  an index that would help: {question.index or 'none'}")
    if not slow:
        print_line("no question would be slow")


def times_spent(states: Sequence[FlowRunState], now: datetime) -> list[timedelta]:
    """The time spent in each state of one run; `now` ends the last unless it is terminal."""
    last = states[-1]
    end = last.timestamp if last.type.is_terminal else max(now, last.timestamp)
    return [after - before for before, after in pairwise([*(state.timestamp for state in states), end])]


def print_history(states: Sequence[FlowRunState], *, now: datetime) -> None:
    """The states of one run, oldest first, with the time spent in each and a bar on one scale; `now` ends the last unless it is terminal."""
    console = Console()
    last = states[-1]
    spent = times_spent(states, now)
    console.print(Text(f"run {last.flow_run_id}\n", style="bold"))
    if console.width < _NARROWEST_TABLE:
        for state, time in zip(states, spent, strict=True):
            _print_narrow(console, state, Text(_spent(time, state, last)))
        console.print(summary(states, now))
        return
    with_ids = console.width >= _WIDTH_WITH_IDS
    table = plain_table(padding=1)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("name", overflow="fold", max_width=_WIDEST_NAME)
    table.add_column("spent", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", min_width=NARROWEST_BAR, max_width=40)
    if with_ids:
        table.add_column("id", no_wrap=True)
    for state, time in zip(states, spent, strict=True):
        style = _STYLES[state.type]
        cells: list[RenderableType] = [
            Text(f"{state.timestamp:%Y-%m-%d %H:%M:%S}"),
            Text(state.type, style=style),
            Text(escape(state.name)),
            Text(_spent(time, state, last)),
            Group(*bar(time, max(spent), style, ascii_only=console.options.ascii_only), *_message(state.message)),
        ]
        table.add_row(*cells, *([Text(str(state.id))] if with_ids else ()))
    console.print(table)
    console.print(summary(states, now))


def _spent(time: timedelta, state: FlowRunState, last: FlowRunState) -> str:
    if state is not last:
        return duration(time)
    return "-" if last.type.is_terminal else f"{duration(time)}+"


def _print_narrow(console: Console, state: FlowRunState, *more: Text) -> None:
    """A state where there is no room for a table: its name and its message have lines of their own."""
    console.print(Text(" ").join((Text(f"{state.timestamp:%Y-%m-%d %H:%M:%S}"), Text(state.type, style=_STYLES[state.type]), *more)))
    for text in (Text(escape(state.name)), *_message(state.message)):
        console.print(Padding(text, (0, 0, 0, 2)))


def where_ids_are() -> str:
    """Where the states' ids are to be seen, if the terminal is too narrow for them; else nothing."""
    return f"ids: a terminal of {_WIDTH_WITH_IDS} columns, or --json" if Console().width < _WIDTH_WITH_IDS else ""


def summary(states: Sequence[FlowRunState], now: datetime) -> Text:
    """A run's whole time and how it ended, in a sentence below what was printed of it."""
    last = states[-1]
    count = "1 state" if len(states) == 1 else f"{len(states):,} states"
    ending = f"ended {last.type}" if last.type.is_terminal else f"still {last.type} (+: until now)"
    return Text(f"\n{count} in {duration(sum(times_spent(states, now), timedelta()))}, {ending}.")


def print_state_table(states: Sequence[FlowRunState]) -> None:
    """States of any runs, a line each where the names are short; a wide terminal has their ids too, a wider one their messages."""
    console = Console()
    if console.width < _NARROWEST_TABLE:
        for state in states:
            console.print(Text(f"run {state.flow_run_id}"))
            _print_narrow(console, state)
        return
    with_ids, with_messages = console.width >= _WIDTH_WITH_IDS, console.width >= _WIDTH_WITH_MESSAGES
    table = plain_table(padding=0)
    table.add_column("run", no_wrap=True)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("name", overflow="fold", max_width=_WIDEST_NAME)
    if with_ids:
        table.add_column("id", no_wrap=True)
    if with_messages:
        table.add_column("message", overflow="ellipsis", no_wrap=True, max_width=console.width - _WIDTH_BEFORE_MESSAGES)
    for state in states:
        cells = [
            Text(str(state.flow_run_id)),
            Text(f"{state.timestamp:%Y-%m-%d %H:%M:%S}"),
            Text(state.type, style=style_of(state.type)),
            Text(escape(state.name)),
            *([Text(str(state.id))] if with_ids else ()),
            *([Text.assemble(*_message(state.message))] if with_messages else ()),
        ]
        table.add_row(*cells)
    console.print(table)


def plain_table(*, padding: int, show_header: bool = True) -> Table:
    """A table with a rule below its header and no other; its columns are one space apart, and the padding."""
    return Table(box=SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False, header_style="bold", show_header=show_header)


def style_of(type_or_name: str) -> str:
    """The colour of a type, and one for all names."""
    return _STYLES[StateType(type_or_name)] if type_or_name in list(StateType) else "cyan"


def bar(time: timedelta, longest: timedelta, style: str, *, ascii_only: bool) -> list[RenderableType]:
    """A bar as long in its cell as the time is of the longest; nothing for no time."""
    if not time:
        return []
    part = max(time / longest, 1 / 60)  # what is not nothing is to be seen
    if ascii_only:
        return [Text("#" * max(1, round(part * NARROWEST_BAR)), style=style)]
    return [Bar(1, 0, part, color=style)]


def _message(message: str | None) -> list[Text]:
    lines = (message or "").strip().splitlines()
    if not lines:
        return []
    first = lines[0][:_MOST_OF_A_MESSAGE]
    return [Text(escape(first) + (" ..." if len(lines) > 1 or first != lines[0] else ""))]


def duration(time: timedelta) -> str:
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
