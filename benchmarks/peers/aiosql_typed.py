"""aiosql on asyncpg.

By https://nackjicholson.github.io/aiosql/, pages `getting-started` and `defining-sql-queries`. A record is made of each row that comes: aiosql's own
`record_class` is deprecated, and makes a dict of each row first. `connect` hands in asyncpg's pool as it is, `connect_fastest` one without a reset.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aiosql

from benchmarks.peers import RUN, Read, Record, asyncpg_raw, to_record

queries = aiosql.from_str("-- name: read_run(run)" + RUN.replace("$1", ":run"), "asyncpg")


@asynccontextmanager
async def connect(dsn: str, *, reset: bool = True) -> AsyncIterator[Read]:
    """Through asyncpg's pool."""
    async with asyncpg_raw.connect_pool(dsn, reset=reset) as pool:

        async def read(run: UUID) -> list[Record]:
            return [to_record(*row) async for row in queries.read_run(pool, run=run)]

        yield read


@asynccontextmanager
async def connect_fastest(dsn: str) -> AsyncIterator[Read]:
    """No reset."""
    async with connect(dsn, reset=False) as read:
        yield read
