"""The command that shows current states."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from rich.console import Console

from flowstates import FlowRunState, FlowRunStateRepository, NewFlowRunState, StateType, migrate
from flowstates.cli.runs import print_runs
from tests.conftest import Pool
from tests.servers import POINT_AT_NEWEST, PREFECT_TABLES
from tests.test_cli import Done, plain_environment, run, state

pytestmark = pytest.mark.versions

__all__ = ["plain_environment"]  # a fixture

RUNS = [UUID(int=number) for number in range(1, 4)]
NOW = datetime.now(UTC)
STATES = [
    NewFlowRunState(flow_run_id=RUNS[0], type="PENDING", timestamp=NOW - timedelta(days=3)),
    NewFlowRunState(flow_run_id=RUNS[0], type="RUNNING", timestamp=NOW - timedelta(days=2), message="on worker 7\nand more"),
    NewFlowRunState(flow_run_id=RUNS[1], type="RUNNING", timestamp=NOW - timedelta(minutes=5)),
    NewFlowRunState(flow_run_id=RUNS[2], type="FAILED", timestamp=NOW - timedelta(minutes=1), name="TimedOut\x1b[0m", message="no answer"),
]


@pytest.fixture(params=["flowstates", "prefect"])
def options(request: pytest.FixtureRequest, own_dsn: str) -> tuple[str, ...]:
    async def fill() -> None:
        connection = await asyncpg.connect(own_dsn)
        if request.param == "prefect":
            await connection.execute(PREFECT_TABLES)
            await connection.execute("insert into flow_run (id) select unnest($1::uuid[])", RUNS)
            insert = "insert into flow_run_state (flow_run_id, type, timestamp, name, message) values ($1, $2, $3, $4, $5)"
            await connection.executemany(insert, [(state.flow_run_id, state.type, state.timestamp, state.name, state.message) for state in STATES])
            await connection.execute(POINT_AT_NEWEST["prefect"], None)
        else:
            await migrate(connection)
            await FlowRunStateRepository(connection).create_flow_run_states(STATES)
        await connection.close()

    asyncio.run(fill())
    return ("--database-url", own_dsn, "--layout", request.param)


def seen(done: Done) -> list[UUID]:
    return [FlowRunState.model_validate(record).flow_run_id for record in done.records]


def test_a_line_a_run_the_last_moved_first(options: tuple[str, ...]) -> None:
    done = run("runs", *options)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines() if line.startswith("0000")]
    assert [line[0] for line in lines] == [str(run_id) for run_id in reversed(RUNS)]
    assert lines[0][1:4] == ["×", "FAILED", r"TimedOut\x1b[0m"]  # noqa: RUF001
    assert lines[0][-2:] == ["no", "answer"]
    assert lines[1][1:3] == ["►", "RUNNING"]
    assert re.search(r"2d 00h ago +on worker 7 \.\.\.", done.out)


def test_filters_and_pages(options: tuple[str, ...]) -> None:
    assert seen(run("runs", "--type", "running", "--json", *options)) == [RUNS[1], RUNS[0]]
    assert seen(run("runs", "--type", "running", "--longer-than", "1h", "--json", *options)) == [RUNS[0]]
    assert seen(run("runs", "--name", "Running", "--json", *options)) == [RUNS[1], RUNS[0]]
    page = run("runs", "-n", "2", "--json", *options)
    assert seen(page) == [RUNS[2], RUNS[1]]
    assert seen(run("runs", "-n", "2", "--cursor", page.err.split()[-1], "--json", *options)) == [RUNS[0]]
    assert run("runs", "--longer-than", "1w", *options) == Done(1, "", "error: no such runs\n")
    assert run("runs", "--longer-than", "1w", "--cursor", "x", *options).code == 2
    assert "more runs" in run("runs", "--longer-than", "1s", "-n", "1", *options).err


async def test_in_a_narrow_terminal_what_is_said_has_a_line_of_its_own(pool: Pool) -> None:
    states, run_id = FlowRunStateRepository(pool), UUID(int=2**100)
    stopping = await states.create_flow_run_state(run_id, StateType.CANCELLING, name="Stopping", message="by hand")
    line = f"□ CANCELLING {stopping.timestamp:%F %T}    1h ago"
    for width, begin in ((80, [f"{run_id} {line}"]), (78, [f"run {run_id}", line])):
        console = Console(width=width)
        with console.capture() as capture:
            print_runs(console, [stopping], now=stopping.timestamp + timedelta(hours=1))
        lines = [line.rstrip() for line in capture.get().splitlines()]
        assert max(map(len, lines)) <= width
        assert lines[-len(begin) - 1 :] == [*begin, "  Stopping  by hand"]
        assert [line.split() for line in lines[: -len(begin) - 1]] == ([["run", "state", "since", "(UTC)"], ["─" * 79]] if width == 80 else [])
    await states.delete_flow_run_state(stopping.id)


@pytest.mark.parametrize("width", [110, 120, 200])
def test_a_wide_terminal_has_a_line_a_run_and_cuts_messages_alone(width: int) -> None:
    why = state(StateType.CANCELLING, 0, name="Stopping", message="long " * 40)
    console = Console(width=width)
    with console.capture() as capture:
        print_runs(console, [why], now=why.timestamp + timedelta(days=3))
    line = capture.get().splitlines()[2]
    assert line.startswith(f"{why.flow_run_id} □ CANCELLING 2030-01-31 12:00:00  3d 00h ago Stopping  long ")
    assert line.endswith("…")
    assert len(line) == width
