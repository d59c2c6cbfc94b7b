"""asyncpg as it is: the driver's own records, which are the floor of everyone who uses it. No enum, no details, no data: their text.

By https://magicstack.github.io/asyncpg/current/usage.html ("Connection Pools") and the reference of `create_pool`. Its defaults are fast:
statements are kept prepared, types are decoded in C. A pool sends a reset to the server when a connection comes back, one round trip a call;
`reset=False` leaves that out, as flowstates.create_pool does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Connection]:
    """A bare connection."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def connect_pool(dsn: str, *, size: int = 1, reset: bool = True) -> AsyncIterator[Pool]:
    """A pool whose connections are there before the first call."""
    async with asyncpg.create_pool(dsn, min_size=size, max_size=size, reset=None if reset else _no_reset) as pool:
        yield pool


async def _no_reset(_: object) -> None:
    pass
