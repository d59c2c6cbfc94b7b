"""A position in a feed, as text that a client hands back unread."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from typing import NamedTuple, TypeVar
from uuid import UUID

from flowstates.errors import InvalidInputError

_VERSION = 1
_LEAST_ID = str(UUID(int=0))


class Position(NamedTuple):
    """The place of a state in the order of (transaction, timestamp, id), as texts: what comes after it is to be told. What was pruned as far as the
    snapshot `known` sees is known; it is empty before the first page."""

    transaction: str
    timestamp: str
    id: str
    known: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """What moves with what is told."""
        return self[:3]


class PrefectPosition(NamedTuple):
    """The place of a state in the order of (updated, id), as texts: what comes after it is to be told. What was sent before `bound` is committed or
    undone; what was sent before `next_bound` will be when the transactions `unseen`, of which it is not seen when they began, have ended."""

    updated: str
    id: str
    bound: str
    next_bound: str = ""
    unseen: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """What moves with what is told."""
        return self[:2]

    def looked(self, begun: str, unseen: str) -> PrefectPosition:
        """After a look: since when transactions may be open, and which ones there are of which that is not seen."""
        if not unseen:
            return self._replace(bound=begun, next_bound="", unseen="")
        if set(self.unseen.split()).intersection(unseen.split()):
            return self
        return self._replace(bound=self.next_bound or self.bound, next_bound=begun, unseen=unseen)


AnyPosition = TypeVar("AnyPosition", Position, PrefectPosition)


def before(transaction: str, known: str = "") -> Position:
    """The position before all that a transaction, or a later one, writes."""
    return Position(transaction, "-infinity", _LEAST_ID, known)


def stored(transaction: str, timestamp: str, id: str, known: str) -> Position:
    """The position that the server tells."""
    return Position(transaction, stored_time(timestamp), id, known)


def stored_time(text: str) -> str:
    """A time of UTC as JSON shows it, as a position has it."""
    time = text[1:-1]
    return time if time.endswith("infinity") else f"{time}+00:00"


_TIME, _UUID = r"(-?infinity|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00)", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FORMS = {
    Position: re.compile(rf"\d{{1,20}} {_TIME} {_UUID} (\d+:\d+:[\d,]*)?", re.ASCII),
    PrefectPosition: re.compile(rf"{_TIME} {_UUID} {_TIME} {_TIME}? [\d/ a-z-]*", re.ASCII),
}
BEGINNING = before("0")
PREFECTS_BEGINNING = PrefectPosition("-infinity", _LEAST_ID, "-infinity")


def encode(position: Position | PrefectPosition) -> str:
    """The position as text, which is good for any filter."""
    digest = sha256(str(tuple(position)).encode()).hexdigest()[:16]
    parts = [_VERSION, *position, digest]
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(field: str, text: object, kind: type[AnyPosition]) -> AnyPosition:
    """The position of a text; InvalidInputError with the field's name if it is none of this kind, or of another version."""
    try:
        if not isinstance(text, str):
            raise TypeError
        version, *parts, _ = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True))
        position = kind(*parts)
        known = version == _VERSION and _FORMS[kind].fullmatch(" ".join(position)) is not None
    except (ValueError, TypeError, RecursionError):
        known = False
    # With the digest, a position that was changed on its way is refused, and the server is never sent what is no position.
    if not known or encode(position) != text:
        raise InvalidInputError(field, "is not a position of this layout's feed in this version, or was changed")
    return position
