"""What docs/batches.md shows is run here, as it stands there."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from flowstates import FlowRunStateRepository
from tests.conftest import Pool
from tests.examples import blocks_of, names_of

pytestmark = pytest.mark.server

(START,) = blocks_of("docs/batches.md", "python")


async def test_claims_go_together(pool: Pool) -> None:
    states, runs = FlowRunStateRepository(pool), [uuid4() for _ in range(30)]
    for run in runs:
        await states.create_flow_run_state(run, "PENDING")
    start = names_of(START)["start"]
    one, two = await asyncio.gather(start(pool, runs), start(pool, runs))
    assert sorted([*one, *two]) == sorted(runs)
