"""The command line: what it prints, what it ends with, and what it never does."""

from __future__ import annotations

import asyncio
import errno
import inspect
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from typer.testing import CliRunner

import flowstates
from flowstates import FlowRunState, FlowRunStateConflictError, MigrationError, StateDetails, StateType, UnreadableRowError
from flowstates.cli.app import app
from flowstates.database.migrations import migration_script
from flowstates.values import Layout
from tests.servers import PREFECT_TABLES

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parent.parent
UNREACHABLE = "postgresql://me:hunter2@127.0.0.1:1/db"
SOME_ID = UUID(int=7)
BEGIN = datetime(2030, 1, 31, 12, tzinfo=UTC)
ODD = "[red]a[/red] :smile:\n\r\t\x1b[31m\x07\x9b\u202e\u2028 実行中 👩‍💻\x00"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: object) -> Done:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return Done(result.exit_code, result.stdout, result.stderr)


def process(*arguments: object, code: str | None = None, **env: str) -> Done:
    start = ["-m", "flowstates.cli"] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)], env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOWSTATES_DATABASE_URL", "FLOWSTATES_LAYOUT", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLOWSTATES_DATA", "/dev/null/no-test-uses-the-store-of-its-user")


@pytest.fixture
def url(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database that commands without an option take."""
    monkeypatch.setenv("FLOWSTATES_DATABASE_URL", dsn)
    return dsn


def execute(dsn: str, statement: str, *arguments: object) -> Any:
    async def work() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    return asyncio.run(work())


def state(type_: StateType, minutes: float, **fields: Any) -> FlowRunState:
    values: dict[str, Any] = {
        "id": uuid4(),
        "created": BEGIN,
        "updated": BEGIN,
        "flow_run_id": UUID(int=1),
        "type": type_,
        "timestamp": BEGIN + timedelta(minutes=minutes),
        "name": type_.title(),
        "message": None,
        "state_details": StateDetails(),
        "data": None,
        "result_artifact_id": None,
    }
    return FlowRunState(**{**values, **fields})


# The database


def test_the_option_wins_over_the_environment(url: str, layout_dsns: dict[Layout, str]) -> None:
    assert run("check").code == 0
    assert run("check", "--database-url", layout_dsns["prefect"]).code == 1


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTATES_DATABASE_URL", "")
    monkeypatch.setenv("FLOWSTATES_LAYOUT", "")
    done = run("check")
    assert done.code == 2
    assert done.err.startswith("error: database_url: is missing: ")


COMMANDS = (
    ("migrate",), ("check",), ("create", SOME_ID, "RUNNING"), ("list",), ("show", SOME_ID), ("delete", SOME_ID), ("timeline", SOME_ID),
    ("runs",), ("prune", "--older-than", "90d", "--dry-run"), ("durations",), ("counts",), ("export",), ("import", "-"),
    ("tail", "--once"), ("consumers",), ("serve", "--port", "0"),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_without_an_address_is_bad_input(command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would do its work on a server of its own, while its user means the one that other programs' variables name."""
    for name in list(os.environ):
        if name.startswith("PG") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWSTATES_DATA", str(tmp_path / "data"))
    without = run(*command)
    assert (without.code, without.out) == (2, "")
    assert without.err.startswith("error: database_url: is missing: say --database-url, or set FLOWSTATES_DATABASE_URL, to postgresql://")
    assert "embedded:" in without.err
    assert "DATABASE_URL:" not in without.err
    monkeypatch.setenv("DATABASE_URL", UNREACHABLE)
    monkeypatch.setenv("PGHOST", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    done = run(*command)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"{without.err.rstrip()} (DATABASE_URL, PGHOST, PGPASSWORD: set, but no command takes its address from there)\n"
    assert not (tmp_path / "data").exists()


def test_each_command_is_among_those() -> None:
    known = {command.name or getattr(command.callback, "__name__", None) for command in app.registered_commands}
    assert {command[0] for command in COMMANDS} | {"demo"} == known


def test_no_command_has_a_default_of_its_own_where_a_variable_has_one() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        parameters = inspect.signature(command.callback).parameters
        assert [parameters[name].default for name in ("database_url", "layout") if name in parameters] in ([None], [None, None]), command


def test_an_address_of_sqlalchemy_is_taken(dsn: str) -> None:
    assert run("check", "--database-url", dsn.replace("postgresql:", "postgresql+asyncpg:")).code == 0


# Prefect's tables


def test_prefects_states_are_read_and_deleted_and_never_created(layout_dsns: dict[Layout, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, run_id = layout_dsns["prefect"], uuid4()
    monkeypatch.setenv("FLOWSTATES_DATABASE_URL", dsn)
    execute(dsn, "insert into flow_run (id) values ($1)", run_id)
    id_ = execute(dsn, "insert into flow_run_state (flow_run_id, type, name) values ($1, 'PENDING', 'Pending') returning id", run_id)
    assert [record["id"] for record in run("list", run_id, "--layout", "prefect", "--json").records] == [str(id_)]
    assert run("show", id_, "--layout", "prefect").code == 0
    created = run("create", run_id, "RUNNING", "--layout", "prefect")
    assert (created.code, created.out) == (2, "")
    assert run("delete", id_, "--layout", "prefect").code == 0
    assert run("check", "--layout", "prefect").out.startswith("the database fits the layout prefect\n")
    assert run("migrate").code == 1
    execute(dsn, "delete from flow_run where id = $1", run_id)


def test_check_prints_what_fits_prefects_tables_where_histories_are_pruned(own_dsn: str) -> None:
    async def make_tables() -> None:
        connection = await asyncpg.connect(own_dsn)
        await connection.execute(PREFECT_TABLES)
        await connection.close()

    asyncio.run(make_tables())
    check = ("check", "--layout", "prefect", "--database-url", own_dsn)
    statements = [line for line in run(*check).out.splitlines() if line.startswith("alter table public.flow_run")]
    assert len(statements) == 2
    for statement in statements:
        execute(own_dsn, statement)
    assert run(*check) == Done(0, "the database fits the layout prefect\n", "")


def test_an_embedded_server_has_no_layout_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("list", uuid4(), "--layout", "prefect", "--database-url", "embedded:")
    assert (done.code, done.out) == (2, "")
    assert "--database-url" in done.err
    monkeypatch.setenv("FLOWSTATES_LAYOUT", "prefect")
    assert run("list", uuid4(), "--database-url", "embedded:") == done


def test_the_layout_is_the_variables_if_the_option_does_not_say(layout_dsns: dict[Layout, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTATES_DATABASE_URL", layout_dsns["prefect"])
    others = Done(2, "", "error: layout: this is Prefect's table: say --layout prefect\n")
    assert run("list", SOME_ID) == run("durations", SOME_ID) == others
    monkeypatch.setenv("FLOWSTATES_LAYOUT", "prefect")
    assert run("list", SOME_ID) == Done(1, "", f"error: no states of run {SOME_ID}\n")
    assert run("durations", SOME_ID).code == 1
    assert run("prune", "--older-than", "1d", "--keep", "last", "--dry-run").code == 0
    assert run("check").out.startswith("the database fits the layout prefect\n")
    assert run("list", SOME_ID, "--layout", "flowstates") == others
    assert run("check", "--layout", "flowstates").code == 1
    monkeypatch.setenv("FLOWSTATES_LAYOUT", "other")
    assert run("check") == run("list") == Done(2, "", "error: FLOWSTATES_LAYOUT: is 'other', not one of flowstates, prefect, citus\n")
    assert run("check", "--layout", "prefect").code == 0


@pytest.mark.parametrize(
    "command", [("list", SOME_ID), ("show", SOME_ID), ("delete", SOME_ID), ("export",), ("create", SOME_ID, "RUNNING"), ("counts",)]
)
def test_prefects_table_is_not_taken_for_ours(command: tuple[object, ...], layout_dsns: dict[Layout, str]) -> None:
    done = run(*command, "--database-url", layout_dsns["prefect"])
    assert done == Done(2, "", "error: layout: this is Prefect's table: say --layout prefect\n")


# migrate and check


def test_migrate_applies_once(own_dsn: str) -> None:
    lacking = run("check", "--database-url", own_dsn)
    assert (lacking.code, lacking.out.splitlines()[0]) == (1, "table flow_run_state: expected a table on the search path, found none")
    assert run("check", "--database-url", own_dsn, "--json").records[0] == {
        "where": "table flow_run_state",
        "expected": "a table on the search path",
        "found": "none",
    }
    assert lacking.err == "flowstates migrate makes the tables, or brings them up to date\n"
    first = run("migrate", "--database-url", own_dsn, "--json").records
    assert first[0] == {"name": "0001_flow_run_state", "applied": True}
    assert run("migrate", "--database-url", own_dsn) == Done(0, "nothing to apply: the database is current\n", "")
    assert run("migrate", "--database-url", own_dsn, "--json") == Done(0, "", "")
    assert run("check", "--database-url", own_dsn, "--json") == Done(0, "", "")


@pytest.mark.parametrize("options", [(), ("--sql",), ("--json",)])
def test_prefects_tables_are_not_made(options: tuple[str, ...], own_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTATES_LAYOUT", "prefect")
    error = "error: Prefect alone makes its tables: for those of flowstates, unset FLOWSTATES_LAYOUT\n"
    assert run("migrate", "--database-url", own_dsn, *options) == Done(2, "", error)
    assert execute(own_dsn, "select count(*) from pg_tables where schemaname = 'public'") == 0
    lacking = run("check", "--database-url", own_dsn)
    assert (lacking.code, lacking.err) == (1, "")


def test_a_migration_that_is_not_applied_is_cured_by_migrate(own_dsn: str) -> None:
    run("migrate", "--database-url", own_dsn)
    execute(own_dsn, "delete from flowstates_migration")
    assert "flowstates migrate" in run("check", "--database-url", own_dsn).err
    execute(own_dsn, "drop table flow_run")
    execute(own_dsn, "drop table flowstates_migration")
    assert run("check", "--database-url", own_dsn).err == ""


def test_migrate_names_what_it_applied(own_dsn: str) -> None:
    assert run("migrate", "--database-url", own_dsn).out.splitlines()[0] == "applied: 0001_flow_run_state"


def test_the_script_needs_no_database() -> None:
    assert run("migrate", "--sql", "--database-url", UNREACHABLE) == Done(0, migration_script(), "")


def test_the_script_of_a_part() -> None:
    name = "0001_flow_run_state"
    assert run("migrate", "--sql", "--from", name) == Done(0, migration_script(since=name), "")
    assert run("migrate", "--sql", "--from", "0002_feed") == Done(0, "", "")
    assert run("migrate", "--sql", "--to", name) == Done(0, migration_script(until=name), "")
    for option in ("--from", "--to"):
        done = run("migrate", "--sql", option, "0000_none")
        assert (done.code, done.out) == (2, "")
        assert option in done.err
        assert name in done.err
        done = run("migrate", option, name, "--database-url", UNREACHABLE)
        assert done == Done(2, "", "error: --from, --to: say what --sql prints: add --sql\n")


def test_the_script_is_no_json() -> None:
    done = run("migrate", "--sql", "--json")
    assert (done.code, done.out) == (2, "")


# Exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "no-uuid"),
        ("show", "no-uuid"),
        ("delete", "no-uuid"),
        ("lost",),
        ("list", SOME_ID, "--layout", "other"),
        ("list", SOME_ID, "--database-url", ""),
        ("list", SOME_ID, "--database-url", "mysql://me@host/db"),
        ("create", SOME_ID, "DONE"),
        ("create", "no-uuid", "RUNNING"),
        ("create", SOME_ID, "RUNNING", "--id", "no-uuid"),
        ("create", SOME_ID, "RUNNING", "--name", ""),
        ("create", SOME_ID, "RUNNING", "--name", "a\udcffb"),
        ("create", SOME_ID, "RUNNING", "--timestamp", "yesterday"),
        ("create", SOME_ID, "RUNNING", "--timestamp", "2030-01-31T12:00:00"),
        ("create", SOME_ID, "RUNNING", "--data", "{"),
        ("create", SOME_ID, "RUNNING", "--data", "NaN"),
        ("create", SOME_ID, "RUNNING", "--data", "[" * 100_000),
        ("create", SOME_ID, "RUNNING", "--data", "9" * 5_000),
        ("create", SOME_ID, "RUNNING", "--details", "[1]"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments))[:60],
)
def test_bad_input_is_2(arguments: tuple[object, ...], url: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "rror: " in done.err.splitlines()[-1]


def test_a_conflict_is_1(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = uuid4()
    assert run("create", uuid4(), "RUNNING", "--id", id_).code == 0
    done = run("create", uuid4(), "RUNNING", "--id", id_)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {id_} is stored already")


def test_the_database_is_3(own_dsn: str) -> None:
    refused = run("list", uuid4(), "--database-url", UNREACHABLE)
    assert refused.code == 3
    assert refused.err.startswith("error: no connection to the database at 127.0.0.1:1: ")
    assert run("list", uuid4(), "--database-url", re.sub("flowstates_test_.*", "nowhere", own_dsn)).code == 3


def test_tables_that_do_not_fit_are_1(own_dsn: str) -> None:
    without_table = run("list", uuid4(), "--database-url", own_dsn)
    assert (without_table.code, without_table.out) == (1, "")
    assert "flowstates migrate" in without_table.err.splitlines()[1]  # the note
    execute(own_dsn, "create table flow_run_state (id int, flow_run_id uuid, timestamp timestamptz)")
    other_table = run("list", uuid4(), "--database-url", own_dsn)
    assert (other_table.code, other_table.out) == (1, "")
    assert "flowstates check" in other_table.err.splitlines()[1]


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", "127.0.0.1:1"),
        ("postgresql+asyncpg://me:hunter2@127.0.0.1:1/db", "127.0.0.1:1"),
        ("postgresql://me:hunter2@host.invalid/db", "host.invalid:5432"),
        ("postgresql://me@127.0.0.1:1,127.0.0.1:2/db?password=hunter2", "127.0.0.1:1,127.0.0.1:2"),
        ("postgresql://me@[::1]:1/db?password=hunter2", "[::1]:1"),
        ("postgresql://me@/db?host=/none&port=7", "/none:7"),
        ("postgresql://me@/db?host=/none,127.0.0.1&port=7,1", "/none:7,127.0.0.1:1"),
        ("postgresql://me@/db", "other.invalid:9"),
        ("postgresql+asyncpg://me:hunt/er2@127.0.0.1:1/db", "127.0.0.1:1"),
        ("postgresql+asyncpg://me:hunt?er2@[::1]:1/db", "[::1]:1"),
        ("postgresql+asyncpg://me:hunt#er2@/db?host=127.0.0.1:1&host=127.0.0.1:2", "127.0.0.1:1,127.0.0.1:2"),
        ("postgresql+asyncpg://me@/db?host=/none&port=7", "/none:7"),
    ],
)
def test_the_server_that_does_not_answer_is_named(address: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "other.invalid")
    monkeypatch.setenv("PGPORT", "9" if address.endswith("@/db") else "5432")
    done = run("check", "--database-url", address)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"error: no connection to the database at {server}: ")


@pytest.mark.parametrize(
    "address", ["postgresql://me:hunter2@a..b/db", "postgresql+asyncpg://me:hunter2@a..b:7/db", "postgresql://me@127.0.0.1:99999/db"]
)
def test_a_host_or_port_that_is_none_is_bad_input(address: str) -> None:
    done = run("check", "--database-url", address)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: database_url: ")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstates.cli.database._CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run("check", "--database-url", f"postgresql://me:hunter2@{server}/db")
    assert done == Done(3, "", f"error: no connection to the database at {server}: no answer in 0.2 seconds\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TimeoutError(), 3, "error: no answer of the database in time"),
        (MigrationError("changed"), 1, "error: changed"),
        (UnreadableRowError(UUID(int=1), "name", "a\x1b"), 3, f"error: flow run state {UUID(int=1)}: name: a\\x1b"),
        (asyncpg.InterfaceError("closed"), 3, "error: closed"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 3, f"error: no connection to the database: [Errno {errno.ECONNRESET}] reset"),
        (OSError(errno.EHOSTUNREACH, "no route"), 3, f"error: no connection to the database: [Errno {errno.EHOSTUNREACH}] no route"),
        (OSError(errno.ENOSPC, "full", "/a/file"), 3, f"error: [Errno {errno.ENOSPC}] full: '/a/file'"),
        (OSError(errno.EINVAL, "no file"), 3, f"error: [Errno {errno.EINVAL}] no file"),
        (asyncpg.ConnectionDoesNotExistError("gone"), 3, "error: gone"),
        (FlowRunStateConflictError(state(StateType.RUNNING, 0, id=UUID(int=2))), 1, f"error: {UUID(int=2)} is stored already"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_lines_and_codes(error: Exception, code: int, line: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    error.add_note("a note")
    monkeypatch.setattr("flowstates.check", fail)
    done = run("check")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(line)
    assert done.err.endswith("\n  a note\n")


def test_a_fault_of_our_own_is_not_hidden(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("flowstates.check", fail)
    with pytest.raises(KeyError):
        run("check")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:hunter2@127.0.0.1:1/db",
        "postgresql://me:hunter2@host.invalid/db",
        "postgresql://me:hunt/hunter2@127.0.0.1/db",
        "postgresql://me:hunter2#x@127.0.0.1/db",
        "postgresql://me:hunter2?x@127.0.0.1/db",
        "postgresql://me:[hunter2@127.0.0.1/db",
        "postgresql+asyncpg://me:[hunter2@127.0.0.1/db",
        "postgresql://me:hunter2@127.0.0.1:port/db",
        "postgresql://127.0.0.1:1/hunter2@host.invalid/db",  # a user 127.0.0.1, whose password begins with 1/
        "postgresql+asyncpg://me:hunt/er2@127.0.0.1:1/db",
        "postgresql+asyncpg://me:one@hunt/er2@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=hunter2",
        "postgresql://me:hunter2@127.0.0.1:1/db?sslmode=other",
        "host=127.0.0.1 port=1 password=hunter2",
        "me:hunter2@127.0.0.1/db",
    ],
)
def test_the_password_is_never_printed(address: str) -> None:
    for done in (process("list", uuid4(), "--database-url", address), process("list", "--help", FLOWSTATES_DATABASE_URL=address)):
        assert "hunt" not in done.out + done.err
    assert process("check", FLOWSTATES_DATABASE_URL=address).code in (2, 3)


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "flowstates", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"flowstates {flowstates.__version__}\n"


def test_another_time_than_the_one_asked_for_is_said(url: str) -> None:
    run_id = uuid4()
    create = ("create", run_id, "RUNNING", "--timestamp", "2030-01-31T13:00:00+01:00")
    assert run(*create).err == ""
    again = run(*create, "--json")
    assert (again.code, again.err) == (0, "stored with another time than --timestamp: 2030-01-31T12:00:00.000001Z\n")
    assert again.records[0]["timestamp"] == "2030-01-31T12:00:00.000001Z"


def test_the_version() -> None:
    assert run("--version") == Done(0, f"flowstates {flowstates.__version__}\n", "")


def test_help_says_the_exit_codes() -> None:
    done = process("--help")
    assert done.code == 0
    assert "Exit codes: 0 done; 1 nothing there" in done.out


# Extras


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(module: str) -> None:
    done = process("demo", code=f"import sys; sys.modules[{module!r}] = None; from flowstates.cli import main; main()")
    assert done == Done(2, "", "error: the command line is not installed: pip install 'flowstates[cli,embedded]'\n")


def test_without_the_embedded_server_it_says_what_to_install() -> None:
    code = "import importlib.util; importlib.util.find_spec = lambda name: None; from flowstates.cli import main; main()"
    for command in (("list", uuid4(), "--database-url", "embedded:"), ("demo",)):
        done = process(*command, code=code)
        assert (done.code, done.out) == (2, "")
        assert "pip install 'flowstates[cli,embedded]'" in done.err


def test_the_library_does_not_load_the_command_line() -> None:
    code = "import sys, flowstates; print([name for name in sys.modules if name.startswith(('flowstates.cli', 'typer', 'rich'))])"
    assert process(code=code).out == "[]\n"


# The environment to run it in


def test_setting_up_says_so_before_it_takes_its_time(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "venv.stamp").touch()
    (folder / "bin" / "python").write_text("#!/bin/sh\n")
    (folder / "bin" / "python").chmod(0o755)
    command: list[str | Path] = [ROOT / "tools" / "make-venv", sys.executable, folder, "requirements/test.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", f"setting up {folder} (once) ...\n")
