"""The command line's questions: times and counts, the picture of a run, and what is bad input."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from uuid import UUID, uuid4
from xml.etree import ElementTree

import asyncpg
import pytest

import flowstates
from flowstates import FlowRunState, FlowRunStateRepository, NewFlowRunState, StateType
from flowstates.cli.options import length_of, moment_of, window_of
from flowstates.pictures.text import escape
from flowstates.values import Layout
from tests.test_cli import BEGIN, ODD, SOME_ID, Done, execute, plain_environment, process, run, url

pytestmark = pytest.mark.versions

__all__ = ["plain_environment", "url"]  # fixtures

HISTORY = ((0, "SCHEDULED", "Scheduled"), (10, "RUNNING", "Running"), (40, "RUNNING", "Retrying"), (60, "COMPLETED", "Completed"))
HOUR = ("--since", "2030-01-31T12:00:00Z", "--until", "2030-01-31T13:30:00Z")
MINUTE = 60_000_000  # microseconds


class Stored(NamedTuple):
    """Two runs with HISTORY, the second five minutes later, in a database of one layout."""

    options: tuple[str, ...]
    one: UUID
    two: UUID

    def run(self, command: str, *arguments: object) -> Done:
        return run(command, *arguments, *self.options)

    def seen(self, *arguments: object) -> list[tuple[int, str]]:
        """The number of the run and the name of each state that `list` prints as JSON."""
        done = self.run("list", *arguments, "--json")
        assert done.code == (0 if done.out else 1)
        found = [FlowRunState.model_validate(record) for record in done.records]
        return [((self.one, self.two).index(state.flow_run_id) + 1, state.name) for state in found]


@pytest.fixture(params=["flowstates", "prefect"])
def stored(request: pytest.FixtureRequest, layout_dsns: dict[Layout, str]) -> Iterator[Stored]:
    layout: Layout = request.param
    dsn, runs = layout_dsns[layout], sorted((uuid4(), uuid4()))
    states = [
        NewFlowRunState(flow_run_id=run_id, type=StateType(type_), timestamp=BEGIN + timedelta(minutes=minutes + 5 * number), name=name)
        for number, run_id in enumerate(runs)
        for minutes, type_, name in HISTORY
    ]

    async def fill() -> None:
        connection = await asyncpg.connect(dsn)
        if layout == "prefect":
            await connection.execute("insert into flow_run (id) select unnest($1::uuid[])", runs)
            insert = "insert into flow_run_state (flow_run_id, type, timestamp, name) values ($1, $2, $3, $4)"
            await connection.executemany(insert, [(state.flow_run_id, state.type, state.timestamp, state.name) for state in states])
        else:
            await FlowRunStateRepository(connection).create_flow_run_states(states)
        await connection.close()

    asyncio.run(fill())
    yield Stored(("--database-url", dsn, "--layout", layout), *runs)
    execute(dsn, "delete from flow_run_state where flow_run_id = any ($1)", runs)


def names(*numbers: int) -> list[tuple[int, str]]:
    return [(number, name) for number in numbers for _, _, name in HISTORY]


# export


def test_export_takes_the_filters(stored: Stored) -> None:
    done = stored.run("export", stored.one, stored.two, "--type", "RUNNING", "--until", "2030-01-31T12:41:00Z")
    assert stored.run("export", stored.one, stored.two, "--type", "RUNNING", "--until", "2030-01-31T12:41:00Z", "--json") == done
    assert [record["name"] for record in done.records] == ["Running", "Retrying", "Running"]
    assert (done.code, done.err) == (0, "exported 3 states\n")
    only = stored.run("export", stored.one, "--name", "Scheduled", "--open")
    (first,) = only.records
    assert only.err == "exported 1 state\n"
    assert stored.run("export", "--id", first["id"]).records == [first]
    assert stored.run("export", stored.one, "--terminal", "--since", "2031-01-01T00:00:00Z") == Done(0, "", "exported 0 states\n")
    assert stored.run("export", "--since", "2031-01-01").code == 2


# durations


def test_durations_of_runs(stored: Stored) -> None:
    runs = (stored.one, stored.two)
    records = {record["state"]: record for record in stored.run("durations", *runs, *HOUR, "--json").records}
    assert set(records) == {"SCHEDULED", "RUNNING", "COMPLETED"}
    assert records["RUNNING"] == {"flow_run_id": None, "state": "RUNNING", "visits": 2} | {
        f"{field}_microseconds": minutes * MINUTE for field, minutes in {"total": 100, "longest": 50, "p50": 50, "p95": 50, "p99": 50}.items()
    }
    assert (records["COMPLETED"]["visits"], records["COMPLETED"]["total_microseconds"]) == (2, 0)
    by_name = stored.run("durations", *runs, *HOUR, "--by", "name", "--per-run", "--name", "Retrying", "--json").records
    assert [(record["flow_run_id"], record["state"], record["total_microseconds"]) for record in by_name] == [
        (str(run_id), "Retrying", 20 * MINUTE) for run_id in runs
    ]
    assert [record["state"] for record in stored.run("durations", *runs, *HOUR, "--type", "running", "--json").records] == ["RUNNING"]


def test_durations_for_people(stored: Stored) -> None:
    done = stored.run("durations", stored.one, stored.two, *HOUR)
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[0] == "time in states, 2030-01-31 12:00:00 to 2030-01-31 13:30:00 UTC"
    assert lines[2].split() == ["state", "visits", "total", "longest", "p50", "p95", "p99"]
    assert [line.split()[:2] for line in lines[4:]] == [["○", "SCHEDULED"], ["►", "RUNNING"], ["√", "COMPLETED"]]
    assert re.fullmatch(r"► RUNNING +2 +1h 40m █+ +50m 00s 50m 00s 50m 00s 50m 00s", lines[5])
    assert re.fullmatch(r"√ COMPLETED +2( +-){5}", lines[6])
    assert max(map(len, lines)) <= 80
    per_run = stored.run("durations", stored.one, stored.two, *HOUR, "--per-run").out
    assert re.findall("^run (.*)$", per_run, re.MULTILINE) == [str(stored.one), str(stored.two)]
    assert re.search(r"^Retrying", stored.run("durations", stored.one, *HOUR, "--by", "name").out, re.MULTILINE)


def test_durations_of_nothing(stored: Stored) -> None:
    nothing = stored.run("durations", uuid4(), *HOUR)
    assert nothing == Done(1, "", "error: no states from 2030-01-31T12:00:00Z to 2030-01-31T13:30:00Z\n")
    assert stored.run("durations", stored.one, "--json").out == ""  # the last 24 hours, when the run had not begun


def test_durations_of_the_last_day(url: str) -> None:
    run_id, now = uuid4(), datetime.now(UTC)
    for hours, type_ in ((48, "PENDING"), (12, "RUNNING")):
        run("create", run_id, type_, "--timestamp", (now - timedelta(hours=hours)).isoformat())
    pending, running = run("durations", run_id, "--json").records
    assert (pending["state"], running["state"]) == ("PENDING", "RUNNING")
    assert abs(pending["total_microseconds"] - 12 * 60 * MINUTE) < MINUTE
    assert abs(running["total_microseconds"] - 12 * 60 * MINUTE) < MINUTE


# counts


def test_counts_of_transitions(stored: Stored) -> None:
    runs = (stored.one, stored.two)
    records = stored.run("counts", *runs, *HOUR, "--step", "30m", "--json").records
    assert [record["at"] for record in records] == ["2030-01-31T12:00:00Z", "2030-01-31T12:30:00Z", "2030-01-31T13:00:00Z"]
    assert all(list(record["counts"]) == list(StateType) for record in records)
    assert [{type_: count for type_, count in record["counts"].items() if count} for record in records] == [
        {"SCHEDULED": 2, "RUNNING": 2},
        {"RUNNING": 2},
        {"COMPLETED": 2},
    ]
    lines = [line.rstrip() for line in stored.run("counts", *runs, *HOUR, "--step", "30m").out.splitlines()]
    assert lines[0] == "states that began in each 30m"
    assert lines[2].split() == ["time", "(UTC)", "○", "SCHEDULED", "►", "RUNNING", "√", "COMPLETED"]
    assert re.fullmatch("2030-01-31 12:00 +2 +2 +- █+", lines[4])
    assert [line.count("█") for line in lines[4:]] == [lines[4].count("█"), *[round(lines[4].count("█") / 2)] * 2]
    assert max(map(len, lines)) == 80


def test_counts_of_occupancy(stored: Stored) -> None:
    runs = (stored.one, stored.two)
    found = stored.run("counts", *runs, *HOUR, "--step", "30m", "--occupancy", "--json").records
    assert [{type_: count for type_, count in record["counts"].items() if count} for record in found] == [
        {"SCHEDULED": 1},
        {"RUNNING": 2},
        {"RUNNING": 1},
    ]
    with_ended = stored.run("counts", *runs, *HOUR, "--step", "30m", "--occupancy", "--terminal", "--json").records
    assert with_ended[2]["counts"]["COMPLETED"] == 1
    assert stored.run("counts", *runs, *HOUR, "--occupancy").out.startswith("runs in each type, every 1h\n")


def test_counts_of_nothing_are_still_there_for_programs(stored: Stored) -> None:
    error = "error: no {} from 2030-01-31T12:00:00Z to 2030-01-31T13:30:00Z\n"
    assert stored.run("counts", uuid4(), *HOUR) == Done(1, "", error.format("states"))
    assert stored.run("counts", uuid4(), *HOUR, "--occupancy") == Done(1, "", error.format("runs at the beginnings of these steps,"))
    done = stored.run("counts", uuid4(), *HOUR, "--json")
    assert (done.code, [sum(record["counts"].values()) for record in done.records]) == (1, [0, 0])


@pytest.mark.parametrize(("step", "length"), [("30s", 30), ("15m", 900), ("1h", 3600), ("1d", 86_400), ("1w", 604_800)])
def test_without_a_window_it_is_24_whole_steps_and_the_one_that_runs(step: str, length: int, url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "RUNNING")
    times = [datetime.fromisoformat(record["at"]) for record in run("counts", run_id, "--step", step, "--json").records]
    assert len(times) in (24, 25)
    assert all((time - datetime(2024, 1, 1, tzinfo=UTC)) % timedelta(seconds=length) == timedelta(0) for time in times)  # a Monday
    assert datetime.now(UTC) - times[-1] < timedelta(seconds=length + 30)


@pytest.mark.parametrize("occupancy", [(), ("--occupancy",)])
@pytest.mark.parametrize(("since", "step", "most"), [("2d", "6h", 9), ("1w", "1d", 8), ("1h30m", "30m", 4), ("30s", "1h", 2)])
def test_a_beginning_that_is_so_long_ago_is_on_a_whole_step(since: str, step: str, most: int, occupancy: tuple[str, ...], url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "RUNNING")
    times = [datetime.fromisoformat(record["at"]) for record in run("counts", run_id, "--since", since, "--step", step, "--json", *occupancy).records]
    assert len(times) in (most - 1, most)
    assert all((time - BEGIN.replace(hour=0)) % length_of(step) == timedelta(0) for time in times)
    assert times[0] <= datetime.now(UTC) - length_of(since) + timedelta(minutes=1)


def test_a_beginning_that_is_a_time_stays_it(url: str) -> None:
    run_id, begin = uuid4(), (datetime.now(UTC) - timedelta(minutes=90)).replace(second=7, microsecond=0)
    run("create", run_id, "RUNNING")
    times = [record["at"] for record in run("counts", run_id, "--since", f"{begin:%FT%TZ}", "--step", "1h", "--json").records]
    assert times == [f"{begin:%FT%TZ}", f"{begin + timedelta(hours=1):%FT%TZ}"]


def test_two_times_that_are_said_from_now_are_of_one_clock() -> None:
    begin, end = window_of(moment_of("2d"), moment_of("1d"), timedelta(0), step=timedelta(hours=6))
    assert end - begin == timedelta(days=1)


# timeline


def test_a_timeline_of_each_layout(stored: Stored, tmp_path: Path) -> None:
    done = stored.run("timeline", stored.one, "--width", 70)
    assert done.code == 0
    assert re.search("^│Scheduled─+│Running─+│Retrying─+C$", done.out, re.MULTILINE)
    records = stored.run("timeline", stored.one, "--json").records
    assert [(record["type"], record["name"], record["microseconds"]) for record in records] == [
        ("SCHEDULED", "Scheduled", 10 * MINUTE),
        ("RUNNING", "Running", 30 * MINUTE),
        ("RUNNING", "Retrying", 20 * MINUTE),
        ("COMPLETED", "Completed", 0),
    ]
    assert (records[0]["since"], records[0]["until"], records[3]["until"]) == ("2030-01-31T12:00:00Z", "2030-01-31T12:10:00Z", None)
    file = tmp_path / "run.svg"
    assert stored.run("timeline", stored.one, "--svg", file) == Done(0, "", f"written: {file}\n")
    with_json = stored.run("timeline", stored.one, "--svg", file, "--json")
    assert (with_json.records, with_json.err) == (records, f"written: {file}\n")
    assert stored.run("timeline", stored.one, "--svg", "-") == Done(0, file.read_text(encoding="utf-8"), "")
    assert stored.run("timeline", uuid4(), "--svg", tmp_path / "none.svg").code == 1
    assert not (tmp_path / "none.svg").exists()


def test_a_chart_is_utf_8_on_any_terminal(url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "COMPLETED", "--name", "é", "--timestamp", "2020-01-01T00:00:00Z")
    done = process("timeline", run_id, "--svg", "-", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert "é" in "".join(ElementTree.fromstring(done.out).itertext())  # it is our own


def test_pictures_do_without_colours_and_unicode(url: str) -> None:
    run_id = uuid4()
    run("create", run_id, "PENDING", "--timestamp", "2020-01-01T00:00:00Z")
    run("create", run_id, "RUNNING", "--timestamp", "2020-01-01T01:00:00Z", "--name", "é")
    plain = process("timeline", run_id, PYTHONIOENCODING="ascii")
    assert re.search(r"^P\|\\xe9-+$", plain.out, re.MULTILINE)
    assert "\x1b" not in process("timeline", run_id).out
    coloured = process("timeline", run_id, FORCE_COLOR="1", TERM="xterm")
    assert "46m│é " in coloured.out
    no_color = process("timeline", run_id, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")
    assert "46m" not in no_color.out
    assert "│é─" in no_color.out
    counted = process("counts", run_id, "--since", "2020-01-01T00:00:00Z", "--until", "2020-01-01T03:00:00Z", PYTHONIOENCODING="ascii")
    assert [line.count("#") > 0 for line in counted.out.splitlines()[4:]] == [True, True, False]
    measured = process("durations", run_id, "--since", "2020-01-01T00:00:00Z", "--until", "2020-01-01T03:00:00Z", PYTHONIOENCODING="ascii")
    assert measured.out.count("#") == 6 + 12


# check --plans


@dataclass(frozen=True)
class SlowQuestion:
    question: str
    plan: str
    index: str | None
    rows: int


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[SlowQuestion]:
    """What a check of plans finds, for a test to fill."""
    found: list[SlowQuestion] = []
    module = ModuleType("flowstates.database.plans")

    async def check_plans(pool_or_connection: object, *, layout: str = "flowstates", timeout: float | None = None) -> list[SlowQuestion]:
        assert isinstance(pool_or_connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy)
        assert layout in ("flowstates", "prefect")
        return found

    module.check_plans = check_plans  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flowstates.database.plans", module)
    monkeypatch.setattr(flowstates, "plans", module, raising=False)
    return found


def test_slow_questions_are_named(slow: list[SlowQuestion], layout_dsns: dict[Layout, str]) -> None:
    for layout, dsn in layout_dsns.items():
        options = ("--layout", layout, "--database-url", dsn)
        slow.clear()
        done = run("check", "--plans", *options)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"the database fits the layout {layout}\nno question would be slow\n")
        assert run("check", "--plans", "--json", *options) == Done(0, "", "")
        slow += [
            SlowQuestion("pages by time", "Sort\n  Seq Scan\x1b[31m", "create index on t (a)", 1_000_000),
            SlowQuestion("other", "Scan", None, 5),
        ]
        assert run("check", *options).code == 0
        done = run("check", "--plans", *options)
        assert (done.code, done.err) == (1, "")
        assert done.out.splitlines()[1:] == [
            "slow: pages by time: about 1,000,000 rows",
            "  Sort",
            "    Seq Scan\\x1b[31m",
            "  an index that would help: create index on t (a)",
            "slow: other: about 5 rows",
            "  Scan",
            "  an index that would help: none",
        ]
        records = run("check", "--plans", "--json", *options).records
        assert records == [asdict(question) for question in slow]


def test_plans_are_not_asked_for_where_the_tables_are_not_there(slow: list[SlowQuestion], own_dsn: str) -> None:
    slow.append(SlowQuestion("never", "", None, 0))
    done = run("check", "--plans", "--database-url", own_dsn)
    assert done.code == 1
    assert "never" not in done.out
    assert "no question" not in done.out


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("list", "no-uuid"), "RUN_ID"),
        (("list", "--id", "no-uuid"), "--id"),
        (("list", "--type", "DONE"), "--type"),
        (("list", "--name", "a\udcffb"), "names: "),
        (("list", "--since", "tomorrow"), "'tomorrow' is not a time such as 2030-01-31T12:00:00Z, 2h (ago), today or yesterday"),
        (("list", "--since", "2030-01-31T12:00:00+05:70"), "'2030-01-31T12:00:00+05:70' is not a time"),
        (("list", "--until", "2 h"), "'2 h' is not a time"),
        (("list", "--since", "0h"), "'0h' is not a length"),
        (("list", "--since", "999999w"), "999999w ago is before the year 1"),
        (("list", "--follow", "--cursor", "x", "--newest-first"), "--follow: goes on for ever, oldest first: leave out --newest-first, --cursor"),
        (("list", SOME_ID, "--follow", "--last", "1"), "--follow: goes on for ever, oldest first: leave out --last"),
        (("list", "--follow", "--until", "today"), "--follow: goes on for ever, oldest first: leave out --until"),
        (("list", "--since", "2030-01-31T12:00:00"), "'2030-01-31T12:00:00' has no time zone: write 2030-01-31T12:00:00Z or"),
        (("list", "--until", "2030-01-31"), "write 2030-01-31T00:00:00Z or"),
        (("list", "--since", "0001-01-01T00:00:00+01:00"), "outside the years 1 to 9999"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--limit", "1001"), "--limit"),
        (("list", "--limit", "x"), "--limit"),
        (("list", "--order", "size"), "--order"),
        (("list", "--cursor", "x"), "cursor: is not a cursor of this version"),
        (("list", "--cursor", ""), "cursor: is not a cursor of this version"),
        (("list", "--last", "2"), "--last: takes the runs that it is asked of"),
        (("list", SOME_ID, "--last", "0"), "--last"),
        (("list", SOME_ID, "--last", "2", "--type", "RUNNING", "--open"), "--last: takes runs alone, not --type, --terminal or --open"),
        (("list", SOME_ID, "--last", "2", "--limit", "2"), "--last: takes runs alone, not --limit"),
        (("list", SOME_ID, "--last", "2", "--as-of", "2030-01-31T12:00:00Z"), "--last: takes runs alone, not --as-of"),
        (("list", "--as-of", "2030-01-31T12:00:00Z"), "--as-of: takes the runs that it is asked of"),
        (("list", SOME_ID, "--as-of", "now"), "'now' is not a time"),
        (("list", SOME_ID, "--as-of", "2030-01-31T12:00:00Z", "--newest-first"), "--as-of: takes runs alone, not --newest-first"),
        (("list", SOME_ID, "--clock", "created"), "--clock: goes with --as-of"),
        (("list", SOME_ID, "--as-of", "2030-01-31T12:00:00Z", "--clock", "wall"), "--clock"),
        (("export", "--type", "DONE"), f"'DONE' is not one of {', '.join(StateType)}"),
        (("list", "--type", "running,DONE"), f"'DONE' is not one of {', '.join(StateType)}"),
        (("runs", "--type", "running,"), "'' is not one of SCHEDULED, PENDING"),
        (("prune", "--older-than", "1d", "--type", "RUNING"), "'RUNING' is not one of SCHEDULED, PENDING"),
        (("create", SOME_ID, "RUNING"), f"'RUNING' is not one of {', '.join(StateType)}"),
        (("export", "--since", "now"), "'now' is not a time"),
        (("durations", "--since", "2030-01-31T12:00:00Z", "--until", "2030-01-31T11:00:00Z"), "until: "),
        (("durations", "--until", "0001-01-01T00:00:00Z"), "until: makes a time that is outside the years 1 to 9999"),
        (("durations", "--since", "0001-01-01T00:00:00+01:00"), "since: makes a time that is outside the years 1 to 9999"),
        (("durations", "--by", "size"), "--by"),
        (("durations", "--until", "2030-01-31T12:00:00"), "has no time zone"),
        (("counts", "--step", "0h"), "'0h' is not a length such as 30s, 15m, 1h30m, 1d or 1w"),
        (("counts", "--step", "1 hour"), "'1 hour' is not a length"),
        (("counts", "--step", "-1h"), "--step"),
        (("counts", "--step", "9999999w"), "'9999999w' is not a length"),
        (("counts", "--step", "999999w"), "until: makes a time that is outside the years 1 to 9999"),
        (("counts", "--since", "2000-01-01T00:00:00Z", "--step", "1s"), "step: "),
        (("counts", "--since", "2030-01-31T12:00:00Z", "--until", "2030-01-31T11:00:00Z", "--occupancy"), "until: "),
        (("counts", "--terminal"), "--terminal: goes with --occupancy"),
        (("timeline",), "RUN_ID"),
        (("timeline", SOME_ID, "--width", "39"), "--width"),
        (("timeline", SOME_ID, "--width", "80", "--svg", "-"), "--width: goes with the printed picture, not with --svg"),
        (("timeline", SOME_ID, "--svg", "-", "--json"), "--svg: - is standard output, where --json prints"),
    ],
    ids=lambda value: " ".join(map(str, value))[:70] if isinstance(value, tuple) else "",
)
def test_bad_input_is_2(arguments: tuple[object, ...], error: str, url: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "rror: " in done.err.splitlines()[-1]
    assert error in done.err.splitlines()[-1]


def test_a_picture_that_cannot_be_written_is_bad_input(stored: Stored, tmp_path: Path) -> None:
    done = stored.run("timeline", stored.one, "--svg", tmp_path / "none" / "run.svg")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: --svg: cannot be written: ")


def test_a_missing_table_is_1(own_dsn: str) -> None:
    for command in (("list",), ("list", SOME_ID, "--last", 1), ("durations",), ("counts",), ("counts", "--occupancy"), ("timeline", SOME_ID)):
        done = run(*command, "--database-url", own_dsn)
        assert (done.code, done.out) == (1, "")


# What others wrote


def test_odd_names_stay_text(url: str, tmp_path: Path) -> None:
    run_id, odd = uuid4(), ODD.replace("\x00", "")
    run("create", run_id, "RUNNING", "--name", odd, "--message", odd, "--timestamp", "2030-01-31T12:00:00Z")
    run("create", run_id, "PAUSED", "--name", "[/]" * 2, "--timestamp", "2030-01-31T12:20:00Z")
    for command in (("list", run_id, "--limit", 5), ("timeline", run_id), ("durations", run_id, *HOUR, "--by", "name")):
        for columns in ("80", "200"):
            done = process(*command, COLUMNS=columns)
            assert done.code == 0
            assert "[red]a[/red]" in done.out
            assert "[/]" in done.out
            assert not [c for c in done.out.replace("\n", "") if escape(c) != c]
    assert run("timeline", run_id, "--svg", tmp_path / "run.svg").code == 0
    ElementTree.parse(tmp_path / "run.svg")  # it is our own
    names = [json.loads(line)["name"] for line in run("timeline", run_id, "--json").out.splitlines()]
    assert names[0] == odd


def test_the_questions_say_what_they_take() -> None:
    for command in ("list", "durations", "counts", "timeline"):
        done = process(command, "--help")
        assert done.code == 0
        assert "--json" in done.out
        assert "RUN_ID" in done.out
