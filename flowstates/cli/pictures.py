"""Times, counts and a run's history as pictures: bars, and a strip on a scale of time. What colours say, letters or numbers say too."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import accumulate, groupby, pairwise

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Text

from flowstates.analytics import StateCount, TimeInState
from flowstates.cli.render import NARROWEST_BAR, bar, duration, escape, plain_table, style_of, summary, times_spent
from flowstates.records import FlowRunState, StateType

_ZERO = datetime.min.replace(tzinfo=UTC)  # a Monday; scales count from it
_WIDEST_STATE = 20
_WIDEST_BAR = 40
_MOST_IN_A_LEGEND = 20
_SHORT_HEADERS = {
    StateType.SCHEDULED: "SCHED-\nULED",
    StateType.PENDING: "PEND-\nING",
    StateType.RUNNING: "RUN-\nNING",
    StateType.COMPLETED: "COMP-\nLETED",
    StateType.CANCELLED: "CANCEL-\nLED",
    StateType.CANCELLING: "CANCEL-\nLING",
}
_STEPS = [
    *(timedelta(microseconds=times * 10**power) for power in range(6) for times in (1, 2, 5)),
    *(timedelta(seconds=seconds) for seconds in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)),
    *(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12)),
    *(timedelta(days=times * 10**power) for power in range(7) for times in (1, 2, 5)),
]
_WEB_FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


def print_durations(times: Sequence[TimeInState], begin: datetime, end: datetime) -> None:
    """A line a state with a bar of its whole time, all bars on one scale; with runs, a table a run."""
    console = Console()
    most = max(time.total for time in times)
    lengths = {time: [duration(value) if time.longest else "-" for value in time[3:]] for time in times}
    names = {time: escape(time.state) for time in times}
    console.print(Text(f"time in states, {_clock(begin)} to {_clock(end)} UTC", style="bold"))
    for run, of_run in groupby(times, lambda time: time.flow_run_id):
        console.print(Text(f"\nrun {run}\n" if run else "", style="bold"))
        table = plain_table(padding=0)
        table.add_column("state", overflow="fold", width=min(_WIDEST_STATE, max(map(cell_len, ["state", *names.values()]))))
        table.add_column("visits", justify="right", no_wrap=True, width=max(len(f"{max(time.visits for time in times):,}"), len("visits")))
        for index, header in enumerate(("total", "longest", "p50", "p95", "p99")):
            width = max(len(text[index]) for text in [*lengths.values(), [header] * 5])
            table.add_column(header, justify="right", no_wrap=True, width=width)
            if not index:
                table.add_column("", min_width=NARROWEST_BAR, max_width=_WIDEST_BAR)
        for time in sorted(of_run, key=_rank):
            total, *others = (Text(text) for text in lengths[time])
            style = style_of(time.state)
            filled = Group(*bar(time.total, most, style, ascii_only=console.options.ascii_only))
            table.add_row(Text(names[time], style=style), f"{time.visits:,}", total, filled, *others)
        console.print(table)


def print_counts(counts: Sequence[StateCount], step: timedelta, *, of_runs: bool) -> None:
    """A line a step with a column for each type that occurs, and a bar of all of them."""
    console = Console()
    title = f"runs in each type, every {duration(step)}" if of_runs else f"states that began in each {duration(step)}"
    console.print(Text(f"{title}\n", style="bold"))
    types = [type_ for type_ in StateType if any(count.counts.get(type_) for count in counts)]
    spec = next(spec for spec in ("days", "minutes", "seconds", "microseconds") if all(_is_whole(count.at, spec) for count in counts))
    times = [_clock(count.at, spec) for count in counts]
    digits = {type_: max(len(f"{count.counts[type_]:,}") for count in counts) for type_ in types}
    headers: dict[StateType, str] = {type_: str(type_) for type_ in types}
    if _width(times[0], headers, digits) > console.width:
        headers = {type_: _SHORT_HEADERS.get(type_, str(type_)) for type_ in types}
    if _width(times[0], headers, digits) > console.width:
        times = [time[len("2030-") :] for time in times]
    rest = console.width - _width(times[0], headers, digits) - 1
    table = plain_table(padding=0)
    table.add_column("time (UTC)", no_wrap=True)
    for type_ in types:
        table.add_column(Text(headers[type_], style=style_of(type_)), justify="right", no_wrap=True)
    if rest >= NARROWEST_BAR:
        table.add_column("", no_wrap=True)
    most = max(sum(count.counts.values()) for count in counts)
    for time, count in zip(times, counts, strict=True):
        cells = [Text(f"{count.counts[type_]:,}" if count.counts[type_] else "-") for type_ in types]
        stacked = _stacked(count.counts, most, min(rest, _WIDEST_BAR), "#" if console.options.ascii_only else "█")
        table.add_row(time, *cells, *([stacked] if rest >= NARROWEST_BAR else ()))
    console.print(table)


def print_timeline(states: Sequence[FlowRunState], *, now: datetime, width: int | None = None) -> None:
    """A run's history as a strip on a scale of time, and what it is made of."""
    _print_timeline(Console(width=width), states, now)


def timeline_svg(states: Sequence[FlowRunState], *, now: datetime, width: int | None = None) -> str:
    """The same picture as SVG. It takes no font from the web."""
    console = Console(
        record=True,
        file=StringIO(),
        width=width or Console().width,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
    )
    _print_timeline(console, states, now)
    form = _WEB_FONTS.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace")
    return console.export_svg(title=f"run {states[0].flow_run_id}", code_format=form)


def _print_timeline(console: Console, states: Sequence[FlowRunState], now: datetime) -> None:
    spent = times_spent(states, now)
    begin, length = states[0].timestamp, sum(spent, timedelta())
    is_plain = console.color_system is None or console.no_color
    edge, fill = ("|", "-") if console.options.ascii_only else ("│", "─")
    marks = _marks(states)
    owners = _owners(spent, console.width)
    strip = Text(no_wrap=True)
    for index, cells in groupby(owners):
        state, width = states[index], len(list(cells))
        name = escape(state.name)
        label = marks[state.type, state.name] if width == 1 else edge + (name if cell_len(name) + 1 < width else marks[state.type, state.name])
        text = set_cell_size(label, cell_len(label)) + (fill if is_plain else " ") * (width - cell_len(label))
        strip.append(text, style="" if is_plain else f"#000000 on {style_of(state.type)}")
    console.print(Text(f"run {states[0].flow_run_id}", style="bold"))
    console.print(Text(f"{_clock(begin)} to {_clock(begin + length)} UTC\n"))
    console.print(strip)
    console.print(Text(_scale(begin, length, console.width), no_wrap=True))
    console.print(_legend(states, spent, marks, is_plain=is_plain))
    console.print(summary(states, now))
    if hidden := len(states) - len(set(owners)):
        console.print(Text(f"{hidden:,} of them are too short to be drawn."))


def _legend(states: Sequence[FlowRunState], spent: Sequence[timedelta], marks: dict[tuple[StateType, str], str], *, is_plain: bool) -> RenderableType:
    """A line for each name of a type: its mark, how often it came, and its part of the time."""
    counts: Counter[tuple[StateType, str]] = Counter()
    totals: defaultdict[tuple[StateType, str], timedelta] = defaultdict(timedelta)
    for state, time in zip(states, spent, strict=True):
        counts[state.type, state.name] += 1
        totals[state.type, state.name] += time
    table = plain_table(padding=1)
    table.add_column("")
    table.add_column("name", overflow="fold", max_width=24)
    table.add_column("type", no_wrap=True)
    for header in ("states", "spent", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    still_open = None if states[-1].type.is_terminal else (states[-1].type, states[-1].name)
    for key in list(counts)[:_MOST_IN_A_LEGEND]:
        type_, name = key
        never = type_.is_terminal and not totals[key]
        share = 0 if never else 100 * (totals[key] / (sum(spent, timedelta()) or timedelta.resolution))
        table.add_row(
            Text(marks[key], style="bold" if is_plain else f"#000000 on {style_of(type_)}"),
            Text(escape(name)),
            Text(type_, style=style_of(type_)),
            f"{counts[key]:,}",
            "-" if never else duration(totals[key]) + ("+" if key == still_open else ""),
            "-" if never else f"{share:.1f}%",
        )
    more = len(counts) - _MOST_IN_A_LEGEND
    return Group(Text(), table, *([Text(f"and {more:,} more names")] if more > 0 else ()))


def _marks(states: Iterable[FlowRunState]) -> dict[tuple[StateType, str], str]:
    """A character for each name of a type: its first letter that is still free, else any; * when all are taken."""
    marks: dict[tuple[StateType, str], str] = {}
    free = dict.fromkeys(string.ascii_uppercase + string.digits + string.ascii_lowercase)
    for state in states:
        if (state.type, state.name) not in marks:
            mark = next((letter for letter in [*state.name.upper(), *free] if letter in free), "*")
            free.pop(mark, None)
            marks[state.type, state.name] = mark
    return marks


def _owners(spent: Sequence[timedelta], width: int) -> list[int]:
    """For each cell of a strip the state that is drawn there: the one that has most of its time, or a short one that has no other cell."""
    whole = sum(spent, timedelta()) or timedelta.resolution
    edges = [0.0, *(end / whole * width for end in accumulate(spent))]
    most = [(0.0, 0)] * width
    for index, (begin, end) in enumerate(pairwise(edges)):
        for cell in range(int(begin), min(int(end) + 1, width)):
            most[cell] = max(most[cell], (min(end, cell + 1) - max(begin, cell), index), key=lambda part: part[0])
    owners = [index for _, index in most]
    cells = Counter(owners)
    last = len(spent) - 1
    for index in sorted(range(len(spent)), key=lambda index: (index != last, -spent[index])):
        at = min(int(edges[index]), width - 1)
        for cell in () if cells[index] else (at, at + 1, at - 1):
            # Only a cell that its owner can spare, and that leaves the states in their order.
            if (
                0 <= cell < width
                and cells[owners[cell]] > 1
                and max(owners[:cell][-1:], default=0) <= index <= min(owners[cell + 1 :][:1], default=last)
            ):
                cells[owners[cell]] -= 1
                cells[index] += 1
                owners[cell] = index
                break
    return owners


def _scale(begin: datetime, length: timedelta, width: int) -> str:
    """A line of times below a strip, at round ones."""
    unit = timedelta.resolution
    whole = length or unit
    step = next(step for step in _STEPS if step / whole * width >= len(_tick(begin, step)) + 4)
    scale = " " * width
    for offset in range(-((begin - _ZERO) // unit) % (step // unit), whole // unit + 1, step // unit):
        tick, cell = f"|{_tick(begin + offset * unit, step)}", int(offset * unit / whole * width)
        if cell + len(tick) <= width:
            scale = scale[:cell] + tick + scale[cell + len(tick) :]
    return scale.rstrip()


def _tick(time: datetime, step: timedelta) -> str:
    if step >= timedelta(days=20):
        return _clock(time, "days")
    if step >= timedelta(days=1) or (step >= timedelta(minutes=1) and _is_whole(time, "days")):
        return _clock(time, "days")[5:]
    spec = "minutes" if step >= timedelta(minutes=1) else "seconds" if step >= timedelta(seconds=1) else "microseconds"
    return _clock(time, spec)[11:]


def _stacked(counts: dict[StateType, int], most: int, width: int, block: str) -> Text:
    total = sum(counts.values())
    cells = max(1, round(total / most * width)) if total else 0
    stacked, before = Text(), 0
    for type_, reached in zip(counts, accumulate(counts.values()), strict=True):
        after = round(reached / total * cells) if total else 0
        stacked.append(block * (after - before), style=style_of(type_))
        before = after
    return stacked


def _width(time: str, headers: dict[StateType, str], digits: dict[StateType, int]) -> int:
    return len(time) + sum(1 + max(digits[type_], *map(len, header.split("\n"))) for type_, header in headers.items())


def _is_whole(time: datetime, spec: str) -> bool:
    parts = {
        "days": (time.hour, time.minute, time.second, time.microsecond),
        "minutes": (time.second, time.microsecond),
        "seconds": (time.microsecond,),
    }
    return not any(parts.get(spec, ()))


def _clock(time: datetime, spec: str = "seconds") -> str:
    """A time in UTC, to the day or to what `isoformat` has a name for."""
    time = time.astimezone(UTC).replace(tzinfo=None)
    return time.date().isoformat() if spec == "days" else time.isoformat(" ", spec)


def _rank(time: TimeInState) -> tuple[int, timedelta, str]:
    """Types in their order; names by their time."""
    types = list(StateType)
    return (types.index(StateType(time.state)) if time.state in types else len(types), -time.total, time.state)
