"""States in and out: read them, create them, delete them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from flowstates.appending import append
from flowstates.errors import InvalidInputError, ReadOnlyLayoutError
from flowstates.execution import Execution, PoolOrConnection
from flowstates.queries import Layout
from flowstates.records import FlowRunState, NewFlowRunState, StateDetails, StateType, to_uuid


class FlowRunStateRepository:
    """The states of runs, on a pool or a connection that stays the caller's.

    On a connection every call joins the transaction that is open there. `layout` says whose tables they are: `flowstates` (made by `migrate`)
    or `prefect` (read and deleted from, never written to). A call is one statement and one round trip; a read on a connection whose own codecs
    decode UUIDs or times to other types is asked twice.

    An id is a UUID or its text. `timeout` is in seconds and for the whole call, waiting for a connection included; a call that takes longer
    raises TimeoutError. Every call raises InvalidInputError, before anything is sent, for an argument that it cannot use; a read raises
    UnreadableRowError for a row that does not fit its record. Errors of the server and of the connection are asyncpg's own.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates") -> None:
        self._execution = Execution(pool_or_connection, layout)

    async def read_flow_run_state(self, flow_run_state_id: UUID | str, *, timeout: float | None = None) -> FlowRunState | None:
        """One state by its id; None for an unknown id."""
        return await self._execution.optional("read_flow_run_state", _id_text("flow_run_state_id", flow_run_state_id), timeout=timeout)

    async def read_flow_run_states(self, flow_run_id: UUID | str, *, timeout: float | None = None) -> list[FlowRunState]:
        """The states of one run, oldest first; empty for an unknown run."""
        return await self._execution.many("read_flow_run_states", _id_text("flow_run_id", flow_run_id), timeout=timeout)

    async def create_flow_run_state(
        self,
        flow_run_id: UUID | str,
        type: StateType | str,
        *,
        id: UUID | str | None = None,
        timestamp: datetime | None = None,
        name: str | None = None,
        message: str | None = None,
        state_details: StateDetails | dict[str, Any] | None = None,
        data: Any = None,
        result_artifact_id: UUID | str | None = None,
        timeout: float | None = 60.0,
    ) -> FlowRunState:
        """Appends a state to a run's history, the first of which makes the run known.

        The stored timestamp is the later of the given one (else the server's clock, which all workers share) and one microsecond after the run's
        current state. `name` defaults to the type's own, `id` to a UUIDv7. A race lost to another writer of the run is run again until `timeout`;
        then ContentionError says that nothing was stored. After a TimeoutError or a cancellation the state may have been stored: only a caller
        who passed `id` can look. An `id` that is taken is FlowRunStateConflictError. On the layout `prefect`: ReadOnlyLayoutError.
        """
        if self._execution.layout == "prefect":
            raise ReadOnlyLayoutError("states of the layout prefect are created by Prefect alone")
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
        return await append(self._execution, new, timeout=timeout)

    async def delete_flow_run_state(self, flow_run_state_id: UUID | str, *, timeout: float | None = None) -> bool:
        """Deletes one state by its id; whether there was one.

        Deleting a run's current state makes the one before it current again. On the layout `prefect` the server also sets a
        `flow_run.state_id` that points at it to null, and the other columns of `flow_run` keep what they say.
        """
        gone = await self._execution.value("delete_flow_run_state", _id_text("flow_run_state_id", flow_run_state_id), timeout=timeout)
        return gone is not None


def _id_text(field: str, value: object) -> str:
    try:
        return str(to_uuid(value))
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None
