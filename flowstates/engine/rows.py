"""A row to a record: the one place where what the server sent becomes what a user holds."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from asyncpg.pgproto.pgproto import UUID  # made in a seventh of the time that Python's own takes, of which it is a subclass
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict  # Pydantic brings it, and takes no other before Python 3.12

from flowstates.errors import UnreadableRowError
from flowstates.records import DETAILS_DEFAULTS, DETAILS_HINTS, DETAILS_TIMES, NO_DETAILS, NO_EXTRA, FlowRunState, StateDetails, StateType, shared_set
from flowstates.values import to_uuid

if TYPE_CHECKING:
    from asyncpg import Record

Row: TypeAlias = "Record | Sequence[Any]"
OnUnreadable: TypeAlias = Callable[[UnreadableRowError], object]

COLUMNS = tuple(FlowRunState.model_fields)
_MANY = 100  # fewer rows seldom wake the collector
FIRST_ROWS = 10  # of many that come a batch at a time, since nothing is known of their size
_CHARACTERS = 2**22  # of a batch
_TEXTS = tuple(itemgetter(COLUMNS.index(name)) for name in ("name", "message", "state_details", "data"))
_PLACE = tuple(itemgetter(COLUMNS.index(name)) for name in ("flow_run_id", "type", "timestamp"))
_TYPES = {type_.value: type_ for type_ in StateType}
# Pydantic's way from JSON to a dict is shorter than that to a model. Keys that are not known it leaves out. Times stay text here: Python reads those
# that Pydantic writes, 2024-03-05T12:00:00Z, in a third of the time that Pydantic and the change to Python's own UTC take.
_known_details = TypeAdapter(
    TypedDict("_Details", {name: str | None if name in DETAILS_TIMES else DETAILS_HINTS[name] for name in DETAILS_DEFAULTS}, total=False)  # type: ignore[operator]
).validator.validate_json
# Of such a time, by its length: every third character from the fifth on, and what is before the minutes of an offset.
_MARKS = {20: ("--T::Z",), 25: ("--T::+", "--T::-"), 27: ("--T::.",), 32: ("--T::.",)}
# A record is filled without validation, since model_construct takes longer than validation. This is what it fills; a test holds it against
# Pydantic's own.
_ALL_SET = shared_set(COLUMNS)
_ALL_DETAILS_SET = shared_set(DETAILS_DEFAULTS)
_new = object.__new__
# The slots themselves: a third less time than object.__setattr__, which looks each of them up by name.
_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


class UnreadableRow(NamedTuple):
    """A row that does not fit its record, with what its place among others is told by."""

    error: UnreadableRowError
    flow_run_id: str
    type: str
    timestamp: str


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cyclic garbage collector is off in the block, if it was on: for work that makes many records and no cycles.

    It runs whenever some hundred more containers were made than freed, goes through them and, every so often, through all that the process holds.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_of(text: str) -> datetime:
    """A time from what the queries send: as JSON shows those of UTC, in quotes and without an offset."""
    return datetime.fromisoformat(text[1:-1] + "Z")


def to_states(rows: Sequence[Row]) -> list[FlowRunState]:
    """The records of rows of COLUMNS, in their order; UnreadableRowError for the first that does not fit its record.

    All columns are text, and times are as JSON shows those of UTC, without an offset: no setting of a session changes them, no codec but one for
    text itself, and they are read in less time than asyncpg takes for a timestamptz. `updated` may be null, for the time that `created` is.
    """
    if len(rows) < _MANY:
        return _to_states(rows)
    with collector_paused():
        return _to_states(rows)


def readable_states(rows: Sequence[Row], on_unreadable: OnUnreadable | None) -> Iterable[FlowRunState]:
    """The records of the rows that fit; the errors of the others are handed over, each in its place. Without `on_unreadable` the first is raised."""
    try:
        return to_states(rows)
    except UnreadableRowError:
        if on_unreadable is None:
            raise
        return _readable(rows, on_unreadable)


def _readable(rows: Sequence[Row], on_unreadable: OnUnreadable) -> Iterator[FlowRunState]:
    for row in rows:
        try:
            yield from to_states([row])
        except UnreadableRowError as error:
            on_unreadable(error)


def states_or_unreadable(rows: Sequence[Row]) -> list[FlowRunState | UnreadableRow]:
    """The records of the rows that fit, and in their places those that do not."""
    found: list[FlowRunState | UnreadableRow] = []
    for row in rows:
        try:
            found += to_states([row])
        except UnreadableRowError as error:
            found.append(UnreadableRow(error, *(str(part(row)).strip('"') for part in _PLACE)))
    return found


def next_rows(rows: Sequence[Row], most: int) -> int:
    """How many rows are to come next, after a batch of these: as many as make some MiB if they are like them, and at most 8 times as many."""
    # Some are enough. With two distances, as the states of runs of one length would all be alike at one.
    some = rows if len(rows) < _MANY else [*rows[::11], *rows[::13]]
    characters = sum(sum(map(len, filter(None, map(text, some)))) for text in _TEXTS)
    return max(1, min(most, 8 * len(rows), len(some) * _CHARACTERS // (characters + 1)))


def _to_states(rows: Sequence[Row]) -> list[FlowRunState]:
    to_time = datetime.fromisoformat
    run, run_of = None, ""
    details, details_of = NO_DETAILS, None
    states = []
    for row in rows:
        id_, created_text, updated_text, run_id, type_, timestamp_text, name, message, details_text, data_text, artifact_id = row
        # Types, uniqueness and not-null are the server's promise. What it does not promise: a known label, a time that a datetime can hold,
        # details and data that can be read, a name of any layout.
        try:
            created = to_time(created_text[1:-1] + "Z")
            if run_id != run_of:
                run, run_of = UUID(run_id), run_id
            if details_text != details_of:
                details = NO_DETAILS if details_text == "{}" else _details_of(id_, details_text)
                # What has a part that can be changed is no other record's.
                details_of = details_text if details.__pydantic_extra__ is NO_EXTRA else None
            if name is None:
                raise ValueError("name is null")
            values = {
                "id": UUID(id_),
                "created": created,
                "updated": created if updated_text is None else to_time(updated_text[1:-1] + "Z"),
                "flow_run_id": run,
                "type": _TYPES[type_],
                "timestamp": to_time(timestamp_text[1:-1] + "Z"),
                "name": name,
                "message": message,
                "state_details": details,
                "data": None if data_text is None else _data_of(id_, data_text),
                "result_artifact_id": None if artifact_id is None else UUID(artifact_id),
            }
        except (ValueError, KeyError, TypeError):
            states.append(_validated(row))
            continue
        state = _new(FlowRunState)
        _set_dict(state, values)
        _set_fields_set(state, _ALL_SET)
        _set_extra(state, None)
        _set_private(state, None)
        states.append(state)
    return states


def _validated(row: Row) -> FlowRunState:
    values = dict(zip(COLUMNS, row, strict=True))
    if values["updated"] is None:
        values["updated"] = values["created"]
    for field in ("created", "updated", "timestamp"):
        try:
            values[field] = time_of(values[field])
        except (ValueError, TypeError):
            raise _unreadable(values["id"], field, f"is {values[field]}, which a datetime cannot hold") from None
    values["state_details"] = _details_of(values["id"], values["state_details"])
    if values["data"] is not None:
        values["data"] = _data_of(values["id"], values["data"])
    try:
        return FlowRunState.model_validate(values)
    except ValidationError as error:
        raise _unreadable(values["id"], str(error.errors()[0]["loc"][0]), _message(error, 1)) from None


def _details_of(id_: object, text: str) -> StateDetails:
    try:
        values = _known_details(text)
        # A comma less than keys, or there is a key that is not known, or a comma in a value.
        if text.count(",") >= len(values):
            return _any_details_of(id_, text)
        fields_set = _ALL_DETAILS_SET
        if len(values) < len(DETAILS_DEFAULTS):
            fields_set, values = shared_set(values), DETAILS_DEFAULTS | values
        for name in DETAILS_TIMES:
            if (time := values[name]) is not None:
                if time[4:20:3] not in _MARKS.get(len(time), ()) or time[11:13] == "24":  # midnight, from Python 3.14 on
                    return _any_details_of(id_, text)
                # Python takes any number for the minutes of an offset.
                if time[-1] != "Z" and (len(time) in (20, 27) or time[-6] not in "+-" or time[-3] != ":" or time[-2] > "5"):
                    return _any_details_of(id_, text)
                values[name] = datetime.fromisoformat(time)
    except ValueError:  # Pydantic's ValidationError too
        return _any_details_of(id_, text)
    details = _new(StateDetails)
    _set_dict(details, values)
    _set_fields_set(details, fields_set)
    _set_extra(details, NO_EXTRA if values["run_input_keyset"] is None else {})
    _set_private(details, None)
    return details


def _any_details_of(id_: object, text: str) -> StateDetails:
    try:
        return StateDetails.model_validate_json(text)
    except ValidationError as error:
        # Of a stored time without an offset Prefect says that it is UTC. One to be stored is refused, so this is only for rows of others.
        naive = [str(item["loc"][0]) for item in error.errors() if item["type"] == "timezone_aware"]
        if len(naive) != error.error_count():
            raise _unreadable(id_, "state_details", _message(error, 0)) from None
    except ValueError as error:  # of the year 0, in Pydantic's older versions
        raise _unreadable(id_, "state_details", str(error)) from None
    values = json.loads(text)
    try:
        aware = {field: datetime.fromisoformat(values[field]).replace(tzinfo=UTC).isoformat() for field in naive}
        return StateDetails.model_validate_json(json.dumps(values | aware))
    except ValueError as error:  # of the year 0 again
        raise _unreadable(id_, "state_details", f"{', '.join(naive)}: {error}") from None


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
        id_ = to_uuid(flow_run_state_id)
    except ValueError:
        id_ = None
    return UnreadableRowError(id_, field, message)
