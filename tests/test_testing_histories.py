"""Histories as short texts: what they are made into, what they are held against, and how a bad one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstates import FlowRunState, FlowRunStateRepository, InvalidInputError, NewFlowRunState
from flowstates.pictures.times import length
from flowstates.records import NO_DETAILS
from flowstates.testing import assert_history, history
from tests.conftest import Pool

pytestmark = pytest.mark.once

RUN = UUID("0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f")
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def stored(states: list[NewFlowRunState]) -> list[FlowRunState]:
    """As they would be read."""
    values = [state.model_dump() | {"created": state.timestamp, "updated": state.timestamp, "state_details": NO_DETAILS} for state in states]
    return [FlowRunState(**value) for value in values]


def test_states_of_a_text() -> None:
    states = history(str(RUN), "SCHEDULED(Awaiting Retry) +1d2h3m4.5s PENDING +20ms RUNNING\n +5us COMPLETED", begin=NOON)
    assert [(state.type.value, state.name) for state in states] == [
        ("SCHEDULED", "Awaiting Retry"), ("PENDING", "Pending"), ("RUNNING", "Running"), ("COMPLETED", "Completed"),
    ]  # fmt: skip
    assert {state.flow_run_id for state in states} == {RUN}
    assert len({state.id for state in states}) == 4
    times = [state.timestamp for state in states if state.timestamp is not None]
    assert [time - NOON for time in times] == [
        timedelta(),
        (pending := timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        pending + timedelta(milliseconds=20),
        pending + timedelta(milliseconds=20, microseconds=5),
    ]


def test_without_a_time_the_next_state_is_a_microsecond_later() -> None:
    first, second = history(RUN, "PENDING RUNNING", begin=NOON)
    assert (first.timestamp, second.timestamp) == (NOON, NOON + timedelta(microseconds=1))
    assert history(RUN, " ") == []


def test_without_a_begin_the_history_ends_now() -> None:
    before = datetime.now(UTC)
    *_, last = history(RUN, "PENDING +1s RUNNING")
    *_, open_for_two_hours = history(RUN, "PENDING +1s RUNNING +2h")
    after = datetime.now(UTC)
    assert last.timestamp is not None
    assert open_for_two_hours.timestamp is not None
    assert before <= last.timestamp <= after
    assert before <= open_for_two_hours.timestamp + timedelta(hours=2) <= after


async def test_what_is_stored_of_a_text_is_that_history(pool: Pool) -> None:
    states, text = FlowRunStateRepository(pool), "PENDING +1s RUNNING(Retrying) +1h30m0.25s COMPLETED"
    made = history(RUN, text)
    assert {outcome.status for outcome in await states.create_flow_run_states(made)} == {"created"}
    assert_history(await states.read_flow_run_states(RUN), text)


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        ("PENDING +1s RUNING +30s COMPLETED", "RUNING", "is no state"),
        ("running", "running", "is no state"),
        ("PENDING, RUNNING", "PENDING,", "is no state"),
        ("PENDING -> RUNNING", "->", "is no state"),
        ("PENDING RUNNING+1s", "RUNNING+1s", "is no state"),
        ("PENDING\t+1s\nRUNING", "RUNING", "is no state"),
        ("\x1b PENDING RUNING", "\\x1b", "is no state"),
        ("PENDING RUNING(Late)", "RUNING(Late)", "begins with a type that is none"),
        ("SCHEDULED() RUNNING", "SCHEDULED()", "is not a state as"),
        ("PENDING SCHEDULED(Awaiting Retry", "SCHEDULED(Awaiting", "is not a state as"),
        ("+1s PENDING", "+1s", "no state before it"),
        ("PENDING +1s +2s RUNNING", "+2s", "a time behind a time"),
        ("PENDING +1x RUNNING", "+1x", "is not a time as"),
        ("PENDING + 1s RUNNING", "+", "is not a time as"),
        ("PENDING +1m1h RUNNING", "+1m1h", "is not a time as"),
        ("PENDING +-1s RUNNING", "+-1s", "is not a time as"),
        ("PENDING +0s RUNNING", "+0s", "is no time"),
        ("PENDING +9999999999d RUNNING", "+9999999999d", "is too long a time"),
        ("PENDING +999999999d RUNNING", "+999999999d", "is too long a time"),
        ("PENDING +2000000d RUNNING +2000001d PENDING", "+2000001d", "is too long a time"),
        ("PENDING +\u0661s RUNNING", "+\u0661s", "is not a time as"),
        ("PENDING +1.\u0661s RUNNING", "+1.\u0661s", "is not a time as"),
        *((f"PENDING {gap} RUNNING", gap, "is too long a time") for gap in ("+" + "9" * 5000 + "s", "+" + "9" * 400 + ".5s")),
    ],
)
def test_a_bad_text_is_refused_with_the_place(text: str, word: str, message: str) -> None:
    for call in (lambda: history(RUN, text), lambda: assert_history([], text)):
        with pytest.raises(InvalidInputError, match=r"^text: ") as caught:
            call()
        said, shown, marks = str(caught.value).splitlines()[:3]
        assert message in said
        assert caught.value.field == "text"
        assert shown[marks.index("^") : len(marks)] == word


def test_what_else_is_refused() -> None:
    for field, call in (
        ("text", lambda: history(RUN, None)),  # type: ignore[arg-type]
        ("text", lambda: history(RUN, "PENDING +2000000d RUNNING")),
        ("text", lambda: history(RUN, "PENDING +1000000d RUNNING +1000000d PENDING")),
        ("flow_run_id", lambda: history("run 7", "PENDING")),
        ("flow_run_id", lambda: history("run 7", "")),
        ("flow_run_id", lambda: history(None, " ")),  # type: ignore[arg-type]
        ("name", lambda: history(RUN, "PENDING(\x00)")),
        ("begin", lambda: history(RUN, "PENDING", begin=datetime(2030, 1, 1))),
        ("begin", lambda: history(RUN, "", begin=date(2030, 1, 1))),  # type: ignore[arg-type]
        ("begin", lambda: history(RUN, "PENDING +1s", begin=NOON)),
        ("text", lambda: assert_history([], "PENDING +1s")),
        ("states", lambda: assert_history(history(RUN, "PENDING"), "PENDING")),  # type: ignore[arg-type]
        ("states", lambda: assert_history(stored(history(RUN, "PENDING RUNNING"))[::-1], "RUNNING PENDING")),
        ("states", lambda: assert_history(stored(history(RUN, "PENDING") + history(UUID(int=1), "PENDING")), "PENDING PENDING")),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field


async def read() -> list[FlowRunState]:
    return []


PENDING, RUNNING = stored(history(RUN, "PENDING RUNNING", begin=NOON))


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (None, "is None, not a list of FlowRunState"),
        (5, "is an int, not a list of FlowRunState"),
        ("", "is a str, not a list of FlowRunState"),
        (b"", "is a bytes, not a list of FlowRunState"),
        ({}, "is a dict, not a list of FlowRunState"),
        (set(), "is a set, which has no order"),
        (PENDING, "is a FlowRunState, not a list of FlowRunState"),
        (read, "is a function, not a list of FlowRunState"),
        ([PENDING, None], "[1] is None, not a FlowRunState"),
        (
            [PENDING.model_copy(update={"timestamp": NOON.replace(tzinfo=None)}), RUNNING],
            "[0].timestamp datetime.datetime(2030, 1, 31, 12, 0) has no",
        ),
        ([PENDING.model_copy(update={"timestamp": None})], "[0].timestamp None is not a datetime"),
    ],
)
def test_what_are_no_states_is_refused(states: object, said: str) -> None:
    with pytest.raises(InvalidInputError, match="^" + re.escape(f"states: {said}")):
        assert_history(states, "")  # type: ignore[arg-type]


def test_states_that_were_not_awaited_are_refused() -> None:
    states = read()
    with pytest.raises(InvalidInputError, match=r"^states: is a coroutine: await it"):
        assert_history(states, "")  # type: ignore[arg-type]
    states.close()


def test_states_of_any_sequence_are_taken() -> None:
    made: list[Callable[[], object]] = [
        lambda: [PENDING, RUNNING], lambda: (PENDING, RUNNING), lambda: iter([PENDING, RUNNING]), lambda: (state for state in (PENDING, RUNNING)),
    ]  # fmt: skip
    for states in made:
        assert_history(states(), "PENDING RUNNING")  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match="has 2 states"):
            assert_history(states(), "PENDING")  # type: ignore[arg-type]


@pytest.mark.parametrize("within", [0.5, 1, None, "x", timedelta(-1)])
def test_what_is_no_time_to_differ_by_is_refused(within: object) -> None:
    for text in ("PENDING RUNNING", "PENDING +1us RUNNING"):
        with pytest.raises(InvalidInputError, match=r"^within: is .*, not a timedelta of zero or more"):
            assert_history([PENDING, RUNNING], text, within=within)  # type: ignore[arg-type]


@given(st.timedeltas(timedelta(microseconds=1), timedelta(days=3_600_000)))
def test_a_time_is_exact_in_both_forms(time: timedelta) -> None:
    seconds, microseconds = divmod(time // timedelta(microseconds=1), 1_000_000)
    for text in (length(time).replace(" ", ""), f"{seconds}.{microseconds:06}s", f"{seconds // 60}m{seconds % 60}.{microseconds:06}s"):
        first, second = history(RUN, f"PENDING +{text} RUNNING", begin=datetime(1, 1, 2, tzinfo=UTC))
        assert first.timestamp is not None
        assert second.timestamp is not None
        assert second.timestamp - first.timestamp == time


def test_what_the_text_does_not_say_is_not_looked_at() -> None:
    states = stored(history(RUN, "SCHEDULED(AwaitingRetry) +1h PENDING +1s RUNNING"))
    assert_history(states, "SCHEDULED PENDING RUNNING")
    assert_history(states, "SCHEDULED PENDING +1s RUNNING(Running)")
    assert_history(states, "SCHEDULED +59m PENDING +2s RUNNING", within=timedelta(minutes=1))
    assert_history([], "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PENDING +1s RUNNING +30s COMPLETED", "state 3 is +12s FAILED(OutOfMemory), and expected was +30s COMPLETED"),
        ("PENDING RUNNING FAILED(Failed)", "state 3 is +12s FAILED(OutOfMemory), and expected was FAILED(Failed)"),
        ("PENDING +2s RUNNING FAILED", "state 2 is +1s RUNNING, and expected was +2s RUNNING"),
        ("RUNNING FAILED", "state 1 is PENDING, and expected was RUNNING"),
        ("PENDING RUNNING", "the history has 3 states, and expected were 2"),
        ("PENDING RUNNING FAILED PENDING", "the history has 3 states, and expected were 4"),
    ],
)
def test_another_history_fails_with_both_timelines(text: str, said: str) -> None:
    states = stored(history(RUN, "PENDING +1s RUNNING +12s FAILED(OutOfMemory)", begin=NOON))
    with pytest.raises(AssertionError) as caught:
        assert_history(states, text)
    first, actual, expected, *drawn = str(caught.value).splitlines()
    assert said in first
    assert (actual.split(maxsplit=1), expected.split(maxsplit=1)) == (
        ["is:", "PENDING +1s RUNNING +12s FAILED(OutOfMemory)"],
        ["expected:", text],
    )
    assert [line for line in drawn if line in ("is:", "expected:")] == ["is:", "expected:"]
    assert "\n".join(drawn).count(f"  run {RUN}\n  2030-01-31 12:00:00 to 2030-01-31 12:00:") == (2 if text.count("+") == 2 else 1)


def test_times_that_the_text_does_not_say_are_not_drawn() -> None:
    states = stored(history(RUN, "PENDING +1s RUNNING +12s FAILED", begin=NOON))
    for text in ("PENDING RUNNING COMPLETED", "PENDING +1s RUNNING COMPLETED", "PENDING RUNNING FAILED PENDING RUNNING +1h COMPLETED"):
        with pytest.raises(AssertionError) as caught:
            assert_history(states, text)
        strip = str(caught.value).partition("\nexpected:\n")[2]
        assert "\n" not in strip
        assert strip.startswith("  ")
        assert "Running─" in strip
        assert not re.search(r"\d", strip)


def test_a_history_that_would_not_end_in_time_is_another_one() -> None:
    states = stored(history(RUN, "PENDING +1s RUNNING", begin=NOON))
    with pytest.raises(AssertionError, match=r"state 2 is \+1s RUNNING(?s:.*)\n\nexpected:\n  \(it would end after the year 9999\)$"):
        assert_history(states, "PENDING +3000000d RUNNING")


def test_no_states_are_said() -> None:
    with pytest.raises(AssertionError, match=r"has 0 states, and expected were 1\n  is:       \(no states\)\n  expected: PENDING$"):
        assert_history([], "PENDING")
    with pytest.raises(AssertionError, match=r"(?s)has 1 state, and expected were 0\n  is: .*\n  expected: \(no states\)\n\nis:\n  run 0195f2a0"):
        assert_history(stored(history(RUN, "PENDING")), "")
