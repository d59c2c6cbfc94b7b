"""What a window costs, by how much is in it and by how large the table is.

The last 24 hours have the same runs in a table of a tenth of the size. "Before this change" is the text of the version that had no row a run, which
passes over all states up to the window's end; it stands beside this file and is sent by hand, raw records. Its answer is held against ours
before anything is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from benchmarks.shared import Contender, Row, take_turns
from benchmarks.tables import BEGIN, DAY, UNTIL, Table, lack_of_disk, table_of
from flowstates.engine import queries

BEFORE_TEXT = Path(__file__).with_name("count_occupancy_before.sql").read_text()
GROUPED = "select flow_run_id, count(*), max(timestamp) from flow_run_state group by flow_run_id"
SUMMED = f"select count(*), sum(count), max(max) from ({GROUPED}) as run"
HOUR = timedelta(hours=1)
OURS, TENTH, BEFORE = "flowstates", "a table of a tenth", "before"


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool, states: int) -> list[Row]:
    """The rows of this group."""
    if lack := await lack_of_disk(dsn, states):
        return [Row(f"windows of {states:,} states", "", note=lack)]
    turns, turns_of_all = (5, 2) if short else (25, 5)
    async with table_of(dsn, states // 10, states) as tenth, table_of(dsn, states, states) as large:
        settings["windows"] = {"states": f"{tenth.states:,} and {large.states:,}", "runs of the last 24 h": f"{large.recent:,} in both"}
        return [
            await _of_a_day("occupancy", large, tenth, _occupancy, turns),
            await _of_a_day("measure_time_in_states", large, tenth, _time_in_states, turns),
            await _beside_before("occupancy, the last 24 h by the hour", large, 1, turns_of_all, 0.05),
            await _beside_before("occupancy, 30 days by the hour", large, 30, turns_of_all, 1.3),
            *await _beside_grouping(large, turns_of_all),
        ]


def _occupancy(table: Table, *, days: int = 1) -> Callable[[object], Awaitable[object]]:
    return lambda _: table.analytics.count_occupancy(since=UNTIL - days * DAY, until=UNTIL, step=HOUR)


def _time_in_states(table: Table) -> Callable[[object], Awaitable[object]]:
    return lambda _: table.analytics.measure_time_in_states(since=UNTIL - DAY, until=UNTIL)


async def _of_a_day(work: str, large: Table, tenth: Table, call: Callable[[Table], Callable[[object], Awaitable[object]]], turns: int) -> Row:
    seconds = await take_turns([Contender(OURS, call(large)), Contender(TENTH, call(tenth))], turns, warm_up=6)  # plans are settled by then
    work += f", the last 24 h, {large.recent:,} runs in it, of {large.states:,} states"
    return Row(work, f"the same of {tenth.states:,} states", seconds[OURS], seconds[TENTH], 1.5)


async def _beside_before(work: str, table: Table, days: int, turns: int, limit: float) -> Row:
    window = (UNTIL - days * DAY).isoformat(), (UNTIL - HOUR).isoformat(), "1 hour"
    before = partial(table.connection.fetch, BEFORE_TEXT, *window)
    ours = await table.connection.fetch(queries.query("count_occupancy", "flowstates"), *window, "true")
    if {row for row in ours if row["runs"] != "0"} != {row for row in await before() if row["runs"] != "0"}:
        raise RuntimeError(f"not the same answer as before this change: {work}")
    contenders = [Contender(OURS, _occupancy(table, days=days)), Contender(BEFORE, lambda _: before())]
    seconds = await take_turns(contenders, turns, warm_up=1)
    return Row(f"{work}, of {table.states:,} states", "the text before this change, all states", seconds[OURS], seconds[BEFORE], limit)


async def _beside_grouping(table: Table, turns: int) -> list[Row]:
    """Summed up on the server, so that the peer does not also pay for sending a million rows; and sent."""
    everything = await table.analytics.count_occupancy(since=BEGIN, until=UNTIL, step=HOUR, terminal=True)
    assert sum(everything[-1].counts.values()) == table.runs, everything[-1]
    contenders = [
        Contender(GROUPED, lambda _: table.connection.fetch(GROUPED)),
        Contender(SUMMED, lambda _: table.connection.fetch(SUMMED)),
        Contender(OURS, _occupancy(table, days=30)),
    ]
    seconds = await take_turns(contenders, turns, warm_up=1)
    work, against = f"occupancy, 30 days by the hour, of {table.states:,} states", "count(*), max(timestamp) ... group by flow_run_id"
    rows = [Row(work, against, seconds[OURS], seconds[GROUPED], 2.0)]
    return [*rows, Row(work, against + ", summed up on the server", seconds[OURS], seconds[SUMMED])]
