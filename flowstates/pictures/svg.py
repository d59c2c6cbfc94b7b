"""A run's history as SVG: a bar a state on one scale of time. What colours say, words say too."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import NamedTuple
from xml.etree import ElementTree

from flowstates.pictures.elements import add, number
from flowstates.pictures.marks import LOOKS, mark_of
from flowstates.pictures.text import escape, first_line
from flowstates.pictures.times import clock, duration, spent_text, summary, ticks, times_spent
from flowstates.records import FlowRunState

# Lengths are in units of the viewBox: pixels, where the chart is shown as wide as it was drawn.
_WIDTH = 880
_MARGIN = 16
_GAP = 16
_INSET = 8  # of a row's texts and bars
_CHARACTER = 7.25  # of the widest of the fonts below
_MARK = 2 * _CHARACTER
_HEAD = 92  # above the first row
_FOOT = 12
_ROW = 24
_BASELINE = 16  # of the text in a row
_BAR = 12
_THIN_BAR = 4
_LEAST_WIDTH = 2  # what is not nothing is to be seen
_STRIP = 300  # the length of a strip: about that of a phone's screen in pixels
_DIAMOND = 6  # from its middle to its corners
_ROWS_WITHOUT_A_SCALE_BELOW = 20
_WIDEST_NAME = 24  # characters
_MOST_OF_A_NAME = 160  # characters, in the words that are shown of a bar

# The rules of an SVG inside a page are the whole page's, so each begins with a class of our own. No custom properties: not every viewer has them.
_STYLE = """
.flowstates-timeline { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
.flowstates-timeline .paper { fill: #ffffff; stroke: #d5dae0; }
.flowstates-timeline text { fill: #1f2429; }
.flowstates-timeline .run { font-size: 14px; font-weight: bold; }
.flowstates-timeline .quiet { fill: #5d6670; }
.flowstates-timeline .right { text-anchor: end; }
.flowstates-timeline .grid { stroke: #e4e8ec; }
.flowstates-timeline .now { stroke: #5d6670; stroke-dasharray: 2 3; }
.flowstates-timeline .row { fill: none; pointer-events: all; }
.flowstates-timeline .shaded { fill: #808a94; fill-opacity: 0.08; }
.flowstates-timeline .open { fill-opacity: 0.35; stroke: currentColor; stroke-dasharray: 4 2; }
"""
_DARK_STYLE = """
.flowstates-timeline .paper { fill: #12161c; stroke: #323a44; }
.flowstates-timeline text { fill: #e3e8ee; }
.flowstates-timeline .quiet { fill: #98a3af; }
.flowstates-timeline .grid { stroke: #262d36; }
.flowstates-timeline .now { stroke: #98a3af; }
"""


def _style() -> str:
    light = "".join(f".flowstates-timeline .{type_} {{ fill: {look.light}; color: {look.light}; }}\n" for type_, look in LOOKS.items())
    dark = "".join(f".flowstates-timeline .{type_} {{ fill: {look.dark}; color: {look.dark}; }}\n" for type_, look in LOOKS.items())
    return f"{_STYLE}{light}@media (prefers-color-scheme: dark) {{{_DARK_STYLE}{dark}}}\n"


TIMELINE_STYLE = _style()
"""The text of the style that each chart has: a page that lets in no other styles names it by its hash."""


class _Scale(NamedTuple):
    """Where times are in a chart: `length` from `begin` on reaches from `left` to `right`."""

    begin: datetime
    length: timedelta
    left: float
    right: float

    def width(self, time: timedelta) -> float:
        return (self.right - self.left) * (time / (self.length or timedelta.resolution))

    def at(self, time: datetime) -> float:
        return self.left + self.width(time - self.begin)


class _Column(NamedTuple):
    """A column of the table beside the bars: where its texts begin or, if they stand to the right, end."""

    header: str
    x: float
    class_: str
    cells: Sequence[str]


def timeline_svg(states: Sequence[FlowRunState], *, now: datetime) -> str:
    """A chart of one run's states, one at least and oldest first: for a file, an image, or a page to have it inside.

    A row a state: when it began, its type and name, the time spent in it, and a bar. A terminal state is a diamond, with a thin bar if another state
    came after it. A last state that is not terminal lasts until `now` and is drawn as open. The chart is as wide as the place that it is put in, and
    light or dark as its reader has it; it takes nothing from elsewhere, neither fonts nor scripts.
    """
    spent = times_spent(states, now)
    last, begin, length = states[-1], states[0].timestamp, sum(spent, timedelta())
    spec = "milliseconds" if length < timedelta(minutes=1) else "seconds"
    first_time, last_time = clock(begin, spec), clock(begin + length, spec)
    alike = next(count for count in (len("2030-01-31 "), len("2030-"), 0) if first_time[:count] == last_time[:count])
    about = f"{first_time} to {last_time[alike:]} UTC: {summary(states, now)}"
    bottom = _HEAD + _ROW * len(states)
    is_open = bool(length) and not last.type.is_terminal
    is_long = len(states) > _ROWS_WITHOUT_A_SCALE_BELOW

    chart = _paper(bottom + (_ROW if is_long else 0) + _FOOT, title=f"run {last.flow_run_id}", desc=about)
    add(chart, "text", f"run {last.flow_run_id}", x=_MARGIN, y=30, class_="run")
    add(chart, "text", about, x=_MARGIN, y=50, class_="quiet")
    columns = _columns(
        began=[clock(state.timestamp, spec)[alike:] for state in states],
        type=[state.type for state in states],
        name=[_cut(escape(state.name), _WIDEST_NAME) for state in states],
        spent=[spent_text(time, state, last) for state, time in zip(states, spent, strict=True)],
    )
    for column in columns:
        add(chart, "text", column.header, x=column.x, y=_HEAD - _ROW + _BASELINE, class_=f"quiet {column.class_}".rstrip())
    scale = _Scale(begin, length, columns[-1].x + _GAP, _WIDTH - _MARGIN)
    _draw_scale(chart, scale, [_HEAD - _ROW, bottom] if is_long else [_HEAD - _ROW], bottom, is_open=is_open)
    for index, (state, time) in enumerate(zip(states, spent, strict=True)):
        top = _HEAD + _ROW * index
        row = add(chart, "g", class_="state")
        add(row, "title", _words(state, time, last))
        add(row, "rect", x=_MARGIN - _INSET, y=top, width=_WIDTH - 2 * (_MARGIN - _INSET), height=_ROW, class_="row" if index % 2 else "row shaded")
        for column in columns:
            add(row, "text", column.cells[index], x=column.x, y=top + _BASELINE, class_=column.class_)
            if column.header == "type":
                add(row, "text", mark_of(state.type), x=column.x - _MARK, y=top + _BASELINE, class_=state.type)
        _draw_bar(row, scale, state, time, top + _ROW / 2, is_open=is_open and state is last)
    ElementTree.indent(chart, "")
    return ElementTree.tostring(chart, encoding="unicode") + "\n"


def strip_svg(states: Sequence[FlowRunState], *, now: datetime) -> str:
    """The same history as one bar, cut where one state ends and the next begins, for where there is no room for a chart: it is stretched to the place
    that it is put in, has no texts but those that a viewer shows beside the pointer, and no style of its own: its parts have the classes of their
    types."""
    spent = times_spent(states, now)
    last, begin = states[-1], states[0].timestamp
    scale = _Scale(begin, sum(spent, timedelta()), 0, _STRIP)
    strip = ElementTree.Element("svg", {"viewBox": f"0 0 {_STRIP} 1", "preserveAspectRatio": "none"})
    strip.attrib |= {"role": "img", "class": "flowstates-strip"}
    add(strip, "title", f"run {last.flow_run_id}")
    add(strip, "desc", summary(states, now))
    for state, time in zip(states, spent, strict=True):
        width = max(scale.width(time), _LEAST_WIDTH)
        part = add(strip, "rect", x=min(scale.at(state.timestamp), _STRIP - width), y=0, width=width, height=1, class_=state.type)
        add(part, "title", _words(state, time, last))
    return ElementTree.tostring(strip, encoding="unicode")


def _paper(height: float, *, title: str, desc: str) -> ElementTree.Element:
    """A chart with nothing on it."""
    chart = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {_WIDTH} {height}"})
    chart.attrib |= {"role": "img", "class": "flowstates-timeline"}
    add(chart, "title", title)
    add(chart, "desc", desc)
    add(chart, "style", TIMELINE_STYLE)
    add(chart, "rect", x=0.5, y=0.5, width=_WIDTH - 1, height=height - 1, rx=6, class_="paper")
    return chart


def _columns(**columns: list[str]) -> list[_Column]:
    """Each as wide as what is in it; before the types there is room for their marks."""
    placed, left = [], float(_MARGIN)
    for header, cells in columns.items():
        left += _MARK if header == "type" else 0
        right = left + _CHARACTER * max(map(_width, [header, *cells]))
        placed.append(_Column(header, right, "right", cells) if header == "spent" else _Column(header, left, "", cells))
        left = right + _GAP
    return placed


def _draw_scale(chart: ElementTree.Element, scale: _Scale, tops: Sequence[float], bottom: float, *, is_open: bool) -> None:
    """Lines at round times, labelled at each of `tops`, and one at the end of a run that has not ended."""
    now = "now" if is_open else ""
    room = scale.right - _CHARACTER * _width(f"  {now}" if now else "")
    for after, label in ticks(scale.begin, scale.length, (scale.right - scale.left) / _CHARACTER):
        x = scale.at(scale.begin + after)
        add(chart, "line", x1=x, x2=x, y1=tops[0] + 4, y2=bottom, class_="grid")
        if x + 4 + _CHARACTER * len(label) <= room:
            for top in tops:
                add(chart, "text", label, x=x + 4, y=top + _BASELINE, class_="quiet")
    if now:
        add(chart, "line", x1=scale.right, x2=scale.right, y1=_HEAD, y2=bottom, class_="now")
        for top in tops:
            add(chart, "text", now, x=scale.right, y=top + _BASELINE, class_="quiet right")


def _draw_bar(row: ElementTree.Element, scale: _Scale, state: FlowRunState, time: timedelta, middle: float, *, is_open: bool) -> None:
    x, width = scale.at(state.timestamp), scale.width(time)
    if time or not state.type.is_terminal:
        width, height = max(width, _LEAST_WIDTH), _THIN_BAR if state.type.is_terminal else _BAR
        class_ = f"bar {state.type}{' open' if is_open else ''}"
        add(row, "rect", x=min(x, scale.right - width), y=middle - height / 2, width=width, height=height, rx=1, class_=class_)
    if state.type.is_terminal:
        corners = f"M{number(x - _DIAMOND)} {number(middle)}l{_DIAMOND} -{_DIAMOND} {_DIAMOND} {_DIAMOND} -{_DIAMOND} {_DIAMOND}z"
        add(row, "path", d=corners, class_=f"end {state.type}")


def _words(state: FlowRunState, time: timedelta, last: FlowRunState) -> str:
    """What a viewer shows beside the pointer: type, name, since when and how long, and the message's first line."""
    length = f", for {duration(time)}" if state is not last else "" if last.type.is_terminal else f", for {duration(time)} until now"
    lines = [
        f"{state.type} {_cut(escape(state.name), _MOST_OF_A_NAME)}",
        f"since {clock(state.timestamp, 'milliseconds')} UTC{length}",
        first_line(state.message),
    ]
    return "\n".join(filter(None, lines))


def _cut(text: str, most: int) -> str:
    """A text that is at most `most` characters wide; where it was cut, that is seen."""
    if _width(text) <= most:
        return text
    return text[: sum(end < most for end in accumulate(map(_width, text)))] + "…"


def _width(text: str) -> int:
    """In characters of a font in which all are as wide, and those of East Asia twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
