"""A PgBouncer of each mode before the server that the tests use, on a Unix socket in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from flowstates import create_pool, migrate

Mode: TypeAlias = Literal["transaction", "session", "tracking"]
"""Of PgBouncer; `tracking` is a newer one in transaction mode, which keeps prepared statements apart."""

SERVER_CONNECTIONS = 2  # per database; every test has more clients than this
TRACKED = 3  # prepared statements of a server connection, fewer than the tests have
MODES: dict[Mode, str] = {
    "transaction": "pool_mode = transaction",
    "session": "pool_mode = session",
    "tracking": f"pool_mode = transaction\nmax_prepared_statements = {TRACKED}",
}
PATIENCE = 20.0  # seconds for the start, for the end and for a free server connection; a quiet machine needs 0.1


@contextmanager
def pgbouncer(server_dsn: str, mode: Mode) -> Iterator[Path]:
    """Starts a PgBouncer that lets everybody in, yields the folder of its socket (port 6432) and stops it."""
    if mode == "tracking":
        program: str | None = str(Path(os.environ.get("FLOWSTATES_PGBOUNCER", "/opt/flowstates-pgbouncer")) / "pgbouncer")
    else:
        program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None or not Path(program).exists():
        raise FileNotFoundError(f"there is no {program or 'pgbouncer'} on this machine; .ci/pgbouncer brings both that these tests need")
    folder = Path(tempfile.mkdtemp(prefix="flowstates-pgbouncer-"))
    try:
        config = folder / "pgbouncer.ini"
        config.write_text(f"""
[databases]
* = {_connection_string(server_dsn)}

[pgbouncer]
{MODES[mode]}
default_pool_size = {SERVER_CONNECTIONS}
query_wait_timeout = {PATIENCE:.0f}
auth_type = any
unix_socket_dir = {folder}
listen_port = 6432
""")
        account = _account(server_dsn)
        if account:
            os.chown(folder, account["user"], account["group"])
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **account,
            )
        try:
            end = time.monotonic() + PATIENCE
            while not (folder / ".s.PGSQL.6432").exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"PgBouncer did not start: {(folder / 'log').read_text()}")
                time.sleep(0.01)
            yield folder
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder)


def _connection_string(dsn: str) -> str:
    address = urlsplit(dsn)
    options = {key: values[0] for key, values in parse_qs(address.query).items()}
    found = {
        "host": options.get("host", address.hostname),
        "port": options.get("port", address.port or 5432),
        "user": unquote(address.username or "postgres"),
        "password": unquote(address.password) if address.password else None,
    }
    return " ".join(f"{key}='{value}'" for key, value in found.items() if value is not None)


def _account(dsn: str) -> dict[str, Any]:
    """Whom PgBouncer runs as, for `subprocess`. It refuses root, and the socket of root's embedded server is closed to all but its group."""
    if os.geteuid() != 0:
        return {}
    nobody, sockets = pwd.getpwnam("nobody"), parse_qs(urlsplit(dsn).query).get("host")
    return {"user": nobody.pw_uid, "group": Path(sockets[0]).stat().st_gid if sockets else nobody.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def pgbouncers(server_dsn: str) -> Iterator[dict[Mode, Path]]:
    with ExitStack() as stack:
        yield {mode: stack.enter_context(pgbouncer(server_dsn, mode)) for mode in MODES}


def through(folder: Path, dsn: str) -> str:
    """The address of the database of `dsn` through the PgBouncer in `folder`."""
    return f"postgresql://postgres@/{urlsplit(dsn).path[1:]}?host={quote(str(folder), safe='')}&port=6432"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture
def pooled_dsn(pgbouncers: dict[Mode, Path], mode: Mode, dsn: str) -> str:
    """The shared database of our layout, through a PgBouncer of each mode."""
    return through(pgbouncers[mode], dsn)


@pytest.fixture
def transaction_dsn(pgbouncers: dict[Mode, Path], dsn: str) -> str:
    return through(pgbouncers["transaction"], dsn)


@pytest.fixture
def session_dsn(pgbouncers: dict[Mode, Path], dsn: str) -> str:
    return through(pgbouncers["session"], dsn)


@pytest.fixture
def tracking_dsn(pgbouncers: dict[Mode, Path], dsn: str) -> str:
    return through(pgbouncers["tracking"], dsn)


@pytest.fixture
async def own_transaction_dsn(pgbouncers: dict[Mode, Path], own_dsn: str) -> str:
    """A database of our layout for one test, which may leave PgBouncer's connections to it in disorder."""
    async with create_pool(own_dsn) as pool:
        await migrate(pool)
    return through(pgbouncers["transaction"], own_dsn)
