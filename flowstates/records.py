"""What a user holds: the states of a run, and a state to be created."""

# Not with annotations from __future__, which are texts: Pydantic would compile each of them at every import.
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Never, TypeAlias, get_type_hints
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from flowstates.errors import InvalidInputError
from flowstates.values import (
    Input,
    InputText,
    InputTime,
    InputUUID,
    OffsetDatetime,
    UtcDatetime,
    a_time,
    no_bytes,
    shown,
    storable_json,
    to_uuid,
)

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7


def new_run_id() -> UUID:
    """A UUIDv7 for a run, which begins with the time and so comes after those before it in the indexes.

    10,000 creates of new runs right after a checkpoint wrote 0.63 kB of WAL each with these, and 8.7 kB with UUIDv4, whose places in the indexes
    are random, so that each page is written whole (PostgreSQL 18). Any UUID will do as a run's id. This one also suits a state that a caller names.
    """
    return uuid7()


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


TypeName: TypeAlias = Literal["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"]
"""A type as text, which is taken wherever a StateType is."""


def to_type(value: Any) -> StateType:
    """A type from a type or its name; ValueError for anything else."""
    try:
        return StateType(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is not one of {', '.join([*StateType][:-1])} or {[*StateType][-1]}, in upper case") from None


_TERMINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})


InputType = Annotated[StateType, BeforeValidator(to_type)]

_MOST_BYTES = 2**28 - 1


class StateDetails(BaseModel):
    """What a state says about its circumstances. Keys that this version does not know are kept, in `model_extra`.

    The fields and their defaults are those of Prefect 3.9. Times are aware and have the offset from UTC that they were given. What a field cannot be
    is Pydantic's own ValidationError, which is a ValueError; where details are handed to a call it is InvalidInputError.
    """

    # A copy with changes has not been checked.
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="allow", revalidate_instances="always")

    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None
    child_flow_run_id: UUID | None = None
    scheduled_time: OffsetDatetime | None = None
    cache_key: str | None = None
    cache_expiration: OffsetDatetime | None = None
    deferred: bool | None = False
    untrackable_result: bool = False
    pause_timeout: OffsetDatetime | None = None
    pause_reschedule: bool = False
    pause_key: str | None = None
    run_input_keyset: dict[str, str] | None = None
    refresh_cache: bool | None = None
    retriable: bool | None = None
    transition_id: UUID | None = None
    task_parameters_id: UUID | None = None
    traceparent: str | None = None
    deployment_concurrency_lease_id: UUID | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            field = type(self).model_fields.get(name or "")
            if field is None or value is not field.default:
                yield name, value

    @field_validator("*", mode="before")
    @classmethod
    def _as_given(cls, value: Any, info: ValidationInfo) -> Any:
        # What is stored is JSON, and is read as generously as who wrote it may read it.
        if value is None or info.mode == "json":
            return value
        if info.field_name in DETAILS_TIMES:
            return a_time(value)
        if info.field_name in _DETAILS_IDS:
            return to_uuid(value)
        if isinstance(value, Mapping):
            for pair in value.items():
                for text in pair:
                    no_bytes(text)
        return no_bytes(value)


def _refuse(self: object, *arguments: object, **keywords: object) -> Never:
    raise TypeError("records share this: change a copy, as model_copy() makes one")


# Records share what is equal in all of them. Pydantic takes a dict and a set, also of a subclass, and neither a mapping proxy nor a frozenset.
class _SharedDict(dict[str, Any]):
    """A dict that nobody changes. Its copies, and those that pickle makes, are plain."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class _SharedSet(set[str]):
    """A set that nobody changes. Its copies, and those that pickle makes, are plain."""

    add = discard = remove = pop = clear = update = difference_update = intersection_update = symmetric_difference_update = _refuse
    __ior__ = __iand__ = __isub__ = __ixor__ = _refuse

    def copy(self) -> set[str]:
        """A set of the same texts."""
        return set(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (list(self),)


shared_set: Callable[[Iterable[str]], set[str]] = _SharedSet
"""A set of these texts that nobody changes."""
DETAILS_DEFAULTS = {name: field.default for name, field in StateDetails.model_fields.items()}
DETAILS_HINTS = get_type_hints(StateDetails, include_extras=True)
DETAILS_TIMES = tuple(name for name in DETAILS_DEFAULTS if DETAILS_HINTS[name] == OffsetDatetime | None)
_DETAILS_IDS = tuple(name for name in DETAILS_DEFAULTS if DETAILS_HINTS[name] == UUID | None)
NO_EXTRA: dict[str, Any] = _SharedDict()
NO_DETAILS = StateDetails()
"""What all states without details have."""
object.__setattr__(NO_DETAILS, "__pydantic_extra__", NO_EXTRA)
object.__setattr__(NO_DETAILS, "__pydantic_fields_set__", _SharedSet())


class FlowRunState(BaseModel):
    """One state of a run, as stored. Two are equal when all fields are; the hash is that of the id.

    `timestamp` is when the state began, `created` when the transaction that stored it began, `updated` when the row last changed.
    All three are aware and in UTC, with microseconds. `data` is any JSON value; SQL null and JSON null are both None.

    The ids of states that were read are of the driver's subclass of UUID, which is made in a fraction of the time: with Python's own a read of 1,000
    states takes 3 to 9 percent longer. What knows no subclasses, as orjson, takes `model_dump(mode="json")` or `to_rest()`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

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

        The keys are id, type, name, timestamp, message, data and state_details, in this order. Times are ISO 8601 with six digits of
        a fraction or, when it is zero, none; in UTC with `Z`, but those in the details have the offset that they were stored with.
        """
        try:
            shown = self.model_dump(mode="json")
        except ValueError:
            # Pydantic goes 255 levels deep and takes no lone surrogate in a key; other writers store both.
            shown = self.model_dump(mode="json", exclude={"data"}) | {"data": json.loads(json.dumps(self.data))}
        return {key: shown[key] for key in ("id", "type", "name", "timestamp", "message", "data", "state_details")}

    def as_state(self) -> Any:
        """The state as Prefect's own `State`, a `prefect.server.schemas.states.State`, as the rows of Prefect's models make it.

        Prefect must be installed, or this is a ModuleNotFoundError. Keys of the details that its version does not know are left out.
        """
        return import_module("prefect.server.schemas.states").State.model_validate(self, from_attributes=True)


def _storable_details(details: StateDetails) -> StateDetails:
    # Only these fields hold what a caller can make unstorable; the others are ids, times and booleans.
    for key in ("cache_key", "pause_key", "traceparent", "run_input_keyset"):
        value = getattr(details, key)
        if value is not None:
            storable_json({key: value})
    if details.model_extra:
        storable_json(details.model_extra)
    return details


def _json_of(details: StateDetails) -> str:
    # By the values: which fields are set says what was given to a constructor, and a subclass has other defaults.
    is_plain = details.__dict__ == DETAILS_DEFAULTS and not details.__pydantic_extra__
    return "{}" if is_plain else details.model_dump_json(exclude_defaults=True)


class NewFlowRunState(Input):
    """A state to be created. What is left out is resolved here: a UUIDv7 as id, the default name of the type, empty details.

    Whatever cannot be stored and read back as it is raises InvalidInputError: a time that is naive or not from 0001-01-02 up to 9999-12-30, text
    with NUL or a lone surrogate, data that JSON does not have, that is nested deeper than 200 levels or holds an integer of more than 4,000
    digits. `timestamp` None means the server's clock.
    """

    flow_run_id: InputUUID
    type: InputType
    id: InputUUID = Field(default_factory=uuid7)
    timestamp: InputTime | None = None
    name: Annotated[InputText, Field(min_length=1)] = ""
    message: InputText | None = None
    state_details: Annotated[StateDetails, AfterValidator(_storable_details)] = NO_DETAILS
    data: Annotated[Any, AfterValidator(storable_json)] = None
    result_artifact_id: InputUUID | None = None

    if TYPE_CHECKING:  # a checker would else take what a field holds for all that it is made from

        def __init__(
            self,
            *,
            flow_run_id: UUID | str,
            type: StateType | TypeName,
            id: UUID | str | None = None,
            timestamp: datetime | str | None = None,
            name: str | None = None,
            message: str | None = None,
            state_details: StateDetails | dict[str, Any] | None = None,
            data: Any = None,
            result_artifact_id: UUID | str | None = None,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = {key: value for key, value in values.items() if value is not None or key in ("flow_run_id", "type")}
        return values

    def _known(self) -> tuple[str | None, ...]:
        """The values in the order of the fields, as the queries take them: as text. What is changed later inside of them is not sent.

        Details are stored as what differs from the defaults, and unknown keys: equal details are equal text, and most are short.
        """
        if not self.name:
            # A frozen model is filled once, before anyone else holds it.
            self.__dict__["name"] = self.type.value.title()
        parameters = (
            str(self.flow_run_id),
            self.type.value,
            str(self.id),
            None if self.timestamp is None else self.timestamp.isoformat(),
            self.name,
            self.message,
            _json_of(self.state_details),
            None if self.data is None else json.dumps(self.data, ensure_ascii=False, separators=(",", ":")),
            None if self.result_artifact_id is None else str(self.result_artifact_id),
        )
        for field, text in (("name", self.name), ("message", self.message), ("state_details", parameters[6]), ("data", parameters[7])):
            if text is not None and len(text) > _MOST_BYTES // 4 and len(text.encode()) > _MOST_BYTES:
                raise InvalidInputError(field, f"takes more than {_MOST_BYTES:,} bytes, which is the most that jsonb holds")
        return parameters

    def as_parameters(self) -> tuple[str | None, ...]:
        """What is sent of one that is checked: see `_known`."""
        return self._sealed  # type: ignore[attr-defined, no-any-return]  # a slot of Input


class CreateOutcome(NamedTuple):
    """What became of one state of a batch: `created`, `present` before with the same content, or `refused` for a `reason`.

    `timestamp` is the stored one, which may be later than the given; None for a refused state.
    """

    id: UUID
    status: Literal["created", "present", "refused"]
    timestamp: datetime | None = None
    reason: str | None = None
