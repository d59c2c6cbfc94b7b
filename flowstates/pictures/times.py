"""Times as people read them, the time that a run spent in its states, and a scale of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from flowstates.records import FlowRunState
from flowstates.values import counted

_ZERO = datetime.min.replace(tzinfo=UTC)  # a Monday; scales count from it
_STEPS = [
    *(timedelta(microseconds=times * 10**power) for power in range(6) for times in (1, 2, 5)),
    *(timedelta(seconds=seconds) for seconds in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)),
    *(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12)),
    *(timedelta(days=times * 10**power) for power in range(7) for times in (1, 2, 5)),
]


def duration(time: timedelta) -> str:
    """The two greatest units of a time, at most 7 characters up to 99 days."""
    if time < timedelta(seconds=1):
        return f"{time // timedelta(milliseconds=1)}ms" if not time or time >= timedelta(milliseconds=1) else "<1ms"
    if time < timedelta(minutes=1):
        return f"{time // timedelta(milliseconds=100) / 10}s"
    minutes, seconds = divmod(time // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h"
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"


def length(time: timedelta) -> str:
    """A time exactly, in all of its units that are not zero: `1h 30m`."""
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1), "ms": timedelta(milliseconds=1)}
    parts = []
    for unit, of_unit in (units | {"us": timedelta.resolution}).items():
        count, time = divmod(time, of_unit)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def relative(time: datetime, now: datetime) -> str:
    """How long ago a time is, or in how long it will be; `now` within a second of it."""
    if abs(now - time) < timedelta(seconds=1):
        return "now"
    return f"{duration(now - time)} ago" if time < now else f"in {duration(time - now)}"


def ago(time: datetime, now: datetime) -> str:
    """The same in its greatest unit alone, at most 9 characters: `5m ago`."""
    seconds = abs(now - time) // timedelta(seconds=1)
    days = seconds // 86_400
    counts = {"y": days // 365 if days >= 1_000 else 0, "d": days, "h": seconds // 3_600, "m": seconds // 60, "s": seconds}
    length = next((f"{count}{unit}" for unit, count in counts.items() if count), None)
    if length is None:
        return "now"
    return f"{length} ago" if time < now else f"in {length}"


def clock(time: datetime, spec: str = "seconds") -> str:
    """A time in UTC, to the day, as `days`, or to what `isoformat` has a name for."""
    time = time.astimezone(UTC).replace(tzinfo=None)
    return time.date().isoformat() if spec == "days" else time.isoformat(" ", spec)


def is_whole(time: datetime, spec: str) -> bool:
    """Whether nothing is lost of a time in UTC if it is shown to the `days`, `minutes`, `seconds` or `microseconds`."""
    parts = {
        "days": (time.hour, time.minute, time.second, time.microsecond),
        "minutes": (time.second, time.microsecond),
        "seconds": (time.microsecond,),
    }
    return not any(parts.get(spec, ()))


def times_spent(states: Sequence[FlowRunState], now: datetime) -> list[timedelta]:
    """The time spent in each state of one run, as `measure_time_in_states` has it: until the next, and the last until `now` unless it is terminal."""
    last = states[-1]
    end = last.timestamp if last.type.is_terminal else max(now, last.timestamp)
    return [after - before for before, after in pairwise([*(state.timestamp for state in states), end])]


def spent_text(time: timedelta, state: FlowRunState, last: FlowRunState) -> str:
    """The time spent in a state of a run: `-` where it ended the run, with `+` where it is still open."""
    if state is not last:
        return duration(time)
    return "-" if last.type.is_terminal else f"{duration(time)}+"


def summary(states: Sequence[FlowRunState], now: datetime) -> str:
    """A run's whole time and how it ended, in a sentence."""
    last = states[-1]
    ending = f"ended {last.type}" if last.type.is_terminal else f"still {last.type} (+: until now)"
    return f"{counted(len(states), 'state')} in {duration(sum(times_spent(states, now), timedelta()))}, {ending}."


def ticks(begin: datetime, length: timedelta, columns: float) -> list[tuple[timedelta, str]]:
    """The round times of a scale that is `columns` characters long, 11 or more: how long after the beginning each is, and its label.

    Between the beginnings of two labels there is room for the first and four characters more. The last may reach beyond the scale.
    """
    unit = timedelta.resolution
    whole = length or unit
    step = next(step for step in _STEPS if step / whole * columns >= len(_label(begin, step)) + 4)
    offsets = range(-((begin - _ZERO) // unit) % (step // unit), whole // unit + 1, step // unit)
    return [(offset * unit, _label(begin + offset * unit, step)) for offset in offsets]


def _label(time: datetime, step: timedelta) -> str:
    if step >= timedelta(days=20):
        return clock(time, "days")
    if step >= timedelta(days=1) or (step >= timedelta(minutes=1) and is_whole(time, "days")):
        return clock(time, "days")[5:]
    spec = "minutes" if step >= timedelta(minutes=1) else "seconds" if step >= timedelta(seconds=1) else "microseconds"
    return clock(time, spec)[11:]
