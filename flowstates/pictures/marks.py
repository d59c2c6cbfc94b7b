"""What tells the types apart at a glance: a mark and colours for each."""

from __future__ import annotations

from typing import NamedTuple

from flowstates.records import StateType


class Look(NamedTuple):
    """How a type looks: its mark, one for ASCII, the terminal's name of its colour, and its colours on a light and on a dark ground."""

    mark: str
    ascii_mark: str
    style: str
    light: str
    dark: str


# The marks are one column wide, are never shown as emoji, and are all of WGL4, the set of characters that fonts for programmers have in common.
# The colours have a contrast of at least 3 to 1 with white and with near-black, which is what WCAG asks of what is no text.
LOOKS = {
    StateType.SCHEDULED: Look("○", "o", "yellow", "#b58200", "#e0b040"),
    StateType.PENDING: Look("•", ".", "bright_blue", "#5b87e0", "#82aaff"),
    StateType.RUNNING: Look("►", ">", "cyan", "#0b8794", "#3cc4d0"),
    StateType.COMPLETED: Look("√", "v", "green", "#1f8a3b", "#45b85a"),
    StateType.FAILED: Look("×", "x", "red", "#cc2430", "#f4564f"),  # noqa: RUF001
    StateType.CANCELLED: Look("■", "/", "white", "#5c6670", "#a9b2bc"),
    StateType.CRASHED: Look("▲", "!", "bright_red", "#d9580b", "#ff9248"),
    StateType.PAUSED: Look("║", "=", "magenta", "#7d4fd6", "#a77cf5"),
    StateType.CANCELLING: Look("□", "~", "bright_magenta", "#bb3b87", "#ee7ab8"),
}


def mark_of(type_: StateType, *, ascii_only: bool = False) -> str:
    """The character that stands beside a type, one column wide."""
    look = LOOKS[type_]
    return look.ascii_mark if ascii_only else look.mark


def style_of(type_or_name: str) -> str:
    """The terminal's colour for a type, and one for all names."""
    return LOOKS[StateType(type_or_name)].style if type_or_name in list(StateType) else "cyan"
