"""The state history of workflow runs, in PostgreSQL, without an ORM."""

from flowstates.analytics import FlowRunStateAnalytics, StateCount, TimeInState
from flowstates.database.checks import Mismatch, check
from flowstates.database.embedded import embedded_postgres
from flowstates.database.migrations import migrate
from flowstates.database.plans import SlowQuestion, check_plans
from flowstates.database.pool import create_pool
from flowstates.engine.pages import FlowRunStatePage
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
from flowstates.filters import FlowRunStateFilter
from flowstates.records import CreateOutcome, FlowRunState, NewFlowRunState, StateDetails, StateType
from flowstates.repository import FlowRunStateRepository

__version__ = "0.1.0"

__all__ = [
    "ContentionError",
    "CreateOutcome",
    "FlowRunState",
    "FlowRunStateAnalytics",
    "FlowRunStateConflictError",
    "FlowRunStateFilter",
    "FlowRunStatePage",
    "FlowRunStateRepository",
    "FlowStatesError",
    "InvalidInputError",
    "MigrationError",
    "Mismatch",
    "NewFlowRunState",
    "ReadOnlyLayoutError",
    "SlowQuestion",
    "StateCount",
    "StateDetails",
    "StateType",
    "TimeInState",
    "UnexpectedStateError",
    "UnreadableRowError",
    "check",
    "check_plans",
    "create_pool",
    "embedded_postgres",
    "migrate",
]
