"""Creates that many tasks make at once, stored together."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import asyncpg

from flowstates.engine.appending import Expected, Transitions, expectation_of, expectations
from flowstates.engine.batching import Batching
from flowstates.engine.connections import is_pool
from flowstates.engine.execution import Execution
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.records import FlowRunState, NewFlowRunState, StateDetails, StateType, TypeName
from flowstates.values import kind_of, shown


class BatchedCreates:
    """What `batched` gives: `create_flow_run_state`, as long as its block lasts."""

    def __init__(self, pool: asyncpg.Pool, *, transitions: Transitions | None = None, workers: int = 2) -> None:
        if not is_pool(pool):
            raise InvalidInputError(
                "pool", f"is {kind_of(pool)}, not a pool: in a transaction of yours, create by a FlowRunStateRepository on its connection"
            )
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidInputError("workers", f"is {shown(workers)}, not a number of 1 or more")
        self._batching = Batching(Execution(pool, "flowstates"), workers, pool.get_max_size())
        self._expectations = None if transitions is None else expectations(transitions)
        self._is_open = False

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise FlowStatesError("batched creates are open already: the block of `async with batched(pool) as states` is one for all tasks")
        self._is_open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_open = False
        await self._batching.drained()

    async def create_flow_run_state(
        self,
        flow_run_id: UUID | str,
        type: StateType | TypeName,
        *,
        id: UUID | str | None = None,
        timestamp: datetime | str | None = None,
        name: str | None = None,
        message: str | None = None,
        state_details: StateDetails | dict[str, Any] | None = None,
        data: Any = None,
        result_artifact_id: UUID | str | None = None,
        expected: Expected = ...,
        timeout: float | None = 60.0,
    ) -> FlowRunState:
        """What `FlowRunStateRepository.create_flow_run_state` does, with its outcomes and its errors, perhaps together with creates of other tasks.

        `timeout` is for all of it, the wait for its turn included. A create that was cancelled or timed out before its turn came is not stored.
        After that it is in doubt, and its statement goes on for the others, if there are any. Where a connection breaks, a create with an `id` is
        done again, once; of the others each gets asyncpg's error, and is in doubt.

        FlowStatesError outside of the block.
        """
        if not self._is_open:
            raise FlowStatesError("batched creates are open inside of their block alone: `async with batched(pool) as states`")
        new = NewFlowRunState(
            flow_run_id=flow_run_id,
            type=type,
            id=id,
            timestamp=timestamp,
            name=name,
            message=message,
            state_details=state_details,
            data=data,
            result_artifact_id=result_artifact_id,
        )
        expectation = expectation_of(new, expected, self._expectations)
        return await self._batching.append(new, expectation, is_id_given=id is not None, timeout=timeout)


def batched(pool: asyncpg.Pool, *, transitions: Transitions | None = None, workers: int = 2) -> BatchedCreates:
    """Creates of many tasks, stored together: `async with batched(pool) as states: await states.create_flow_run_state(...)`, in any number of tasks.

    A create that comes while fewer than `workers` statements are under way is one of its own, at once, as a repository sends it. What comes
    meanwhile goes in the next statement, or where many wait, a worker's share of them does, up to 500 states and some MiB; nothing waits for a time
    to pass. What waits is as much as tasks wait for. A run has one create under way: those of one run go one after another, in the order in which
    they were asked for.

    A statement is atomic. It waits where another open transaction makes the same new run, or has stored a state under one of its ids, and until that
    ends; then it locks the rows of the known runs in the order of their ids, and waits for none that another transaction holds: such a create is
    done again alone, on a connection of the pool, so that it waits as a repository's does and the others do not. A statement that takes more than
    half a second gives its place to another one, as long as the pool has connections. Those that were not stored are told why by one more statement.
    Where the server refuses a statement, by a trigger say, each of its creates is done again alone.

    It takes a pool, on the tables of the layout `flowstates`, and no connection and no session: a create of this kind is in no transaction of the
    caller's. The pool needs as many connections as statements are to be under way, and what waits for a lock takes one more each. Leaving the
    block waits for all that has been asked. It belongs to one event loop.
    """
    return BatchedCreates(pool, transitions=transitions, workers=workers)
