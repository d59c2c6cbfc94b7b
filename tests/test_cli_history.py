"""Histories and lists of states as people see them, at any width and with any text."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from flowstates import FlowRunState, StateType
from flowstates.cli.lines import Lines
from flowstates.cli.render import print_history
from flowstates.pictures.text import escape
from tests.terminals import Terminal
from tests.test_cli import BEGIN, ODD, plain_environment, process, run, state, url

pytestmark = pytest.mark.versions

__all__ = ["plain_environment", "url"]  # fixtures


def bar(line: str) -> int:
    return sum(line.count(block) for block in "█▉▊▋▌▍▎▏")


def shown(
    states: list[FlowRunState], now: datetime, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int = 80
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    print_history(states, now=now)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def test_a_history_has_times_and_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    states = [
        state(StateType.PENDING, 0),
        state(StateType.RUNNING, 10),
        state(StateType.FAILED, 30, message="no rows\nat all"),
    ]
    lines = shown(states, BEGIN, capsys, monkeypatch)
    assert lines[0] == f"run {UUID(int=1)}"
    assert lines[2].split() == ["time", "(UTC)", "type", "name", "spent"]
    pending, running, failed, why = lines[4:8]
    assert pending.startswith("2030-01-31 12:00:00  • PENDING  Pending  10m 00s  █")
    assert running.startswith("2030-01-31 12:10:00  ► RUNNING  Running  20m 00s  █")
    assert bar(running) in (2 * bar(pending) - 1, 2 * bar(pending))
    assert (failed, why) == ("2030-01-31 12:30:00  × FAILED   Failed         -", "  no rows ...")  # noqa: RUF001
    assert lines[-1] == "3 states in 30m 00s, ended FAILED."


@pytest.mark.parametrize("width", [80, 120])
def test_a_message_has_the_line_below(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    message = "a message that is longer than what is left beside the times, but fits a line"
    lines = shown([state(StateType.RUNNING, 0), state(StateType.FAILED, 10, message=message)], BEGIN, capsys, monkeypatch, width)
    assert lines[6:] == [f"  {message}", "", "2 states in 10m 00s, ended FAILED."]


def test_the_last_state_is_open_until_now(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown([state(StateType.RUNNING, 0)], BEGIN + timedelta(hours=26), capsys, monkeypatch)
    assert " 1d 02h+  █" in lines[4]
    assert lines[-1] == "1 state in 1d 02h, still RUNNING (+: until now)."


def test_a_state_of_the_future_has_no_time_yet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown([state(StateType.SCHEDULED, 5)], BEGIN, capsys, monkeypatch)
    assert lines[4].endswith("0ms+")
    assert lines[-1] == "1 state in 0ms, still SCHEDULED (+: until now)."


def test_a_wide_terminal_has_the_ids(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    only = state(StateType.RUNNING, 0)
    assert str(only.id) in "".join(shown([only], BEGIN, capsys, monkeypatch, width=120))
    assert str(only.id) not in "".join(shown([only], BEGIN, capsys, monkeypatch, width=80))


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (timedelta(microseconds=1), "<1ms"),
        (timedelta(milliseconds=999), "999ms"),
        (timedelta(seconds=59.99), "59.9s"),
        (timedelta(seconds=60), "1m 00s"),
        (timedelta(hours=23, minutes=59, seconds=59), "23h 59m"),
        (timedelta(days=400), "400d 00h"),
    ],
)
def test_times_read_well(time: timedelta, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown([state(StateType.RUNNING, 0), state(StateType.COMPLETED, 0, timestamp=BEGIN + time)], BEGIN, capsys, monkeypatch)
    assert f"Running    {text}".split() == lines[4].split()[4:-1]
    assert bar(lines[4])


def test_odd_text_stays_text(url: str) -> None:
    odd = ODD.replace("\x00", "")
    run_id = uuid4()
    created = run("create", run_id, "FAILED", "--name", odd, "--message", odd, "--data", json.dumps({odd: odd}), "--json").records[0]
    assert (created["name"], created["message"], created["data"]) == (odd, odd, {odd: odd})
    for done in (run("list", run_id), run("show", created["id"])):
        assert done.code == 0
        assert "[red]a[/red]" in done.out
        assert ":smile:" in done.out
        assert not [c for c in done.out.replace("\n", "") if escape(c) != c]
    assert "実行中" in run("list", run_id).out


def test_a_name_adds_no_line_of_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown([state(StateType.RUNNING, 0, name="a\nb", message="\n\n")], BEGIN, capsys, monkeypatch)
    assert len(lines) == 7
    assert "a\\nb" in lines[4]


def test_a_long_message_is_cut_in_the_table_and_whole_in_show(url: str) -> None:
    run_id = uuid4()
    id_ = run("create", run_id, "FAILED", "--message", "x" * 1000, "--json").records[0]["id"]
    assert run("list", run_id).out.count("x") == 160
    assert run("show", id_).out.count("x") == 1000


@pytest.mark.parametrize("width", [40, 55, 60, 75, 76, 77, 80, 100, 120, 160])
def test_nothing_is_lost_on_narrow_terminals(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{number:02}" for number in range(30)]
    states = [
        state(StateType.CANCELLING, 0, name="x" * 30, message=" ".join(words)),
        state(StateType.CANCELLED, 99 * 24 * 60, name="Late", message="the end"),
    ]
    lines = shown(states, BEGIN, capsys, monkeypatch, width)
    text = " ".join(lines)
    assert re.findall(r"w\d\d", text) == words
    assert text.count("x") == 30
    assert "…" not in text
    for part in ("2030-01-31 12:00:00", "CANCELLING", "99d 00h", "the end"):
        assert part in text
    Lines(Console(width=width), now=BEGIN).print(states)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    text = " ".join(lines)
    assert max(map(len, lines)) <= width
    assert text.count("x") == 30
    assert text.count(str(UUID(int=1))) == 2
    assert "…" not in text or width == 160  # a message there is marked where it is cut
    for part in ("2030-01-31 12:00:00", "CANCELLING"):
        assert part in text


def test_a_terminal_of_no_columns_is_one_of_unknown_width(url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "COMPLETED")
    assert process("list", run_id, COLUMNS="0") == process("list", run_id)
    assert str(run_id) in process("list", run_id, COLUMNS="0").out


@pytest.mark.parametrize("columns", [40, 119, 120, 160])
def test_a_narrow_list_says_where_the_ids_are(columns: int, url: str) -> None:
    run_id = uuid4()
    id_ = run("create", run_id, "RUNNING", "--json").records[0]["id"]
    hint = "ids: a terminal of 120 columns, a pipe, or --json"
    for options in ((), ("--limit", 1)):
        with Terminal("list", run_id, *options, columns=columns) as terminal:
            assert terminal.end() == 0
            assert (id_ in terminal.text) == (columns >= 120)
            assert (" ".join(terminal.text.split()).endswith(hint)) == (columns < 120)
        piped = run("list", run_id, *options).out
        assert id_ in piped
        assert hint not in piped
    assert hint not in run("list", run_id, "--json").out


def test_a_pipe_has_all_columns_and_no_width(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, message = uuid4(), "why " * 39 + "so"
    id_ = run("create", run_id, "FAILED", "--name", "TimedOut", "--message", message, "--json").records[0]["id"]
    monkeypatch.setenv("COLUMNS", "80")
    listed = run("list", run_id, "--limit", 1).out.splitlines()[-1]
    assert re.fullmatch(rf"{run_id} \S+ \S+ +now × FAILED     {id_} TimedOut      {message}", re.sub(r"\d+s ago", "now", listed))  # noqa: RUF001
    monkeypatch.delenv("COLUMNS")
    history = run("list", run_id).out.splitlines()[4]
    assert re.fullmatch(rf"\S+ \S+  × FAILED  TimedOut +- +{id_}  {message}", history)  # noqa: RUF001


def test_a_text_is_told_from_nothing(url: str) -> None:
    shown = run("create", uuid4(), "RUNNING", "--message", "-").out
    assert re.search("^message +- *$", shown, re.MULTILINE)
    assert re.search("^data +null *$", shown, re.MULTILINE)


def test_a_terminal_without_unicode(url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "PENDING", "--name", "實行", "--message", "é")
    run("create", run_id, "RUNNING")
    done = process("list", run_id, PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert "#" in done.out
    assert "> RUNNING" in done.out
    assert "\\u5be6\\u884c" in done.out
    assert process("list", run_id, "--json", PYTHONIOENCODING="ascii").records[0]["name"] == "實行"


def test_colours_go_to_terminals_alone(url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "RUNNING")
    assert "\x1b" not in process("list", run_id).out
    assert "\x1b[36m" in process("list", run_id, FORCE_COLOR="1", TERM="xterm").out
    assert "\x1b[36m" not in process("list", run_id, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1").out
