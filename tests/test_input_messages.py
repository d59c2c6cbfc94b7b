"""What is refused says what was given and what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from flowstates import (
    FlowRunStateAnalytics,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    InvalidInputError,
    Keep,
    NewFlowRunState,
    StateType,
    UnexpectedStateError,
    create_pool,
)
from tests.conftest import Pool

pytestmark = pytest.mark.versions

NAIVE = datetime(2024, 3, 5, 12)
NO_ZONE = "datetime.datetime(2024, 3, 5, 12, 0) has no time zone: take datetime.now(UTC), or .replace(tzinfo=UTC) of a time that is in UTC"
RUN = UUID(int=5)
TYPES = "not one of SCHEDULED, PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, CRASHED, PAUSED or CANCELLING, in upper case"


class Unused:
    """A pool by its methods, of which nothing is asked."""

    def acquire(self) -> None:
        raise AssertionError


class Says(NamedTuple):
    call: Callable[..., Any]
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def new(**given: Any) -> NewFlowRunState:
    values: dict[str, Any] = {"flow_run_id": RUN, "type": "RUNNING"}
    return NewFlowRunState(**values | given)


def filter(**given: Any) -> FlowRunStateFilter:
    return FlowRunStateFilter(**given)


def keep(**given: Any) -> Keep:
    return Keep(**given)


def repository(transitions: Any) -> FlowRunStateRepository:
    return FlowRunStateRepository(Unused(), transitions=transitions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "says",
    [
        Says(lambda: new(timestamp=NAIVE), "timestamp", NO_ZONE),
        Says(lambda: new(timestamp="2024-03-05T12:00:00"), "timestamp", NO_ZONE),
        Says(lambda: filter(since=NAIVE), "since", NO_ZONE),
        Says(lambda: new(state_details={"scheduled_time": NAIVE}), "state_details", f"scheduled_time: {NO_ZONE}"),
        Says(lambda: new(state_details={"scheduled_time": "soon"}), "state_details", "scheduled_time: 'soon' is not a time"),
        Says(lambda: new(timestamp=date(2024, 3, 5)), "timestamp", "datetime.date(2024, 3, 5) is not a time"),
        Says(lambda: filter(types="RUNNING"), "types", "is a str, not a list"),
        Says(lambda: filter(types=StateType.RUNNING), "types", "is a StateType, not a list"),
        Says(lambda: filter(names="Late"), "names", "is a str, not a list"),
        Says(lambda: filter(flow_run_ids=RUN), "flow_run_ids", "is a UUID, not a list"),
        Says(lambda: filter(ids=5), "ids", "is an int, not a list"),
        Says(lambda: keep(types="FAILED"), "types", "is a str, not a list"),
        Says(lambda: new(type="running"), "type", f"'running' is {TYPES}"),
        Says(lambda: new(type=None), "type", f"None is {TYPES}"),
        Says(lambda: filter(types=["RUNNING", "done"]), "types", f"1: 'done' is {TYPES}"),
        Says(lambda: keep(types=[5]), "types", f"0: 5 is {TYPES}"),
        Says(lambda: new(name=""), "name", "is empty"),
        Says(lambda: new(name=5), "name", "is an int, not a str"),
        Says(lambda: new(state_details=[]), "state_details", "is a list, not a dict or StateDetails"),
        Says(lambda: new(state_details={"retriable": "maybe"}), "state_details", "retriable: 'maybe' is not a bool"),
        Says(lambda: new(state_details={"run_input_keyset": "x"}), "state_details", "run_input_keyset: is a str, not a dict"),
        Says(lambda: new(flow_run_id="x"), "flow_run_id", "'x' (str) is not a UUID or its text"),
        Says(lambda: filter(terminal="maybe"), "terminal", "is a str, not a bool"),
        Says(lambda: keep(newest="3"), "newest", "is a str, not an int"),
        Says(lambda: filter(type="RUNNING"), "type", "is no field of it"),
        Says(lambda: NewFlowRunState(type="RUNNING"), "flow_run_id", "is missing"),  # type: ignore[call-arg]
        Says(lambda: repository([StateType.RUNNING]), "transitions", "is a list, not a dict; it takes"),
        Says(lambda: repository("x"), "transitions", "is a str, not a dict; it takes"),
        Says(lambda: repository({"PENDING": "RUNNING"}), "transitions", "'RUNNING' is a str, not a list; it takes"),
        Says(lambda: repository({"PENDING": 5}), "transitions", "5 is an int, not a list; it takes"),
        Says(lambda: repository({"pending": []}), "transitions", f"'pending' is {TYPES}; it takes"),
        Says(lambda: repository({"PENDING": ["done"]}), "transitions", f"'done' is {TYPES}; it takes"),
        Says(lambda: create_pool(5), "dsn", "is an int, not a text"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_value(says: Says) -> None:
    with pytest.raises(InvalidInputError) as caught:
        says.call()
    assert str(caught.value).startswith(str(says))


STATES: Any = FlowRunStateRepository(Unused())  # type: ignore[arg-type]
ANALYTICS: Any = FlowRunStateAnalytics(Unused())  # type: ignore[arg-type]
RETENTION: Any = FlowRunStateRetention(Unused())  # type: ignore[arg-type]
OLD: Any = {"older_than": timedelta(days=1)}


@pytest.mark.parametrize(
    "says",
    [
        Says(lambda: STATES.read_flow_run_states_as_of([RUN], NAIVE), "at", NO_ZONE),
        Says(lambda: STATES.read_flow_run_states_as_of([RUN], "today"), "at", "'today' is not a datetime"),
        Says(lambda: ANALYTICS.count_occupancy(since=NAIVE, until=NAIVE, step=timedelta(1)), "since", NO_ZONE),
        Says(lambda: ANALYTICS.measure_time_in_states(since=datetime.now(UTC), until=NAIVE), "until", NO_ZONE),
        Says(lambda: RETENTION.prune(before=NAIVE), "before", NO_ZONE),
        Says(lambda: RETENTION.prune(**OLD, types="FAILED"), "types", "is a str, not a list of state types"),
        Says(lambda: RETENTION.prune(**OLD, types=5), "types", "is an int, not a list of state types"),
        Says(lambda: RETENTION.prune(**OLD, types=["failed"]), "types", f"'failed' is {TYPES}"),
        Says(lambda: STATES.create_flow_run_state(RUN, "RUNNING", expected="PENDING"), "expected", "is a type; say {StateType.PENDING}, a set;"),
        Says(lambda: STATES.create_flow_run_state(RUN, "RUNNING", expected="pending"), "expected", "is a type; say {StateType.PENDING}, a set;"),
        Says(lambda: STATES.create_flow_run_state(RUN, "RUNNING", expected=StateType.PENDING), "expected", "is a type; say {StateType.PENDING}, a"),
        Says(lambda: STATES.create_flow_run_state(RUN, "RUNNING", expected=["done"]), "expected", f"'done' is {TYPES};"),
        Says(lambda: STATES.create_flow_run_states([5]), "states", "[0] is an int, not a NewFlowRunState"),
        Says(lambda: STATES.count_flow_run_states({}), "filter", "is a dict, not a FlowRunStateFilter"),
    ],
    ids=str,
)
async def test_an_argument(says: Says) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await says.call()
    assert str(caught.value).startswith(str(says))


async def test_what_is_no_pool_or_connection() -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateRepository(None)  # type: ignore[arg-type]
    hint = "not an asyncpg pool or connection, nor an AsyncSession or AsyncConnection of SQLAlchemy"
    assert str(caught.value) == f"pool_or_connection: is None, {hint}"


async def test_a_state_that_was_not_expected_says_which_was(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    with pytest.raises(UnexpectedStateError) as caught:
        await states.create_flow_run_state(run, "RUNNING", expected={"PENDING", "SCHEDULED"})
    assert str(caught.value) == f"run {run} has no state; expected was SCHEDULED or PENDING"
    assert (caught.value.flow_run_id, caught.value.expected) == (run, "SCHEDULED or PENDING")
    first = await states.create_flow_run_state(run, "PENDING")
    other = uuid4()
    for expected, text in ((None, "no state"), (other, f"state {other}"), ({"RUNNING"}, "RUNNING")):
        with pytest.raises(UnexpectedStateError) as caught:
            await states.create_flow_run_state(run, "RUNNING", expected=expected)  # type: ignore[arg-type]
        assert str(caught.value) == f"the current state of run {run} is {first.id} (PENDING); expected was {text}"
    held = FlowRunStateRepository(pool, transitions={None: [StateType.COMPLETED], StateType.RUNNING: [StateType.COMPLETED]})
    with pytest.raises(UnexpectedStateError, match=r"expected was RUNNING or no state$"):
        await held.create_flow_run_state(run, "COMPLETED")
