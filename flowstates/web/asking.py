"""What a query asks for: a filter, and a place in its pages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams

from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures.moments import to_moment
from flowstates.records import StateType


def time_of(field: str, text: str | None, now: datetime, *, is_next_page: bool = False) -> datetime | None:
    """A time, which may be said from now, but not with a cursor: on the next page it would be another time."""
    if not text:
        return None
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

    @property
    def is_narrowed(self) -> bool:
        """Whether anything is asked for but the first page of all runs."""
        return any((self.types, self.name, self.run, self.since, self.until))

    def filter(self) -> FlowRunStateFilter:
        """The current states that are meant; InvalidInputError if a field cannot be asked for."""
        try:
            runs: Iterable[UUID | str] | None = [self.run] if self.run else None
            names = [self.name] if self.name else None
            return FlowRunStateFilter(flow_run_ids=runs, types=self.types or None, names=names, since=self.since, until=self.until, current=True)
        except InvalidInputError as error:
            raise InvalidInputError({"flow_run_ids": "run", "names": "name"}.get(error.field, error.field), error.message) from None

    def link(self, cursor: str | None) -> str:
        """The query of another page of the same runs."""
        pairs = [*(("type", type_.value) for type_ in self.types), ("name", self.name), ("run", self.run)]
        pairs += [(field, time.isoformat()) for field, time in (("since", self.since), ("until", self.until)) if time]
        return "?" + urlencode([(field, text) for field, text in [*pairs, ("cursor", cursor or "")] if text])
