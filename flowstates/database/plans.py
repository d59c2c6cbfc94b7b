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
from flowstates.engine.execution import AnyConnection, Argument, Execution, PoolOrConnection, ask
from flowstates.engine.queries import Layout
from flowstates.filters import FlowRunStateFilter, array_of, to_clause

_TABLE = "flow_run_state"
_RUN = UUID(int=2**127)
_RUNS = (_RUN, UUID(int=2**127 + 1))
_SINCE, _UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
_TIMES = (_SINCE.isoformat(), _UNTIL.isoformat())
_STEP = "3600000000 microseconds"

_BY_ID = ("id",)
_BY_RUN = ("flow_run_id", "timestamp")
_BY_TIME = ("timestamp", "id")
_INDEXES = {
    ("id", False): f"create unique index concurrently on {_TABLE} (id)",
    ("flow_run_id", False): f"create unique index concurrently on {_TABLE} (flow_run_id, timestamp)",
    ("flow_run_id", True): f"create unique index concurrently on {_TABLE} (flow_run_id, timestamp) include (type)",
    ("timestamp", False): f"create index concurrently on {_TABLE} (timestamp, id)",
}


@dataclass(frozen=True)
class SlowQuestion:
    """A question that no index serves: what was asked, how the server reads the table for it, the index that would help, and the states estimated."""

    question: str
    plan: str
    index: str
    rows: int

    def __str__(self) -> str:
        return f"{self.question}: {self.plan}, about {self.rows:,} states; {self.index} would help"


class _Question(NamedTuple):
    method: str
    file: str
    arguments: tuple[Argument, ...]
    key: tuple[str, ...]  # the columns with which an index begins that serves it
    asked: str = ""
    filter: FlowRunStateFilter | None = None
    ordered: bool = True  # whether the index has to give the order too
    alone: bool = False  # whether the index has to hold all that is read


def _questions() -> Iterator[_Question]:
    run, runs, (since, until) = str(_RUN), array_of(_RUNS), _TIMES
    yield _Question("read_flow_run_state", "read_flow_run_state", (run,), _BY_ID)
    yield _Question("read_flow_run_states", "read_flow_run_states", (run,), _BY_RUN)
    yield _Question("read_flow_run_states_by_run", "read_flow_run_states_by_run", (runs, "1"), _BY_RUN)
    yield _Question("read_current_flow_run_state", "read_current_flow_run_state", (run,), _BY_RUN)
    yield _Question("read_current_flow_run_states", "read_current_flow_run_states", (runs,), _BY_RUN)
    for clock in ("timestamp", "created"):
        yield _Question("read_flow_run_states_as_of", f"read_flow_run_states_as_of.{clock}", (runs, since), _BY_RUN, f"clock={clock!r}")
    for order, key, position in (("run", _BY_RUN, (run, since)), ("time", _BY_TIME, (since, run))):
        for suffix, asked in (("", ""), ("_descending", ", newest_first=True")):
            file = f"read_flow_run_state_page.{order}{suffix}"
            yield _Question("read_flow_run_state_page", file, (*position, "101"), key, f"order={order!r}{asked}")
    of_runs, of_ids = FlowRunStateFilter(flow_run_ids=_RUNS), FlowRunStateFilter(ids=_RUNS)
    of_time = FlowRunStateFilter(since=_SINCE, until=_UNTIL)
    for method in ("stream_flow_run_states", "count_flow_run_states"):
        yield _Question(method, method, (), _BY_RUN[:1], "flow_run_ids", of_runs, ordered=False)
        yield _Question(method, method, (), _BY_ID, "ids", of_ids, ordered=False)
        yield _Question(method, method, (), _BY_TIME[:1], "since, until", of_time, ordered=False)
    measured = (since, until, until, "type", "false", None, None)
    yield _Question("measure_time_in_states", "measure_time_in_states", measured, _BY_RUN[:1], "flow_run_ids", of_runs, ordered=False)
    yield _Question("count_transitions", "count_transitions", (since, until, _STEP), _BY_TIME[:1], ordered=False)
    yield _Question("count_occupancy", "count_occupancy", (since, until, _STEP), _BY_RUN, alone=True)


async def check_plans(pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates", timeout: float | None = None) -> list[SlowQuestion]:
    """The questions for which the server would read the whole table, or sort it, as there is no index that serves; [] if all are served.

    The server is asked for its plans; nothing is run. Whole scans are discouraged meanwhile, so that a table
    that is small, or whose statistics are old, is judged as it will be when it is large. That is set for a transaction: its own, which is read
    only, or the caller's, where it is set back. A role is enough that may select from the tables, and so is a replica.

    On Prefect's tables pages by time, time ranges without runs, transitions and occupancy are always named: Prefect has no index for them. Filters on
    types and names, and what is asked of all states, read what they must on either layout and are not looked at.

    `timeout` is in seconds, for all of it.
    """
    execution = Execution(pool_or_connection, layout)
    async with asyncio.timeout(timeout), execution.connection() as connection, AsyncExitStack() as stack:
        if not connection.is_in_transaction():
            await stack.enter_async_context(connection.transaction(readonly=True))
        indexes = await ask(connection, "read_index_keys", _TABLE)
        keys = {row["name"]: tuple(row["columns"].split(", ")) for row in indexes}
        whole = [(keys[row["name"]], row["included"].split(", ")) for row in indexes if row["is_whole"]]
        (before,) = await ask(connection, "set_planner", "off", "off")
        slow = [
            question
            for question in _questions()
            if not _is_served(question, await _plan(connection, layout, question), keys)
            # On a small table any index is as good as another. That the right one is there is enough.
            and not any(_fits(question, key, included) for key, included in whole)
        ]
        # An error above has undone this with the transaction. What is shown is the plan that the server would use.
        await ask(connection, "set_planner", before["seqscan"], before["bitmapscan"])
        return [_named(question, await _plan(connection, layout, question)) for question in slow]


async def _plan(connection: AnyConnection, layout: Layout, question: _Question) -> list[dict[str, Any]]:
    """The nodes of the plan, from the top down."""
    text, arguments = queries.query(question.file, layout), question.arguments
    if question.filter is not None:
        clause, values = to_clause(question.filter, len(arguments) + 1)
        text, arguments = queries.fill(text, "filter", clause), (*arguments, *values)
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


def _fits(question: _Question, key: tuple[str, ...], included: Sequence[str]) -> bool:
    return key[: len(question.key)] == question.key and (not question.alone or "type" in (*key, *included))


def _is_served(question: _Question, nodes: Sequence[dict[str, Any]], keys: dict[str, tuple[str, ...]]) -> bool:
    if question.ordered and any(node["Node Type"] == "Sort" for node in nodes):
        return False
    if question.alone and not any(node["Node Type"] == "Index Only Scan" for node in nodes):
        return False
    size = len(question.key)
    return all(keys.get(node.get("Index Name", ""), ())[:size] == question.key for node in _reads(nodes))


def _reads(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    # By a bitmap, the index is named a node below the one that has the table.
    names = [node for node in nodes if node.get("Relation Name") == _TABLE and node["Node Type"] != "Bitmap Heap Scan"]
    return names + [node for node in nodes if node["Node Type"] == "Bitmap Index Scan"]


def _named(question: _Question, nodes: Sequence[dict[str, Any]]) -> SlowQuestion:
    read = next(node for node in nodes if node.get("Relation Name") == _TABLE)
    index = f" using {read['Index Name']}" if "Index Name" in read else ""
    sort = ", and a sort" if any(node["Node Type"] == "Sort" for node in nodes) else ""
    return SlowQuestion(
        f"{question.method}({question.asked})",
        f"{read['Node Type']}{index} on {_TABLE}{sort}",
        _INDEXES[question.key[0], question.alone],
        read["Plan Rows"],
    )
