"""The state history of workflow runs, in PostgreSQL, without an ORM."""

import flowstates.interrupts  # noqa: F401 (before all else)  # isort: split
from flowstates.analytics import FlowRunStateAnalytics, StateCount, TimeInState
from flowstates.batches import BatchedCreates, batched
from flowstates.database.checks import check
from flowstates.database.definitions import TABLES
from flowstates.database.embedded import embedded_postgres
from flowstates.database.migrations import migrate, migration_sql
from flowstates.database.mismatches import Mismatch
from flowstates.database.plans import SlowQuestion, check_plans
from flowstates.database.pool import create_pool
from flowstates.database.replicas import has_reached, position
from flowstates.engine.appending import Expected
from flowstates.engine.connections import PoolOrConnection
from flowstates.engine.consuming import ConsumerPosition, FeedBatch
from flowstates.engine.feeding import Blocker, FeedPage
from flowstates.engine.pages import FlowRunStatePage
from flowstates.engine.policies import Keep, OldestRun, PruneReport
from flowstates.engine.retries import is_retryable
from flowstates.errors import (
    ContentionError,
    FlowRunStateConflictError,
    FlowStatesError,
    ForeignPositionError,
    GeneratedIdConflictError,
    HistoryPrunedError,
    InvalidInputError,
    MigrationError,
    ReadOnlyLayoutError,
    UnexpectedStateError,
    UnreadableRowError,
)
from flowstates.feed import FlowRunStateFeed
from flowstates.filters import FlowRunStateFilter
from flowstates.records import CreateOutcome, FlowRunState, NewFlowRunState, StateDetails, StateType, TypeName, new_run_id
from flowstates.repository import FlowRunStateRepository
from flowstates.retention import FlowRunStateRetention
from flowstates.values import Layout

__version__ = "0.1.0"

__all__ = [
    "TABLES",
    "BatchedCreates",
    "Blocker",
    "ConsumerPosition",
    "ContentionError",
    "CreateOutcome",
    "Expected",
    "FeedBatch",
    "FeedPage",
    "FlowRunState",
    "FlowRunStateAnalytics",
    "FlowRunStateConflictError",
    "FlowRunStateFeed",
    "FlowRunStateFilter",
    "FlowRunStatePage",
    "FlowRunStateRepository",
    "FlowRunStateRetention",
    "FlowStatesError",
    "ForeignPositionError",
    "GeneratedIdConflictError",
    "HistoryPrunedError",
    "InvalidInputError",
    "Keep",
    "Layout",
    "MigrationError",
    "Mismatch",
    "NewFlowRunState",
    "OldestRun",
    "PoolOrConnection",
    "PruneReport",
    "ReadOnlyLayoutError",
    "SlowQuestion",
    "StateCount",
    "StateDetails",
    "StateType",
    "TimeInState",
    "TypeName",
    "UnexpectedStateError",
    "UnreadableRowError",
    "batched",
    "check",
    "check_plans",
    "create_pool",
    "embedded_postgres",
    "has_reached",
    "is_retryable",
    "migrate",
    "migration_sql",
    "new_run_id",
    "position",
]
