from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from flowstates import create_pool
from tests.conftest import Pool, migrate_distributed
from tests.distributed import CitusDatabases


@pytest.fixture
async def pool(citus_dsn: str) -> AsyncIterator[Pool]:
    """Of the database that tests share, each with runs of its own."""
    async with create_pool(citus_dsn) as pool:
        yield pool


@pytest.fixture
def empty_dsn(citus_databases: CitusDatabases) -> Iterator[str]:
    """A database for one test, with Citus and nothing else."""
    dsn = citus_databases.create()
    yield dsn
    citus_databases.drop(dsn)


@pytest.fixture
async def own_dsn(empty_dsn: str) -> str:
    """A migrated one for one test."""
    await migrate_distributed(empty_dsn)
    return empty_dsn
