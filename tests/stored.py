"""What is stored: states and the rows of their runs, as one snapshot has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from flowstates import FlowRunState, FlowRunStateRepository, StateType
from flowstates.engine.connections import AnyConnection
from flowstates.values import Layout
from tests.conftest import Pool

Current: TypeAlias = tuple[UUID, StateType, str, datetime]

WRONG_ROWS = """
select coalesce(flow_run.id, newest.flow_run_id) as run, flow_run::text, newest::text
  from (select * from flow_run where $1::uuid[] is null or id = any ($1)) as flow_run
  full join (
       select distinct on (flow_run_id) flow_run_id, id, type, name, timestamp, transaction
         from flow_run_state
        where $1::uuid[] is null or flow_run_id = any ($1)
        order by flow_run_id, timestamp desc) as newest on newest.flow_run_id = flow_run.id
 where (flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp)
       is distinct from (newest.id, newest.type, newest.name, newest.timestamp)
    or flow_run.transaction < newest.transaction
"""


@dataclass(frozen=True)
class Stored:
    state: FlowRunState
    transaction: int


@dataclass(frozen=True)
class StoredRun:
    """A row of `flow_run`. `current` is the id, type, name and timestamp that it has for its current state."""

    id: UUID
    current: Current
    transaction: int


async def read_stored(pool: Pool, runs: Sequence[UUID], layout: Layout = "flowstates") -> tuple[list[Stored], list[StoredRun]]:
    # On Citus there is none.
    transaction = "'0'" if layout == "citus" else "transaction::text"
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch(f"select id, {transaction} as transaction from flow_run_state where flow_run_id = any ($1)", runs)
        transactions = {row["id"]: int(row["transaction"]) for row in rows}
        states = FlowRunStateRepository(connection, layout=layout)
        stored = [Stored(state, transactions[state.id]) for run in runs for state in await states.read_flow_run_states(run)]
        rows = await connection.fetch(
            f"select id, state_id, state_type::text, state_name, state_timestamp, {transaction} from flow_run where id = any ($1)", runs
        )
        return stored, [StoredRun(id_, (state, StateType(type_), name, at), int(number)) for id_, state, type_, name, at, number in rows]


async def wrong_rows(pool: Pool | AnyConnection, *runs: UUID) -> list[str]:
    """Of these runs, or all, those whose row is not what their states say, states without a row and rows without a state among them."""
    return [str(dict(row)) for row in await pool.fetch(WRONG_ROWS, runs or None)]
