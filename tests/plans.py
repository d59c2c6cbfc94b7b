"""Tables on which a wrong plan shows, and what of a plan the guards hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import md5
from typing import Any, Literal
from uuid import UUID

from flowstates import FlowRunStateFilter, migrate
from flowstates.engine import queries
from flowstates.engine.execution import Argument
from flowstates.engine.queries import Layout
from flowstates.filters import to_clause
from tests.conftest import Connection
from tests.servers import PREFECT_TABLES

Mode = Literal["custom", "generic"]

RUNS = 20_000  # a minute apart
STATES = 10  # a run, a minute apart
START = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE = "Seq Scan"

# Ids without order, as UUIDs of version 4, and states in the order of time, as they come to be. One run in 1,000 crashes and has a rare name.
_STATES = f"""
insert into flow_run_state (id, created, type, timestamp, name, message, flow_run_id, result_artifact_id{{column}})
select md5('state ' || run || ' ' || number)::uuid, begun, type::state_type, begun,
       case when run % 1000 = 7 and number = 5 then 'Rare' else initcap(type) end, 'a message', md5('run ' || run)::uuid, {{artifact}}
  from (
       select run, number, '2026-01-01 00:00+00'::timestamptz + (run + number) * interval '1 minute' as begun,
              case when number = 1 then 'SCHEDULED' when number = 2 then 'PENDING'
                   when number < {STATES} then (array['RUNNING', 'PAUSED'])[number % 2 + 1]
                   when run % 1000 = 7 then 'CRASHED' else 'COMPLETED' end as type
         from generate_series(1, {RUNS}) as run, generate_series(1, {STATES}) as number
       ) as state
 order by begun
"""
_PREFECTS = f"""
insert into flow_run (id) select md5('run ' || run)::uuid from generate_series(1, {RUNS}) as run;
insert into artifact (id, data) select md5('artifact ' || run)::uuid, '1' from generate_series(1, {RUNS}) as run;
set session_replication_role = replica;
{_STATES.format(column="", artifact=f"case when number = {STATES} then md5('artifact ' || run)::uuid end")};
update flow_run set state_id = state.id from flow_run_state as state where state.flow_run_id = flow_run.id and state.result_artifact_id is not null;
reset session_replication_role;
"""


def run_id(run: int) -> str:
    """The id of the run of a number from 1 to RUNS."""
    return _id(f"run {run}")


def state_id(run: int, number: int) -> str:
    """The id of the run's state of a number from 1 to STATES."""
    return _id(f"state {run} {number}")


def _id(text: str) -> str:
    return str(UUID(md5(text.encode(), usedforsecurity=False).hexdigest()))


async def load(connection: Connection, layout: Layout) -> None:
    """Makes the tables of a layout and fills them: RUNS runs of STATES states. Foreign keys are not checked, as that takes longer than the rest."""
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
        await connection.execute("create index ix_flow_run__state_id on flow_run (state_id)")  # Prefect has it
        await connection.execute(_PREFECTS)
    else:
        await migrate(connection)
        await connection.execute(_STATES.format(column=", sequence", artifact="null, number"))
    await connection.execute("vacuum (analyze)")


@dataclass(frozen=True)
class Plan:
    """How a plan reads flow_run_state: by which indexes, or whole. If it was run, the pages that it touched and the rows that the reads gave."""

    via: frozenset[str]
    nodes: frozenset[str]
    pages: int
    rows: int

    @property
    def sorts(self) -> bool:
        """Whether all rows are sorted before the first is there. An incremental sort needs those of one run."""
        return "Sort" in self.nodes


def filled(name: str, layout: Layout, filter: FlowRunStateFilter | None, *arguments: Argument) -> tuple[str, tuple[Argument, ...]]:
    """A query file and its arguments as they are sent."""
    text = queries.query(name, layout)
    if filter is None:
        return text, arguments
    clause, values = to_clause(filter, len(arguments) + 1)
    return queries.fill(text, "filter", clause), (*arguments, *values)


async def explain(connection: Connection, text: str, arguments: Sequence[Argument], mode: Mode, *, run: bool) -> Plan:
    """The plan of a statement prepared: the one for its arguments, or the one for any. What it writes is undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"set local plan_cache_mode = force_{mode}_plan")
        await connection.execute(f"prepare explained as {text}")
        given = f"({', '.join(map(_literal, arguments))})" if arguments else ""
        options = "analyze, buffers, timing off, format json" if run else "format json"
        found = json.loads(await connection.fetchval(f"explain ({options}) execute explained{given}"))
    finally:
        await transaction.rollback()
        if await connection.fetchval("select count(*) from pg_prepared_statements where name = 'explained'"):
            await connection.execute("deallocate explained")
    root = found[0]["Plan"]
    nodes = list(_nodes(root))
    reads = [node for node in nodes if node["Node Type"].endswith("Scan") and node.get("Relation Name", "flow_run_state") == "flow_run_state"]
    return Plan(
        via=frozenset(node.get("Index Name", WHOLE) for node in reads if "Index Name" in node or node["Node Type"] == WHOLE),
        nodes=frozenset(node["Node Type"] for node in nodes),
        pages=root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0),
        rows=round(sum(node.get("Actual Rows", 0) * node.get("Actual Loops", 0) for node in reads if "Relation Name" in node)),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _literal(value: Argument) -> str:
    if isinstance(value, list | tuple):
        return f"array[{', '.join(map(_literal, value))}]::text[]"
    return "null" if value is None else "'" + re.sub("'", "''", str(value)) + "'"
