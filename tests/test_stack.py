"""The chart of how many runs were in each type."""

from __future__ import annotations

from datetime import timedelta
from xml.etree import ElementTree

import pytest

from flowstates import StateCount, StateType
from flowstates.pictures.stack import highest, occupancy_svg
from tests.test_cli import BEGIN

pytestmark = pytest.mark.versions

SVG = "{http://www.w3.org/2000/svg}"
OPEN = [type_ for type_ in StateType if not type_.is_terminal]


def counts(*ticks: dict[StateType, int]) -> list[StateCount]:
    return [StateCount(BEGIN + timedelta(minutes=15) * index, {type_: tick.get(type_, 0) for type_ in OPEN}) for index, tick in enumerate(ticks)]


def drawn(chart: list[StateCount]) -> ElementTree.Element:
    # Inside a page the namespace is understood.
    return ElementTree.fromstring(occupancy_svg(chart).replace("<svg ", f'<svg xmlns="{SVG.strip("{}")}" '))


def test_a_column_is_stacked_by_type_and_says_its_counts() -> None:
    root = drawn(counts({StateType.RUNNING: 3, StateType.PENDING: 1}, {}, {StateType.PAUSED: 2}))
    groups = list(root.iter(f"{SVG}g"))
    assert [group.findtext(f"{SVG}title") for group in groups] == [
        "2030-01-31 12:00 UTC\n1 PENDING, 3 RUNNING",
        "2030-01-31 12:15 UTC\nno runs",
        "2030-01-31 12:30 UTC\n2 PAUSED",
    ]
    parts = [[(rect.get("class"), rect.get("y"), rect.get("height")) for rect in group.iter(f"{SVG}rect")][1:] for group in groups]
    assert parts == [[("PENDING", "75", "25"), ("RUNNING", "0", "75")], [], [("PAUSED", "50", "50")]]


def test_the_whole_says_what_it_is() -> None:
    chart = counts({StateType.RUNNING: 1}, {StateType.RUNNING: 1_200, StateType.SCHEDULED: 3})
    root = drawn(chart)
    assert (root.get("role"), root.get("viewBox")) == ("img", "0 0 2 100")
    assert root.findtext(f"{SVG}title") == "runs in each type, 2030-01-31 12:00 to 2030-01-31 12:15 UTC"
    assert root.findtext(f"{SVG}desc") == "At most 1,203 runs at a time. At the end: 3 SCHEDULED, 1,200 RUNNING."
    assert highest(chart) == 1_203


def test_what_is_not_nothing_is_seen_and_what_is_nothing_is_drawn_too() -> None:
    root = drawn(counts({StateType.RUNNING: 100_000, StateType.PENDING: 1}))
    assert min(float(rect.get("height") or 0) for rect in root.iter(f"{SVG}rect")) == 1
    assert highest(counts({})) == 1
    assert len(list(drawn(counts({})).iter(f"{SVG}rect"))) == 1
