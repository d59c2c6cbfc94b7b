"""Deletes on Citus: a call of a function a run, where the run is, as no statement locks the rows of runs on several servers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from flowstates.engine import queries
from flowstates.engine.connections import repeated
from flowstates.engine.execution import Execution
from flowstates.errors import FlowStatesError
from flowstates.values import seconds

_NAME = "delete_flow_run_states"


async def delete_states(execution: Execution, ids: Sequence[str], *, timeout: float | None) -> list[str]:
    """Deletes states by their ids, and gives those that went. Where an id is in two runs nothing is deleted, and it is an error."""
    timeout = seconds(timeout)
    async with asyncio.timeout(timeout):
        found: defaultdict[str, list[str]] = defaultdict(list)
        of_id: defaultdict[str, list[str]] = defaultdict(list)
        for row in await execution.rows("delete_flow_run_states.runs_of", ids, timeout=None):
            found[row["flow_run_id"]].append(row["id"])
            of_id[row["id"]].append(row["flow_run_id"])
        for id_, runs in of_id.items():
            if len(runs) > 1:
                raise in_several_runs(id_, runs)
        return await _delete(execution, found)


async def delete_runs(execution: Execution, ids: Sequence[str], *, timeout: float | None) -> list[str]:
    """Deletes all states of some runs, and gives the ids of those that went."""
    timeout = seconds(timeout)
    async with asyncio.timeout(timeout):
        return await _delete(execution, dict.fromkeys(sorted(set(ids))))


def in_several_runs(id_: UUID | str, runs: Sequence[UUID | str]) -> FlowStatesError:
    """The error of an id that does not say which state is meant."""
    return FlowStatesError(f"state {id_} is in runs {' and '.join(map(str, runs))}: on Citus an id is unique in its run only, so it names neither")


async def _delete(execution: Execution, runs: Mapping[str, Sequence[str] | None]) -> list[str]:
    if not runs:
        return []
    if len(runs) == 1:
        return await execution.values("delete_flow_run_states.of_run", *next(iter(runs.items())), timeout=None)
    text = queries.query("delete_flow_run_states.of_run", execution.layout)
    async with execution.connection() as connection:

        async def work() -> list[str]:
            # In the order of the runs' ids, so that two of these do not lock each other out.
            return [row[0] for run, ids in runs.items() for row in await connection.fetch(text, run, ids)]

        if connection.is_in_transaction():
            return await work()
        return await repeated(connection, _NAME, work, is_of_pool=execution.is_of_pool)
