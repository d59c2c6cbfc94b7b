"""States out to JSON Lines and in again, by the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, create_pool, migrate
from tests.conftest import Connection
from tests.servers import PREFECT_TABLES

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)


def flowstates(dsn: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowstates.cli", *arguments]
    environment = os.environ | {"FLOWSTATES_DATABASE_URL": dsn}
    return subprocess.run(command, input=given, env=environment, capture_output=True, text=True, timeout=60, check=False)


def line(**values: Any) -> str:
    return json.dumps({"id": str(uuid4()), "flow_run_id": str(uuid4()), "type": "RUNNING", "timestamp": NOON.isoformat()} | values) + "\n"


@pytest.fixture
def migrated(own_dsn: str) -> str:
    async def run() -> None:
        async with create_pool(own_dsn) as pool:
            await migrate(pool)

    asyncio.run(run())
    return own_dsn


def count(dsn: str) -> int:
    async def run() -> int:
        connection = await asyncpg.connect(dsn)
        found: int = await connection.fetchval("select count(*) from flow_run_state")
        await connection.close()
        return found

    return asyncio.run(run())


def test_what_was_exported_is_imported_as_it_was(migrated: str, server_dsn: str, tmp_path: Path) -> None:
    contents: list[tuple[str, str | None, Any]] = [
        ("tab\t", "back\\slash", {"a": "\u2028"}), ("Läuft", None, None), ("\\N", "", 1.5), ("x", "a\nb\r", []),
    ]  # fmt: skip
    details = {"cache_key": "k", "from_tomorrow": [1]}
    given = "".join(line(name=name, message=message, data=data, state_details=details) for name, message, data in contents)
    done = flowstates(migrated, "import", "-", given=given)
    assert (done.returncode, done.stdout, done.stderr) == (0, "created 4, present before 0, refused 0\n", "")
    first = flowstates(migrated, "export").stdout
    file = tmp_path / "states.jsonl"
    file.write_text(first)
    assert flowstates(migrated, "import", str(file)).stdout == "created 0, present before 4, refused 0\n"

    async def empty() -> None:
        connection = await asyncpg.connect(migrated)
        await connection.execute("truncate flow_run_state")
        await connection.close()

    asyncio.run(empty())
    assert flowstates(migrated, "import", str(file), "--json").stdout == '{"created": 4, "present": 0, "refused": 0}\n'

    def without_the_databases_own(text: str) -> list[Any]:
        return [{key: value for key, value in json.loads(row).items() if key not in ("created", "updated")} for row in text.splitlines()]

    assert without_the_databases_own(flowstates(migrated, "export").stdout) == without_the_databases_own(first)


def test_a_refused_state_is_named_and_the_others_stay(migrated: str) -> None:
    state = line(name="one")
    other = json.dumps(json.loads(state) | {"name": "other"}) + "\n"
    done = flowstates(migrated, "import", "-", given=state + "\n" + other + line())
    assert (done.returncode, done.stdout) == (1, "created 2, present before 0, refused 1\n")
    assert done.stderr.startswith(f"line 3: {json.loads(state)['id']} is refused: ")
    tie = line(flow_run_id=json.loads(state)["flow_run_id"])
    assert flowstates(migrated, "import", "-", "--on-tie", "refuse", given=tie).returncode == 1
    assert flowstates(migrated, "import", "-", given=tie).returncode == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"flow_run_id": "x", "type": "RUNNING"}', "line 2: id: is missing"),
        ("{", "line 2: is not JSON"),
        ("{x", "line 2: is not JSON that can be read: key must be a string at column 2\n"),
        ("[]", "line 2: is not an object"),
        (line(type="WALKING"), "line 2: type: "),
        (line(timestamp="2024-03-05T12:00:00"), "line 2: timestamp: "),
        (line(message="\0"), "line 2: message: holds a NUL"),
        (line(unknown=1), "line 2: unknown: "),
    ],
    ids=["no id", "cut off", "no key", "no object", "type", "no zone", "NUL", "unknown"],  # a line has other ids in each process
)
def test_a_bad_line_is_named(migrated: str, bad: str, message: str) -> None:
    done = flowstates(migrated, "import", "-", given=line() + bad)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert count(migrated) == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_was_stored_before_a_bad_line_is_said(options: tuple[str, ...], migrated: str) -> None:
    done = flowstates(migrated, "import", "-", *options, given=line() * 5_000 + "{")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: line 5001: is not JSON")
    so_far = "up to line 5,000: created 1, present before 4,999, refused 0"
    assert done.stderr.splitlines()[-1] == f"  stored before that, {so_far}; mend the line and run it again"
    assert count(migrated) == 1


def test_import_says_whose_created_and_updated_are(migrated: str) -> None:
    assert "created and updated are passed over: they are the database's own" in " ".join(flowstates(migrated, "import", "--help").stdout.split())


def test_prefects_layout_is_exported_and_not_imported_into(own_dsn: str) -> None:
    dsn = own_dsn

    async def fill() -> str:
        connection = await asyncpg.connect(dsn)
        await connection.execute(PREFECT_TABLES)
        run = await connection.fetchval("insert into flow_run default values returning id")
        artifact = await connection.fetchval("insert into artifact (data) values ('{\"x\": 1}') returning id")
        insert = "insert into flow_run_state (flow_run_id, type, name, result_artifact_id) values ($1, 'RUNNING', 'x', $2)"
        await connection.execute(insert, run, artifact)
        await connection.close()
        return str(run)

    run = asyncio.run(fill())
    exported = [json.loads(row) for row in flowstates(dsn, "export", "--layout", "prefect").stdout.splitlines()]
    assert [row["data"] for row in exported if row["flow_run_id"] == run] == [{"x": 1}]
    assert flowstates(dsn, "import", "-", "--layout", "prefect", given=line()).returncode == 2


def test_an_import_that_is_broken_off_is_finished_by_the_next(migrated: str, tmp_path: Path) -> None:
    file = tmp_path / "states.jsonl"
    runs = [str(uuid4()) for _ in range(60)]
    file.write_text("".join(line(flow_run_id=run, timestamp=(NOON + timedelta(seconds=n)).isoformat()) for n in range(500) for run in runs))
    command = [sys.executable, "-m", "flowstates.cli", "import", str(file)]
    with subprocess.Popen(command, env=os.environ | {"FLOWSTATES_DATABASE_URL": migrated}, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 30
        while not count(migrated) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    stored = count(migrated)
    assert 0 < stored < 30_000
    # The server may still be busy with the transaction of the process that is gone; it ends it before others get its locks.
    counts = json.loads(flowstates(migrated, "import", str(file), "--json").stdout)
    assert counts["present"] % 5000 == counts["refused"] == 0
    assert counts["created"] + counts["present"] == 30_000 == count(migrated)


@pytest.mark.once
def test_memory_stays_bounded(migrated: str, tmp_path: Path) -> None:
    code = "import resource, sys; from flowstates.cli import main\ntry: main()\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"

    def peak(states: int) -> int:
        file = tmp_path / f"{states}.jsonl"
        with file.open("w") as lines:
            lines.writelines(line() for _ in range(states))
        command = [sys.executable, "-c", code, "import", str(file)]
        done = subprocess.run(command, env=os.environ | {"FLOWSTATES_DATABASE_URL": migrated}, capture_output=True, text=True, timeout=60, check=True)
        return int(done.stdout.split()[-1])  # KiB

    assert peak(40_000) - peak(1) < 64 * 1024


async def test_export_is_in_order(connection: Connection, own_dsn: str) -> None:
    await migrate(connection)
    states = FlowRunStateRepository(connection)
    run = uuid4()
    for _ in range(3):
        await states.create_flow_run_state(run, "RUNNING")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowstates.cli", "export", "--database-url", own_dsn, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert [json.loads(row)["id"] for row in out.splitlines()] == [str(state.id) for state in await states.read_flow_run_states(run)]
