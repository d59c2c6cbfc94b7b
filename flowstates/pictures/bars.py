"""Times and counts as text: a line each with a bar, all bars on one scale. What colours say, numbers say too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowstates.pictures.marks import mark_of, style_of
from flowstates.pictures.text import escape
from flowstates.pictures.times import clock, duration, is_whole, length
from flowstates.records import StateType

if TYPE_CHECKING:
    from flowstates.analytics import StateCount, TimeInState

NARROWEST_BAR = 12
_WIDEST_BAR = 40
_WIDEST_STATE = 20
_LENGTHS = ("total", "longest", "p50", "p95", "p99")
_COLUMNS = ("state", "visits", "total", "bar", *_LENGTHS[1:])
_LEAST_FIRST = ("bar", "p50", "p99", "p95", "longest", "visits")  # what is left out of a narrow table
_SHORT_HEADERS = {
    StateType.SCHEDULED: "SCHED-\nULED",
    StateType.PENDING: "PEND-\nING",
    StateType.RUNNING: "RUN-\nNING",
    StateType.COMPLETED: "COMP-\nLETED",
    StateType.CANCELLED: "CANCEL-\nLED",
    StateType.CANCELLING: "CANCEL-\nLING",
}


def print_durations(console: Console, times: Sequence[TimeInState], begin: datetime, end: datetime, *, whole: bool = False) -> None:
    """A line a state with a bar of its whole time, all bars on one scale; with runs, a table a run.

    A number is never cut: where the console is too narrow there are fewer columns or, if it is to be `whole`, longer lines.
    """
    ascii_only = console.options.ascii_only
    most = max(time.total for time in times)
    lengths = {time: [duration(value) if time.longest else "-" for value in time[3:]] for time in times}
    names = {time: _state_text(time.state, ascii_only=ascii_only) for time in times}
    widths = {
        "state": min(_WIDEST_STATE, max(len("state"), *(name.cell_len for name in names.values()))),
        "visits": max(len("visits"), *(len(f"{time.visits:,}") for time in times)),
        **{name: max(len(name), *(len(text[index]) for text in lengths.values())) for index, name in enumerate(_LENGTHS)},
        "bar": NARROWEST_BAR,
    }
    if whole:
        console.width = max(console.width, _total(widths.values()))
    left_out = []
    for name in _LEAST_FIRST:
        if _total(widths.values()) > console.width:
            del widths[name]
            left_out.append(name)
    console.print(Text(f"time in states, {clock(begin)} to {clock(end)} UTC", style="bold"))
    for run, of_run in groupby(times, lambda time: time.flow_run_id):
        console.print(Text(f"\nrun {run}\n" if run else "", style="bold"))
        table = plain_table(padding=0)
        for name in _COLUMNS:
            if name == "state":
                table.add_column(name, overflow="fold", width=widths[name])
            elif name == "bar" and name in widths:
                table.add_column("", min_width=NARROWEST_BAR, max_width=_WIDEST_BAR)
            elif name in widths:
                table.add_column(name, justify="right", no_wrap=True, min_width=widths[name])
        for time in sorted(of_run, key=_rank):
            cells: dict[str, RenderableType] = {
                "state": names[time],
                "visits": f"{time.visits:,}",
                **{name: Text(text) for name, text in zip(_LENGTHS, lengths[time], strict=True)},
                "bar": Group(*bar(time.total, most, style_of(time.state), ascii_only=ascii_only)),
            }
            table.add_row(*(cells[name] for name in _COLUMNS if name in widths))
        console.print(table)
    if numbers := [name for name in _LENGTHS if name in left_out]:
        console.print(Text(f"\nno room for: {', '.join(numbers)}"))


def print_counts(console: Console, counts: Sequence[StateCount], step: timedelta, *, of_runs: bool, whole: bool = False) -> None:
    """A line a step with a column for each type that occurs, and a bar of all of them.

    A number is never cut: where the console is too narrow the types are in several tables or, if it is to be `whole`, the lines are longer.
    """
    ascii_only = console.options.ascii_only
    title = f"runs in each type, every {length(step)}" if of_runs else f"states that began in each {length(step)}"
    console.print(Text(title, style="bold"))
    types = [type_ for type_ in StateType if any(count.counts.get(type_) for count in counts)]
    spec = next(spec for spec in ("days", "minutes", "seconds", "microseconds") if all(is_whole(count.at, spec) for count in counts))
    times = [clock(count.at, spec) for count in counts]
    digits = {type_: max(len(f"{count.counts[type_]:,}") for count in counts) for type_ in types}
    headers = {type_: type_text(type_, ascii_only=ascii_only).plain for type_ in types}
    if _width(times[0], headers, digits) + 1 + NARROWEST_BAR > console.width:  # a bar says more than marks
        headers = {type_: str(type_) for type_ in types}
    if _width(times[0], headers, digits) > console.width:
        headers = {type_: _SHORT_HEADERS.get(type_, str(type_)) for type_ in types}
    if whole:
        console.width = max(console.width, _width(times[0], headers, digits))
    if _width(times[0], headers, digits) > console.width:
        times = [time[len("2030-") :] for time in times]
    rest = console.width - _width(times[0], headers, digits) - 1
    most = max(sum(count.counts.values()) for count in counts)
    for part in _parts(console.width, times[0], headers, digits):
        console.print()
        table = plain_table(padding=0)
        table.add_column("time (UTC)", no_wrap=True)
        for type_ in part:
            table.add_column(Text(headers[type_], style=style_of(type_)), justify="right", no_wrap=True)
        if rest >= NARROWEST_BAR:
            table.add_column("", no_wrap=True)
        for time, count in zip(times, counts, strict=True):
            cells = [Text(f"{count.counts[type_]:,}" if count.counts[type_] else "-") for type_ in part]
            stacked = _stacked(count.counts, most, min(rest, _WIDEST_BAR), "#" if ascii_only else "█")
            table.add_row(time, *cells, *([stacked] if rest >= NARROWEST_BAR else ()))
        console.print(table)


def plain_table(*, padding: int) -> Table:
    """A table with a rule below its header and no other; its columns are one space apart, and the padding."""
    return Table(box=SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def type_text(type_: StateType, *, ascii_only: bool) -> Text:
    """A type with its mark, in its colour."""
    return Text(f"{mark_of(type_, ascii_only=ascii_only)} {type_}", style=style_of(type_))


def bar(time: timedelta, longest: timedelta, style: str, *, ascii_only: bool) -> list[RenderableType]:
    """A bar as long in its cell as the time is of the longest; nothing for no time."""
    if not time:
        return []
    part = max(time / longest, 1 / 60)  # what is not nothing is to be seen
    if ascii_only:
        return [Text("#" * max(1, round(part * NARROWEST_BAR)), style=style)]
    return [Bar(1, 0, part, color=style)]


def _state_text(type_or_name: str, *, ascii_only: bool) -> Text:
    if type_or_name in list(StateType):
        return type_text(StateType(type_or_name), ascii_only=ascii_only)
    return Text(escape(type_or_name), style=style_of(type_or_name))


def _stacked(counts: dict[StateType, int], most: int, width: int, block: str) -> Text:
    total = sum(counts.values())
    cells = max(1, round(total / most * width)) if total else 0
    stacked, before = Text(), 0
    for type_, reached in zip(counts, accumulate(counts.values()), strict=True):
        after = round(reached / total * cells) if total else 0
        stacked.append(block * (after - before), style=style_of(type_))
        before = after
    return stacked


def _parts(width: int, time: str, headers: dict[StateType, str], digits: dict[StateType, int]) -> list[list[StateType]]:
    """The types in as many parts as a table of this width makes necessary."""
    parts: list[list[StateType]] = []
    for type_ in headers:
        with_it = [*parts[-1], type_] if parts else []
        if with_it and _width(time, {each: headers[each] for each in with_it}, digits) <= width:
            parts[-1] = with_it
        else:
            parts.append([type_])
    return parts


def _total(widths: Iterable[int]) -> int:
    """The width of a table with columns of these widths, a space between two."""
    return sum(width + 1 for width in widths) - 1


def _width(time: str, headers: dict[StateType, str], digits: dict[StateType, int]) -> int:
    return max(len(time), len("time (UTC)")) + sum(1 + max(digits[type_], *map(len, header.split("\n"))) for type_, header in headers.items())


def _rank(time: TimeInState) -> tuple[int, timedelta, str]:
    """Types in their order; names by their time."""
    types = list(StateType)
    return (types.index(StateType(time.state)) if time.state in types else len(types), -time.total, time.state)
