from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import asyncpg
import pytest

from flowstates import create_pool, migrate
from flowstates.testing import Databases
from flowstates.values import Layout
from tests.distributed import CITUS, CitusDatabases

pytest_plugins = ["flowstates.testing.plugin", "pytester"]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

for name, value in {
    "TESTCONTAINERS_RYUK_DISABLED": "true",  # its helper image comes from a registry
    "TC_POOLING_INTERVAL": "0.1",  # seconds
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",  # a machine that looks like a container gets a bridge's address otherwise
    "TC_HOST": "127.0.0.1",  # the port is published on IPv4 only
}.items():
    os.environ.setdefault(name, value)


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; the programs that tests start would have it so too
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server_dsn(flowstates_server: str) -> str:
    """The server's own database, for a superuser."""
    return flowstates_server


@pytest.fixture(scope="session")
def citus_databases() -> CitusDatabases:
    """What makes databases on the Citus that FLOWSTATES_TEST_CITUS names."""
    if CITUS is None:
        pytest.fail("FLOWSTATES_TEST_CITUS names no coordinator of Citus", pytrace=False)
    return CitusDatabases(CITUS)


@pytest.fixture(scope="session")
def citus_dsn(citus_databases: CitusDatabases) -> Iterator[str]:
    """A database of the layout `citus`, on the coordinator. Tests share it, as those of `layout_dsns`."""
    dsn = citus_databases.create()
    with ThreadPoolExecutor(1) as thread:  # beside the loop of a test
        thread.submit(asyncio.run, migrate_distributed(dsn)).result()
    yield dsn
    citus_databases.drop(dsn)


async def migrate_distributed(dsn: str) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        await migrate(pool, distributed=True)


@pytest.fixture(scope="session")
def layout_dsns(
    request: pytest.FixtureRequest, flowstates_databases: Databases, flowstates_template: str, prefect_template: str
) -> dict[Layout, str]:
    """A database of each layout. Tests share it, each with runs of its own, and leave its tables as they are."""
    dsns: dict[Layout, str] = {
        "flowstates": flowstates_databases.create(flowstates_template),
        "prefect": flowstates_databases.create(prefect_template),
    }
    if CITUS is not None:
        dsns["citus"] = request.getfixturevalue("citus_dsn")
    return dsns


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
def own_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database for one test; for one on the layout `citus` on a Citus."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    databases: Databases | CitusDatabases
    databases = request.getfixturevalue("citus_databases" if parameters.get("layout") == "citus" else "flowstates_databases")
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
async def connection(own_dsn: str) -> AsyncIterator[Connection]:
    """A connection to an empty database for one test."""
    connection = await asyncpg.connect(own_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def own_database(flowstates_dsn: str) -> str:
    """A migrated database for one test: nobody else's calls wait for locks in it, and its tables may be changed."""
    return flowstates_dsn
