"""psycopg 3 with its C implementation and its own pool.

By https://www.psycopg.org/psycopg3/docs/advanced/, pages `rows`, `cursors`, `prepare` and `pool`. Results come in binary. JSON comes as text: a
loader of JSON would parse it before StateDetails can, and loaders written in Python cost as much as a call.

`connect`: `class_row`, and `async with pool.connection()` with its defaults: BEGIN, COMMIT, prepared at the sixth call. `connect_fastest`, by what
was tried:

- autocommit, so no BEGIN and COMMIT; prepared at the first call.
- `args_row`: positional, where `class_row` makes a dict of each row and takes a fifth longer.
- `AsyncRawCursor`, which takes `$1` as it is; times in UTC by the connection's option, which are read faster than those of a named zone.
- `getconn` and `putconn`, which take 5 % less than `pool.connection()`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

from psycopg import AsyncConnection, AsyncRawCursor, pq
from psycopg.rows import args_row, class_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import RUN, Read, Record, to_record


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Read]:
    """Through psycopg's pool."""
    text = RUN.replace("$1", "%s")
    async with _pool(dsn) as pool:

        async def read(run: UUID) -> Sequence[Record]:
            async with (
                pool.connection() as connection,
                connection.cursor(binary=True, row_factory=class_row(cast("type[Record]", to_record))) as cursor,
            ):
                await cursor.execute(text, (run,))
                return await cursor.fetchall()

        yield read


@asynccontextmanager
async def connect_fastest(dsn: str) -> AsyncIterator[Read]:
    """Through psycopg's pool."""
    settings = {
        "autocommit": True,
        "prepare_threshold": 0,
        "cursor_factory": AsyncRawCursor,
        "row_factory": args_row(to_record),
        "options": "-c timezone=UTC",
    }
    async with _pool(dsn, **settings) as pool:

        async def read(run: UUID) -> Sequence[Record]:
            connection = await pool.getconn()
            try:
                cursor = await connection.execute(RUN, (run,), binary=True)
                return cast("list[Record]", await cursor.fetchall())
            finally:
                await pool.putconn(connection)

        yield read


def _pool(dsn: str, **settings: Any) -> AsyncConnectionPool[AsyncConnection[Any]]:
    assert pq.__impl__ == "binary", pq.__impl__
    return AsyncConnectionPool(dsn, min_size=1, max_size=1, kwargs=settings, open=False)
