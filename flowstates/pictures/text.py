"""What others wrote, made fit to be shown."""

from __future__ import annotations

import unicodedata

_MOST = 160  # characters of a message or a name


def escape(text: str) -> str:
    """The text in one line that can do nothing to a terminal and that XML can hold: control and format characters appear as their escapes."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode() for c in text)


def first_line(message: str | None) -> str:
    """The first line of a message, escaped and at most 160 characters of it, with ` ...` where more follows; nothing for no message."""
    lines = (message or "").strip().splitlines()
    if not lines:
        return ""
    first = lines[0][:_MOST]
    return escape(first) + (" ..." if len(lines) > 1 or first != lines[0] else "")


def cut(name: str) -> str:
    """A name, escaped and at most 160 characters of it, with ` ...` where more follows."""
    return escape(name[:_MOST]) + (" ..." if len(name) > _MOST else "")
