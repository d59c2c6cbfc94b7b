"""Times and lengths as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flowstates.values import iso_time, shown

_A_DAY = timedelta(days=1)
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_LENGTH = re.compile("(?=[0-9])" + "".join(rf"(?:(?P<{name}>[0-9]{{1,6}}){unit}(?![a-z]))?" for unit, name in _UNITS.items()))


class Moment(NamedTuple):
    """A time as it was written: itself or, without it, so long ago. The clock is read once for all of them."""

    time: datetime | None
    ago: timedelta = timedelta()

    def at(self, now: datetime) -> datetime:
        """The time that it is by the clock."""
        return now - self.ago if self.time is None else self.time


def to_length(text: str) -> timedelta:
    """A length of time, from numbers and units; ValueError for anything else."""
    found = _LENGTH.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is not a length such as 30s, 15m, 1h30m, 1d or 1w")
    return timedelta(**{name: int(number) for name, number in found.groupdict(default="0").items()})


def to_length_above_zero(text: str) -> timedelta:
    """The same, but not of zero."""
    length = to_length(text)
    if not length:
        raise ValueError(f"{shown(text)} is not a length such as 30s, 15m, 1h30m, 1d or 1w: it is zero")
    return length


def to_time(text: str, others: str = "") -> datetime:
    """A time with a zone, from its ISO text; ValueError for anything else, which names `others` as what it might be too."""
    try:
        time = iso_time(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a time such as 2030-01-31T12:00:00Z{others}") from None
    if time.utcoffset() is None:
        raise ValueError(f"{shown(text)} has no time zone: write {time.isoformat()}Z or {time.isoformat()}+01:00")
    return time


def to_moment(text: str) -> Moment:
    """A time, also one that is said from now; ValueError for anything else."""
    now = datetime.now(UTC)
    if text.lower() in ("today", "yesterday"):
        return Moment(now.replace(hour=0, minute=0, second=0, microsecond=0) - (_A_DAY if text.lower() == "yesterday" else timedelta()))
    if not _LENGTH.fullmatch(text):
        return Moment(to_time(text, ", 2h (ago), today or yesterday"))
    moment = Moment(None, to_length_above_zero(text))
    try:
        moment.at(now)
    except OverflowError:
        raise ValueError(f"{text} ago is before the year 1") from None
    return moment
