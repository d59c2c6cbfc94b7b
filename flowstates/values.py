"""What a value must be to be stored and read back as it is, and how it is refused otherwise."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from math import inf, isfinite
from operator import is_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowstates.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Choice = TypeVar("Choice", bound=str)

Layout = Literal["flowstates", "prefect", "citus"]
"""Whose tables they are, and for `citus` that they are distributed."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""A timestamp to be stored is in [EARLIEST, LATEST). The table holds one more day, into which a state can be moved behind another."""

MOST_LEVELS = 200
"""Levels of nesting that pydantic_core reads back from JSON; the server takes thousands."""
_MOST_DIGITS = 4000  # of an integer; pydantic_core and Python read 4,300 characters back
_GREATEST = 10**_MOST_DIGITS - 1
_NO_OFFSET = re.compile(r"[+-]\d\d:?(\d\d:?)*[6-9]")  # of 60 minutes or seconds or more
_PARTED = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID = re.compile(rf"[0-9a-f]{{32}}|(urn:uuid:)?{_PARTED}|\{{{_PARTED}\}}", re.IGNORECASE | re.ASCII)


def _utc(value: datetime) -> datetime:
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None
    # Plain, also where the value is of a subclass.
    return value if type(value) is datetime else datetime.combine(value.date(), value.time(), UTC)


def _plain(value: datetime) -> datetime:
    """The same time at the same offset, of no subclass and with no other zone than that offset."""
    offset = value.utcoffset() or timedelta()
    if offset % timedelta(minutes=1):
        return _utc(value)  # an offset with seconds has no form in JSON
    return datetime.combine(value.date(), value.time(), timezone(offset) if offset else UTC)


UtcDatetime = Annotated[AwareDatetime, AfterValidator(_utc)]
OffsetDatetime = Annotated[AwareDatetime, AfterValidator(_plain)]
"""A time that keeps its offset from UTC."""


def to_uuid(value: object) -> UUID:
    """A UUID from a UUID or its text, which has four hyphens, then also braces or urn:uuid: before it, or none; ValueError for anything else."""
    if isinstance(value, UUID):
        return value
    # UUID() would also take digits with signs, spaces and underscores between them, and half of a pair of braces.
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise ValueError(_no_uuid(value))


def _no_uuid(value: object) -> str:
    return f"{shown(value)} ({type(value).__name__}) is not a UUID or its text"


def shown(value: object) -> str:
    """A value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:  # of an integer of more than 4,300 digits, say
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


def kind_of(value: object) -> str:
    """What a value is, as an error says it: `a str`, `an int`, `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"  # a UUID, as it is spoken


def counted(number: int, thing: str) -> str:
    """A number of things, as `1 run`, `2 batches` or `1,000 runs`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}{'es' if thing.endswith('ch') else 's'}"


def one_of(field: str, value: object, *choices: Choice) -> Choice:
    """The one of some texts that a value is, also if it is of a subclass; InvalidInputError for anything else."""
    if isinstance(value, str) and value in choices:
        return choices[choices.index(value)]
    raise InvalidInputError(field, f"is {shown(value)}, not {' or '.join(map(repr, choices))}")


def flag(field: str, value: object) -> bool:
    """A value that is True or False; InvalidInputError for anything else, as any text that is not empty would be true."""
    if isinstance(value, bool):
        return value
    raise InvalidInputError(field, f"is {shown(value)}, not True or False")


def storable_text(value: str) -> str:
    """The text, if the server stores it; ValueError otherwise."""
    if "\x00" in value:
        raise ValueError("holds a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which UTF-8 cannot encode") from None
    return value


def storable_json(value: object, path: str = "$", level: int = 0) -> Any:
    """The value, if the server stores it and it can be read back as the same JSON value; ValueError with its path otherwise."""
    try:
        match value:
            case str():
                storable_text(value)
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
                raise ValueError(f"is {kind_of(value)}, which JSON does not have")
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {shown(key)}, which is not a string")
            storable_json(key, f"a key of {path}", level + 1)
            storable_json(item, f"{path}.{key}", level + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            storable_json(item, f"{path}[{index}]", level + 1)
    return value


def no_bytes(value: object) -> object:
    """The value; ValueError for bytes, which Pydantic would take for text."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"{shown(value)} is bytes, not text")
    return value


def a_time(value: object) -> object:
    """A datetime from a datetime or its ISO text; ValueError for anything else."""
    # Pydantic would read a number as seconds or as milliseconds, whichever seems likelier.
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        return iso_time(value)
    raise ValueError(f"{shown(value)} is not a time")


def iso_time(text: str) -> datetime:
    """A time from its ISO text; ValueError for anything else."""
    # Python takes any number for the minutes and seconds of an offset: +05:70 is 6 hours and 10 minutes to it.
    if not _NO_OFFSET.search(text, 10):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError(f"{shown(text)} is not a time")


def utc_time(field: str, value: object) -> datetime:
    """An aware time in UTC; InvalidInputError with the field's name for anything else."""
    if not isinstance(value, datetime):
        raise InvalidInputError(field, f"{shown(value)} is not a datetime")
    try:
        # pandas has a time that is none, and says so by a ValueError.
        if isinstance(value.utcoffset(), timedelta):
            return _utc(value)
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None
    raise InvalidInputError(field, _no_zone(value))


def _no_zone(value: object) -> str:
    return f"{shown(value)} has no time zone: take datetime.now(UTC), or .replace(tzinfo=UTC) of a time that is in UTC"


def _in_range(value: datetime) -> datetime:
    if not EARLIEST <= value < LATEST:
        raise ValueError(f"{value} is not from {EARLIEST.date()} up to but not including {LATEST.date()}")
    return value


def _an_id(value: object) -> object:
    # Texts of these lengths Pydantic reads by the same rule, and in a tenth of the time.
    return value if type(value) is str and len(value) in (32, 36) else to_uuid(value)


InputUUID = Annotated[UUID, BeforeValidator(_an_id)]
InputTime = Annotated[UtcDatetime, BeforeValidator(a_time), AfterValidator(_in_range)]
InputText = Annotated[str, Field(strict=True), AfterValidator(storable_text)]


def invalid_input(error: ValidationError) -> InvalidInputError:
    """Pydantic's first complaint as ours, with the name of the field and the path inside it."""
    first = error.errors(include_url=False)[0]
    if isinstance(ours := first.get("ctx", {}).get("error"), InvalidInputError):
        return ours
    field, *inside = first["loc"] or ("value",)
    message = _complaint(first)
    path = ".".join(str(part) for part in inside)
    return InvalidInputError(str(field), f"{path}: {message}" if path else message)


_MEANT = {
    "bool_type": "a bool", "datetime_type": "a datetime", "dict_type": "a dict", "int_type": "an int", "model_type": "a dict or StateDetails",
    "string_type": "a str", "tuple_type": "a list",
}  # fmt: skip


def _complaint(error: ErrorDetails) -> str:
    """What Pydantic complains of, with the value where it says none, and the cure where it is known."""
    kind, value = error["type"], error["input"]
    if kind in _MEANT:
        return f"is {kind_of(value)}, not {_MEANT[kind]}"
    match kind:
        case "timezone_aware":
            return _no_zone(value)
        case "bool_parsing":
            return f"{shown(value)} is not a bool"
        case "uuid_parsing":
            return _no_uuid(value)
        case "too_short":
            return "is empty"
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is no field of it"
        case _:
            return error["msg"].removeprefix("Value error, ")


class Input(BaseModel):
    """A model for what callers give. It is frozen, knows no other fields, and refuses with InvalidInputError."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")
    # What is known of it since it was checked, and the values that were. Being slots, a copy with changes does not have them, nor what was made
    # past the checks.
    __slots__ = ("_seal_values", "_sealed")

    if not TYPE_CHECKING:  # each model tells type checkers its own parameters

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise invalid_input(error) from None

    @model_validator(mode="after")
    def _seal(self) -> Self:
        object.__setattr__(self, "_sealed", self._known())
        object.__setattr__(self, "_seal_values", tuple(self.__dict__.values()))
        return self

    def _known(self) -> object:
        return True

    def checked(self) -> Self:
        """This one, or if it was changed since it was checked, one that is checked again: InvalidInputError for what it cannot be."""
        # A field can be set past the checks. By what they are and not by what they are equal to: True is equal to 1.
        values, seal = self.__dict__.values(), getattr(self, "_seal_values", ())
        return self if len(values) == len(seal) and all(map(is_, values, seal)) else type(self)(**self.__dict__)


def seconds(timeout: object) -> float | None:
    """A time limit in seconds, or None; InvalidInputError for anything else, and TimeoutError if there is no time left."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout != timeout:
        raise InvalidInputError("timeout", f"is {shown(timeout)}, not a number of seconds")
    if timeout <= 0:
        raise TimeoutError
    try:
        return float(timeout)
    except OverflowError:
        return inf
