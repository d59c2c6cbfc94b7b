"""asyncpg, and its records validated by Pydantic.

`connect`: `model_validate` of each row, through asyncpg's pool as `create_pool` makes it. `connect_fastest`: one pass in Rust validates all rows, by
https://docs.pydantic.dev/latest/concepts/performance/ ("TypeAdapter instantiated once"), and the pool has no reset. Both parse details and data by
`Json` of Pydantic's API, in the same pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Json, TypeAdapter

from benchmarks.peers import RUN, Read, asyncpg_raw
from flowstates import StateDetails, StateType


class State(BaseModel):
    """The fields of FlowRunState."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    created: datetime
    updated: datetime
    flow_run_id: UUID
    type: StateType
    timestamp: datetime
    name: str
    message: str | None
    state_details: Json[StateDetails]
    data: Json[Any] | None
    result_artifact_id: UUID | None


_states = TypeAdapter(list[State])


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Read]:
    """A model a row."""
    async with asyncpg_raw.connect_pool(dsn) as pool:

        async def read(run: UUID) -> list[State]:
            return [State.model_validate(dict(row)) for row in await pool.fetch(RUN, run)]

        yield read


@asynccontextmanager
async def connect_fastest(dsn: str) -> AsyncIterator[Read]:
    """All rows at once, no reset."""
    async with asyncpg_raw.connect_pool(dsn, reset=False) as pool:

        async def read(run: UUID) -> list[State]:
            return _states.validate_python([dict(row) for row in await pool.fetch(RUN, run)])

        yield read
