"""What a query asks for: a filter, and a place in its pages."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures.moments import to_moment
from flowstates.records import StateType
from flowstates.values import shown, to_uuid

# A plus that was not escaped is a space in a query.
_SPACE_FOR_PLUS = re.compile(r"(T[0-9:.]+) ([0-9]{2}(?::?[0-9]{2})?)$")


def time_of(field: str, text: str | None, now: datetime, *, is_next_page: bool = False) -> datetime | None:
    """A time, which may be said from now, but not with a cursor: on the next page it would be another time."""
    if not text:
        return None
    text = _SPACE_FOR_PLUS.sub(r"\1+\2", text)
    try:
        moment = to_moment(text)
        if moment.time is None and is_next_page:
            raise InvalidInputError(field, f"{text} means another time on each page: with a cursor give the time itself, as {now.isoformat()}")
        return moment.at(now).astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(field, f"{text!r} is outside the years 1 to 9999 in UTC") from None
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


def type_of(text: str) -> StateType:
    """A type by its name, in upper or lower case."""
    if text.upper() not in StateType.__members__:
        raise InvalidInputError("type", f"{text[:80]!r} is not one of {', '.join(StateType)}")
    return StateType[text.upper()]


# What people call the same thing.
_ALIKE = (
    {"run", "run_id", "flow_run", "flow_run_id"},
    {"type", "state", "status", "state_type"},
    {"name", "state_name"},
    {"since", "from", "after"},
    {"until", "to", "before"},
)
_LIKENESS = 0.75  # of `types` and `type` it is 0.89, of `user_name` and `name` 0.62


def wrong_parameters(query: QueryParams, single: Collection[str], repeatable: Collection[str]) -> list[InvalidInputError]:
    """The parameters that would let more through than is meant: a name that is nearly one of ours, as `types` is, or one that is there twice.

    Any other name passes. It may be a dependency's of the caller's, as a key for authentication is.
    """
    ours, found = sorted([*single, *repeatable]), []
    for name in dict.fromkeys(query):
        if name in single and len(query.getlist(name)) > 1:
            found.append(InvalidInputError(name, "is there more than once"))
        if name in ours:
            continue
        word = name.lower()
        alike = [one for group in _ALIKE if word in group for one in ours if one in group]
        if meant := alike or get_close_matches(word, ours, 1, _LIKENESS):
            found.append(InvalidInputError(name, f"is no parameter: is {meant[0]} meant? There are {', '.join(ours)}"))
    return found


class AskedRuns(NamedTuple):
    """What the page of runs is asked for. Its times are times, whichever way they were said."""

    types: tuple[StateType, ...]
    name: str
    run: str
    since: datetime | None
    until: datetime | None
    cursor: str | None

    @classmethod
    def of(cls, query: QueryParams, now: datetime) -> AskedRuns:
        """What a query says; InvalidInputError for what it cannot say. An empty field of a form says nothing."""
        cursor = query.get("cursor") or None
        return cls(
            tuple(dict.fromkeys(type_of(text) for text in query.getlist("type") if text)),
            query.get("name", ""),
            query.get("run", "").strip(),
            time_of("since", query.get("since", "").strip(), now, is_next_page=cursor is not None),
            time_of("until", query.get("until", "").strip(), now, is_next_page=cursor is not None),
            cursor,
        )

    @classmethod
    def as_typed(cls, query: QueryParams) -> AskedRuns:
        """What a form that cannot be asked for is filled with again: what was typed, without times and place."""
        types = tuple(StateType[text.upper()] for text in query.getlist("type") if text.upper() in StateType.__members__)
        return cls(types, query.get("name", ""), query.get("run", "").strip(), None, None, None)

    @property
    def is_narrowed(self) -> bool:
        """Whether anything is asked for but the first page of all runs."""
        return any((self.types, self.name, self.run, self.since, self.until))

    def filter(self) -> FlowRunStateFilter:
        """The current states that are meant; InvalidInputError if a field cannot be asked for."""
        try:
            runs = [to_uuid(self.run)] if self.run else None
        except ValueError:
            raise InvalidInputError("run", f"{shown(self.run)} is not the id of a run, such as 0198a3c2-7d4e-7b1a-9c55-3e0f6a2b8d17") from None
        try:
            names = [self.name] if self.name else None
            return FlowRunStateFilter(flow_run_ids=runs, types=self.types or None, names=names, since=self.since, until=self.until, current=True)
        except InvalidInputError as error:
            # A field of the form is no list.
            raise InvalidInputError({"names": "name"}.get(error.field, error.field), error.message.removeprefix("0: ")) from None

    def link(self, cursor: str | None) -> str:
        """The query of another page of the same runs."""
        pairs = [*(("type", type_.value) for type_ in self.types), ("name", self.name), ("run", self.run)]
        pairs += [(field, time.isoformat()) for field, time in (("since", self.since), ("until", self.until)) if time]
        return "?" + urlencode([(field, text) for field, text in [*pairs, ("cursor", cursor or "")] if text])
