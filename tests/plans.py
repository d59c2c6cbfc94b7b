"""Tables on which a wrong plan shows, and what of a plan the guards hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any, Literal
from uuid import UUID

from flowstates import migrate
from flowstates.engine.execution import Argument
from flowstates.values import Layout
from tests.conftest import Connection
from tests.servers import POINT_AT_NEWEST, PREFECT_TABLES

Mode = Literal["custom", "generic"]

RUNS = 20_000
RECENT = 2_000  # of them
SCHEDULED = 200  # more, of one state each
STATES = 10  # a run
START, APART = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=30)  # between two runs, and between two states of a run
WHOLE, WHOLE_RUNS = "Seq Scan", "Seq Scan on flow_run"
_WHOLE = {"flow_run_state": WHOLE, "flow_run": WHOLE_RUNS}

# Ids without order, as UUIDs of version 4, and states in the order of time, as they come to be. Of the last 2,000 runs every hundredth is paused
# and stays it. One run in 1,000 crashes and has a rare name.
_STATES = f"""
insert into flow_run_state (id, created, type, timestamp, name, message, flow_run_id{{column}})
select md5('state ' || run || ' ' || number)::uuid, begun, type::state_type, begun,
       case when run % 1000 = 7 and number = 5 then 'Rare' else initcap(type) end, 'a message', md5('run ' || run)::uuid{{value}}
  from (
       select run, number, '2026-01-01 00:00+00'::timestamptz + (run + number) * interval '{APART}' as begun,
              case when number = 1 then 'SCHEDULED' when number = 2 then 'PENDING'
                   when number < {STATES} then (array['RUNNING', 'PAUSED'])[number % 2 + 1]
                   when run % 100 = 8 and run > {RUNS - RECENT} then 'PAUSED'
                   when run % 1000 = 7 then 'CRASHED' else 'COMPLETED' end as type
         from generate_series({{first}}, {RUNS + SCHEDULED}) as run, generate_series(1, {STATES}) as number
        where run <= {RUNS} or number = 1
       ) as state
 order by begun
"""
# A feed tells what is of transactions that the server has come to.
_NUMBERS = f"""
do $$
begin
    while pg_current_xact_id()::text::bigint < {1000 + RUNS + SCHEDULED + 1} loop
        commit;
    end loop;
end
$$
"""
_CONSUMERS = f"""
insert into flowstates_consumer (name, transaction, timestamp, id)
select 'consumer ' || number, {1000 + RUNS + SCHEDULED - 200}::text::xid8, '-infinity', gen_random_uuid() from generate_series(1, 20) as number
"""
# Of Prefect's runs those that only its scheduler has touched have no time in their row.
_ARTIFACTS = f"""
insert into artifact (id, data) select md5('artifact ' || run)::uuid, '1' from generate_series({{first}}, {RUNS}) as run;
update flow_run_state set result_artifact_id = md5('artifact ' || run)::uuid
  from generate_series({{first}}, {RUNS}) as run
 where flow_run_state.id = md5('state ' || run || ' {STATES}')::uuid
"""
_UNTIMED = "update flow_run set state_timestamp = null where state_type = 'SCHEDULED'"


def run_id(run: int) -> str:
    """The id of the run of a number from 1 to RUNS."""
    return _id(f"run {run}")


def state_id(run: int, number: int) -> str:
    """The id of the run's state of a number from 1 to STATES."""
    return _id(f"state {run} {number}")


def _id(text: str) -> str:
    return str(UUID(md5(text.encode(), usedforsecurity=False).hexdigest()))


async def load(connection: Connection, layout: Layout, *, first: int = 1, fillfactor: int = 90) -> None:
    """Makes the tables of a layout and fills them with the runs from a number on: RUNS of STATES states, and those that are only scheduled.

    Foreign keys are not checked, as that takes longer than the rest. `fillfactor`, in percent, is of the index on histories.
    """
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection)
    await connection.execute("set session_replication_role = replica")
    # One transaction a run, of which no index can skip many at once.
    column, value = (", updated", ", begun") if layout == "prefect" else (", transaction", ", (1000 + run)::text::xid8")
    await connection.execute(_STATES.format(first=first, column=column, value=value))
    if layout == "flowstates":
        await connection.execute(_NUMBERS)
        await connection.execute(_CONSUMERS)
    await connection.execute(POINT_AT_NEWEST[layout], None)
    if layout == "prefect":
        await connection.execute(_ARTIFACTS.format(first=first))
        await connection.execute(_UNTIMED)
    await connection.execute("reset session_replication_role")
    index = f"uq_flow_run_state__flow_run_id_timestamp{'_desc' if layout == 'prefect' else ''}"
    # Not in one transaction, which autovacuum and this would wait for in turn.
    await connection.execute(f"alter index {index} set (fillfactor = {fillfactor})")
    await connection.execute(f"reindex index {index}")
    await connection.execute("vacuum (analyze)")


@dataclass(frozen=True)
class Plan:
    """How a plan reads flow_run_state and flow_run: by which indexes, or whole. If it was run, the pages touched, the rows of the reads,
    and how many pairs of rows a join has thrown away."""

    via: frozenset[str]
    nodes: frozenset[str]
    pages: int
    rows: int
    pairs: int

    @property
    def sorts(self) -> bool:
        """Whether all rows are sorted before the first is there. An incremental sort needs those of one run."""
        return "Sort" in self.nodes


async def explain(connection: Connection, text: str, arguments: Sequence[Argument], mode: Mode, *, run: bool) -> Plan:
    """The plan of a statement prepared: the one for its arguments, or the one for any. What it writes is undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"set local plan_cache_mode = force_{mode}_plan")
        await connection.execute(f"prepare explained as {text}")
        given = f"({', '.join(map(_literal, arguments))})" if arguments else ""
        options = "analyze, buffers, timing off, format json" if run else "format json"
        if run:
            # What a first run looks up in the catalog is no page of the question's.
            await connection.execute(f"savepoint first; explain ({options}) execute explained{given}; rollback to first")
        found = json.loads(await connection.fetchval(f"explain ({options}) execute explained{given}"))
    finally:
        await transaction.rollback()
        if await connection.fetchval("select count(*) from pg_prepared_statements where name = 'explained'"):
            await connection.execute("deallocate explained")
    root = found[0]["Plan"]
    nodes = [node for node in _nodes(root) if node.get("Actual Loops", 1)]  # what was not run costs nothing
    reads = [node for node in nodes if node["Node Type"].endswith("Scan") and node.get("Relation Name", "flow_run") in _WHOLE]
    via = {node.get("Index Name") or _WHOLE[node["Relation Name"]] for node in reads if "Index Name" in node or node["Node Type"] == WHOLE}
    return Plan(
        via=frozenset(via.union(*(node.get("Conflict Arbiter Indexes", ()) for node in nodes))),
        nodes=frozenset(node["Node Type"] for node in nodes),
        pages=root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0),
        rows=round(sum(node.get("Actual Rows", 0) * node.get("Actual Loops", 0) for node in reads if "Relation Name" in node)),
        pairs=round(sum(node.get("Rows Removed by Join Filter", 0) * node.get("Actual Loops", 1) for node in nodes)),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _literal(value: Argument) -> str:
    if isinstance(value, list | tuple):
        return f"array[{', '.join(map(_literal, value))}]::text[]"
    return "null" if value is None else "'" + re.sub("'", "''", str(value)) + "'"
