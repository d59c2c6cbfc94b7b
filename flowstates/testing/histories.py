"""Histories as short texts, made into states and held against states."""

from __future__ import annotations

import inspect
import io
import operator
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import NamedTuple
from uuid import UUID

from rich.console import Console

from flowstates.errors import InvalidInputError
from flowstates.pictures.strip import print_timeline
from flowstates.pictures.text import escape
from flowstates.pictures.times import length
from flowstates.records import NO_DETAILS, FlowRunState, NewFlowRunState, StateType, to_type
from flowstates.values import EARLIEST, LATEST, counted, kind_of, shown, to_uuid, utc_time

_WIDTH = 100  # of the timelines, in characters
_LEAST = timedelta(microseconds=1)  # between two states of a run
_WORD = re.compile(r"\+\S*|[^\s(]+(?:\([^)]*\))?\S*|\S+")
_STATE = re.compile(r"(?P<type>[^()]*)(?:\((?P<name>[^()]+)\))?")
_GAP = re.compile(r"\+(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.(\d{1,6}))?s)?(?:(\d+)ms)?(?:(\d+)us)?", re.ASCII)
_LONGEST = LATEST - EARLIEST


class _State(NamedTuple):
    """A state of a text: the time since the one before it and its name are None where the text does not say them."""

    type: StateType
    name: str | None
    gap: timedelta | None


class _History(NamedTuple):
    states: list[_State]
    since: timedelta | None
    """The time after the last state."""


def history(run: UUID | str, text: str, *, begin: datetime | None = None) -> list[NewFlowRunState]:
    """The states of a history, to be handed to `create_flow_run_states`: `history(run, "PENDING +1s RUNNING +30s COMPLETED")`.

    Between two states stands the time from the one to the next, as `+1d`, `+1h30m`, `+1.5s`, `+20ms` or `+5us`; without it that is a microsecond,
    the least that there is. A state of another name than its type's is `SCHEDULED(AwaitingRetry)`.

    The first state is at `begin`. Without `begin` the history ends now, and a time behind the last state says for how long the run has been in it:
    `"PENDING +1s RUNNING +2h"`. No text is no states.

    Raises InvalidInputError for `text`, with the place of what cannot be read, for `run`, as `flow_run_id`, and for `begin`.
    """
    try:
        run = to_uuid(run)
    except ValueError as error:
        raise InvalidInputError("flow_run_id", str(error)) from None
    states, since = _read(text)
    gaps = [_LEAST if state.gap is None else state.gap for state in states[1:]]
    if begin is not None and since is not None:
        raise InvalidInputError("begin", "says when the history begins, and a time behind its last state would say when it ends: give one of the two")
    try:
        first = datetime.now(UTC) - sum(gaps, since or timedelta()) if begin is None else utc_time("begin", begin)
        times: list[datetime] = list(accumulate(gaps, operator.add, initial=first))
    except OverflowError:
        raise InvalidInputError("text", f"is longer than there are years: {text!r}") from None
    return [NewFlowRunState(flow_run_id=run, type=state.type, name=state.name, timestamp=at) for state, at in zip(states, times, strict=False)]


def assert_history(states: Iterable[FlowRunState], text: str, *, within: timedelta = timedelta()) -> None:
    """Asserts that the states of a run, oldest first, are those of the text: `assert_history(states, "PENDING RUNNING COMPLETED")`.

    The text is one that `history` takes. What it does not say is not looked at: the times between states, and names. A time between two states may
    differ from the text's by `within`, a timedelta of zero or more. No text is no states.

    Raises AssertionError, which says what differs first and draws both timelines, the text's without times if it leaves some out, and
    InvalidInputError: for a `text` that cannot be read, for `within`, and for `states` that are none, of several runs or not oldest first.
    """
    __tracebackhide__ = True
    expected, since = _read(text)
    if since is not None:
        raise InvalidInputError("text", f"ends in a time, where a state is to follow: {text!r}")
    if not isinstance(within, timedelta) or within < timedelta():
        raise InvalidInputError("within", f"is {shown(within)}, not a timedelta of zero or more")
    found = _checked(states)
    place = _first_difference(found, expected, within)
    if place is not None:
        raise AssertionError(_difference(found, expected, place, text))


def _first_difference(states: Sequence[FlowRunState], expected: Sequence[_State], within: timedelta) -> int | None:
    for place, (state, gap, wanted) in enumerate(zip(states, _gaps(states), expected, strict=False)):
        is_named = wanted.name in (None, state.name)
        is_in_time = gap is None or wanted.gap is None or abs(gap - wanted.gap) <= within
        if state.type != wanted.type or not is_named or not is_in_time:
            return place
    return None if len(states) == len(expected) else min(len(states), len(expected))


def _gaps(states: Sequence[FlowRunState]) -> list[timedelta | None]:
    """The time since the state before, for each; None for the first."""
    return [None, *(after.timestamp - before.timestamp for before, after in pairwise(states))][: len(states)]


def _checked(states: object) -> list[FlowRunState]:
    """The states of a run, oldest first; InvalidInputError for what is none of that."""
    if inspect.iscoroutine(states):
        raise InvalidInputError("states", "is a coroutine: await it, as in assert_history(await states.read_flow_run_states(run), ...)")
    if isinstance(states, Set):
        raise InvalidInputError("states", f"is {kind_of(states)}, which has no order: a list of FlowRunState, oldest first, is what is compared")
    if not isinstance(states, Iterable) or isinstance(states, (str, bytes, Mapping, FlowRunState)):
        raise InvalidInputError("states", f"is {kind_of(states)}, not a list of FlowRunState")
    found = list(states)
    for place, state in enumerate(found):
        if not isinstance(state, FlowRunState):
            raise InvalidInputError("states", f"[{place}] is {kind_of(state)}, not a FlowRunState")
        try:
            utc_time("timestamp", state.timestamp)
        except InvalidInputError as error:
            raise InvalidInputError("states", f"[{place}].timestamp {error.message}") from None
    if len({state.flow_run_id for state in found}) > 1:
        raise InvalidInputError("states", "are of several runs")
    if any(after.timestamp <= before.timestamp for before, after in pairwise(found)):
        raise InvalidInputError("states", "are not oldest first")
    return found


def _read(text: str) -> _History:
    """What a text says; InvalidInputError with the place of what it cannot say."""
    if not isinstance(text, str):
        raise InvalidInputError("text", f"is {kind_of(text)}, not a str")
    states: list[_State] = []
    gap: timedelta | None = None
    total = timedelta()
    for word in _WORD.finditer(text):
        if word[0].startswith("+"):
            if not states:
                raise _no(text, word, "is a time, and there is no state before it")
            if gap is not None:
                raise _no(text, word, "is a time behind a time")
            gap = _gap(text, word)
            total += gap
            if total > _LONGEST:
                raise _no(text, word, "is too long a time")
            continue
        found = _STATE.fullmatch(word[0])
        if found is None:
            raise _no(text, word, "is not a state as RUNNING or SCHEDULED(AwaitingRetry)")
        try:
            type_ = to_type(found["type"])
        except ValueError as error:
            raise _no(text, word, "begins with a type that is none" if found["name"] else "is no state", str(error)) from None
        states.append(_State(type_, found["name"], gap))
        gap = None
    return _History(states, gap)


def _gap(text: str, word: re.Match[str]) -> timedelta:
    found = _GAP.fullmatch(word[0])
    if found is None:
        raise _no(text, word, "is not a time as +1d, +1h30m, +1.5s, +20ms or +5us")
    *counts, fraction, milliseconds, microseconds = found.groups(default="0")
    try:
        # Integers alone: a float does not tell the microseconds of many years.
        days, hours, minutes, seconds = map(int, counts)
        gap = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=int(milliseconds), microseconds=int(microseconds))
        gap += timedelta(microseconds=int(fraction.ljust(6, "0")))
    except (OverflowError, ValueError):  # a ValueError is of more digits than Python reads
        gap = timedelta.max
    if gap > _LONGEST:
        raise _no(text, word, "is too long a time")
    if not gap:
        raise _no(text, word, "is no time, and two states of a run never share a timestamp")
    return gap


def _no(text: str, word: re.Match[str], why: str, more: str = "") -> InvalidInputError:
    line = re.sub(r"\s", " ", text)
    before, here, after = escape(line[: word.start()]), escape(word[0]), escape(line[word.end() :])
    place = f"    {before}{here}{after}\n    {' ' * len(before)}{'^' * len(here)}"
    return InvalidInputError("text", f"{word[0]!r} {why}\n{place}" + (f"\n{more}" if more else ""))


def _difference(states: Sequence[FlowRunState], expected: Sequence[_State], place: int, text: str) -> str:
    """What differs first, both histories as texts and, drawn, both timelines."""
    actual = [
        _State(state.type, None if state.name == state.type.value.title() else state.name, gap)
        for state, gap in zip(states, _gaps(states), strict=True)
    ]
    is_ = _shown(actual[place]) if place < len(actual) else "there is none"
    wanted = _shown(expected[place]) if place < len(expected) else "there is to be none"
    lines = [
        f"the history is another one: state {place + 1} is {is_}, and expected was {wanted}"
        if place < min(len(actual), len(expected))
        else f"the history has {counted(len(actual), 'state')}, and expected were {len(expected)}",
        f"  is:       {' '.join(map(_shown, actual)) or '(no states)'}",
        f"  expected: {' '.join(text.split()) or '(no states)'}",
    ]
    if states and expected:
        lines += ["", "is:", *_drawn(states), "", "expected:", *_drawn_beside(states, expected)]
    elif states:
        lines += ["", "is:", *_drawn(states)]
    return "\n".join(lines)


def _shown(state: _State) -> str:
    gap = "" if state.gap is None else f"+{length(state.gap).replace(' ', '')} "
    return f"{gap}{state.type}" + ("" if state.name is None else f"({escape(state.name)})")


def _as_states(states: Sequence[FlowRunState], expected: Sequence[_State]) -> list[FlowRunState]:
    """The expected history as one of the run, to be drawn beside it: where it does not say a time or a name, as wide and named as the run's."""
    drawn: list[FlowRunState] = []
    at = states[0].timestamp
    for place, state in enumerate(expected):
        if place:
            own = states[place].timestamp - states[place - 1].timestamp if place < len(states) else timedelta(seconds=1)
            at += own if state.gap is None else state.gap
        own_name = states[place].name if place < len(states) and states[place].type == state.type else state.type.value.title()
        drawn.append(
            FlowRunState(
                id=states[0].id, created=at, updated=at, flow_run_id=states[0].flow_run_id, type=state.type, timestamp=at,
                name=state.name or own_name, message=None, state_details=NO_DETAILS, data=None, result_artifact_id=None,
            )
        )  # fmt: skip
    return drawn


def _drawn_beside(states: Sequence[FlowRunState], expected: Sequence[_State]) -> list[str]:
    """The expected history; of one that leaves times out the strip alone, since all that is beside it tells times."""
    try:
        _, _, _, strip, *_ = drawn = _drawn(_as_states(states, expected))
    except OverflowError:
        return ["  (it would end after the year 9999)"]
    return [strip] if any(state.gap is None for state in expected[1:]) else drawn


def _drawn(states: Sequence[FlowRunState]) -> list[str]:
    file = io.StringIO()
    # Up to its last state: how long it has been in that, and how long ago that was, does not matter here.
    print_timeline(Console(file=file, width=_WIDTH, color_system=None), states, now=states[-1].timestamp)
    run, times, *picture = file.getvalue().splitlines()
    return [f"  {line}".rstrip() for line in (run, times.removesuffix(" (now)"), *picture)]
