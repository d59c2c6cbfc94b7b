"""`flowstates prune`: what it says, asks and ends with."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flowstates import FlowRunStateRepository, StateType, create_pool, migrate
from flowstates.cli import prune
from tests.conftest import Pool
from tests.servers import create_database, drop_database
from tests.terminals import CTRL_C, CTRL_D, Terminal
from tests.test_cli import Done, run
from tests.test_retention import DAY, lengths, make

pytestmark = pytest.mark.versions


async def _on(dsn: str, work: Callable[[Pool], Any]) -> Any:
    async with create_pool(dsn, max_size=1) as pool:
        await migrate(pool)
        return await work(pool)


def on(dsn: str, work: Callable[[Pool], Any]) -> Any:
    """A command has an event loop of its own, so these tests have none."""
    return asyncio.run(_on(dsn, work))


@pytest.fixture
def own(server_dsn: str) -> Any:
    dsn = asyncio.run(create_database(server_dsn))
    on(dsn, lambda pool: make(pool, 0))
    yield dsn
    asyncio.run(drop_database(server_dsn, dsn))


def pruned(dsn: str, *arguments: object) -> Done:
    return run("prune", "--database-url", dsn, *arguments)


def left(dsn: str, runs: list[UUID]) -> list[int]:
    return on(dsn, lambda pool: lengths(pool, runs))  # type: ignore[no-any-return]


def test_whole_runs_go(own: str) -> None:
    runs = on(own, lambda pool: make(pool, 3))
    done = pruned(own, "--older-than", "90d", "--yes", "--batch-size", 4)
    assert (done.code, left(own, runs)) == (0, [0, 0, 0])
    assert done.out.startswith("deleted: 12 states of 3 runs, 1.3 KiB of rows\n")
    assert done.err.splitlines() == [f"batch {n}: {4 * n} states of {n} {'run' if n == 1 else 'runs'} so far" for n in (1, 2, 3)]


def test_sizes_read_well() -> None:
    sizes = {0: "0 bytes", 1: "1 byte", 1023: "1,023 bytes", 1024: "1.0 KiB", 2**20: "1.0 MiB", 2**30: "1,024.0 MiB"}
    assert {size: prune._size(size) for size in sizes} == sizes


def test_more_to_do_is_four(own: str) -> None:
    runs = on(own, lambda pool: make(pool, 3))
    done = pruned(own, "--older-than", "90d", "--yes", "--batch-size", 4, "--max-batches", 2, "--pause", "1ms", "--json")
    assert (done.code, done.err, left(own, runs)) == (4, "", [0, 0, 4])
    (report,) = done.records
    assert {field: report[field] for field in ("runs", "states", "batches", "passed", "held", "is_done")} == {
        "runs": 2, "states": 8, "batches": 2, "passed": 0, "held": {}, "is_done": False,
    }  # fmt: skip
    assert (report["oldest"]["flow_run_id"], report["oldest"]["why"]) == (str(runs[2]), "ahead")
    assert pruned(own, "--older-than", "90d", "--yes").code == 0


def test_failed_runs_have_a_length_of_their_own(own: str) -> None:
    recent = datetime.now(UTC) - 100 * DAY
    ends = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED]
    runs = [run for end in ends for run in on(own, partial(make, runs=1, end=end, at=recent))]
    assert pruned(own, "--older-than", "90d", "--keep-failed", "365d", "--yes").code == 0
    assert left(own, runs) == [0, 4, 4]
    assert pruned(own, "--older-than", "90d", "--keep-failed", "99d", "--yes", "--keep", "last", "--type", "crashed").code == 0
    assert left(own, runs) == [0, 4, 1]


def test_all_that_ended_goes(own: str) -> None:
    runs = [run for end in (StateType.COMPLETED, StateType.FAILED, StateType.PAUSED) for run in on(own, partial(make, runs=1, end=end))]
    assert pruned(own, "--older-than", "0s", "--type", "completed,failed,paused", "--keep-failed", "1w", "--dry-run").out.startswith("would go: 12 ")
    assert pruned(own, "--older-than", "0s", "--yes").code == 0
    assert left(own, runs) == [0, 0, 4]


@pytest.mark.parametrize(("days", "code"), [(300, 0), (400, 4)])
def test_a_length_of_its_own_is_more_to_do_only_if_it_has_runs(own: str, days: int, code: int) -> None:
    now = datetime.now(UTC)
    runs = [*on(own, lambda pool: make(pool, 1)), *on(own, partial(make, runs=1, end=StateType.FAILED, at=now - days * DAY))]
    done = pruned(own, "--older-than", "90d", "--keep-failed", "365d", "--max-batches", 1, "--yes", "--json")
    assert (done.code, [report["is_done"] for report in done.records], left(own, runs)) == (code, [code == 0], [0, 4])


def test_what_stays_is_said_in_a_list(own: str) -> None:
    (run_,) = on(own, lambda pool: make(pool, 1, states=8))
    for keep, count in (("first,pending,last:4", 5), ("last:3,running", 4), ("first,last", 2), ("none", 1)):
        pruned(own, "--older-than", "90d", "--yes", "--keep", keep)
        assert left(own, [run_]) == [count], keep
    done = pruned(own, "--older-than", "90d", "--yes", "--keep", "best")
    assert (done.code, done.err) == (2, "error: --keep: 'best' is not first, last, last:N or a state type\n")
    assert pruned(own, "--older-than", "90d", "--yes", "--keep-name", "Late").code == 2


def test_a_dry_run_changes_nothing_and_says_whether_it_saw_all(own: str) -> None:
    runs = on(own, lambda pool: make(pool, 3))
    done = pruned(own, "--older-than", "90d", "--dry-run")
    assert (done.code, done.out) == (0, "would go: 12 states of 3 runs\n")
    done = pruned(own, "--older-than", "90d", "--dry-run", "--batch-size", 4, "--max-batches", 1)
    assert (done.code, done.out) == (4, "would go: 4 states of 1 run\nthere is more to do\n")
    assert left(own, runs) == [4, 4, 4]


def test_where_nobody_can_be_asked_yes_is_to_be_said(own: str) -> None:
    runs = on(own, lambda pool: make(pool, 1))
    done = pruned(own, "--older-than", "90d")
    assert (done.code, left(own, runs)) == (2, [4])
    assert "error: --yes: is needed where nobody can be asked" in done.err


@pytest.mark.parametrize(("answer", "code", "states"), [("y", 0, 0), ("perhaps\nYes", 0, 0), ("n", 1, 4), ("", 1, 4)])
def test_on_a_terminal_it_shows_what_would_go_and_asks(own: str, answer: str, code: int, states: int) -> None:
    runs = on(own, lambda pool: make(pool, 1))
    with Terminal("prune", "--database-url", own, "--older-than", "90d") as terminal:
        assert "would go: 4 states of 1 run\ndelete? [y/N]:" in terminal.until("y/N")
        terminal.type_in(f"{answer}\n")
        assert terminal.end() == code
    assert ("error: nothing is deleted\n" in terminal.text, left(own, runs)) == (code == 1, [states])


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_a_question_that_is_broken_off_is_130(own: str, key: str) -> None:
    runs = on(own, lambda pool: make(pool, 1))
    with Terminal("prune", "--database-url", own, "--older-than", "90d") as terminal:
        terminal.until("y/N")
        terminal.type_in(key)
        assert terminal.end() == 130
    assert ("Aborted" in terminal.text, "Traceback" in terminal.text, left(own, runs)) == (False, False, [4])


def test_an_archive_comes_back_by_import(own: str, tmp_path: Path) -> None:
    runs = on(own, lambda pool: make(pool, 2))
    path = tmp_path / "gone.jsonl.gz"
    before = on(own, lambda pool: FlowRunStateRepository(pool).read_flow_run_states(runs[0]))
    assert pruned(own, "--older-than", "90d", "--yes", "--archive", path).code == 0
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 8
    done = run("import", "--database-url", own, path)
    assert (done.code, done.out) == (0, "created 8, present before 0, refused 0\n")
    after = on(own, lambda pool: FlowRunStateRepository(pool).read_flow_run_states(runs[0]))
    assert [state.model_dump(exclude={"created", "updated"}) for state in after] == [
        state.model_dump(exclude={"created", "updated"}) for state in before
    ]
    done = pruned(own, "--older-than", "90d", "--yes", "--archive", tmp_path / "no" / "file")
    assert (done.code, done.err.startswith("error: archive: cannot be opened")) == (2, True)


def test_prefects_whole_runs_are_refused(layout_dsns: Any) -> None:
    done = pruned(layout_dsns["prefect"], "--layout", "prefect", "--older-than", "90d", "--dry-run")
    assert (done.code, "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED" in done.err) == (2, True)
    done = pruned(layout_dsns["prefect"], "--older-than", "90d", "--dry-run")
    assert (done.code, done.err) == (2, "error: layout: this is Prefect's table: say --layout prefect\n")


def test_json_has_what_the_report_has(own: str) -> None:
    assert json.loads(pruned(own, "--older-than", "90d", "--dry-run", "--json").out).keys() == {
        "runs", "states", "bytes", "batches", "passed", "held", "is_done", "oldest",
    }  # fmt: skip
