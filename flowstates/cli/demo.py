"""The runs that `flowstates demo` makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import flowstates
from flowstates.engine.connections import AnyConnection
from flowstates.records import FlowRunState, StateType, new_run_id
from flowstates.repository import FlowRunStateRepository

# Of each run: minutes since the demo's beginning, type, name, message.
_RUNS: tuple[tuple[tuple[float, StateType, str | None, str | None], ...], ...] = (
    (
        (0, StateType.SCHEDULED, None, "nightly import"),
        (6.25, StateType.SCHEDULED, "Late", None),
        (9.5, StateType.PENDING, None, None),
        (9.55, StateType.RUNNING, None, None),
        (51.1, StateType.SCHEDULED, "AwaitingRetry", "connection reset by peer, attempt 2 of 3 in 10 minutes"),
        (61.1, StateType.RUNNING, "Retrying", None),
        (143.8, StateType.COMPLETED, None, "1,204,981 rows"),
    ),
    (
        (60, StateType.SCHEDULED, None, "report"),
        (60.1, StateType.PENDING, None, None),
        (60.12, StateType.RUNNING, None, None),
        (62.4, StateType.FAILED, None, "no rows to report"),
    ),
    (
        (150, StateType.PENDING, None, "clean-up"),
        (150.1, StateType.RUNNING, None, None),
    ),
)


async def play(connection: AnyConnection) -> tuple[list[str], list[list[FlowRunState]], list[bool]]:
    """Migrates, makes the runs, deletes a state twice, and undoes it all: the migrations, each run's history, and what the deletes said."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        applied = await flowstates.migrate(connection)
        runs = await _make_runs(connection, datetime.now(UTC) - timedelta(hours=3))
        states = FlowRunStateRepository(connection)
        return applied, runs, [await states.delete_flow_run_state(runs[1][-1].id) for _ in range(2)]
    finally:
        if not connection.is_closed():
            await transaction.rollback()


async def _make_runs(connection: AnyConnection, begin: datetime) -> list[list[FlowRunState]]:
    """Creates the runs and returns the history of each."""
    states = FlowRunStateRepository(connection)
    ids = [new_run_id() for _ in _RUNS]
    for id_, run in zip(ids, _RUNS, strict=True):
        for minutes, type_, name, message in run:
            await states.create_flow_run_state(id_, type_, timestamp=begin + timedelta(minutes=minutes), name=name, message=message)
    return [await states.read_flow_run_states(id_) for id_ in ids]
