"""The state history of workflow runs, in PostgreSQL, without an ORM."""

from flowstates.analytics import FlowRunStateAnalytics, StateCount, TimeInState
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
from flowstates.filters import FlowRunStateFilter
from flowstates.migrations import migrate
from flowstates.pages import FlowRunStatePage
from flowstates.plans import SlowQuestion, check_plans
from flowstates.pool import create_pool
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
