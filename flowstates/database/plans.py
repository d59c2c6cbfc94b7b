"""Which questions a database has no index for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from flowstates.engine import queries
from flowstates.engine.connections import AnyConnection, PoolOrConnection, Transaction, ask
from flowstates.engine.execution import Argument, Execution, Statement, filled, filled_of_runs
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter, array_of
from flowstates.records import StateType
from flowstates.values import Layout, seconds

_RUN = UUID(int=2**127)
_RUNS = (_RUN, UUID(int=2**127 + 1))
_SINCE, _UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
_STEP = "3600000000 microseconds"


@dataclass(frozen=True)
class SlowQuestion:
    """A question that no index serves: what was asked, how the server reads a table for it, the index that would help, and the rows estimated."""

    question: str
    plan: str
    index: str
    rows: int

    def __str__(self) -> str:
        return f"{self.question}: {self.plan}, about {self.rows:,} rows; {self.index} would help"


class _Index(NamedTuple):
    """An index that serves: one that begins with the first `size` of these columns, and has the included one."""

    table: str
    columns: tuple[str, ...]
    size: int
    is_unique: bool = False
    included: str | None = None

    def fits(self, columns: Sequence[str], included: Sequence[str]) -> bool:
        return tuple(columns[: self.size]) == self.columns[: self.size] and (self.included is None or self.included in (*columns, *included))

    def __str__(self) -> str:
        kind, include = "unique index" if self.is_unique else "index", f" include ({self.included})" if self.included else ""
        return f"create {kind} concurrently on {self.table} ({', '.join(self.columns)}){include}"


_STATE_ID = _Index("flow_run_state", ("id",), 1, is_unique=True)
_HISTORY = _Index("flow_run_state", ("flow_run_id", "timestamp"), 2, is_unique=True)
_OF_RUNS = _HISTORY._replace(size=1)
_TIME = _Index("flow_run_state", ("timestamp", "id"), 2)
_RUN_ID = _Index("flow_run", ("id",), 1, is_unique=True)
_CURRENT = _Index("flow_run", ("state_type", "state_timestamp", "id"), 3)
# Prefect's own.
_RUN_TYPE, _RUN_NAME, _RUN_TIME, _RUN_STATE = (
    _Index("flow_run", (column,), 1) for column in ("state_type", "state_name", "state_timestamp", "state_id")
)


class _Question(NamedTuple):
    method: str
    file: str
    arguments: tuple[Argument, ...]
    needs: tuple[_Index, ...]
    asked: str = ""
    filter: FlowRunStateFilter | None = None
    is_ordered: bool = False  # whether an index has to give the order too

    def statement(self, layout: Layout) -> Statement:
        if self.method in ("count_occupancy", "measure_time_in_states"):
            return filled_of_runs(self.file, layout, self.arguments, None if self.filter is None else self.filter.flow_run_ids)
        return filled(self.file, layout, self.arguments, self.filter)


def _questions(layout: Layout) -> Iterator[_Question]:
    run, runs, since, until = str(_RUN), array_of(_RUNS), _SINCE.isoformat(), _UNTIL.isoformat()
    is_ours = layout == "flowstates"
    current = (_HISTORY,) if is_ours else (_RUN_ID, _STATE_ID)
    yield _Question("read_flow_run_state", "read_flow_run_state", (run,), (_STATE_ID,))
    yield _Question("read_flow_run_states", "read_flow_run_states", (run,), (_HISTORY,), is_ordered=True)
    yield _Question("read_flow_run_states_by_run", "read_flow_run_states_by_run", (runs, "1"), (_HISTORY,), is_ordered=True)
    yield _Question("read_current_flow_run_state", "read_current_flow_run_state", (run,), current, is_ordered=True)
    yield _Question("read_current_flow_run_states", "read_current_flow_run_states", (runs,), current, is_ordered=True)
    for clock in ("timestamp", "created"):
        file = f"read_flow_run_states_as_of.{clock}"
        yield _Question("read_flow_run_states_as_of", file, (runs, since), (_HISTORY,), f"clock={clock!r}", is_ordered=True)
    of_runs, of_ids = FlowRunStateFilter(flow_run_ids=_RUNS), FlowRunStateFilter(ids=_RUNS)
    of_time = FlowRunStateFilter(since=_SINCE, until=_UNTIL)
    moved = (_TIME._replace(size=1),) if is_ours else (_RUN_TIME, _OF_RUNS)
    yield from _pages(layout)
    for method in ("stream_flow_run_states", "count_flow_run_states"):
        yield _Question(method, method, (), (_OF_RUNS,), "flow_run_ids", of_runs)
        yield _Question(method, method, (), (_STATE_ID,), "ids", of_ids)
        yield _Question(method, method, (), moved, "since, until", of_time)
        for asked, needs in _CURRENT_NEEDS[layout].items():
            # Our rows of runs have all that a count of them asks; the ids of states are looked up.
            state = () if is_ours and method == "count_flow_run_states" and asked != "ids" else (_STATE_ID,)
            yield _Question(method, f"{method}.current", (), (*needs, *state), f"current=True, {asked}", _CURRENT_FILTERS[asked])
    measured = (since, until, until, "type", "false", None, None)
    open_or_moved = (_CURRENT._replace(size=2),) if is_ours else (_RUN_TYPE, _RUN_TIME, _RUN_STATE)
    histories = _HISTORY._replace(included="type") if is_ours else _HISTORY
    yield _Question("measure_time_in_states", "measure_time_in_states", measured, (_RUN_ID, _OF_RUNS), "flow_run_ids", of_runs)
    yield _Question("measure_time_in_states", "measure_time_in_states", measured, (*open_or_moved, _OF_RUNS))
    yield _Question("count_occupancy", "count_occupancy", (since, until, _STEP, "false"), (*open_or_moved, histories))
    begun = (moved[0]._replace(included="type"),) if is_ours else moved
    yield _Question("count_transitions", "count_transitions", (since, _STEP), begun, filter=of_time)


_CURRENT_FILTERS = {
    "flow_run_ids": FlowRunStateFilter(flow_run_ids=_RUNS, current=True),
    "ids": FlowRunStateFilter(ids=_RUNS, current=True),
    "types": FlowRunStateFilter(types=("RUNNING",), current=True),
    "names": FlowRunStateFilter(names=("Late",), current=True),
    "since, until": FlowRunStateFilter(since=_SINCE, until=_UNTIL, current=True),
}
_CURRENT_NEEDS: dict[Layout, dict[str, tuple[_Index, ...]]] = {
    "flowstates": {
        "flow_run_ids": (_RUN_ID,),
        "ids": (_RUN_ID,),
        "types": (_CURRENT._replace(size=1),),
        "since, until": (_CURRENT._replace(size=2),),
    },
    "prefect": {
        "flow_run_ids": (_RUN_ID,),
        "ids": (_RUN_STATE,),
        "types": (_RUN_TYPE,),
        "names": (_RUN_NAME,),
        "since, until": (_RUN_TIME,),
    },
}


def _pages(layout: Layout) -> Iterator[_Question]:
    method, run, since, types = "read_flow_run_state_page", str(_RUN), _SINCE.isoformat(), array_of(StateType)
    of_current = FlowRunStateFilter(current=True)
    for suffix, asked in (("", ""), ("_descending", ", newest_first=True")):
        yield _Question(method, f"{method}.run{suffix}", (run, since, "101"), (_HISTORY,), f"order='run'{asked}", is_ordered=True)
        yield _Question(method, f"{method}.time{suffix}", (since, run, "101"), (_TIME,), f"order='time'{asked}", is_ordered=True)
        name, needs = f"current=True, order='run'{asked}", (_RUN_ID, _STATE_ID)
        yield _Question(method, f"{method}.current_run{suffix}", (run, run, "101"), needs, name, of_current, is_ordered=True)
        if layout == "flowstates":
            name, needs = f"current=True, order='time'{asked}", (_CURRENT, _STATE_ID)
            yield _Question(method, f"{method}.current_time{suffix}", (since, run, "101", types), needs, name, of_current)


async def check_plans(pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates", timeout: float | None = None) -> list[SlowQuestion]:
    """The questions for which the server would read a whole table, or sort it, as there is no index that serves; [] if all are served.

    The server is asked for its plans; nothing is run. Whole scans are discouraged meanwhile, so that a table
    that is small, or whose statistics are old, is judged as it will be when it is large. That is set for a transaction: its own, which is read
    only, or the caller's, where it is set back. A role is enough that may select from the tables, and so is a replica.

    On Prefect's tables pages by time are always named, as Prefect has no index for them. Not looked at is what reads what it must: on either layout
    filters on types and names of all states, and what is asked of all states or of all runs; on Prefect's tables also `until` without `since`, and
    current states by time, which are sorted.

    On the layout `citus` it is InvalidInputError, as each server makes its own plans; `check` names an index that is missing.

    `timeout` is in seconds, for all of it; on a connection of the caller's the end of the transaction is waited for.
    """
    execution = Execution(pool_or_connection, layout)
    layout = execution.layout
    if layout == "citus":
        raise InvalidInputError("layout", "citus is not looked at: on Citus each server makes its own plans; `check` names an index that is missing")
    timeout = seconds(timeout)
    async with asyncio.timeout(timeout), execution.connection() as connection, AsyncExitStack() as stack:
        if not connection.is_in_transaction():
            # Not at the session's default level, which on a standby may be one that it cannot have.
            await stack.enter_async_context(Transaction(connection, "repeatable_read", readonly=True, is_of_pool=execution.is_of_pool))
        indexes = [(table, row) for table in ("flow_run_state", "flow_run") for row in await ask(connection, "read_index_keys", table)]
        keys = {row["name"]: (table, row["columns"].split(", "), row["included"].split(", ")) for table, row in indexes}
        whole = [keys[row["name"]] for _, row in indexes if row["is_whole"]]
        (before,) = await ask(connection, "set_planner", "off", "off")
        slow = []
        for question in _questions(layout):
            is_served = _is_served(question, await _plan(connection, layout, question), keys)
            # On a small table any index is as good as another. That the right ones are there is enough.
            lacking = [index for index in question.needs if not any(table == index.table and index.fits(*key) for table, *key in whole)]
            if lacking and not is_served:
                slow.append((question, lacking[0]))
        # An error above has undone this with the transaction. What is shown is the plan that the server would use.
        await ask(connection, "set_planner", before["seqscan"], before["bitmapscan"])
        return [_named(question, index, await _plan(connection, layout, question)) for question, index in slow]


async def _plan(connection: AnyConnection, layout: Layout, question: _Question) -> list[dict[str, Any]]:
    """The nodes of the plan, from the top down."""
    text, arguments = question.statement(layout)
    text = queries.fill(queries.catalog("explain"), "query", text.rstrip().removesuffix(";"))
    rows = await (await connection.prepare(text, name="")).fetch(*arguments)
    plan = rows[0][0]
    # A codec of the caller's may have decoded it.
    (found,) = json.loads(plan) if isinstance(plan, str | bytes) else plan
    return list(_nodes(found["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _is_served(question: _Question, nodes: Sequence[dict[str, Any]], keys: dict[str, tuple[str, list[str], list[str]]]) -> bool:
    """Whether the plan reads the tables by indexes that begin as those that are needed, which may be partial ones."""
    if question.is_ordered and any(node["Node Type"] == "Sort" for node in nodes):
        return False
    used = [keys.get(node.get("Index Name", "")) for node in nodes if _reads(node)]
    return all(key is not None and any(key[0] == index.table and index.fits(*key[1:]) for index in question.needs) for key in used)


def _reads(node: dict[str, Any]) -> bool:
    # By a bitmap, the index is named a node below the one that has the table.
    kind: str = node["Node Type"]
    return kind == "Bitmap Index Scan" or (kind != "Bitmap Heap Scan" and node.get("Relation Name") in ("flow_run_state", "flow_run"))


def _named(question: _Question, index: _Index, nodes: Sequence[dict[str, Any]]) -> SlowQuestion:
    read = next(node for node in nodes if node.get("Relation Name") == index.table)
    using = f" using {read['Index Name']}" if "Index Name" in read else ""
    sort = ", and a sort" if any(node["Node Type"] == "Sort" for node in nodes) else ""
    return SlowQuestion(f"{question.method}({question.asked})", f"{read['Node Type']}{using} on {index.table}{sort}", str(index), read["Plan Rows"])
