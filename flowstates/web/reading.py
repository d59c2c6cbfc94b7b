"""What the pages read: states, and in their places the rows that do not fit a record, which are shown as such and hide no others."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias
from uuid import UUID

from flowstates.engine.pages import read_page_of_rows
from flowstates.engine.rows import UnreadableRow, states_or_unreadable
from flowstates.errors import UnreadableRowError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository
from flowstates.web.bodies import PATIENCE

Item: TypeAlias = FlowRunState | UnreadableRow


class Items(NamedTuple):
    """A page of them, and the cursors of the pages next to it."""

    items: list[Item]
    next: str | None
    previous: str | None


async def read_runs(states: FlowRunStateRepository, filter: FlowRunStateFilter, cursor: str | None, *, limit: int) -> Items:
    """A page of states, those that moved last first."""
    try:
        page = await states.read_flow_run_state_page(filter, limit=limit, order="time", newest_first=True, cursor=cursor, timeout=PATIENCE)
        return Items([*page.states], page.next, page.previous)
    except UnreadableRowError:
        rows = await read_page_of_rows(states._execution, filter, limit, "time", newest_first=True, cursor=cursor, timeout=PATIENCE)
        return Items(rows.states_or_unreadable(), rows.next, rows.previous)


async def read_history(states: FlowRunStateRepository, run_id: UUID, *, last: int) -> list[Item]:
    """The newest states of a run, oldest first."""
    try:
        return [*(await states.read_flow_run_states_by_run([run_id], last=last, timeout=PATIENCE)).get(run_id, [])]
    except UnreadableRowError:
        rows = await states._execution.rows("read_flow_run_states_by_run", f"{{{run_id}}}", str(last), timeout=PATIENCE)
        return states_or_unreadable(rows[::-1])


def id_of(item: Item) -> str:
    """The id of a state, also of one that cannot be read."""
    return str(item.error.flow_run_state_id if isinstance(item, UnreadableRow) else item.id)
