"""States as another program stores them, in the tables of either layout."""

from __future__ import annotations

from collections.abc import Sequence

from flowstates import NewFlowRunState
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.servers import POINT_AT_NEWEST

_INSERT = """
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details, data, result_artifact_id)
values ($1::text::uuid, $2::text::state_type, $3::text::uuid, coalesce($4::text::timestamptz, clock_timestamp()), $5::text, $6::text,
        $7::text::jsonb, $8::text::jsonb, $9::text::uuid)
"""


async def insert(connection: Connection | Pool, layout: Layout, states: Sequence[NewFlowRunState]) -> None:
    """Their runs' rows point at the newest."""
    runs = list({state.flow_run_id for state in states})
    if layout == "prefect":
        await connection.execute("insert into flow_run (id) select unnest($1::uuid[]) on conflict do nothing", runs)
    await connection.executemany(_INSERT, [state.as_parameters() for state in states])
    await connection.execute(POINT_AT_NEWEST[layout], runs)
