"""A row to a record: the one place where what the server sent becomes what a user holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from flowstates.errors import UnreadableRowError
from flowstates.records import FlowRunState, StateDetails, to_uuid

if TYPE_CHECKING:
    from asyncpg import Record

COLUMNS = tuple(FlowRunState.model_fields)
_DATETIME = TypeAdapter(datetime)


def are_native(rows: Sequence[Record]) -> bool:
    """Whether rows came as asyncpg's own codecs decode them. A codec is of a connection, so one row speaks for all."""
    if not rows:
        return True
    id_, created = rows[0][0], rows[0][1]
    return isinstance(id_, UUID) and type(created) is datetime and created.tzinfo is UTC


def to_states(rows: Iterable[Record]) -> list[FlowRunState]:
    """The records of native rows, whose first columns are COLUMNS, in their order; UnreadableRowError for the first that does not fit."""
    return [_to_state(dict(zip(COLUMNS, row.values(), strict=False))) for row in rows]


def to_states_from_json(rows: Iterable[dict[str, Any]]) -> list[FlowRunState]:
    """The records of rows that came as a JSON object each."""
    return [_to_state(_with_times({column: row[column] for column in COLUMNS})) for row in rows]


def _to_state(values: dict[str, Any]) -> FlowRunState:
    try:
        values["state_details"] = _to_details(values["state_details"])
    except ValidationError as error:
        raise _unreadable(values, "state_details", _message(error, 0)) from None
    if values["data"] is not None:
        try:
            values["data"] = _to_data(values["data"])
        except (ValueError, RecursionError) as error:
            raise _unreadable(values, "data", str(error)) from None
    try:
        return FlowRunState.model_validate(values)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        # So asyncpg reads infinity and -infinity; every other timestamptz is aware.
        infinite = isinstance(values[field], datetime) and values[field].tzinfo is None
        raise _unreadable(values, field, "is infinite, which a datetime cannot be" if infinite else _message(error, 1)) from None


def _with_times(values: dict[str, Any]) -> dict[str, Any]:
    for field in ("created", "updated", "timestamp"):
        try:
            values[field] = datetime.fromisoformat(values[field])
        except ValueError:
            raise _unreadable(values, field, f"is {values[field]}, which a datetime cannot hold") from None
    return values


def _to_details(text: str) -> StateDetails:
    try:
        return StateDetails.model_validate_json(text)
    except ValidationError as error:
        # Of a stored time without an offset Prefect says that it is UTC. One to be stored is refused, so this is only for rows of others.
        naive = [str(item["loc"][0]) for item in error.errors() if item["type"] == "timezone_aware"]
        if len(naive) != error.error_count():
            raise
    values = json.loads(text)
    return StateDetails.model_validate(values | {field: _DATETIME.validate_python(values[field]).replace(tzinfo=UTC) for field in naive})


def _to_data(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # Slower, but it knows lone surrogates and more than 200 levels, which other writers may have stored.
        return json.loads(text)


def _message(error: ValidationError, levels_said: int) -> str:
    first = error.errors(include_url=False)[0]
    return ": ".join((*map(str, first["loc"][levels_said:]), first["msg"]))


def _unreadable(values: dict[str, Any], field: str, message: str) -> UnreadableRowError:
    try:
        id_: UUID | None = to_uuid(values["id"])
    except ValueError:
        id_ = None
    return UnreadableRowError(id_, field, message)
