"""A pass on Citus: the coordinator finds the runs on all servers, and each goes by a call of a function where it is."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from flowstates.engine import queries
from flowstates.engine.connections import AnyConnection, Transaction, fetched, repeated
from flowstates.engine.pruning import Found, Pass, Position
from flowstates.engine.rows import COLUMNS
from flowstates.records import StateType


class DistributedPass(Pass):
    """The same walk; a batch has a statement more for each of its runs, and passes by those that are locked or changed since it looked."""

    async def _batch(self, position: Position, runs: int, *, run_id: str | None = None, look: bool = False) -> Found:
        text = queries.query("prune.candidates", self._execution.layout)
        arguments = position.type.value, self._before.isoformat(), position.timestamp, position.id, str(runs), run_id
        is_of_pool = self._execution.is_of_pool
        async with self._execution.connection() as connection:
            candidates = await fetched(connection, text, arguments, is_of_pool=is_of_pool)
            # As many as make a batch of states, and at least one.
            states, chosen = 0, 0
            for row in candidates:
                states += int(row["states"])
                if chosen and states > (1 if run_id else self._size):
                    break
                chosen += 1
            is_last = chosen == len(candidates) < runs
            if not candidates:
                return Found(0, 0, None, 0, None, None, is_last)
            reached, batch = candidates[chosen - 1], candidates[:chosen]
            found = Found(chosen, sum(int(row["states"]) for row in batch), None, 0, reached["timestamp"], reached["id"], is_last)
            if look or self._dry_run:
                return found
            if connection.is_in_transaction():
                async with Transaction(connection, None, is_of_pool=is_of_pool):
                    return await self._delete_runs(connection, position, batch, found)
            return await repeated(connection, "prune.run", lambda: self._delete_runs(connection, position, batch, found), is_of_pool=is_of_pool)

    async def _delete_runs(self, connection: AnyConnection, position: Position, batch: list[asyncpg.Record], found: Found) -> Found:
        text = queries.query("prune.run" if self._archive is None else "prune.run_archived", self._execution.layout)
        runs = states = size = 0
        archived: list[asyncpg.Record] = []
        # In the order of their ids, as whoever changes several runs does; none is waited for here, but what comes behind waits for these.
        for id_ in sorted(UUID(row["id"]) for row in batch):
            rows = await connection.fetch(text, id_.hex, position.type.value, self._before.isoformat())
            gone = int(rows[0]["states"]) if self._archive is None else len(rows)
            runs, states, size = runs + bool(gone), states + gone, size + sum(int(row["bytes"]) for row in rows)
            archived += rows if self._archive is not None else []
        if archived:
            await self._keep([row[: len(COLUMNS)] for row in archived])
        return found._replace(runs=runs, states=states, bytes=size, passed=len(batch) - runs)

    async def _oldest_row(self) -> asyncpg.Record | None:
        rows = [row for type_ in StateType for row in await self._execution.rows("prune.oldest", type_, timeout=None)]
        return min(rows, key=lambda row: (row["timestamp"], row["id"]), default=None)
