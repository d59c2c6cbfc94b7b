"""psqlpy, a driver in Rust that works in threads of its own, and its own pool.

By https://psqlpy-python.github.io/, pages `components/connection_pool` and `components/results`: statements are prepared and the pool does not
look at a connection that comes back, both by default. `result(as_tuple=True)` and a call a row: `as_class`, `row_factory` and `records` took as
long or longer, `custom_decoders` as well. It gives UUIDs as text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from psqlpy import ConnectionPool
from pydantic_core import from_json

from benchmarks.peers import RUN, TYPES, Read, Record, details_of


def _to_record(
    id: str,
    created: datetime,
    updated: datetime,
    flow_run_id: str,
    type: str,
    timestamp: datetime,
    name: str,
    message: str | None,
    state_details: str,
    data: str | None,
    result_artifact_id: str | None,
) -> Record:
    return Record(
        UUID(id),
        created,
        updated,
        UUID(flow_run_id),
        TYPES[type],
        timestamp,
        name,
        message,
        details_of(state_details),
        None if data is None else from_json(data),
        None if result_artifact_id is None else UUID(result_artifact_id),
    )


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Read]:
    """Through psqlpy's pool, which has to be of two: it opens the second when both are wanted."""
    with ConnectionPool(dsn=dsn, max_db_pool_size=2) as pool:

        async def read(run: UUID) -> list[Record]:
            async with pool.acquire() as connection:
                result = await connection.fetch(RUN, [run])
            return [_to_record(*row) for row in result.result(as_tuple=True)]

        yield read
