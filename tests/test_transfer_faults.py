"""Exports and imports that meet what cannot be read or stored, and go on if they are told to."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, NewFlowRunState, create_pool, migrate
from flowstates.cli import imports
from flowstates.values import Layout
from tests.servers import POINT_AT_NEWEST, PREFECT_TABLES
from tests.test_cli import BEGIN, execute, plain_environment, run
from tests.test_transfer import count, flowstates, line, migrated

__all__ = ["migrated", "plain_environment"]  # fixtures

# States that cannot be read


class Odd:
    """Three states of a run, of which the second cannot be read or written, in a database of one layout."""

    def __init__(self, dsn: str, layout: Layout, fault: str) -> None:
        self.options = ("--database-url", dsn, "--layout", layout)
        self.run_id, self.ids = uuid4(), [uuid4() for _ in range(3)]
        self.field = "timestamp" if fault == "time" else "data"


@pytest.fixture(params=["flowstates time", "prefect time", "prefect surrogate", "prefect number", "flowstates depth"])
def odd(request: pytest.FixtureRequest, own_dsn: str) -> Odd:
    layout, fault = request.param.split()
    odd = Odd(own_dsn, layout, fault)

    async def fill() -> None:
        connection = await asyncpg.connect(own_dsn)
        if layout == "prefect":
            await connection.execute(PREFECT_TABLES)
            await connection.execute("insert into flow_run (id) values ($1)", odd.run_id)
        else:
            await migrate(connection)
            await connection.execute("alter table flow_run_state drop constraint ck_flow_run_state__timestamp")
        insert = "insert into flow_run_state (id, flow_run_id, type, name, timestamp) values ($1, $2, 'RUNNING', 'x', $3)"
        for hour, id_ in enumerate(odd.ids):
            await connection.execute(insert, id_, odd.run_id, BEGIN.replace(hour=hour))
        value = {"surrogate": '{"a": "\\ud800"}', "number": "[1e999]"}.get(fault)
        if value:
            artifact = await connection.fetchval("insert into artifact (data) values ($1) returning id", value)
            await connection.execute("update flow_run_state set result_artifact_id = $2 where id = $1", odd.ids[1], artifact)
        elif fault == "depth":
            await connection.execute("update flow_run_state set data = $2::text::jsonb where id = $1", odd.ids[1], "[" * 300 + "]" * 300)
        else:
            await connection.execute("update flow_run_state set timestamp = 'infinity' where id = $1", odd.ids[1])
        await connection.execute(POINT_AT_NEWEST[layout], None)
        await connection.close()

    asyncio.run(fill())
    return odd


def test_an_export_goes_on_past_what_it_cannot_read(odd: Odd) -> None:
    done = run("export", "--skip-unreadable", *odd.options)
    assert done.code == 1
    assert [record["id"] for record in done.records] == [str(odd.ids[0]), str(odd.ids[2])]
    left_out, summary = done.err.splitlines()
    assert left_out.startswith(f"left out: flow run state {odd.ids[1]}: {odd.field}: ")
    assert summary == "exported 2 states; left out 1 that cannot be read"
    assert run("export", "--id", odd.ids[0], "--skip-unreadable", *odd.options).err == "exported 1 state\n"


def test_without_the_option_every_command_names_row_and_field_in_one_line(odd: Odd) -> None:
    bad = odd.ids[1]
    commands: list[tuple[object, ...]] = [("export",), ("list", "--json"), ("list", odd.run_id, "--json"), ("show", bad, "--json")]
    if odd.field == "timestamp":
        commands += [("list",), ("list", odd.run_id), ("show", bad), ("timeline", odd.run_id), ("runs",), ("runs", "--json")]
        commands += [("list", odd.run_id, "--last", 3)]
    for command in commands:
        done = run(*command, *odd.options)
        assert done.code == 3
        assert done.err.startswith(f"error: flow run state {bad}: {odd.field}: ")
        assert done.err.count("\n") == 1
        before = [odd.ids[0], odd.ids[2]] if odd.field == "timestamp" else [odd.ids[0]]  # infinity is behind all
        assert [json.loads(row)["id"] for row in done.out.splitlines()] == ([str(id_) for id_ in before] if command == ("export",) else [])
    if odd.field == "data":
        for command in (("show", bad), ("list",), ("list", odd.run_id), ("runs",)):
            assert run(*command, *odd.options).code == 0


# States that cannot be stored


def test_an_import_names_what_it_leaves_out_and_stores_the_rest(migrated: str) -> None:
    bad = ["{", line(type="WALKING"), line(message="\0"), '{"type": "RUNNING"}']
    given = line() + "".join(f"{text.strip()}\n" for text in bad) + line()
    done = flowstates(migrated, "import", "-", "--skip", given=given)
    assert (done.returncode, done.stdout) == (1, "created 2, present before 0, refused 4\n")
    assert [row.split(":")[:2] for row in done.stderr.splitlines()] == [
        ["line 2", " is not JSON that can be read"],
        ["line 3", " type"],
        ["line 4", " message"],
        ["line 5", " id"],
    ]
    assert count(migrated) == 2
    done = flowstates(migrated, "import", "-", "--skip", "--json", given=given)
    assert json.loads(done.stdout) == {"created": 0, "present": 2, "refused": 4}


def test_ten_are_named_and_the_rest_are_a_number(migrated: str) -> None:
    states = [json.loads(line()) for _ in range(30)]
    flowstates(migrated, "import", "-", given="".join(json.dumps(state) + "\n" for state in states))
    others = "".join(json.dumps(state | {"name": "other"}) + "\n" for state in states)
    for given, options in ((others, ()), (others + "{\n" * 1_000, ("--skip",))):
        done = flowstates(migrated, "import", "-", *options, given=given)
        refused = given.count("\n")
        assert (done.returncode, done.stdout) == (1, f"created 0, present before 0, refused {refused:,}\n")
        assert len(done.stderr.splitlines()) == 11
        assert done.stderr.splitlines()[-1] == f"and {refused - 10:,} more are refused"


def test_what_the_server_refuses_is_left_out_too(migrated: str) -> None:
    execute(migrated, "alter table flow_run_state add check (message <> 'no')")
    given = "".join(line(message="no" if number in (3, 40) else "yes") for number in range(50))
    done = flowstates(migrated, "import", "-", given=given)
    assert (done.returncode, done.stdout) == (3, "")
    assert "violates check constraint" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[-2:] == [
        "  in the lines from 1 to 50, which are one transaction",
        "  stored before that, up to line 0: created 0, present before 0, refused 0; run it again",
    ]
    done = flowstates(migrated, "import", "-", "--skip", given=given)
    assert (done.returncode, done.stdout) == (1, "created 48, present before 0, refused 2\n")
    assert [row.split(":")[0] for row in done.stderr.splitlines()] == ["line 4", "line 41"]


@pytest.mark.parametrize("options", [(), ("--skip",)])
def test_a_database_that_is_gone_ends_an_import(options: tuple[str, ...], migrated: str) -> None:
    execute(migrated, "alter table flow_run_state rename to other")
    done = flowstates(migrated, "import", "-", *options, given=line())
    assert (done.returncode, done.stdout) == (1, "")
    assert "up to line 0" in done.stderr


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(start: bytes, migrated: str, tmp_path: Path) -> None:
    file = tmp_path / "states.jsonl"
    file.write_bytes(start + line().encode())
    assert flowstates(migrated, "import", str(file)).stdout == "created 1, present before 0, refused 0\n"
    file.write_bytes(start)
    assert flowstates(migrated, "import", str(file)).stdout == "created 0, present before 0, refused 0\n"
    file.write_bytes(line().encode() + start + line().encode())
    assert flowstates(migrated, "import", str(file)).stderr.startswith("error: line 2: is not JSON")


async def test_a_transaction_has_so_many_states_and_bytes_at_most(own_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    create = FlowRunStateRepository.create_flow_run_states

    async def counting(self: FlowRunStateRepository, states: list[NewFlowRunState], **options: Any) -> Any:
        sizes.append(len(states))
        return await create(self, states, **options)

    monkeypatch.setattr(FlowRunStateRepository, "create_flow_run_states", counting)
    monkeypatch.setattr(imports, "_MOST_STATES", 4)
    monkeypatch.setattr(imports, "_MOST_BYTES", 10_000)
    lengths = [1, 1, 1, 1, 1, 4_000, 4_000, 4_000, 50_000, 9_000, 1]
    async with create_pool(own_dsn) as pool:
        await migrate(pool)
        file = BytesIO("".join(line(message="x" * length) for length in lengths).encode())
        counts = await imports.read_states(FlowRunStateRepository(pool), file, on_tie="nudge")
        assert counts == {"created": len(lengths)}
        assert sizes == [4, 3, 1, 1, 2]
        assert await pool.fetchval("select count(distinct xmin::text) from flow_run_state") == len(sizes)


@pytest.mark.once
def test_memory_stays_bounded_with_large_states(migrated: str, tmp_path: Path) -> None:
    code = "import resource, sys; from flowstates.cli import main\ntry: main()\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"

    def peak(states: int) -> int:
        file = tmp_path / f"{states}.jsonl"
        with file.open("w") as lines:
            lines.writelines(line(data="x" * 1_000_000) for _ in range(states))
        command = [sys.executable, "-c", code, "import", str(file), "--database-url", migrated]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout.split()[-1])  # KiB

    assert peak(150) - peak(1) < 128 * 1024


# Ctrl-C


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_an_import_that_waits_for_its_input(times: int, migrated: str) -> None:
    command = [sys.executable, "-m", "flowstates.cli", "import", "-", "--database-url", migrated]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdin is not None
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        waiting.stdin.write(line() * 5_001)
        waiting.stdin.flush()
        while not count(migrated):
            assert waiting.poll() is None
        end = time.monotonic() + 60
        while waiting.poll() is None and time.monotonic() < end:
            for _ in range(times):
                waiting.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                waiting.wait(5)  # one that comes just before the wait for input waits too
        assert waiting.wait(1) == 130
        assert waiting.stdout.read() == ""
        assert "Traceback" not in (err := waiting.stderr.read())
        # It may come when the server has stored the batch and the process has not counted it.
        counted = ("5,000: created 1, present before 4,999", "0: created 0, present before 0")
        assert any(f"broken off; stored until now, up to line {words}, refused 0\n" in err for words in counted) or times == 2
    assert count(migrated) == 1


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(line().encode(), mtime=0)[:-9], gzip.compress(b"x" * 1000, mtime=0)[:15] + b"\xff" * 30],
    ids=["no gzip", "cut off", "garbled"],  # a line's ids are new in each process, and these are to be alike in all
)
def test_a_broken_archive_is_bad_input(content: bytes, migrated: str, tmp_path: Path) -> None:
    file = tmp_path / "states.jsonl.gz"
    file.write_bytes(content)
    done = flowstates(migrated, "import", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: FILE: cannot be read: ")


def test_a_folder_is_no_file(migrated: str, tmp_path: Path) -> None:
    done = flowstates(migrated, "import", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
