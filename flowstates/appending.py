"""The append: one statement that adds a state to a run's history, and what to do when it stored nothing."""

from __future__ import annotations

import asyncio

from flowstates.errors import ContentionError, FlowRunStateConflictError
from flowstates.execution import Execution
from flowstates.records import FlowRunState, NewFlowRunState


async def append(execution: Execution, new: NewFlowRunState, *, timeout: float | None) -> FlowRunState:
    """The state as stored. A lost race is run again until `timeout`, in seconds."""
    clock = asyncio.get_running_loop().time
    deadline = None if timeout is None else clock() + timeout
    arguments = _arguments(new)
    while True:
        left = None if deadline is None else deadline - clock()
        stored = await execution.insert("create_flow_run_state", *arguments, id=new.id, timeout=left)
        if stored is not None:
            return stored
        taken = await execution.optional("read_flow_run_state", str(new.id), timeout=left)
        if taken is not None:
            raise FlowRunStateConflictError(taken)
        if deadline is not None and clock() >= deadline:
            raise ContentionError(f"run {new.flow_run_id}: other writers were first until the timeout of {timeout} s; nothing was stored")


def _arguments(new: NewFlowRunState) -> tuple[str | None, ...]:
    return (
        str(new.flow_run_id),
        new.type.value,
        str(new.id),
        None if new.timestamp is None else new.timestamp.isoformat(),
        new.name,
        new.message,
        new.details_json(),
        new.data_json(),
        None if new.result_artifact_id is None else str(new.result_artifact_id),
    )
