"""A position in a feed, as text that a client hands back unread."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from flowstates.errors import InvalidInputError

_VERSION = 1
_LEAST_ID = str(UUID(int=0))


class Position(NamedTuple):
    """The place of a state in the order of (transaction, timestamp, id), as texts: what comes after it is to be told. Up to the transaction `missing`
    it is known that states have gone untold."""

    transaction: str
    timestamp: str
    id: str
    missing: str = "0"


def before(transaction: str, missing: str = "0") -> Position:
    """The position before all that a transaction, or a later one, writes."""
    return Position(transaction, "-infinity", _LEAST_ID, missing)


def stored(transaction: str, timestamp: str, id: str, missing: str) -> Position:
    """The position that the server tells, a time of UTC as JSON shows it."""
    time = timestamp[1:-1]
    return Position(transaction, time if time.endswith("infinity") else f"{time}+00:00", id, missing)


BEGINNING = before("0")


def encode(position: Position) -> str:
    """The position as text, which is good for any filter."""
    digest = sha256(str(tuple(position)).encode()).hexdigest()[:16]
    parts = [_VERSION, *position, digest]
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(field: str, text: object) -> Position:
    """The position of a text; InvalidInputError with the field's name if it is none, or of another version."""
    try:
        if not isinstance(text, str):
            raise TypeError
        version, *parts, _ = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True))
        position = Position(*parts)
        known = version == _VERSION and all(isinstance(part, str) for part in position)
    except (ValueError, TypeError, RecursionError):
        known = False
    # With the digest, a position that was changed on its way is refused, and the server is never sent what is no position.
    if not known or encode(position) != text:
        raise InvalidInputError(field, "is not a position of this version's feed, or was changed")
    return position
