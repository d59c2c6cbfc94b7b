"""`flowstates serve`: on loopback, for both layouts, until it is told to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from flowstates.values import Layout
from tests.model import LAYOUTS
from tests.proxy import Proxy
from tests.test_cli import ROOT, execute, plain_environment, run
from tests.test_cli_embedded import folder

pytestmark = pytest.mark.once

__all__ = ["folder", "plain_environment"]  # fixtures


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that is printed, and the process."""
    command = [sys.executable, "-m", "flowstates", "serve", "--port", "0", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())
            assert found is not None, process.communicate()
            yield found[1], process
        finally:
            process.kill()


def text_of(url: str, **headers: str) -> tuple[int, str]:
    answer = httpx2.get(url, headers=headers, timeout=60)
    return answer.status_code, answer.text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_shows_the_runs_of_either_layout(layout_dsns: dict[Layout, str], layout: Layout) -> None:
    with serving("--database-url", layout_dsns[layout], "--layout", layout) as (address, _):
        for path, status in (("", 200), ("flow_runs/states?limit=1", 200), ("?type=x", 422), ("docs", 404)):
            assert text_of(address + path)[0] == status
        assert "<h1>Runs</h1>" in text_of(address)[1]


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it(dsn: str, end: signal.Signals, code: int) -> None:
    with serving("--database-url", dsn) as (address, process):
        assert text_of(address)[0] == 200
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, "")


def test_a_server_that_was_started_for_it_ends_with_it(folder: Path) -> None:
    with serving("--database-url", f"embedded:{folder / 'data'}") as (address, process):
        assert "No runs yet." in text_of(address)[1]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert run("runs", "--database-url", f"embedded:{folder / 'data'}").code == 1


async def test_while_its_database_is_down_it_says_so_in_a_line_a_request(dsn: str) -> None:
    paths = ["", f"runs/{uuid4()}", "flow_runs/states", f"flow_run_states/{uuid4()}"]
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(dsn))
        served = serving("--database-url", proxy.dsn)
        address, process = await asyncio.to_thread(served.__enter__)
        stack.push_async_callback(asyncio.to_thread, served.__exit__, None, None, None)
        assert (await asyncio.to_thread(text_of, address))[0] == 200
        await proxy.__aexit__()
        for path in paths:
            status, text = await asyncio.to_thread(text_of, address + path)
            assert (status, "database cannot be reached" in text.lower()) == (503, True), (path, text)
            assert text.startswith("{" if path.startswith("flow_") else "<!doctype html>")
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    lines = errors.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[f"GET /{path}", "503"] for path in paths], errors


async def test_what_its_database_refuses_is_a_line_a_request_too(own_database: str) -> None:
    with serving("--database-url", own_database) as (address, process):
        connection = await asyncpg.connect(own_database)
        await connection.execute("alter table flow_run_state rename to x")
        await connection.close()
        for path in ("", "flow_runs/states"):
            status, text = await asyncio.to_thread(text_of, address + path)
            assert (status, "The database refuses: relation" in text) == (500, True), (path, text)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert [line.split(": ")[:2] for line in errors.splitlines()] == [["GET /", "500"], ["GET /flow_runs/states", "500"]]


def test_a_role_that_may_not_read_all_is_told_at_the_start(own_database: str) -> None:
    role = f"reader_{uuid4().hex[:8]}"

    async def execute(text: str) -> None:
        connection = await asyncpg.connect(own_database)
        await connection.execute(text)
        await connection.close()

    asyncio.run(execute(f"create role {role} login; grant select on flow_run_state to {role}"))
    try:
        done = run("serve", "--port", "0", "--database-url", re.sub("//[^@]*@", f"//{role}@", own_database))
        assert done.code == 3
        assert "flow_run" in done.err
    finally:
        asyncio.run(execute(f"drop owned by {role}; drop role {role}"))


def test_a_name_of_another_site_for_this_address_is_refused(dsn: str) -> None:
    with serving("--database-url", dsn) as (address, _):
        port = address.split(":")[2].strip("/")
        assert text_of(address, host=f"localhost:{port}")[0] == 200
        assert text_of(address, host=f"evil.example:{port}")[0] == 400


def test_a_port_that_is_taken_is_bad_input(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", port, "--database-url", dsn)
    assert (done.code, done.err) == (2, f"error: --port: {port} cannot be had: Address already in use\n")


def test_the_wrong_layout_is_refused(layout_dsns: dict[Layout, str]) -> None:
    done = run("serve", "--port", 0, "--database-url", layout_dsns["prefect"])
    assert (done.code, done.out, done.err) == (2, "", "error: layout: this is Prefect's table: say --layout prefect\n")


def test_a_database_without_tables_is_told_of_at_once(own_dsn: str) -> None:
    done = run("serve", "--port", 0, "--database-url", own_dsn)
    assert (done.code, done.out) == (1, "")
    assert "run `flowstates migrate`" in done.err
    assert execute(own_dsn, "select 1") == 1


@pytest.mark.parametrize("module", ["fastapi", "jinja2", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(dsn: str, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from flowstates.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--database-url", dsn], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: serve: the pages are not installed: pip install 'flowstates[cli,web]'\n")
