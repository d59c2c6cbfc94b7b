"""A pool with the settings that suit the repository, and whether a pooler is between a connection and its server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from flowstates.database.addresses import read_address
from flowstates.engine import queries
from flowstates.errors import InvalidInputError
from flowstates.values import flag

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_Init: TypeAlias = "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[None]]"


def create_pool(dsn: str | None = None, *, transaction_pooling: bool = False, **asyncpg_options: Any) -> asyncpg.Pool:
    """An asyncpg pool: `await` it or enter it with `async with`, as asyncpg's own.

    It differs from asyncpg's in three defaults. A connection is given back without a reset on the server, which saves a round trip a call: so
    leave no session state behind (SET LOCAL, not SET; transaction-level advisory locks; no LISTEN). asyncpg still rolls back an open
    transaction, but does not know of the one that the server began for a statement of yours that was prepared, and cancelled before it ran: the
    next statement ends that, and until then no transaction at another isolation level can begin. `min_size` is 1, and not 10 connections that
    are kept open.

    A `dsn` that begins with `postgresql+asyncpg://` is read as SQLAlchemy reads it, another one as asyncpg does. Raises InvalidInputError for one
    that cannot be read, or that asks for what libpq can and asyncpg cannot, such as `channel_binding=require`.

    asyncpg keeps prepared statements under names that it counts by process. Behind a pooler that gives a server connection to one client after
    another (PgBouncer's transaction mode), a name can be another process's statement, which then runs instead. So each new connection is
    asked, in one round trip, which process serves it, and a pooler is refused with InvalidInputError, before the caller's `init`, unless the
    pool was told what is safe:

    - `transaction_pooling=True`: nothing is kept (`statement_cache_size=0`). Safe behind every pooler; a call is two round trips.
    - `statement_cache_size=100` (asyncpg's own default), or any number given here: the caller knows that the pooler keeps statements apart,
      by its session mode or as PgBouncer 1.21 and newer do with `max_prepared_statements`. From outside it cannot be told.

    A pool that was told asks nothing. All other options are asyncpg's and are passed on, a callable as `password` among them: it is asked for
    each new connection.
    """
    if dsn is not None:
        dsn, options = read_address(dsn)
        asyncpg_options = {**options, **asyncpg_options}
    if flag("transaction_pooling", transaction_pooling) and asyncpg_options.setdefault("statement_cache_size", 0) != 0:
        raise InvalidInputError("statement_cache_size", "is not 0, and transaction_pooling=True keeps no statements: leave one of the two out")
    if "statement_cache_size" not in asyncpg_options:
        asyncpg_options["init"] = _refuse_pooler(asyncpg_options.get("init"))
    return asyncpg.create_pool(dsn, **{"min_size": 1, "reset": _no_reset, **asyncpg_options})


async def has_pooler(connection: asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]) -> bool:
    """Whether a pooler is between the connection and the server, by the process that each of them names. One round trip."""
    answer = bytearray()

    async def take(data: bytes) -> None:
        answer.extend(data)

    # COPY, since asyncpg prepares a statement for whatever else has an answer, and behind a pooler that is just what may go wrong.
    query = queries.catalog("read_server_process").rstrip().removesuffix(";")
    try:
        await connection.copy_from_query(query, output=take)
    except asyncpg.FeatureNotSupportedError:
        # A standby whose default isolation is serializable, which it cannot be.
        if connection.is_in_transaction():
            raise
        async with connection.transaction(isolation="read_committed"):
            await connection.copy_from_query(query, output=take)
    return int(answer) != connection.get_server_pid()


def _refuse_pooler(init: _Init | None) -> _Init:
    async def refuse_pooler(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if await has_pooler(connection):
            raise InvalidInputError(
                "transaction_pooling",
                "a pooler is between this pool and the server, where a statement that is kept under a name may be another process's: "
                "pass transaction_pooling=True, or statement_cache_size=100 if the pooler keeps them apart (session mode; "
                "PgBouncer 1.21 or newer with max_prepared_statements)",
            )
        if init is not None:
            await init(connection)

    return refuse_pooler


async def _no_reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    pass
