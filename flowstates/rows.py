"""A row to a record: the one place where what the server sent becomes what a user holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from flowstates.errors import UnreadableRowError
from flowstates.records import FlowRunState, StateDetails, StateType
from flowstates.values import to_uuid

if TYPE_CHECKING:
    from asyncpg import Record

Row: TypeAlias = "Record | tuple[Any, ...]"

COLUMNS = tuple(FlowRunState.model_fields)
_DATETIME = TypeAdapter(datetime)
_TYPES = {type_.value: type_ for type_ in StateType}
_NO_DETAILS = StateDetails()
# A record is filled without validation, since model_construct takes longer than validation. This is what it fills; a test holds it against
# Pydantic's own.
_ALL_SET = set(COLUMNS)  # shared: Pydantic copies it before it changes it
_new = object.__new__
# The slots themselves: a third less time than object.__setattr__, which looks each of them up by name.
_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


def are_native(rows: Sequence[Row]) -> bool:
    """Whether rows came as asyncpg's own codecs decode them. A codec is of a connection, so one row speaks for all."""
    if not rows:
        return True
    id_, created = rows[0][0], rows[0][1]
    return isinstance(id_, UUID) and type(created) is datetime and created.tzinfo is UTC


def to_states(rows: Iterable[Row]) -> list[FlowRunState]:
    """The records of native rows of COLUMNS, in their order; UnreadableRowError for the first that does not fit its record."""
    known: dict[str, StateDetails] = {"{}": _NO_DETAILS}
    states = []
    for row in rows:
        id_, created, updated, run_id, type_, timestamp, name, message, details_text, data_text, artifact_id = row
        details = known.get(details_text)
        if details is None:
            details = known[details_text] = _details_of(id_, details_text)
        # Types, uniqueness and not-null are the server's promise. What it does not promise: a known label, a finite time, a name of any layout.
        if type_ not in _TYPES or name is None or created.tzinfo is None or updated.tzinfo is None or timestamp.tzinfo is None:
            states.append(_validated(dict(zip(COLUMNS, row, strict=True))))
            continue
        state = _new(FlowRunState)
        _set_dict(
            state,
            {
                "id": id_,
                "created": created,
                "updated": updated,
                "flow_run_id": run_id,
                "type": _TYPES[type_],
                "timestamp": timestamp,
                "name": name,
                "message": message,
                "state_details": details,
                "data": None if data_text is None else _data_of(id_, data_text),
                "result_artifact_id": artifact_id,
            },
        )
        _set_fields_set(state, _ALL_SET)
        _set_extra(state, None)
        _set_private(state, None)
        states.append(state)
    return states


def to_states_from_json(rows: Iterable[dict[str, Any]]) -> list[FlowRunState]:
    """The records of rows that came as a JSON object each."""
    return [_validated(_with_times({column: row[column] for column in COLUMNS})) for row in rows]


def _validated(values: dict[str, Any]) -> FlowRunState:
    values["state_details"] = _details_of(values["id"], values["state_details"])
    if values["data"] is not None:
        values["data"] = _data_of(values["id"], values["data"])
    try:
        return FlowRunState.model_validate(values)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        # So asyncpg reads infinity and -infinity; every other timestamptz is aware.
        infinite = isinstance(values[field], datetime) and values[field].tzinfo is None
        raise _unreadable(values["id"], field, "is infinite, which a datetime cannot be" if infinite else _message(error, 1)) from None


def _with_times(values: dict[str, Any]) -> dict[str, Any]:
    for field in ("created", "updated", "timestamp"):
        try:
            values[field] = datetime.fromisoformat(values[field])
        except ValueError:
            raise _unreadable(values["id"], field, f"is {values[field]}, which a datetime cannot hold") from None
    return values


def _details_of(id_: object, text: str) -> StateDetails:
    try:
        return StateDetails.model_validate_json(text)
    except ValidationError as error:
        # Of a stored time without an offset Prefect says that it is UTC. One to be stored is refused, so this is only for rows of others.
        naive = [str(item["loc"][0]) for item in error.errors() if item["type"] == "timezone_aware"]
        if len(naive) != error.error_count():
            raise _unreadable(id_, "state_details", _message(error, 0)) from None
    values = json.loads(text)
    return StateDetails.model_validate(values | {field: _DATETIME.validate_python(values[field]).replace(tzinfo=UTC) for field in naive})


def _data_of(id_: object, text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        pass
    try:
        # Slower, but it knows lone surrogates and more than 200 levels, which other writers may have stored.
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(id_, "data", str(error)) from None


def _message(error: ValidationError, levels_said: int) -> str:
    first = error.errors(include_url=False)[0]
    return ": ".join((*map(str, first["loc"][levels_said:]), first["msg"]))


def _unreadable(flow_run_state_id: object, field: str, message: str) -> UnreadableRowError:
    try:
        id_: UUID | None = to_uuid(flow_run_state_id)
    except ValueError:
        id_ = None
    return UnreadableRowError(id_, field, message)
