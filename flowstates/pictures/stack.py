"""How many runs were in each type over time, as SVG: a column a tick, stacked by type. What colours say, words say too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from flowstates.pictures.elements import add
from flowstates.pictures.times import clock
from flowstates.records import StateType
from flowstates.values import counted

if TYPE_CHECKING:
    from flowstates.analytics import StateCount

# In units of the viewBox, which is as wide as there are ticks: the chart is stretched to the place that it is put in, and has no texts.
_HEIGHT = 100.0
_COLUMN = 0.9
_LEAST_HEIGHT = 1.0  # what is not nothing is to be seen


def occupancy_svg(counts: Sequence[StateCount]) -> str:
    """A chart of the counts of some ticks, one at least, for a page to have it inside. It has no style of its own: a column's parts have the classes
    of their types. The highest column is as high as the chart; the page says how many runs that is."""
    most = highest(counts)
    chart = ElementTree.Element("svg", {"viewBox": f"0 0 {len(counts)} {_HEIGHT:.0f}", "preserveAspectRatio": "none"})
    chart.attrib |= {"role": "img", "class": "flowstates-occupancy"}
    first, last = clock(counts[0].at, "minutes"), clock(counts[-1].at, "minutes")
    add(chart, "title", f"runs in each type, {first} to {last} UTC")
    add(chart, "desc", f"At most {counted(most, 'run')} at a time. At the end: {words(counts[-1].counts)}.")
    for index, count in enumerate(counts):
        group = add(chart, "g")
        add(group, "title", f"{clock(count.at, 'minutes')} UTC\n{words(count.counts)}")
        # The whole height of the column is where a pointer finds its words.
        add(group, "rect", x=index, y=0, width=1, height=_HEIGHT, class_="column")
        top = _HEIGHT
        for type_, runs in count.counts.items():
            if runs:
                height = max(runs / most * _HEIGHT, _LEAST_HEIGHT)
                top -= height
                add(group, "rect", x=index, y=max(top, 0.0), width=_COLUMN, height=height, class_=type_)
    return ElementTree.tostring(chart, encoding="unicode")


def highest(counts: Sequence[StateCount]) -> int:
    """How many runs the highest column has; 1 where there are none."""
    return max(1, *(sum(count.counts.values()) for count in counts))


def words(counts: dict[StateType, int]) -> str:
    """Counts as words, without those that are zero."""
    return ", ".join(f"{runs:,} {type_}" for type_, runs in counts.items() if runs) or "no runs"
