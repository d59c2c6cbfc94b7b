"""A page of states, found by its position in an order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from flowstates.engine import cursors
from flowstates.engine.cursors import Cursor
from flowstates.engine.execution import Execution
from flowstates.engine.rows import COLUMNS, Row, UnreadableRow, states_or_unreadable, time_of, to_states
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter, array_of
from flowstates.records import FlowRunState

MOST_OF_A_PAGE = 1_000

_LEAST_ID, _GREATEST_ID = str(UUID(int=0)), str(UUID(int=2**128 - 1))
_FIRST, _MICROSECOND = datetime.min.replace(tzinfo=UTC), timedelta(microseconds=1)
# Before and behind every state, since a null would cost a generic plan its index.
_ENDS = {
    "run": ((_LEAST_ID, "-infinity"), (_GREATEST_ID, "infinity")),
    "time": (("-infinity", _LEAST_ID), ("infinity", _GREATEST_ID)),
}
# A time that PostgreSQL holds and a datetime does not.
_FAR = re.compile(r"(\d{4,6})(-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?\+00:00)( BC)?", re.ASCII)
_LAST_YEAR, _FIRST_YEAR_BC = 294275, 4713


class FlowRunStatePage(NamedTuple):
    """States in the order that was asked for, and the cursors of the pages after and before; None where there is none."""

    states: list[FlowRunState]
    next: str | None
    previous: str | None


class PageOfRows(NamedTuple):
    """The same as rows, for who shows those that do not fit their record too."""

    rows: Sequence[Row]
    next: str | None
    previous: str | None

    def states_or_unreadable(self) -> list[FlowRunState | UnreadableRow]:
        """The records, and in their places the rows that fit none."""
        return states_or_unreadable(self.rows)


async def read_page(
    execution: Execution,
    filter: FlowRunStateFilter | None,
    limit: int,
    order: Literal["run", "time"],
    newest_first: bool,
    cursor: str | None,
    *,
    timeout: float | None,
) -> FlowRunStatePage:
    """The page after or before the cursor's position, the first without a cursor. An empty page has no cursors."""
    rows, next, previous = await read_page_of_rows(execution, filter, limit, order, newest_first, cursor, timeout=timeout)
    return FlowRunStatePage(to_states(rows), next, previous)


async def read_page_of_rows(
    execution: Execution,
    filter: FlowRunStateFilter | None,
    limit: int,
    order: Literal["run", "time"],
    newest_first: bool,
    cursor: str | None,
    *,
    timeout: float | None,
) -> PageOfRows:
    """The same page, whose rows are not read yet."""
    question = f"{execution.layout} {order} {newest_first} {_canonical(filter)}"
    start = Cursor(_end(order, newest_first, filter), backwards=False) if cursor is None else _of_a_state(cursors.decode(cursor, question), order)
    is_current = filter is not None and filter.current
    kind: str = f"current_{order}" if is_current else order
    # One more than the page holds tells whether there is another page.
    most = str(limit + 1)
    arguments: tuple[str | None, ...] = (*start.position, most)
    if is_current and filter is not None:
        types = filter.asked_types()
        if order == "run":
            # A run has one current state, so its time is no part of a position.
            run = start.position[0]
            arguments = (run, None if cursor is None else run, most)
        elif len(types) == 1 and execution.layout == "flowstates":
            kind, arguments = "current_type", (*arguments, str(types[0]))
        else:
            arguments = (*arguments, array_of(types))
    descending = "_descending" if newest_first != start.backwards else ""
    found = await execution.rows(f"read_flow_run_state_page.{kind}{descending}", *arguments, filter=filter, timeout=timeout)
    is_more, rows = len(found) > limit, found[:limit]
    if start.backwards:
        rows.reverse()
    if not rows:
        return PageOfRows([], None, None)
    has_next = start.backwards or is_more
    has_previous = is_more if start.backwards else cursor is not None
    return PageOfRows(
        rows,
        cursors.encode(Cursor(_position(rows[-1], order, is_current), backwards=False), question) if has_next else None,
        cursors.encode(Cursor(_position(rows[0], order, is_current), backwards=True), question) if has_previous else None,
    )


def _of_a_state(cursor: Cursor, order: str) -> Cursor:
    """The cursor, if its position can be a state's: who knows how a cursor is made can make one, and the server would fail at what is no time."""
    id, time = cursor.position if order == "run" else cursor.position[::-1]
    try:
        if str(UUID(id)) == id and (_is_far(time) or datetime.fromisoformat(time).astimezone(UTC).isoformat() == time):
            return cursor
    except (ValueError, OverflowError):
        pass
    raise InvalidInputError("cursor", "is not a cursor of this version")


def _end(order: str, newest_first: bool, filter: FlowRunStateFilter | None) -> tuple[str, str]:
    """Before all states in the order. A time range is begun where it begins: the server would walk there from the index's end."""
    if order == "time" and filter is not None:
        if newest_first and filter.until is not None:
            return filter.until.isoformat(), _LEAST_ID
        if not newest_first and filter.since is not None and filter.since > _FIRST:
            return (filter.since - _MICROSECOND).isoformat(), _GREATEST_ID
    return _ENDS[order][newest_first]


def _is_far(text: str) -> bool:
    if text in ("-infinity", "infinity"):
        return True
    found = _FAR.fullmatch(text)
    if not found:
        return False
    year, is_bc = int(found[1]), bool(found[3])
    # The calendar repeats every 400 years.
    datetime.fromisoformat(f"{2000 + (1 - year if is_bc else year) % 400}{found[2]}")
    return 1 <= year <= _FIRST_YEAR_BC if is_bc else datetime.max.year < year <= _LAST_YEAR


def _position(row: Row, order: str, is_current: bool) -> tuple[str, str]:
    values = dict(zip(COLUMNS, row, strict=True))
    time = _time(values["timestamp"])
    return (values["flow_run_id"], time) if order == "run" else (time, values["flow_run_id" if is_current else "id"])


def _time(text: str) -> str:
    try:
        return time_of(text).isoformat()
    except ValueError:
        text = text.strip('"')
    if text.endswith("infinity"):
        return text
    return f"{text.removesuffix(' BC')}+00:00{' BC' if text.endswith(' BC') else ''}"


def _canonical(filter: FlowRunStateFilter | None) -> str:
    # Two filters that mean the same are one question: a set has another order in each process.
    given = {} if filter is None else filter.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({field: sorted(set(value)) if isinstance(value, list) else value for field, value in given.items()}, sort_keys=True)
