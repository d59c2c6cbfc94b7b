"""The picture at the head of the README, of a run that is made up: `make picture` draws it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from flowstates import FlowRunStateRepository, StateType, create_pool, embedded_postgres, migrate
from flowstates.records import NewFlowRunState

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "timeline.svg"
RUN = UUID("0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f")
BEGIN = datetime(2030, 1, 31, 2, tzinfo=UTC)
# Seconds since the begin, type, name, message.
HISTORY = (
    (0, StateType.SCHEDULED, None, "nightly import"),
    (95, StateType.PENDING, None, None),
    (130, StateType.RUNNING, None, "on worker 7"),
    (872, StateType.FAILED, None, "connection reset by peer"),
    (873, StateType.SCHEDULED, "AwaitingRetry", "attempt 2 of 3 in 5 minutes"),
    (1173, StateType.PENDING, None, None),
    (1194, StateType.RUNNING, "Retrying", "on worker 2"),
    (2467, StateType.COMPLETED, None, "1,204,981 rows"),
)


def draw(dsn: str, file: Path) -> None:
    """Draws the run into the file, as the command line does, in a database that is empty."""
    asyncio.run(_store(dsn))
    command = [sys.executable, "-m", "flowstates.cli", "timeline", str(RUN), "--svg", str(file), "--database-url", dsn]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


async def _store(dsn: str) -> None:
    states = [
        NewFlowRunState(flow_run_id=RUN, type=type_, timestamp=BEGIN + timedelta(seconds=seconds), name=name, message=message)
        for seconds, type_, name, message in HISTORY
    ]
    async with create_pool(dsn) as pool:
        await migrate(pool)
        await FlowRunStateRepository(pool).create_flow_run_states(states)


if __name__ == "__main__":
    with embedded_postgres() as dsn:
        draw(dsn, PICTURE)
