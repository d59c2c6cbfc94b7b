from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import asyncpg
import pytest

from flowstates import create_pool
from flowstates.testing import Databases
from flowstates.values import Layout

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
def layout_dsns(flowstates_databases: Databases, flowstates_template: str, prefect_template: str) -> dict[Layout, str]:
    """A database of each layout. Tests share it, each with runs of its own, and leave its tables as they are."""
    return {"flowstates": flowstates_databases.create(flowstates_template), "prefect": flowstates_databases.create(prefect_template)}


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
def own_dsn(flowstates_databases: Databases) -> Iterator[str]:
    """An empty database for one test."""
    dsn = flowstates_databases.create()
    yield dsn
    flowstates_databases.drop(dsn)


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
