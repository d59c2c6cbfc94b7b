"""What the commands print: tables for people, JSON Lines for programs."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from socket import gaierror
from ssl import SSLError
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flowstates.database.plans import SlowQuestion
from flowstates.cli.terminal import is_file, output
from flowstates.engine.archives import json_line, json_of
from flowstates.pictures.bars import NARROWEST_BAR, bar, plain_table, type_text
from flowstates.pictures.marks import style_of
from flowstates.pictures.text import escape, first_line
from flowstates.pictures.times import ago, clock, spent_text, summary, times_spent
from flowstates.records import FlowRunState, StateDetails, StateType
from flowstates.values import MOST_LEVELS, counted

_OF_NETWORKS = (errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH)
_NARROWEST_TABLE = 76
_WIDTH_WITH_IDS = 120
_WIDEST_NAME = 24
_WIDEST_BAR = 40
_GAP = 2  # between two columns


def print_line(text: str = "") -> None:
    """One line for people."""
    typer.echo(escape(text))


def print_error_line(text: str) -> None:
    """One line for people on stderr."""
    typer.echo(escape(text), err=True)


def print_json_lines(lines: Iterable[str], file: IO[bytes] | None = None) -> None:
    """Lines of JSON on stdout or into a file, in UTF-8 whatever the terminal's encoding is."""
    typer.echo("".join(map(json_line, lines)).encode(), file, nl=False)


def json_time(time: datetime) -> str:
    """A time in UTC as ISO 8601 with `Z`."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def microseconds(time: timedelta) -> int:
    """A length of time as a number."""
    return time // timedelta(microseconds=1)


def _is_of_a_connection(error: OSError) -> bool:
    """Whether it is of a network, and not of a file."""
    return error.filename is None and (isinstance(error, ConnectionError | gaierror | SSLError) or error.errno in _OF_NETWORKS)


def print_error(error: Exception) -> None:
    """An error in one line on stderr, its further lines and its notes below."""
    if isinstance(error, TimeoutError):
        message, *more = ["no answer of the database in time"]
    else:
        message, *more = str(error).splitlines() or [type(error).__name__]
        if isinstance(error, OSError) and _is_of_a_connection(error):
            message = f"no connection to the database: {message}"
    typer.echo(f"error: {escape(message)}", err=True)
    for line in (*more, *getattr(error, "__notes__", ())):
        typer.echo(f"  {escape(line)}", err=True)


def print_states(states: Sequence[FlowRunState], *, json_lines: bool) -> None:
    """Each state whole; of its details, what differs from the defaults."""
    if json_lines:
        print_json_lines(map(json_of, states))
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
            return Text(value, style=style_of(value))
        case datetime():
            since = f" ({ago(value, datetime.now(UTC))})" if sys.stdout.isatty() else ""
            return Text(f"{value.replace(tzinfo=None).isoformat(' ', 'microseconds')} UTC{since}")
        case StateDetails():
            return _shown(value.model_dump(mode="json", exclude_defaults=True))
        case dict() | list() | bool() | int() | float():
            try:
                value = json.dumps(value, indent=None if _is_deeper(value, MOST_LEVELS) else 2, ensure_ascii=False)
            except RecursionError:
                return Text("nested too deeply to be shown", style="dim")
    return Text("\n".join(escape(line) for line in str(value).split("\n")))


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not levels or any(_is_deeper(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value))


def print_slow_questions(slow: Sequence[SlowQuestion]) -> None:
    """Each question that would be slow, how the server would answer it, and the index that would help."""
    for question in slow:
        print_line(f"slow: {question.question}: about {counted(question.rows, 'row')}")
        for line in question.plan.splitlines():
            print_line(f"  {line}")
        print_line(f"  an index that would help: {question.index or 'none'}")
    if not slow:
        print_line("no question would be slow")


def print_history(states: Sequence[FlowRunState], *, now: datetime) -> None:
    """The states of one run, oldest first, with the time spent in each and a bar on one scale; `now` ends the last unless it is terminal."""
    console = output(of_a_picture=True)
    last = states[-1]
    spent = times_spent(states, now)
    console.print(Text(f"run {last.flow_run_id}\n", style="bold"))
    if console.width < _NARROWEST_TABLE:
        for state, time in zip(states, spent, strict=True):
            _print_narrow(console, state, Text(spent_text(time, state, last)))
        console.print(Text(f"\n{summary(states, now)}"))
        return
    in_file, ascii_only = is_file(console), console.options.ascii_only
    cells: dict[str, list[Text]] = {
        "time (UTC)": [Text(clock(state.timestamp)) for state in states],
        "type": [type_text(state.type, ascii_only=ascii_only) for state in states],
        "name": [Text(escape(state.name)) for state in states],
        "spent": [Text(spent_text(time, state, last)) for state, time in zip(states, spent, strict=True)],
        "": [],
        "id": [Text(str(state.id)) for state in states] if console.width >= _WIDTH_WITH_IDS else [],
        "message": [Text(first_line(state.message)) for state in states] if in_file else [],
    }
    widths = {name: max([len(name), *(text.cell_len for text in texts)]) for name, texts in cells.items() if texts or not name}
    rest = console.width - _GAP * (len(widths) - 1) - sum(width for name, width in widths.items() if name != "name")
    if not in_file:
        widths["name"] = min(widths["name"], _WIDEST_NAME, rest - NARROWEST_BAR)
    widths[""] = min(_WIDEST_BAR, max(NARROWEST_BAR, rest - widths["name"]))
    with console.capture() as capture:
        # A table of its own for each row, all of the same widths: so a message has the whole line below it.
        for index, (state, time) in enumerate(zip(states, spent, strict=True)):
            table = plain_table(padding=1)
            table.show_header = not index
            for name, width in widths.items():
                table.add_column(name, width=width, overflow="fold", no_wrap=name not in ("name", ""), justify="right" if name == "spent" else "left")
            bars = Group(*bar(time, max(spent), style_of(state.type), ascii_only=ascii_only))
            table.add_row(*(cells[name][index] if name else bars for name in widths))
            console.print(table)
            if not in_file:
                _print_below(console, *_message(state.message))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))  # a table's lines are all as long as the longest
    console.print(Text(f"\n{summary(states, now)}"))


def _print_narrow(console: Console, state: FlowRunState, *more: Text) -> None:
    """A state where there is no room for a table: its name and its message have lines of their own."""
    console.print(Text(" ").join((Text(clock(state.timestamp)), type_text(state.type, ascii_only=console.options.ascii_only), *more)))
    _print_below(console, Text(escape(state.name)), *_message(state.message))


def _print_below(console: Console, *texts: Text) -> None:
    for text in texts:
        console.print(Padding(text, (0, 0, 0, 2)))


def _message(message: str | None) -> list[Text]:
    line = first_line(message)
    return [Text(line)] if line else []
