"""The same read by others, a file each; here is what they have in common.

Each file has `connect`, an async context manager that gives the peer's read: a run's id in, its states out, oldest first. It is written as the
peer's own documentation shows it; the pages are named in the file. `connect_fastest` is the same with whatever documented settings and ways were
fastest here. All end with the same values: UUIDs, aware times in UTC, StateType, StateDetails, data parsed from JSON.

But for asyncpg_validated, which is there for that, no peer validates more than it must: enum and details are made from what the server sent, the
rest is taken as the driver gives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from pydantic_core import from_json

from flowstates import StateDetails, StateType

Read: TypeAlias = Callable[[UUID], Awaitable[Sequence[Any]]]

# Type, name and message of the eight states of a run that was retried once.
HISTORY = (
    ("SCHEDULED", "Scheduled", "Run of deployment nightly/production"),
    ("PENDING", "Pending", None),
    ("RUNNING", "Running", "on worker 7"),
    ("SCHEDULED", "AwaitingRetry", "Retry 1 of 2 in 30 seconds"),
    ("PENDING", "Pending", None),
    ("RUNNING", "Retrying", "on worker 3"),
    ("PAUSED", "Paused", "Paused until the report is approved"),
    ("COMPLETED", "Completed", None),
)
# The statement of every peer that takes SQL. Drivers give the rest natively. JSON comes as text, since what parses it best is Pydantic.
RUN = """
select id, created, updated, flow_run_id, type::text as type, timestamp, name, message,
       state_details::text as state_details, data::text as data, result_artifact_id
  from flow_run_state
 where flow_run_id = $1
 order by timestamp
"""
TYPES = {type_.value: type_ for type_ in StateType}  # faster than StateType(...), by a factor of twenty
details_of = StateDetails.model_validate_json


@dataclass(slots=True)
class Record:
    """What peers fill that have no record of their own. Nothing else is made as fast: a NamedTuple takes half as long again, `frozen` eight times."""

    id: UUID
    created: datetime
    updated: datetime
    flow_run_id: UUID
    type: StateType
    timestamp: datetime
    name: str
    message: str | None
    state_details: StateDetails
    data: Any
    result_artifact_id: UUID | None


def to_record(
    id: UUID,
    created: datetime,
    updated: datetime,
    flow_run_id: UUID,
    type: str,
    timestamp: datetime,
    name: str,
    message: str | None,
    state_details: str,
    data: str | None,
    result_artifact_id: UUID | None,
) -> Record:
    """The columns of RUN, in their order."""
    return Record(
        id,
        created,
        updated,
        flow_run_id,
        TYPES[type],
        timestamp,
        name,
        message,
        details_of(state_details),
        None if data is None else from_json(data),
        result_artifact_id,
    )
