"""Lists of states: filters, pages, orders, times that are said from now, and states as they come."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
import typer

from flowstates import FlowRunState, FlowRunStateFilter, FlowRunStateRepository, NewFlowRunState, StateType, create_pool, migrate
from flowstates.cli import follow
from flowstates.cli.options import length_of, moment_of
from tests.terminals import CTRL_C, Terminal
from tests.test_cli import BEGIN, ROOT, SOME_ID, Done, execute, plain_environment, run, url
from tests.test_cli_questions import HISTORY, Stored, names, stored

pytestmark = pytest.mark.versions

__all__ = ["plain_environment", "stored", "url"]  # fixtures


def test_each_filter_lets_through_what_it_says(stored: Stored) -> None:
    one, two = stored.one, stored.two
    assert stored.seen(one, two) == names(1, 2)
    assert stored.seen(two, one, two) == names(1, 2)
    assert stored.seen(one, two, "--type", "scheduled, COMPLETED") == stored.seen(one, two, "--type", "scheduled", "--type", "COMPLETED")
    assert stored.seen(one, two, "--type", "scheduled", "--type", "COMPLETED") == [(n, s) for n, s in names(1, 2) if s in ("Scheduled", "Completed")]
    assert stored.seen(one, two, "--name", "Retrying", "--name", "other") == [(1, "Retrying"), (2, "Retrying")]
    assert stored.seen(one, "--terminal") == [(1, "Completed")]
    assert stored.seen(one, "--open") == names(1)[:3]
    assert stored.seen(one, two, "--since", "2030-01-31T13:00:00+01:00", "--until", "2030-01-31T12:10:00Z") == [(1, "Scheduled"), (2, "Scheduled")]
    assert stored.seen(one, "--since", "2030-01-31T13:00:00Z") == [(1, "Completed")]
    ids = [record["id"] for record in stored.run("list", one, "--json").records]
    assert stored.seen("--id", ids[0], "--id", ids[2]) == [(1, "Scheduled"), (1, "Retrying")]
    assert stored.seen("--id", ids[0], "--type", "RUNNING") == []


def test_pages_joined_are_one_list(stored: Stored) -> None:
    runs = (stored.one, stored.two)
    in_time = [(n, name) for pair in zip(names(1), names(2), strict=True) for n, name in pair]
    for options, expected in (((), names(1, 2)), (("--newest-first",), names(1, 2)[::-1]), (("--order", "time"), in_time)):
        found: list[tuple[int, str]] = []
        cursor: tuple[str, ...] = ()
        while True:
            page = (*runs, *options, "--limit", 3, *cursor)
            found += stored.seen(*page)
            done = stored.run("list", *page)
            assert done.code == 0
            if not done.err:
                break
            cursor = ("--cursor", re.fullmatch(r"next page: --cursor (\S+)\n", done.err)[1])  # type: ignore[index]
        assert found == expected
        assert stored.run("list", *runs, "--type", "RUNNING", *options, *cursor).code == 2


def test_the_newest_states_of_runs(stored: Stored) -> None:
    assert stored.seen(stored.two, uuid4(), stored.one, "--last", 2) == [*names(2)[2:], *names(1)[2:]]
    assert stored.seen(uuid4(), "--last", 2) == []


def test_the_states_at_a_moment(stored: Stored) -> None:
    runs = (stored.one, stored.two)
    assert stored.seen(*runs, "--as-of", "2030-01-31T12:12:00Z") == [(1, "Running"), (2, "Scheduled")]
    assert stored.seen(*runs, "--as-of", "2030-01-31T12:04:00Z", "--clock", "timestamp") == [(1, "Scheduled")]
    assert stored.seen(*runs, "--as-of", "2020-01-31T12:04:00Z") == []
    assert stored.seen(*runs, "--as-of", "2029-01-31T12:04:00Z", "--clock", "created") == [(1, "Completed"), (2, "Completed")]
    assert stored.run("list", *runs, "--as-of", "2020-01-31T12:04:00Z") == Done(1, "", "error: no such states\n")


def test_a_run_alone_keeps_its_history_and_the_rest_are_lines(stored: Stored) -> None:
    assert stored.run("list", stored.one).out.startswith(f"run {stored.one}\n")
    with Terminal("list", stored.one, stored.two, *stored.options) as terminal:
        assert terminal.end() == 0
        header, rule, *lines, _ = terminal.text.splitlines()
    assert header.split() == ["run", "time", "(UTC)", "type"]
    assert set(rule.strip()) == {"─"}
    assert re.fullmatch(rf"{stored.two} 2030-01-31 12:15:00 +(in \d+[dy]|\d+[dy] ago) ► RUNNING", lines[6])
    assert lines[3] == "  Retrying"  # the name where it says more than the type
    assert len(lines) == 8 + 2
    assert max(map(len, lines)) <= 80
    with Terminal("list", stored.one, "--last", 1, *stored.options, columns=160) as terminal:
        assert terminal.end() == 0
        assert terminal.text.splitlines()[0].split() == ["run", "time", "(UTC)", "type", "id", "message"]
    assert stored.run("list", stored.one, "--last", 1).out.splitlines()[0].split() == ["run", "time", "(UTC)", "type", "id", "name", "message"]


@pytest.mark.parametrize("columns", [60, 80, 120, 160])
def test_a_list_says_why_a_state_failed(columns: int, url: str) -> None:
    run_id, why = uuid4(), "ValueError: there are no rows to report for the day"
    run("create", run_id, "FAILED", "--message", f"{why}\nTraceback\x1b[2J")
    run("create", run_id, "FAILED", "--name", "TimedOut", "--timestamp", "2100-01-01T00:00:00Z")
    with Terminal("list", run_id, "--type", "failed", columns=columns) as terminal:
        assert terminal.end() == 0
        text = " ".join(terminal.text.split())
        assert max(map(len, terminal.text.splitlines())) <= columns
    assert "TimedOut" in text
    assert (why[:30] if columns == 160 else why) in text
    assert "Failed" not in text
    assert str(run_id) in text
    assert "\x1b" not in text


def test_without_a_run_it_is_the_newest_first(own_dsn: str) -> None:
    options = ("--database-url", own_dsn)
    run("migrate", *options)
    now = datetime.now(UTC).replace(microsecond=0)
    times = [now - timedelta(minutes=minutes) for minutes in (50, 200, 10, 100)]
    states = [NewFlowRunState(flow_run_id=UUID(int=number), type=StateType.RUNNING, timestamp=time) for number, time in enumerate(times)]
    asyncio.run(_states(own_dsn, states))

    def minutes(*arguments: object) -> list[int]:
        found = [FlowRunState.model_validate(record) for record in run("list", *arguments, "--json", *options).records]
        return [(now - state.timestamp) // timedelta(minutes=1) for state in found]

    assert minutes() == minutes("--type", "running") == minutes("--newest-first") == [10, 50, 100, 200]
    assert minutes("--order", "time") == [200, 100, 50, 10]
    assert minutes("--order", "run") == minutes(*[state.flow_run_id for state in states]) == [50, 200, 10, 100]
    assert minutes("--since", "2h") == [10, 50, 100]
    assert minutes("--until", "30m", "--since", "150m") == [50, 100]
    assert minutes(states[1].flow_run_id, "--as-of", "1w") == []
    assert minutes(states[1].flow_run_id, "--as-of", "190m") == [200]
    page = run("list", "--since", "2h", "-n", 2, "--json", *options)
    hint = page.err.split()
    assert hint[:3] == ["next", "page:", "--since"]
    assert minutes("-n", 2, *hint[2:]) == [100]


def test_times_that_are_said_from_now() -> None:
    before = datetime.now(UTC)
    texts = ("90s", "2h", "3d", "1w", "1h30m", "1w2d3h4m5s6ms", "today", "Yesterday")
    found = {text: moment_of(text).at(before) for text in texts}
    days = {day.replace(hour=0, minute=0, second=0, microsecond=0) for day in (before, datetime.now(UTC))}
    assert found["today"] in days
    assert found["Yesterday"] + timedelta(days=1) in days
    all_units = timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5, milliseconds=6)
    lengths = timedelta(seconds=90), timedelta(hours=2), timedelta(days=3), timedelta(weeks=1), timedelta(minutes=90), all_units
    assert [before - found[text] for text in texts[:6]] == list(lengths)
    assert moment_of("2030-01-31T13:00:00+01:00").at(before) == BEGIN


@pytest.mark.parametrize("text", ["", "h", "1", "1h30", "30m1h", "1h1h", "1 h", "1.5h", "-1h", "1hm", "1h30mm", "1mss", "٣h"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a length such as 30s, 15m, 1h30m, 1d or 1w"):
        length_of(text)


def test_without_a_run_it_is_the_first_page_of_all(own_dsn: str) -> None:
    run("migrate", "--database-url", own_dsn)
    assert run("list", "--database-url", own_dsn) == Done(1, "", "error: no such states\n")
    asyncio.run(_states(own_dsn, [NewFlowRunState(flow_run_id=SOME_ID, type=StateType.RUNNING, timestamp=BEGIN) for _ in range(101)]))
    done = run("list", "--database-url", own_dsn, "--json")
    assert (done.code, len(done.records), done.err.split()[:3]) == (0, 100, ["next", "page:", "--cursor"])
    rest = run("list", "--database-url", own_dsn, "--json", "--cursor", done.err.split()[-1])
    assert (rest.code, len(rest.records), rest.err) == (0, 1, "")


async def _states(dsn: str, states: Sequence[NewFlowRunState]) -> None:
    connection = await asyncpg.connect(dsn)
    await FlowRunStateRepository(connection).create_flow_run_states(states)
    await connection.close()


# States as they come


def test_new_states_are_shown_until_ctrl_c(stored: Stored) -> None:
    """In a terminal; the states of HISTORY are there before."""
    with Terminal("list", stored.one, "--follow", "-n", 2, *stored.options) as terminal:
        terminal.until("√ COMPLETED")
        assert "ago" not in terminal.text
        insert(stored, stored.one, "FAILED", "why it did")
        insert(stored, stored.two, "CRASHED", "of another run")
        terminal.until(r"× FAILED\n  why it did\n")  # noqa: RUF001
        insert(stored, stored.one, "PAUSED", None)
        terminal.until("║ PAUSED")
        terminal.type_in(CTRL_C)
        assert terminal.end() == 130
        assert terminal.text.count("FAILED") == terminal.text.count("√ COMPLETED") == 1
        assert "SCHEDULED" not in terminal.text  # it was there, though its time is yet to come
        assert "CRASHED" not in terminal.text
        assert "Traceback" not in terminal.text


def test_new_states_are_json_lines_for_programs(stored: Stored) -> None:
    command = ["list", "--follow", str(stored.one), "--since", "1h", "--json", *stored.options]
    with subprocess.Popen(
        [sys.executable, "-m", "flowstates.cli", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert [json.loads(following.stdout.readline())["name"] for _ in HISTORY] == [name for _, _, name in HISTORY]
        insert(stored, stored.one, "FAILED", "why")
        assert json.loads(following.stdout.readline())["message"] == "why"
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stdout.read(), following.stderr.read()) == (130, "", "")


def insert(stored: Stored, run_id: UUID, type_: str, message: str | None) -> None:
    values = "insert into flow_run_state (flow_run_id, type, name, message, timestamp) values ($1, $2, $3, $4, clock_timestamp())"
    execute(stored.options[1], values, run_id, type_, type_.title(), message)


async def test_each_new_state_comes_once_and_in_the_order_of_time(own_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PAUSE", 0.01)
    monkeypatch.setattr(follow, "MOST_OF_A_PAGE", 3)
    async with create_pool(own_dsn) as pool:
        await migrate(pool)
        states = FlowRunStateRepository(pool)
        old = [await states.create_flow_run_state(uuid4(), "RUNNING") for _ in range(20)]
        clock = await pool.fetchval("select clock_timestamp()")
        found = follow._new(states, FlowRunStateFilter(types=["RUNNING"]), clock, 5)
        assert await anext(found) == old[-5:]
        since = follow._new(states, FlowRunStateFilter(since=old[12].timestamp), clock, 5)
        assert [state for _ in range(5) for state in await anext(since)] == old[12:]

        async def more() -> list[FlowRunState]:
            """What has come when twenty questions have brought nothing more."""
            came: list[FlowRunState] = []
            empty = 0
            async for new in found:
                came += new
                empty = 0 if new else empty + 1
                if empty == 20:
                    return came
            raise AssertionError

        assert await more() == []
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            late = await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), "RUNNING")
            await states.create_flow_run_state(uuid4(), "FAILED")
            new = [await states.create_flow_run_state(uuid4(), "RUNNING") for _ in range(7)]
            ahead = await states.create_flow_run_state(uuid4(), "RUNNING", timestamp=clock + timedelta(days=1))
            assert await more() == [*new, ahead]
            await transaction.commit()
        assert await more() == [late]
        # One that is a day ahead holds up none.
        last = await states.create_flow_run_state(uuid4(), "RUNNING")
        assert await more() == [last]
