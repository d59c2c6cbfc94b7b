"""A real Prefect database, made by Prefect itself, seeded once, and cloned for every test that writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.prefect.seed import Seed, insert_seed, make_seed
from tests.servers import create_database, drop_database

if TYPE_CHECKING:
    from prefect.server.database import PrefectDBInterface

UPGRADE_TIMEOUT = 180  # seconds; a quiet machine needs 4 to 7

Clone: TypeAlias = Callable[..., Awaitable[str]]
PrefectOn: TypeAlias = "Callable[[str], AbstractAsyncContextManager[PrefectDBInterface]]"


def pytest_configure(config: pytest.Config) -> None:
    # Prefect reads its settings when it is first imported, which the test modules do.
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="flowstates-prefect-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ |= {
        "PREFECT_HOME": home,
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def for_sqlalchemy(dsn: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(scheme="postgresql+asyncpg"))


@pytest.fixture(scope="session")
def seed() -> Seed:
    return make_seed()


@pytest.fixture(scope="session")
def empty(server_dsn: str) -> Iterator[str]:
    """The name of a database that Prefect made, without a row. Nothing may connect to it, or it could not be cloned."""
    dsn = asyncio.run(create_database(server_dsn))
    try:
        asyncio.run(_check(dsn))
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
            env=os.environ | {"PREFECT_API_DATABASE_CONNECTION_URL": for_sqlalchemy(dsn)},
            capture_output=True,
            text=True,
            timeout=UPGRADE_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield urlsplit(dsn).path[1:]
    finally:
        asyncio.run(drop_database(server_dsn, dsn))


@pytest.fixture(scope="session")
def template(server_dsn: str, empty: str, seed: Seed) -> Iterator[str]:
    """The name of the seeded database. Nothing may connect to it, or it could not be cloned."""
    dsn = asyncio.run(create_database(server_dsn, template=empty))
    try:
        asyncio.run(_fill(dsn, seed))
        yield urlsplit(dsn).path[1:]
    finally:
        asyncio.run(drop_database(server_dsn, dsn))


async def _check(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    encoding = await connection.fetchval("show server_encoding")
    extension = await connection.fetchval("select count(*) from pg_available_extensions where name = 'pg_trgm'")
    await connection.close()
    assert (encoding, extension) == ("UTF8", 1), "Prefect needs a UTF-8 server with the extension pg_trgm, which the embedded server lacks"


async def _fill(dsn: str, seed: Seed) -> None:
    connection = await asyncpg.connect(dsn)
    await insert_seed(connection, seed)
    await connection.close()


@pytest.fixture(scope="session")
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    """The seeded database for tests that only read."""
    dsn = asyncio.run(create_database(server_dsn, template=template))
    yield dsn
    asyncio.run(drop_database(server_dsn, dsn))


@pytest.fixture
async def clone(server_dsn: str, template: str) -> AsyncIterator[Clone]:
    """Makes databases for tests that write: seeded ones, or copies of another template."""
    made: list[str] = []

    async def make(template: str = template) -> str:
        made.append(await create_database(server_dsn, template=template))
        return made[-1]

    yield make
    for dsn in made:
        await drop_database(server_dsn, dsn)


@pytest.fixture
def prefect_on() -> PrefectOn:
    """Points Prefect's functions, in this process, at a database."""
    from prefect.server.database import provide_database_interface
    from prefect.server.database.configurations import AsyncPostgresConfiguration
    from prefect.server.database.dependencies import temporary_database_config, temporary_orm_config, temporary_query_components
    from prefect.server.database.orm_models import AsyncPostgresORMConfiguration
    from prefect.server.database.query_components import AsyncPostgresQueryComponents

    @asynccontextmanager
    async def on(dsn: str) -> AsyncIterator[PrefectDBInterface]:
        # Prefect keeps what it was first asked for, its default SQLite maybe, for the whole process: settings would come too late.
        with (
            temporary_database_config(AsyncPostgresConfiguration(for_sqlalchemy(dsn))),
            temporary_orm_config(AsyncPostgresORMConfiguration()),
            temporary_query_components(AsyncPostgresQueryComponents()),
        ):
            interface = provide_database_interface()
            try:
                yield interface
            finally:
                await (await interface.engine()).dispose()

    return on
