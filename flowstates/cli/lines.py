"""States of any runs as people read them: a line each, and what is said of it beside or below."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from flowstates.cli.terminal import is_file
from flowstates.pictures.bars import type_text
from flowstates.pictures.text import escape, first_line
from flowstates.pictures.times import ago, clock
from flowstates.records import FlowRunState, StateType

ID, TIME, TYPE, NAME = 36, len("2030-01-31 12:00:00"), len("x CANCELLING"), len("AwaitingRetry")
"""The widths of columns; a name may be longer."""

_AGO = len("9999y ago")
_WIDTH_WITH_IDS = 120
_WIDTH_WITH_MESSAGES = 160  # below it they have a line of their own


def name_of(state: FlowRunState) -> str:
    """The name, where it says more than the type."""
    return "" if state.name == state.type.title() else escape(state.name)


def said(state: FlowRunState) -> str:
    """That name, and the message's first line."""
    return "  ".join(part for part in (name_of(state), first_line(state.message)) if part)


def type_cell(type_: StateType, *, ascii_only: bool) -> Text:
    """A type with its mark, in its colour, as wide as its column."""
    text = type_text(type_, ascii_only=ascii_only)
    text.pad_right(TYPE - text.cell_len)
    return text


def print_columns(console: Console, names: Sequence[str]) -> None:
    """The names of columns, each as wide as its column, over a rule."""
    line = " ".join(names)
    console.print(Text(line.rstrip(), style="bold"), soft_wrap=True)
    console.print(Text(("-" if console.options.ascii_only else "─") * len(line)), soft_wrap=True)


def print_state(console: Console, cells: Sequence[Text], text: str, *, in_one_line: bool) -> None:
    """A line, and what is said behind it, cut at the terminal's width, or below it."""
    line = Text(" ").join([*cells, Text(text)] if in_one_line else cells)
    line.rstrip()
    if is_file(console):
        console.print(line, soft_wrap=True)
    else:
        console.print(line, no_wrap=in_one_line, overflow="ellipsis" if in_one_line else "fold")
    if text and not in_one_line:
        console.print(Padding(Text(text), (0, 0, 0, 2), expand=False))


class Lines:
    """States on a console, a line each; with `now`, how long before it they began. A wide terminal has their ids too, a wider one all in one line."""

    def __init__(self, console: Console, *, now: datetime | None) -> None:
        self._console = console
        self._now = now
        self._has_runs = console.width >= ID + 1 + TIME + 1 + _AGO + 1 + TYPE  # below it the run has a line of its own
        self._has_ids = console.width >= _WIDTH_WITH_IDS
        self._is_one_line = console.width >= _WIDTH_WITH_MESSAGES

    def print_header(self) -> None:
        """The names of the columns, where there is room for columns."""
        columns = [("run", ID), ("time (UTC)", TIME), *([("", _AGO)] if self._now else ()), ("type", TYPE)]
        columns += [("id", ID)] if self._has_ids else []
        columns += [("name", NAME)] if is_file(self._console) else []
        columns += [("message", len("message"))] if self._is_one_line else []
        if self._has_runs:
            print_columns(self._console, [f"{name:{width}}" for name, width in columns])

    def print(self, states: Sequence[FlowRunState]) -> None:
        """The states in their order."""
        in_file = is_file(self._console)
        for state in states:
            cells = [Text(clock(state.timestamp))]
            if self._has_runs:
                cells.insert(0, Text(str(state.flow_run_id)))
            else:
                self._console.print(Text(f"run {state.flow_run_id}"))
            if self._now:
                cells.append(Text(f"{ago(state.timestamp, self._now):>{_AGO}}"))
            cells.append(type_cell(state.type, ascii_only=self._console.options.ascii_only))
            if self._has_ids:
                cells.append(Text(str(state.id)))
            if in_file:
                cells.append(Text(f"{name_of(state):{NAME}}"))
            print_state(self._console, cells, first_line(state.message) if in_file else said(state), in_one_line=self._is_one_line)


def where_ids_are(console: Console) -> str:
    """Where the states' ids are to be seen, if the terminal is too narrow for them; else nothing."""
    return f"ids: a terminal of {_WIDTH_WITH_IDS} columns, a pipe, or --json" if console.width < _WIDTH_WITH_IDS else ""
