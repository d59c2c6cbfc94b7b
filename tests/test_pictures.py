"""What is drawn of a run, of times and of counts: marks, words and text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from flowstates import FlowRunState, StateCount, StateType, TimeInState
from flowstates.pictures.bars import print_counts, print_durations
from flowstates.pictures.marks import LOOKS, mark_of
from flowstates.pictures.strip import print_timeline
from flowstates.pictures.text import first_line
from flowstates.pictures.times import ago, length, relative
from flowstates.values import counted
from tests.test_cli import BEGIN, state

pytestmark = pytest.mark.versions


def console(width: int) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=False)


def printed(on: Console) -> list[str]:
    assert isinstance(on.file, StringIO)
    return [line.rstrip() for line in on.file.getvalue().splitlines()]


# marks


def test_each_type_has_a_mark_of_its_own_one_column_wide() -> None:
    for ascii_only in (False, True):
        marks = [mark_of(type_, ascii_only=ascii_only) for type_ in StateType]
        assert len(set(marks)) == len(marks)
        assert {cell_len(mark) for mark in marks} == {1}
        assert [mark.isascii() for mark in marks] == [ascii_only] * len(marks)


def test_colours_are_seen_on_their_ground() -> None:
    for look in LOOKS.values():
        assert contrast(look.light, "#ffffff") >= 3
        assert contrast(look.dark, "#12161c") >= 3


def contrast(one: str, other: str) -> float:
    """By the formula of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (0.9, "now"), (-0.9, "now"), (1, "1.0s ago"), (-90, "in 1m 30s"), (7500, "2h 05m ago"), (-864_000, "in 10d 00h")],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    assert relative(BEGIN, BEGIN + timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (-0.9, "now"), (59, "59s ago"), (60, "1m ago"), (-3_700, "in 1h"), (7 * 86_400, "7d ago"), (999.9 * 86_400, "999d ago")],
)
def test_how_long_ago_in_short(seconds: float, text: str) -> None:
    assert ago(BEGIN, BEGIN + timedelta(seconds=seconds)) == text


def test_ages_are_short_too() -> None:
    assert ago(datetime.min.replace(tzinfo=UTC), BEGIN) == "2030y ago"
    assert ago(datetime.max.replace(tzinfo=UTC), BEGIN) == "in 7975y"
    assert ago(BEGIN, BEGIN + timedelta(days=1_100)) == "3y ago"


@pytest.mark.parametrize(
    ("message", "line"),
    [(None, ""), (" \n", ""), ("one", "one"), ("\none\ntwo", "one ..."), ("a\tb\x1b", "a\\tb\\x1b"), ("x" * 161, "x" * 160 + " ...")],
)
def test_the_first_line_of_a_message(message: str | None, line: str) -> None:
    assert first_line(message) == line


# counts


@pytest.mark.parametrize(("types", "width", "first"), [(9, 80, "SCHED-"), (9, 120, "time"), (1, 80, "time")])
def test_counts_fit_the_terminal(types: int, width: int, first: str) -> None:
    counts = [StateCount(BEGIN + timedelta(days=day), dict.fromkeys(list(StateType)[:types], 12345 * day)) for day in range(3)]
    terminal = console(width)
    print_counts(terminal, counts, timedelta(days=1), of_runs=False)
    lines = printed(terminal)
    assert lines[2].split()[0] == first
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    assert lines[-1].split()[2:4] == ["24,690", "24,690" if types > 1 else "█" * 40]


@pytest.mark.parametrize(("types", "header"), [(5, "○ SCHEDULED"), (6, "time (UTC) SCHEDULED")])
def test_counts_have_bars_before_they_have_marks(types: int, header: str) -> None:
    terminal = console(80)
    print_counts(terminal, [StateCount(BEGIN.replace(hour=0), dict.fromkeys(list(StateType)[:types], 5))], timedelta(days=1), of_runs=False)
    lines = printed(terminal)
    assert header in lines[2]
    assert lines[-1].count("█") >= 12


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_of_counts_are_never_cut(width: int) -> None:
    counts = [StateCount(BEGIN + timedelta(days=day), {type_: 10**9 * (n + 1) + day for n, type_ in enumerate(StateType)}) for day in range(3)]
    terminal = console(width)
    print_counts(terminal, counts, timedelta(days=1), of_runs=False)
    lines = printed(terminal)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    numbers = [number for line in lines for number in re.findall(r"\d(?:,\d{3})+", line)]
    assert sorted(numbers) == sorted(f"{number:,}" for count in counts for number in count.counts.values())
    pipe = console(80)
    print_counts(pipe, counts, timedelta(days=1), of_runs=False, whole=True)
    assert [len(re.findall(r"\d(?:,\d{3})+", line)) for line in printed(pipe)[-3:]] == [9, 9, 9]


# times


@pytest.mark.parametrize(
    ("width", "columns", "left_out"),
    [
        (30, ["total"], "longest, p50, p95, p99"),
        (40, ["visits", "total"], "longest, p50, p95, p99"),
        (60, ["visits", "total", "longest", "p95"], "p50, p99"),
        (80, ["visits", "total", "longest", "p50", "p95", "p99"], ""),
        (120, ["visits", "total", "longest", "p50", "p95", "p99"], ""),
    ],
)
def test_numbers_of_durations_are_never_cut(width: int, columns: list[str], left_out: str) -> None:
    lengths = {"total": 99_999, "longest": 1234, "p50": 345, "p95": 888, "p99": 1001}
    times = [TimeInState(None, "CANCELLING", 10**9, *(timedelta(days=days, hours=3) for days in lengths.values()))]
    shown = {"visits": "1,000,000,000"} | {name: f"{days}d 03h" for name, days in lengths.items()}
    terminal, pipe = console(width), console(width)
    print_durations(terminal, times, BEGIN, BEGIN)
    text = " ".join(" ".join(printed(terminal)).split())
    assert max(map(len, printed(terminal))) <= width
    assert f"state {' '.join(columns)} " in text
    assert [name for name, number in shown.items() if number in text] == columns
    assert (f"no room for: {left_out}" in text) == bool(left_out)
    print_durations(pipe, times, BEGIN, BEGIN, whole=True)
    assert all(number in printed(pipe)[-1] for number in shown.values())


# a history


def strip(states: list[FlowRunState], now: datetime, width: int = 60) -> tuple[str, str, list[str]]:
    terminal = console(width)
    print_timeline(terminal, states, now=now)
    lines = printed(terminal)
    assert lines[0] == f"run {states[0].flow_run_id}"
    assert len(lines[3]) == width
    return lines[3], lines[4], lines[5:]


def test_a_strip_is_true_to_time() -> None:
    states = [state(StateType.PENDING, 0), state(StateType.RUNNING, 15), state(StateType.PAUSED, 45), state(StateType.COMPLETED, 60)]
    picture, scale, rest = strip(states, BEGIN)
    assert picture == "│Pending───────" + "│Running──────────────────────" + "│Paused───────" + "C"
    assert scale == "|12:00    |12:10    |12:20    |12:30    |12:40    |12:50"
    assert [line.split() for line in rest if line.startswith(("P ", "R ", "A ", "C "))] == [
        ["P", "Pending", "•", "PENDING", "1", "15m", "00s", "25.0%"],
        ["R", "Running", "►", "RUNNING", "1", "30m", "00s", "50.0%"],
        ["A", "Paused", "║", "PAUSED", "1", "15m", "00s", "25.0%"],
        ["C", "Completed", "√", "COMPLETED", "1", "-", "-"],
    ]
    assert rest[-1] == "4 states in 1h 00m, ended COMPLETED."


def test_short_states_are_seen_and_keep_their_order() -> None:
    types = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.CANCELLED]
    picture, _, _ = strip([state(type_, at) for type_, at in zip(types, (0, 60, 60.001, 119.999, 120), strict=True)], BEGIN)
    assert re.fullmatch("│Scheduled─+P│Running─+CA", picture)


def test_more_states_than_cells() -> None:
    names = ["A", "B"] * 100
    states = [state(StateType.RUNNING, number, name=name) for number, name in enumerate(names)] + [state(StateType.FAILED, 1000)]
    picture, _, rest = strip(states, BEGIN)
    assert picture.endswith("F")
    assert {"A", "B"} <= set(picture)
    assert re.fullmatch(r"1\d\d of them are too short to be drawn.", rest[-1])


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(minutes=15), "15m"),
        (timedelta(hours=1, minutes=30), "1h 30m"),
        (timedelta(weeks=1), "7d"),
        (timedelta(days=1, seconds=1, microseconds=2_003), "1d 1s 2ms 3us"),
    ],
)
def test_a_length_has_no_units_that_are_zero(time: timedelta, text: str) -> None:
    assert length(time) == text


def test_one_is_no_plural() -> None:
    assert [counted(number, "run") for number in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]


@pytest.mark.parametrize(
    ("whole", "ticks"),
    [
        (timedelta(0), "|12:00:00.000000"),
        (timedelta(microseconds=7), "|12:00:00.000000                          |12:00:00.000005"),
        (timedelta(seconds=3), "|12:00:00           |12:00:01           |12:00:02"),
        (timedelta(hours=30), "|12:00      |18:00      |02-01      |06:00      |12:00"),
        (timedelta(days=40), "   |02-03         |02-13         |02-23         |03-05"),
        (timedelta(days=900), "|2031-02-28"),
        (timedelta(days=2_000_000), "|"),
    ],
    ids=str,
)
def test_scales_have_round_times(whole: timedelta, ticks: str) -> None:
    _, scale, _ = strip([state(StateType.RUNNING, 0), state(StateType.FAILED, 0, timestamp=BEGIN + whole)][: 2 if whole else 1], BEGIN + whole)
    assert ticks in scale
    assert len(scale) <= 60


def test_an_open_state_lasts_until_now() -> None:
    picture, _, rest = strip([state(StateType.RUNNING, 0)], BEGIN + timedelta(hours=2))
    assert picture == "│Running" + "─" * 52
    assert any(line.endswith("2h 00m+  100.0%") for line in rest)
    assert rest[-1] == "1 state in 2h 00m, still RUNNING (+: until now)."


def test_many_names_have_letters_of_their_own() -> None:
    states = [state(StateType.RUNNING, number, name=f"実行 {number}") for number in range(70)]
    _, _, rest = strip(states, BEGIN, width=200)
    letters = [line[0] for line in rest[3:23]]
    assert len(set(letters)) == 20
    assert "and 50 more names" in rest


def test_a_history_says_how_old_it_is() -> None:
    for last, now, text in ((StateType.COMPLETED, 65, "(35m 00s ago)"), (StateType.PAUSED, 65, "(now)"), (StateType.COMPLETED, 20, "(in 10m 00s)")):
        terminal = console(80)
        print_timeline(terminal, [state(StateType.RUNNING, 0), state(last, 30)], now=BEGIN + timedelta(minutes=now))
        assert printed(terminal)[1].endswith(f" UTC {text}")
