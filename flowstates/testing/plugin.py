"""Fixtures for a service's tests on a real PostgreSQL, which a conftest.py opts into: `pytest_plugins = ["flowstates.testing.plugin"]`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Literal, TypeAlias

import asyncpg
import pytest

from flowstates.database.pool import create_pool
from flowstates.engine.connections import BROKEN
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.testing.databases import Databases, Schema, check_schema
from flowstates.testing.servers import FORMS, VARIABLE, Server, in_a_line, server_for_tests

try:
    import pytest_asyncio.plugin
except ImportError:  # the pool is then anyio's matter
    pytest_asyncio = None  # type: ignore[assignment]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
LoopScope: TypeAlias = Literal["function", "class", "module", "package", "session"]

_SECONDS = 10  # for connections that are to come back
_NONE = "no PostgreSQL for tests: {}"
_BOTH = (
    "pytest-asyncio and anyio's plugin both take this test, each with a loop of its own: let asyncio_mode be strict, "
    "where pytest-asyncio takes what is marked for it, and mark the test for one of the two"
)
_NEITHER = (
    "flowstates_pool is for tests of pytest-asyncio or of anyio's plugin: install one of them and mark the test; "
    "with anyio a test that is not async takes the fixture anyio_backend too"
)
_found = pytest.StashKey["Server | str"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that names the server."""
    parser.getgroup("flowstates").addoption(
        "--flowstates-server", metavar="SERVER", help=f"The PostgreSQL server for tests: {FORMS}. Without it {VARIABLE} says, and without that auto."
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers of pytest-xdist share the server that the main process has."""
    server = _server(node.config)
    node.workerinput["flowstates_server"] = server if isinstance(server, str) else tuple(server)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Names the server that the tests used."""
    server = config.stash.get(_found, None)
    if server is not None and not isinstance(server, str):
        terminalreporter.write_line(f"flowstates: PostgreSQL {server.version}, {server.reason}")


def _server(config: pytest.Config) -> Server | str:
    """The server, started when it is first asked for; a text says why there is none."""
    if _found not in config.stash:
        given = getattr(config, "workerinput", {}).get("flowstates_server")
        if given is None:
            stack = ExitStack()
            config.add_cleanup(stack.close)
            wanted = config.getoption("flowstates_server", None) or os.environ.get(VARIABLE) or "auto"
            try:
                given = stack.enter_context(server_for_tests(wanted))
            except (FlowStatesError, ImportError) as error:
                given = "\n".join([_NONE.format(error), *getattr(error, "__notes__", ())])
        # What xdist hands over are plain values.
        config.stash[_found] = given if isinstance(given, str) else Server(*given)
    return config.stash[_found]


@pytest.fixture(scope="session")
def flowstates_server(pytestconfig: pytest.Config) -> str:
    """The address of the server's own database, for a role that may create databases."""
    server = _server(pytestconfig)
    if isinstance(server, str):
        pytest.fail(server, pytrace=False)
    return server.dsn


@pytest.fixture(scope="session")
def flowstates_databases(flowstates_server: str) -> Iterator[Databases]:
    """Makes databases that live for longer or for less than a test."""
    try:
        databases = Databases(flowstates_server)
    except (FlowStatesError, *BROKEN) as error:
        raise pytest.fail.Exception(_NONE.format(in_a_line(error)), pytrace=False) from None
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def flowstates_schema() -> str | Schema | None:
    """What the service has in its database beside the tables of flowstates: to be overridden, by statements of SQL or by a Schema."""
    return None


@pytest.fixture(scope="session")
def flowstates_template(flowstates_databases: Databases, flowstates_schema: str | Schema | None) -> str:
    """The name of the template that each test's database is cloned from. Nothing can connect to it."""
    try:
        check_schema("flowstates_schema", flowstates_schema)
    except InvalidInputError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    return flowstates_databases.template(flowstates_schema)


@pytest.fixture
def flowstates_dsn(flowstates_databases: Databases, flowstates_template: str) -> Iterator[str]:
    """The address of a database of the test's own, with the tables of flowstates and of flowstates_schema."""
    dsn = flowstates_databases.create(flowstates_template)
    yield dsn
    flowstates_databases.drop(dsn)


@pytest.fixture(scope="session")
def prefect_template(flowstates_databases: Databases) -> str:
    """The name of the template of `prefect_dsn`."""
    return flowstates_databases.prefect_template()


@pytest.fixture
def prefect_dsn(flowstates_databases: Databases, prefect_template: str) -> Iterator[str]:
    """The address of a database of the test's own, with the tables of Prefect's layout as far as states are concerned."""
    dsn = flowstates_databases.create(prefect_template)
    yield dsn
    flowstates_databases.drop(dsn)


@asynccontextmanager
async def _pool(dsn: str) -> AsyncIterator[Pool]:
    pool = await create_pool(dsn)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()
            pytest.fail(f"connections of flowstates_pool were not given back {_SECONDS} seconds after the test", pytrace=False)


def _pool_on_a_loop_of(scope: LoopScope) -> Any:
    async def pool(flowstates_dsn: str) -> AsyncIterator[Pool]:
        async with _pool(flowstates_dsn) as pool:
            yield pool

    name = f"_flowstates_pool_{scope}"
    return None if pytest_asyncio is None else pytest_asyncio.fixture(pool, loop_scope=scope, name=name)


# A fixture has one loop, and which one the test runs on is said by its mark.
_pool_function = _pool_on_a_loop_of("function")
_pool_class = _pool_on_a_loop_of("class")
_pool_module = _pool_on_a_loop_of("module")
_pool_package = _pool_on_a_loop_of("package")
_pool_session = _pool_on_a_loop_of("session")


@pytest.fixture
async def _flowstates_pool_anyio(flowstates_dsn: str, anyio_backend_name: str) -> AsyncIterator[Pool]:
    if anyio_backend_name != "asyncio":
        pytest.fail(f"flowstates_pool is asyncpg's, which does not run on {anyio_backend_name}: let anyio_backend be asyncio", pytrace=False)
    async with _pool(flowstates_dsn) as pool:
        yield pool


@pytest.fixture
def flowstates_pool(request: pytest.FixtureRequest, flowstates_dsn: str) -> Pool:
    """A pool on the test's own database and event loop, of pytest-asyncio (0.24 or newer) or of anyio's plugin. It is closed behind the test."""
    pool: Pool = request.getfixturevalue(_name_of_pool(request))
    return pool


def _name_of_pool(request: pytest.FixtureRequest) -> str:
    has_asyncio = pytest_asyncio is not None and request.config.pluginmanager.is_registered(pytest_asyncio.plugin)
    mark = request.node.get_closest_marker("asyncio") if has_asyncio else None  # in auto mode pytest-asyncio marks what is async
    if "anyio_backend" in request.fixturenames:
        if mark is not None:
            pytest.fail(_BOTH, pytrace=False)
        return "_flowstates_pool_anyio"
    if not has_asyncio:
        pytest.fail(_NEITHER, pytrace=False)
    if mark is None:  # a test that is not async, and an async fixture of its own
        scope = request.config.getini("asyncio_default_fixture_loop_scope") or "function"
    else:
        scope = mark.kwargs.get("loop_scope") or mark.kwargs.get("scope") or request.config.getini("asyncio_default_test_loop_scope")
    return f"_flowstates_pool_{'function' if scope == 'fixture-scope' else scope}"
