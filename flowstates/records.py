"""What a user holds: the states of a run, and a state to be created."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowstates.errors import InvalidInputError

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""A timestamp to be stored is in [EARLIEST, LATEST). The table holds one more day, into which a state can be moved behind another."""

MOST_LEVELS = 200
"""Levels of nesting that pydantic_core reads back from JSON; the server takes thousands."""
_MOST_DIGITS = 4000  # of an integer; pydantic_core and Python read 4,300 characters back
_GREATEST = 10**_MOST_DIGITS - 1
_UUID = re.compile(r"(urn:uuid:)?\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE)


class StateType(StrEnum):
    """The nine types of a state, in the order of the server's enum `state_type`."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"

    @property
    def is_terminal(self) -> bool:
        """Whether a run ends in it: COMPLETED, FAILED, CANCELLED or CRASHED."""
        return self in _TERMINAL


_TERMINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})


def _utc(value: datetime) -> datetime:
    if type(value) is datetime and not value.utcoffset():
        return value if value.tzinfo is UTC else value.replace(tzinfo=UTC)
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None
    return datetime.combine(value.date(), value.time(), UTC)  # plain, also where the value is of a subclass


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_utc)]


class StateDetails(BaseModel):
    """What a state says about its circumstances. Keys that this version does not know are kept, in `model_extra`.

    The fields and their defaults are those of Prefect 3.8. Times are aware and in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None
    child_flow_run_id: UUID | None = None
    scheduled_time: UtcDatetime | None = None
    cache_key: str | None = None
    cache_expiration: UtcDatetime | None = None
    deferred: bool | None = False
    untrackable_result: bool = False
    pause_timeout: UtcDatetime | None = None
    pause_reschedule: bool = False
    pause_key: str | None = None
    run_input_keyset: dict[str, str] | None = None
    refresh_cache: bool | None = None
    retriable: bool | None = None
    transition_id: UUID | None = None
    task_parameters_id: UUID | None = None
    traceparent: str | None = None
    deployment_concurrency_lease_id: UUID | None = None


class FlowRunState(BaseModel):
    """One state of a run, as stored. Two are equal when all fields are; the hash is that of the id.

    `timestamp` is when the state began, `created` when the transaction that stored it began, `updated` when the row last changed.
    All three are aware and in UTC, with microseconds. `data` is any JSON value; SQL null and JSON null are both None.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    created: UtcDatetime
    updated: UtcDatetime
    flow_run_id: UUID
    type: StateType
    timestamp: UtcDatetime
    name: str
    message: str | None
    state_details: StateDetails
    data: Any
    result_artifact_id: UUID | None

    def __hash__(self) -> int:
        return hash(self.id)

    def to_rest(self) -> dict[str, Any]:
        """The state as REST interfaces of the field show it, in values that JSON has.

        The keys are id, type, name, timestamp, message, data and state_details, in this order. Times are ISO 8601 in UTC with `Z`,
        with six digits of a fraction or, when it is zero, none.
        """
        shown = self.model_dump(mode="json")
        return {key: shown[key] for key in ("id", "type", "name", "timestamp", "message", "data", "state_details")}


def to_uuid(value: object) -> UUID:
    """A UUID from a UUID or its text; ValueError for anything else."""
    if isinstance(value, UUID):
        return value
    # UUID() would also take digits with signs, spaces and underscores between them.
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise ValueError(f"{_shown(value)} ({type(value).__name__}) is not a UUID or its text")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _storable_text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("holds a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which UTF-8 cannot encode") from None
    return value


def _storable_json(value: object, path: str = "$", level: int = 0) -> Any:
    """The value, if the server stores it and it can be read back as the same JSON value; ValueError with its path otherwise."""
    try:
        match value:
            case str():
                _storable_text(value)
            case bool() | None:
                pass
            case int():
                if abs(value) > _GREATEST:
                    raise ValueError(f"is an integer of more than {_MOST_DIGITS} digits, which cannot be read back")
            case float():
                if not isfinite(value):
                    raise ValueError(f"is {value}, which JSON does not have")
            case dict() | list():
                if level == MOST_LEVELS:
                    raise ValueError(f"is nested deeper than {MOST_LEVELS} levels, which cannot be read back")
            case _:
                raise ValueError(f"is a {type(value).__name__}, which JSON does not have")
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {_shown(key)}, which is not a string")
            _storable_json(key, f"a key of {path}", level + 1)
            _storable_json(item, f"{path}.{key}", level + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _storable_json(item, f"{path}[{index}]", level + 1)
    return value


def _storable_details(details: StateDetails) -> StateDetails:
    # Only these fields hold what a caller can make unstorable; the others are ids, times and booleans.
    for key in ("cache_key", "pause_key", "traceparent", "run_input_keyset"):
        value = getattr(details, key)
        if value is not None:
            _storable_json({key: value})
    if details.model_extra:
        _storable_json(details.model_extra)
    return details


def _an_id(value: object) -> object:
    # Pydantic would take bytes too.
    if not isinstance(value, UUID | str):
        raise ValueError(f"{_shown(value)} ({type(value).__name__}) is not a UUID or its text")
    return value


def a_time(value: object) -> object:
    """A datetime from a datetime or its ISO text; ValueError for anything else."""
    # Pydantic would read a number as seconds or as milliseconds, whichever seems likelier.
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError(f"{_shown(value)} is not a time")


def utc_time(field: str, value: object) -> datetime:
    """An aware time in UTC; InvalidInputError with the field's name for anything else."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInputError(field, f"{_shown(value)} is not a time with a time zone")
    try:
        return _utc(value)
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


def _in_range(value: datetime) -> datetime:
    if not EARLIEST <= value < LATEST:
        raise ValueError(f"{value} is not from {EARLIEST.date()} up to but not including {LATEST.date()}")
    return value


InputUUID = Annotated[UUID, BeforeValidator(_an_id)]
InputTime = Annotated[UtcDatetime, BeforeValidator(a_time), AfterValidator(_in_range)]
InputText = Annotated[str, Field(strict=True), AfterValidator(_storable_text)]


def invalid_input(error: ValidationError) -> InvalidInputError:
    """Pydantic's first complaint as ours, with the name of the field and the path inside it."""
    first = error.errors(include_url=False)[0]
    field, *inside = first["loc"] or ("value",)
    message = first["msg"].removeprefix("Value error, ")
    path = ".".join(str(part) for part in inside)
    return InvalidInputError(str(field), f"{path}: {message}" if path else message)


class Input(BaseModel):
    """A model for what callers give. It is frozen, knows no other fields, and refuses with InvalidInputError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers are to see the fields as parameters

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise invalid_input(error) from None


class NewFlowRunState(Input):
    """A state to be created. What is left out is resolved here: a UUIDv7 as id, the default name of the type, empty details.

    Whatever cannot be stored and read back as it is raises InvalidInputError: a time that is naive or not from 0001-01-02 up to 9999-12-30, text
    with NUL or a lone surrogate, data that JSON does not have, that is nested deeper than 200 levels or holds an integer of more than 4,000
    digits. `timestamp` None means the server's clock.
    """

    flow_run_id: InputUUID
    type: StateType
    id: InputUUID = Field(default_factory=uuid7)
    timestamp: InputTime | None = None
    name: Annotated[InputText, Field(min_length=1)] = ""
    message: InputText | None = None
    state_details: Annotated[StateDetails, AfterValidator(_storable_details)] = StateDetails()
    data: Annotated[Any, AfterValidator(_storable_json)] = None
    result_artifact_id: InputUUID | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = {key: value for key, value in values.items() if value is not None or key in ("flow_run_id", "type")}
        return values

    @model_validator(mode="after")
    def _default_name(self) -> Self:
        if not self.name:
            # A frozen model is filled once, before anyone else holds it.
            self.__dict__["name"] = self.type.value.title()
        return self

    def as_parameters(self) -> tuple[str | None, ...]:
        """The values in the order of the fields, flow_run_id and type first, as the queries take them: as text.

        Details are stored as what differs from the defaults, and unknown keys: equal details are equal text, and most are short.
        """
        return (
            str(self.flow_run_id),
            self.type.value,
            str(self.id),
            None if self.timestamp is None else self.timestamp.isoformat(),
            self.name,
            self.message,
            self.state_details.model_dump_json(exclude_defaults=True) if self.state_details.model_fields_set else "{}",
            None if self.data is None else json.dumps(self.data, ensure_ascii=False, separators=(",", ":")),
            None if self.result_artifact_id is None else str(self.result_artifact_id),
        )


class CreateOutcome(NamedTuple):
    """What became of one state of a batch: `created`, `present` before with the same content, or `refused` for a `reason`.

    `timestamp` is the stored one, which may be later than the given; None for a refused state.
    """

    id: UUID
    status: Literal["created", "present", "refused"]
    timestamp: datetime | None = None
    reason: str | None = None
