"""The command line with a server that it starts itself, and the demo."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

import flowstates
from flowstates import FlowRunState, FlowStatesError
from flowstates.cli.database import data_folder
from flowstates.values import Layout
from tests.test_cli import UNREACHABLE, Done, execute, plain_environment, process, run

pytestmark = pytest.mark.once

__all__ = ["plain_environment"]  # a fixture


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an embedded server's data, which as root is one below /var/lib/flowstates."""
    base = Path("/var/lib/flowstates") if os.geteuid() == 0 else None
    if base:
        base.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=base))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


# The embedded server


def test_the_store_keeps_its_data(folder: Path) -> None:
    run_id = uuid4()
    store = folder / "data"
    created = process("create", run_id, "RUNNING", "--json", "--database-url", "embedded:", FLOWSTATES_DATA=str(store))
    assert (created.code, created.err) == (0, f"embedded server, data in {store}\n")
    listed = process("list", run_id, "--json", "--database-url", f"embedded:{store}")
    assert (listed.code, listed.out, listed.err) == (0, created.out, created.err)
    assert process("list", run_id, "--json", FLOWSTATES_DATABASE_URL="embedded:", FLOWSTATES_DATA=str(store)).out == created.out
    assert process("migrate", "--json", FLOWSTATES_DATABASE_URL=f"embedded:{store}").out == ""


def test_a_store_in_the_home_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    done = run("list", "--database-url", "embedded:~/store")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: database_url: ")
    assert "/dev/null" in done.err


def test_a_store_that_cannot_be_is_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    done = run("list", "--database-url", f"embedded:{folder / 'file'}")
    assert done == Done(2, "", f"error: database_url: {folder / 'file'} is not a folder\n")
    monkeypatch.setenv("FLOWSTATES_DATA", str(folder / "file"))
    assert run("list", "--database-url", "embedded:") == Done(2, "", f"error: FLOWSTATES_DATA: {folder / 'file'} is not a folder\n")


def test_a_store_that_cannot_be_made_is_named_whole() -> None:
    done = run("list", "--database-url", "embedded:/proc/no/folder")
    assert done == Done(2, "", "error: database_url: cannot be used: /proc/no/folder: No such file or directory\n")


def test_a_store_that_is_busy_is_3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstates.database.embedded._WAIT_SECONDS", 0.1)
    with flowstates.embedded_postgres(folder):
        done = run("list", "--database-url", f"embedded:{folder}")
    assert done == Done(3, "", f"error: {folder} is open in another embedded server; close that one first\n")


def test_a_disk_that_is_full_is_not_the_databases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/a/folder")

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    done = run("list", "--database-url", f"embedded:{folder}")
    assert done == Done(3, "", f"error: [Errno {errno.ENOSPC}] No space left on device: '/a/folder'\n")


def test_the_default_store_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWSTATES_DATA")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert data_folder() == Path("/home/me/.local/share/flowstates")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert data_folder() == Path("/data/flowstates")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert data_folder() == Path("/var/lib/flowstates/data")
    monkeypatch.setenv("FLOWSTATES_DATA", "/mine")
    assert data_folder() == Path("/mine")


# demo


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PGSERVICE": "nosuch", "PGHOST": "host.invalid", "DATABASE_URL": UNREACHABLE},
        {"PGSSLMODE": "verify-full", "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "read-only", "PGHOSTADDR": "127.0.0.1"},
    ],
)
def test_the_demo_needs_nothing(environment: dict[str, str]) -> None:
    done = process("demo", **environment)
    assert (done.code, done.err) == (0, "embedded server, data in a temporary folder\n")
    assert "AwaitingRetry" in done.out
    assert [line.rpartition(" ")[2] for line in done.out.splitlines() if "delete_flow_run_state" in line] == ["True", "False"]


def test_the_demo_leaves_nothing_in_a_database_of_the_users(own_dsn: str) -> None:
    done = run("demo", "--database-url", own_dsn)
    assert (done.code, done.err) == (0, "")
    assert execute(own_dsn, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == 0


def hints(done: Done) -> list[str]:
    return [line.partition("flowstates ")[2] for line in done.out.partition("Nothing of this is left.")[2].splitlines() if line.startswith("  ")]


def test_what_the_demo_says_works_next(own_dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSTATES_DATA", str(folder / "data"))
    url = ("--database-url", re.sub("(//[^:/@]*):[^/@]*@", r"\1@", own_dsn))
    password = urlsplit(own_dsn).password
    for arguments, env in (
        ((), {}),
        (url, {"PGPASSWORD": password} if password else {}),
        ((), {"FLOWSTATES_DATABASE_URL": own_dsn}),
        (("--database-url", f"embedded:{folder / 'other one'}"), {}),
        ((), {"FLOWSTATES_DATABASE_URL": "embedded:"}),
    ):
        commands = [shlex.split(hint) for hint in hints(process("demo", *arguments, **env))]
        if not arguments and not env:
            assert commands.pop() == ["migrate", "--database-url", "postgresql://user@host/database"]
        assert [command[0] for command in commands] == [*(["migrate"] if arguments or env else []), "create", "list"]
        for command in commands:
            assert process(*command, **env).code == 0, command


def test_the_demo_shows_no_password(dsn: str) -> None:
    address = dsn if urlsplit(dsn).password else dsn.replace("@", ":hunter2@", 1)
    done = process("demo", "--database-url", address)
    assert done.code == 0
    assert (urlsplit(address).password or "") not in done.out + done.err
    assert [hint.rpartition(" ")[2] for hint in hints(done)] == ["URL"] * 3


def test_the_demos_help_says_where_it_is() -> None:
    shown = process("demo", "--help").out
    assert "temporary server" in shown
    assert "FLOWSTATES_DATABASE_URL" in shown


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
def test_a_demo_that_fails_leaves_nothing_and_logs_nothing(
    layout: Layout, layout_dsns: dict[Layout, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> bool:
        raise FlowStatesError("no")

    monkeypatch.setattr("flowstates.FlowRunStateRepository.delete_flow_run_state", fail)
    done = run("demo", "--database-url", layout_dsns[layout])
    assert (done.code, done.out) == ((3, "") if layout == "flowstates" else (1, ""))
    assert caplog.text == ""


def test_the_demo_in_json(dsn: str) -> None:
    *history, first, second = run("demo", "--database-url", dsn, "--json").records
    assert len([FlowRunState.model_validate(record) for record in history]) == 7
    assert (first["deleted"], second["deleted"], first["id"] == second["id"]) == (True, False, True)
