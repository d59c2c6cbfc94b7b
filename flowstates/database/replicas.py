"""Whether a replica shows what was committed on its primary."""

from __future__ import annotations

import asyncio
import re

from flowstates.engine import queries
from flowstates.engine.connections import PoolOrConnection, fetched
from flowstates.engine.execution import Execution
from flowstates.errors import InvalidInputError
from flowstates.values import seconds, shown

_POSITION = re.compile(r"([0-9]{1,20}):([0-9A-F]{8}):([0-9A-F]{1,8}/[0-9A-F]{1,8})", re.ASCII)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05  # seconds
_WAITS = 19  # the first PostgreSQL that has WAIT FOR LSN
_LONGEST_WAIT = 2**31 - 1  # milliseconds


async def position(primary: PoolOrConnection, *, timeout: float | None = None) -> str:
    """Where the primary's log ends: after all that was committed before this call. A short text, for `has_reached`. One round trip.

    It is of the server's cluster and of its timeline, which a promotion ends. InvalidInputError on a standby, and in a transaction, whose own
    writes come after any position that it could ask for.

    `timeout` is in seconds, for all of it.
    """
    execution = Execution(primary, "flowstates")
    async with asyncio.timeout(seconds(timeout)), execution.connection() as connection:
        if connection.is_in_transaction():
            raise InvalidInputError("primary", "is in a transaction, of which nothing is committed yet: ask after its end")
        ((cluster, timeline, lsn),) = await fetched(connection, queries.catalog("read_position"), (), is_of_pool=execution.is_of_pool)
    if lsn is None:
        raise InvalidInputError("primary", "is a standby: ask the server that took the write")
    return f"{cluster}:{timeline}:{lsn}"


async def has_reached(replica: PoolOrConnection, position: str, *, timeout: float | None = 1.0) -> bool:
    """Whether the replica shows all that was committed on its primary before `position`. It waits for that, for `timeout` seconds.

    True is so for what is asked of that replica afterwards. False is all else: that it was not seen in time, or that it can be no more. A position
    does not outlive a promotion: a server that is on a later timeline, the promoted one too, says False at once, also of what it has.

    One round trip where the replica is there already. Else it is asked again, after 2 milliseconds and then less and less often, up to 20 times a
    second; on PostgreSQL 19 and newer, outside of transactions, the server waits by `WAIT FOR LSN` before that. The pool is to be of one server:
    another one behind the same address may be further behind. A primary has reached its own positions.

    On a standby it takes the right to see which timeline comes in: pg_read_all_stats, which pg_monitor has; InvalidInputError without it. While
    nothing comes in, as its primary is away, the timeline is not known, and the answer is False. InvalidInputError also for a position of another
    cluster, and in a transaction at REPEATABLE READ or above, which goes on to see what it saw first.
    """
    execution = Execution(replica, "flowstates")
    asked = _POSITION.fullmatch(position) if isinstance(position, str) else None
    if asked is None:
        raise InvalidInputError("position", f"is {shown(position)}, which `position` has not given")
    pause = _FIRST_PAUSE
    try:
        limit = asyncio.timeout(seconds(timeout))
    except TimeoutError:  # no time is left
        return False
    try:
        async with limit:
            if (answer := await _look(execution, *asked.groups())) is None:
                await _wait_on_server(execution, asked[3], limit.when())
            while answer is None and (answer := await _look(execution, *asked.groups())) is None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            return answer
    except TimeoutError:
        if not limit.expired():
            raise
        return False


async def _look(execution: Execution, cluster: str, timeline: str, lsn: str) -> bool | None:
    """None where it may come to be."""
    async with execution.connection() as connection:
        text = queries.catalog("read_reached")
        ((its_cluster, is_reached, is_standby, its_timeline, is_visible, isolation),) = await fetched(
            connection, text, (lsn,), is_of_pool=execution.is_of_pool
        )
        if connection.is_in_transaction() and isolation not in ("read committed", "read uncommitted"):  # which are one
            raise InvalidInputError("replica", f"is in a transaction at {isolation.upper()}, which goes on to see what it saw first")
    if its_cluster != cluster:
        raise InvalidInputError("position", "is of another cluster than this server")
    if is_standby == "true" and is_visible != "true":
        raise InvalidInputError("replica", "takes the right to see its timeline: grant pg_read_all_stats, or pg_monitor, to this role")
    if its_timeline is None or its_timeline < timeline:
        return None
    if its_timeline > timeline:
        return False
    return True if is_reached == "true" else None


async def _wait_on_server(execution: Execution, lsn: str, end: float | None) -> None:
    """Waits until the server has come to the place, or the time is over, where it is one that can; it may not be that of the position even then."""
    async with execution.connection() as connection:
        if connection.get_server_version().major < _WAITS or connection.is_in_transaction():  # a cursor's snapshot would be an error there
            return
        text = queries.fill(queries.catalog("wait_for_place"), "lsn", f"'{lsn}'")
        milliseconds = _LONGEST_WAIT if end is None else max(1, min(_LONGEST_WAIT, int(1000 * (end - asyncio.get_running_loop().time()))))
        await connection.execute(queries.fill(text, "milliseconds", str(milliseconds)))
