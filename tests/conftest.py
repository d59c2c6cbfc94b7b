from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import asyncpg
import pytest

from flowstates import create_pool, migrate
from flowstates.values import Layout
from tests.servers import PREFECT_TABLES, Server, create_database, drop_database, server_for_tests

_server = pytest.StashKey[Server]()
_running = pytest.StashKey[ExitStack]()

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; the programs that tests start would have it so too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_server] = Server(worker["dsn"], worker["description"])
    elif not config.option.collectonly:
        config.stash[_running] = ExitStack()
        config.stash[_server] = config.stash[_running].enter_context(server_for_tests(os.environ.get("FLOWSTATES_TEST_POSTGRES", "auto")))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _running in config.stash:
        config.stash[_running].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: pytest.Config) -> None:
    """All workers of pytest-xdist share the server that the main process started."""
    server = node.config.stash[_server]  # type: ignore[attr-defined]
    node.workerinput.update(dsn=server.dsn, description=server.description)  # type: ignore[attr-defined]


def pytest_report_header(config: pytest.Config) -> str:
    if _server not in config.stash:
        return "PostgreSQL: none, only collecting"
    server = config.stash[_server]
    return f"PostgreSQL: {asyncio.run(_version(server.dsn))}: {server.description}"


async def _version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    version: str = await connection.fetchval("show server_version")
    await connection.close()
    return version


@pytest.fixture(scope="session")
def server_dsn(pytestconfig: pytest.Config) -> str:
    """The server's own database, for a superuser."""
    return pytestconfig.stash[_server].dsn


async def _make(server_dsn: str, layout: Layout) -> str:
    dsn = await create_database(server_dsn)
    connection = await asyncpg.connect(dsn)
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection)
    await connection.close()
    return dsn


@pytest.fixture(scope="session")
def layout_dsns(server_dsn: str) -> Iterator[dict[Layout, str]]:
    """A database of each layout. Tests share it, each with runs of its own, and leave its tables as they are."""
    layouts: tuple[Layout, ...] = ("flowstates", "prefect")
    dsns = {layout: asyncio.run(_make(server_dsn, layout)) for layout in layouts}
    yield dsns
    for dsn in dsns.values():
        asyncio.run(drop_database(server_dsn, dsn))


@pytest.fixture
def dsn(layout_dsns: dict[Layout, str]) -> str:
    return layout_dsns["flowstates"]


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with create_pool(dsn) as pool:
        yield pool


@pytest.fixture
async def prefect_pool(layout_dsns: dict[Layout, str]) -> AsyncIterator[Pool]:
    async with create_pool(layout_dsns["prefect"]) as pool:
        yield pool


@pytest.fixture
async def own_dsn(server_dsn: str) -> AsyncIterator[str]:
    """An empty database for one test."""
    dsn = await create_database(server_dsn)
    yield dsn
    await drop_database(server_dsn, dsn)


@pytest.fixture
async def connection(own_dsn: str) -> AsyncIterator[Connection]:
    """A connection to an empty database for one test."""
    connection = await asyncpg.connect(own_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def own_database(own_dsn: str) -> str:
    """A migrated database for one test: nobody else's calls wait for locks in it, and its tables may be changed."""
    connection = await asyncpg.connect(own_dsn)
    await migrate(connection)
    await connection.close()
    return own_dsn
