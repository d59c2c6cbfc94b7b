"""A page's cursor: a position in an order, as text that a client hands back unread."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import NamedTuple

from flowstates.errors import InvalidInputError

_VERSION = 1


class Cursor(NamedTuple):
    """The position of a state, as the two texts of the order's key, and whether the page lies before it."""

    position: tuple[str, str]
    backwards: bool


def encode(cursor: Cursor, question: str) -> str:
    """The cursor as text that is good for one question only: a filter, an order and a layout."""
    digest = sha256(f"{cursor} {question}".encode()).hexdigest()[:16]
    parts = [_VERSION, *cursor.position, int(cursor.backwards), digest]
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(text: str, question: str) -> Cursor:
    """The cursor of a text; InvalidInputError if it is none, of another version, or of another question."""
    try:
        version, first, second, backwards, digest = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True))
        cursor = Cursor((first, second), bool(backwards))
        known = version == _VERSION and all(isinstance(part, str) for part in (first, second, digest))
    except (ValueError, TypeError, RecursionError):
        known = False
    if not known:
        raise InvalidInputError("cursor", "is not a cursor of this version")
    # The digest holds the position too: a cursor that was changed on its way is refused, and the server is never sent what is no position.
    if encode(cursor, question) != text:
        raise InvalidInputError("cursor", "belongs to another filter, order or layout, or was changed")
    return cursor
