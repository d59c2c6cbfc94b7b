"""What is current, asked of many runs and of few. By hand means: the same join or grouping in one statement, on the same bare connection.

Its answer is asyncpg's raw records or, where it says so, records that Pydantic has validated in one pass, details and data among them.
"""

from __future__ import annotations

from functools import partial

from pydantic import TypeAdapter

from benchmarks.peers.asyncpg_validated import State
from benchmarks.shared import Contender, Row, take_turns
from benchmarks.tables import Table, lack_of_disk, small_of, table_of
from flowstates import FlowRunStateFilter, StateType

NEWEST = """
select state.id, state.created, state.updated, state.flow_run_id, state.type::text as type, state.timestamp, state.name, state.message,
       state.state_details::text as state_details, state.data::text as data, state.result_artifact_id
  from flow_run
  join flow_run_state as state on state.id = flow_run.state_id
 where flow_run.state_type = 'RUNNING'
 order by flow_run.state_timestamp desc, flow_run.id desc
 limit {limit}
"""
COUNTS = "select state_type, count(*) from flow_run group by 1"
RUNNING = FlowRunStateFilter(types=(StateType.RUNNING,), current=True)
OURS, SMALL, BY_HAND, AS_RECORDS = "flowstates", "small", "by hand", "by hand, records"
LIMIT = 100

_states = TypeAdapter(list[State])


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool, states: int) -> list[Row]:
    """The rows of this group."""
    if lack := await lack_of_disk(dsn, states):
        return [Row(f"current states, of {states:,} states", "", note=lack)]
    async with table_of(dsn, small_of(states), states) as small, table_of(dsn, states, states) as large:
        settings["currents"] = {"runs": f"{small.runs:,} and {large.runs:,}", "RUNNING": f"{small.recent // 2:,} and {large.recent // 2:,}"}
        return [*await _newest(small, large, 100 if short else 1_000), await _counts(large, 20 if short else 50)]


async def _newest(small: Table, large: Table, turns: int) -> list[Row]:
    limit = min(LIMIT, small.recent // 2)
    newest = NEWEST.format(limit=limit)

    def ours(table: Table) -> Contender:
        read = partial(table.repository.read_flow_run_state_page, RUNNING, order="time", newest_first=True, limit=limit)
        return Contender(OURS if table is large else SMALL, lambda _: read())

    async def validated() -> list[State]:
        return _states.validate_python([dict(row) for row in await large.connection.fetch(newest)])

    page = await large.repository.read_flow_run_state_page(RUNNING, order="time", newest_first=True, limit=limit)
    assert [(state.id, state.state_details) for state in page.states] == [(state.id, state.state_details) for state in await validated()]
    by_hand = [Contender(BY_HAND, lambda _: large.connection.fetch(newest)), Contender(AS_RECORDS, lambda _: validated())]
    seconds = await take_turns([ours(large), ours(small), *by_hand], turns, warm_up=20)
    work = f"the newest {limit} runs that are RUNNING, of {large.runs:,} runs"
    return [
        Row(work, "the same join by hand, as records", seconds[OURS], seconds[AS_RECORDS], 1.3),
        Row(work, "the same join by hand, raw", seconds[OURS], seconds[BY_HAND]),
        Row(work, f"the same of {small.runs:,} runs", seconds[OURS], seconds[SMALL], 1.3),
    ]


async def _counts(table: Table, turns: int) -> Row:
    contenders = [Contender(OURS, lambda _: table.analytics.count_current()), Contender(BY_HAND, lambda _: table.connection.fetch(COUNTS))]
    seconds = await take_turns(contenders, turns, warm_up=6)
    return Row(f"count_current, {table.runs:,} runs", "group by state_type by hand", seconds[OURS], seconds[BY_HAND], 1.1)
