"""The state history of workflow runs, in PostgreSQL, without an ORM."""

from flowstates.checks import Mismatch, check
from flowstates.embedded import embedded_postgres
from flowstates.errors import (
    ContentionError,
    FlowRunStateConflictError,
    FlowStatesError,
    InvalidInputError,
    MigrationError,
    ReadOnlyLayoutError,
    UnexpectedStateError,
    UnreadableRowError,
)
from flowstates.migrations import migrate
from flowstates.pool import create_pool
from flowstates.records import CreateOutcome, FlowRunState, NewFlowRunState, StateDetails, StateType
from flowstates.repository import FlowRunStateRepository

__version__ = "0.1.0"

__all__ = [
    "ContentionError",
    "CreateOutcome",
    "FlowRunState",
    "FlowRunStateConflictError",
    "FlowRunStateRepository",
    "FlowStatesError",
    "InvalidInputError",
    "MigrationError",
    "Mismatch",
    "NewFlowRunState",
    "ReadOnlyLayoutError",
    "StateDetails",
    "StateType",
    "UnexpectedStateError",
    "UnreadableRowError",
    "check",
    "create_pool",
    "embedded_postgres",
    "migrate",
]
