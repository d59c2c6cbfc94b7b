"""How far standbys are behind, for who writes much."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from flowstates.engine.connections import ask
from flowstates.engine.execution import Execution
from flowstates.engine.retries import LOG
from flowstates.errors import InvalidInputError

_LOOK_AGAIN = 0.5  # seconds


class Standbys:
    """Those that follow the server. `max_lag` is in seconds, None for any."""

    def __init__(self, execution: Execution, max_lag: float | None) -> None:
        self._execution = execution
        self._max_lag = max_lag
        self._written: deque[tuple[float, float]] = deque()
        """When we have seen that the server was at which place of its log, from what no standby has replayed yet."""

    async def wait(self) -> None:
        """Until none is behind by more. The wait ends with the caller's timeout, if there is one.

        One that stands still is known by how long we have seen it stand: a server cannot say since when.
        """
        if self._max_lag is None:
            return
        loop, since = asyncio.get_running_loop(), None
        while True:
            async with self._execution.connection() as connection:
                if connection.is_in_transaction():
                    raise InvalidInputError("max_lag", "cannot be used in a transaction: standbys see nothing of it before it ends")
                is_visible, written, replayed, lag = (await ask(connection, "read_standbys"))[0]
            if not is_visible:
                raise InvalidInputError("max_lag", "takes the right to see standbys: grant pg_read_all_stats, or pg_monitor, to this role")
            behind = 0.0 if replayed is None else self._behind(written, replayed, lag)
            if behind <= self._max_lag:
                if since is not None:
                    LOG.info("waited %.1f s for standbys", loop.time() - since)
                return
            if since is None:
                since = loop.time()
                LOG.info("waiting for standbys: one is %.1f s behind, and %.1f s are allowed", behind, self._max_lag)
            await asyncio.sleep(_LOOK_AGAIN)

    def _behind(self, written: str, replayed: str, lag: str) -> float:
        """By how many seconds the last of them is behind."""
        # What a standby says of itself stands still when it does, so what it has replayed counts too.
        while self._written and self._written[0][1] <= float(replayed):
            self._written.popleft()
        if float(replayed) >= float(written):
            return 0.0
        self._written.append((monotonic(), float(written)))
        return max(float(lag), monotonic() - self._written[0][0])
