"""The chart of a run as SVG."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import accumulate
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstates import FlowRunState, StateType
from flowstates.pictures.svg import strip_svg, timeline_svg
from flowstates.pictures.text import escape
from tests.test_cli import BEGIN, state

pytestmark = pytest.mark.versions

SVG = "{http://www.w3.org/2000/svg}"
RIGHT = 864  # where the scale ends
HISTORY = [
    state(StateType.SCHEDULED, 0, message="nightly import\nof all"),
    state(StateType.RUNNING, 10),
    state(StateType.FAILED, 40, message="connection reset"),
    state(StateType.RUNNING, 50, name="Retrying"),
    state(StateType.COMPLETED, 60),
]


class Row:
    """What is drawn of one state: its words, its texts, its bar from where and how wide, and where its diamond is."""

    def __init__(self, row: ElementTree.Element) -> None:
        self.title = row.findtext(f"{SVG}title") or ""
        self.texts = [text.text for text in row.iter(f"{SVG}text")]
        bars = [rect for rect in row.iter(f"{SVG}rect") if rect.attrib["class"].startswith("bar ")]
        ends = [path.attrib["d"] for path in row.iter(f"{SVG}path")]
        assert len(bars) <= 1
        assert len(ends) <= 1
        self.class_ = bars[0].attrib["class"] if bars else None
        self.bar = (float(bars[0].attrib["x"]), float(bars[0].attrib["width"])) if bars else None
        self.diamond = float(re.match(r"M([\d.]+) ", ends[0])[1]) + 6 if ends else None  # type: ignore[index]


def drawn(states: list[FlowRunState], minutes: float = 0) -> tuple[ElementTree.Element, list[Row]]:
    root = ElementTree.fromstring(timeline_svg(states, now=BEGIN + timedelta(minutes=minutes)))  # it is our own
    assert root.tag == f"{SVG}svg"
    rows = [Row(group) for group in root.iter(f"{SVG}g")]
    assert len(rows) == len(states)
    return root, rows


def test_a_state_has_a_row_with_its_words_and_its_bar() -> None:
    _, rows = drawn(HISTORY)
    assert [row.texts for row in rows] == [
        ["12:00:00", "SCHEDULED", "○", "Scheduled", "10m 00s"],
        ["12:10:00", "RUNNING", "►", "Running", "30m 00s"],
        ["12:40:00", "FAILED", "×", "Failed", "10m 00s"],  # noqa: RUF001
        ["12:50:00", "RUNNING", "►", "Retrying", "10m 00s"],
        ["13:00:00", "COMPLETED", "√", "Completed", "-"],
    ]
    assert [row.title.splitlines() for row in rows] == [
        ["SCHEDULED Scheduled", "since 2030-01-31 12:00:00.000 UTC, for 10m 00s", "nightly import ..."],
        ["RUNNING Running", "since 2030-01-31 12:10:00.000 UTC, for 30m 00s"],
        ["FAILED Failed", "since 2030-01-31 12:40:00.000 UTC, for 10m 00s", "connection reset"],
        ["RUNNING Retrying", "since 2030-01-31 12:50:00.000 UTC, for 10m 00s"],
        ["COMPLETED Completed", "since 2030-01-31 13:00:00.000 UTC"],
    ]
    assert [row.class_ for row in rows] == ["bar SCHEDULED", "bar RUNNING", "bar FAILED", "bar RUNNING", None]
    assert [row.diamond is None for row in rows] == [True, True, False, True, False]


def test_a_strip_is_the_history_as_one_bar() -> None:
    root = ElementTree.fromstring(strip_svg(HISTORY, now=BEGIN).replace("<svg ", f'<svg xmlns="{SVG.strip("{}")}" '))
    assert (root.get("role"), root.get("viewBox"), root.findtext(f"{SVG}desc")) == ("img", "0 0 300 1", "5 states in 1h 00m, ended COMPLETED.")
    parts = [(rect.get("class"), rect.get("x"), rect.get("width")) for rect in root.iter(f"{SVG}rect")]
    assert parts == [
        ("SCHEDULED", "0", "50"), ("RUNNING", "50", "150"), ("FAILED", "200", "50"), ("RUNNING", "250", "50"), ("COMPLETED", "298", "2"),
    ]  # fmt: skip
    assert [rect.findtext(f"{SVG}title") for rect in root.iter(f"{SVG}rect")] == [row.title for row in drawn(HISTORY)[1]]


def test_the_whole_says_what_it_is_and_needs_nothing_from_elsewhere() -> None:
    svg = timeline_svg(HISTORY, now=BEGIN)
    root, _ = drawn(HISTORY)
    assert (root.get("role"), root.get("viewBox"), root.get("width")) == ("img", "0 0 880 224", None)
    assert [child.tag.removeprefix(SVG) for child in root][:3] == ["title", "desc", "style"]  # a title is one only in the first place
    assert root.findtext(f"{SVG}title") == "run 00000000-0000-0000-0000-000000000001"
    assert root.findtext(f"{SVG}desc") == "2030-01-31 12:00:00 to 13:00:00 UTC: 5 states in 1h 00m, ended COMPLETED."
    assert re.findall(r"https?:[^\s\"]+", svg) == ["http://www.w3.org/2000/svg"]
    for word in ("<script", "font-face", "url(", "href", "@import", "<?"):
        assert word not in svg


def test_it_is_light_and_dark() -> None:
    style = drawn(HISTORY)[0].findtext(f"{SVG}style") or ""
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for type_ in StateType:
        assert f".{type_} {{ fill: #" in light
        assert f".{type_} {{ fill: #" in dark
    # Inside a page the rules are the page's.
    assert all(line.startswith(".flowstates-timeline ") for line in style.splitlines() if "{" in line and not line.startswith("@media"))


def test_an_open_state_lasts_until_now() -> None:
    root, (row,) = drawn([state(StateType.RUNNING, 0)], minutes=120)
    assert row.class_ == "bar RUNNING open"
    assert row.bar is not None
    assert sum(row.bar) == pytest.approx(RIGHT, abs=0.02)
    assert row.texts[-1] == "2h 00m+"
    assert row.title.splitlines()[1] == "since 2030-01-31 12:00:00.000 UTC, for 2h 00m until now"
    assert "now" in [text.text for text in root.iter(f"{SVG}text")]
    assert (root.findtext(f"{SVG}desc") or "").endswith("1 state in 2h 00m, still RUNNING (+: until now).")


def test_one_state_that_has_no_length() -> None:
    _, (ended,) = drawn([state(StateType.COMPLETED, 0)])
    assert ended.bar is None
    assert ended.diamond is not None
    root, (open_,) = drawn([state(StateType.SCHEDULED, 5)])  # of the future
    assert open_.bar is not None
    assert open_.bar[1] == 2
    assert "now" not in [text.text for text in root.iter(f"{SVG}text")]


def test_times_are_as_long_as_they_need_to_be() -> None:
    for minutes, began in ((1 / 120, "12:00:00.500"), (60, "13:00:00"), (60 * 24, "02-01 12:00:00"), (60 * 24 * 365, "2031-01-31 12:00:00")):
        _, (_, row) = drawn([state(StateType.RUNNING, 0), state(StateType.FAILED, minutes)])
        assert row.texts[0] == began


def test_a_long_history_has_a_second_scale_below() -> None:
    for count, scales in ((20, 1), (21, 2)):
        root, _ = drawn([state(StateType.RUNNING, minutes) for minutes in range(count)], minutes=count)
        assert [text.text for text in root.iter(f"{SVG}text")].count("12:05") == scales


def test_what_others_wrote_stays_text() -> None:
    hostile = "</title><script>alert(1)</script>&amp;]]>\x00\x08\x1b\x7f\x85\u2028\ufffe\r\n\t\"'"
    _, (row,) = drawn([state(StateType.FAILED, 0, name=hostile, message=hostile)])
    name, _, message = row.title.splitlines()
    assert name == f"FAILED {escape(hostile)}"
    assert message.startswith("</title><script>alert(1)</script>&amp;]]>\\x00\\x08\\x1b\\x7f")
    assert "</title><script>alert(1…" in row.texts


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_every_text_is_well_formed(name: str, message: str) -> None:
    _, (row,) = drawn([state(StateType.RUNNING, 0, name=name, message=message)], minutes=1)
    assert f"RUNNING {escape(name)}"[:100] == row.title.split("\n")[0][:100]


@pytest.mark.parametrize(
    ("name", "text"), [("x" * 24, "x" * 24), ("x" * 25, "x" * 23 + "…"), ("実" * 13, "実" * 11 + "…"), ("e\u0301" * 24, "e\u0301" * 24)]
)
def test_a_long_name_is_cut(name: str, text: str) -> None:
    _, (row,) = drawn([state(StateType.RUNNING, 0, name=name)], minutes=1)
    assert row.texts[3] == text
    assert name in row.title


@given(st.lists(st.tuples(st.sampled_from(StateType), st.timedeltas(timedelta(0), timedelta(days=400))), min_size=1, max_size=30))
def test_bars_are_true_to_time(spent: list[tuple[StateType, timedelta]]) -> None:
    begins = [timedelta(0), *accumulate(time for _, time in spent)]
    states = [state(type_, 0, timestamp=BEGIN + begin) for (type_, _), begin in zip(spent, begins, strict=False)]
    root, rows = drawn(states, minutes=begins[-1] / timedelta(minutes=1))
    left = next(float(text.attrib["x"]) for text in root.iter(f"{SVG}text") if text.text == "spent") + 16
    whole = begins[-2] if spent[-1][0].is_terminal else begins[-1]

    def to_scale(time: timedelta) -> float:
        return (RIGHT - left) * (time / (whole or timedelta.resolution))

    for index, (row, (type_, time)) in enumerate(zip(rows, spent, strict=True)):
        if type_.is_terminal:
            assert row.diamond == pytest.approx(left + to_scale(begins[index]), abs=0.02)
        else:
            assert row.diamond is None
        if type_.is_terminal and (not time or index == len(spent) - 1):
            assert row.bar is None
        else:
            width = max(to_scale(time), 2)
            assert row.bar == pytest.approx((min(left + to_scale(begins[index]), RIGHT - width), width), abs=0.02)
