"""A run's history as text: a strip on a scale of time, and what it is made of. What colours say, letters say too."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, groupby, pairwise

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Text

from flowstates.pictures.bars import plain_table, type_text
from flowstates.pictures.marks import style_of
from flowstates.pictures.text import escape
from flowstates.pictures.times import clock, duration, relative, summary, ticks, times_spent
from flowstates.records import FlowRunState, StateType
from flowstates.values import counted

_MOST_IN_A_LEGEND = 20


def print_timeline(console: Console, states: Sequence[FlowRunState], *, now: datetime) -> None:
    """A run's history as a strip on a scale of time as wide as the console, and what it is made of."""
    spent = times_spent(states, now)
    begin, length = states[0].timestamp, sum(spent, timedelta())
    is_plain = console.color_system is None or console.no_color
    ascii_only = console.options.ascii_only
    edge, fill = ("|", "-") if ascii_only else ("│", "─")
    letters = _letters(states)
    owners = _owners(spent, console.width)
    strip = Text(no_wrap=True)
    for index, cells in groupby(owners):
        state, width = states[index], len(list(cells))
        name = escape(state.name)
        label = letters[state.type, state.name] if width == 1 else edge + (name if cell_len(name) + 1 < width else letters[state.type, state.name])
        text = set_cell_size(label, cell_len(label)) + (fill if is_plain else " ") * (width - cell_len(label))
        strip.append(text, style="" if is_plain else f"#000000 on {style_of(state.type)}")
    console.print(Text(f"run {states[0].flow_run_id}", style="bold"))
    end = begin + length
    console.print(Text(f"{clock(begin)} to {clock(end)} UTC ({relative(end, now)})\n"))
    console.print(strip)
    console.print(Text(_scale(begin, length, console.width), no_wrap=True))
    console.print(_legend(states, spent, letters, is_plain=is_plain, ascii_only=ascii_only))
    console.print(Text(f"\n{summary(states, now)}"))
    if hidden := len(states) - len(set(owners)):
        console.print(Text(f"{hidden:,} of them {'is' if hidden == 1 else 'are'} too short to be drawn."))


def _legend(
    states: Sequence[FlowRunState], spent: Sequence[timedelta], letters: dict[tuple[StateType, str], str], *, is_plain: bool, ascii_only: bool
) -> RenderableType:
    """A line for each name of a type: its letter, how often it came, and its part of the time."""
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
            Text(letters[key], style="bold" if is_plain else f"#000000 on {style_of(type_)}"),
            Text(escape(name)),
            type_text(type_, ascii_only=ascii_only),
            f"{counts[key]:,}",
            "-" if never else duration(totals[key]) + ("+" if key == still_open else ""),
            "-" if never else f"{share:.1f}%",
        )
    more = len(counts) - _MOST_IN_A_LEGEND
    return Group(Text(), table, *([Text(f"and {counted(more, 'more name')}")] if more > 0 else ()))


def _letters(states: Iterable[FlowRunState]) -> dict[tuple[StateType, str], str]:
    """A character for each name of a type: its first letter that is still free, else any; * when all are taken."""
    letters: dict[tuple[StateType, str], str] = {}
    free = dict.fromkeys(string.ascii_uppercase + string.digits + string.ascii_lowercase)
    for state in states:
        if (state.type, state.name) not in letters:
            free_letter = next((letter for letter in [*state.name.upper(), *free] if letter in free), "*")
            free.pop(free_letter, None)
            letters[state.type, state.name] = free_letter
    return letters


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
    scale = " " * width
    for after, label in ticks(begin, length, width):
        tick, cell = f"|{label}", int(after / (length or timedelta.resolution) * width)
        if cell + len(tick) <= width:
            scale = scale[:cell] + tick + scale[cell + len(tick) :]
    return scale.rstrip()
