from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowstates import FlowRunState, FlowRunStateRepository, InvalidInputError, NewFlowRunState, StateDetails, StateType

Store: TypeAlias = Callable[..., tuple[FlowRunState, list[FlowRunState]]]

examples = settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
big = st.builds(lambda digits, less, sign: sign * (10**digits - less), st.integers(1, 4000), st.integers(1, 9), st.sampled_from([1, -1]))
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e308, -1e308, 5e-324, 2.2e-308, -0.0, 1e16, 1e23, 0.1])
scalars = st.none() | st.booleans() | st.integers() | big | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=15)
offsets = st.builds(timezone, st.timedeltas(timedelta(hours=-24) + timedelta(microseconds=1), timedelta(hours=24) - timedelta(microseconds=1)))
times = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 28), timezones=offsets | st.just(UTC))
ids = st.uuids() | st.sampled_from([UUID(int=0), UUID(int=2**128 - 1)])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "flow_run_id": ids, "task_run_id": ids, "child_flow_run_id": ids, "scheduled_time": times, "cache_key": texts, "cache_expiration": times,
    "deferred": st.booleans() | st.none(), "untrackable_result": st.booleans(), "pause_timeout": times, "pause_reschedule": st.booleans(),
    "pause_key": texts, "run_input_keyset": st.dictionaries(texts, texts, max_size=3), "refresh_cache": st.booleans(), "retriable": st.booleans(),
    "transition_id": ids, "task_parameters_id": ids, "traceparent": texts, "deployment_concurrency_lease_id": ids,
}  # fmt: skip
names = st.sampled_from(["model_dump", "__class__", "__dict__", "self", "_x", ""]) | texts
unknown = st.dictionaries(names.filter(lambda key: key not in FIELDS), values, max_size=4)
details = st.builds(lambda known, more: known | more, st.fixed_dictionaries({}, optional=FIELDS), unknown)
given_states = st.fixed_dictionaries(
    {"type": st.sampled_from(StateType)},
    optional={
        "timestamp": times, "name": texts.filter(bool), "message": texts | st.none(), "state_details": details, "data": values,
        "result_artifact_id": ids | st.none(),
    },
)  # fmt: skip


def same(asked: Any, got: Any) -> bool:
    """Whether two JSON values are equal, floats compared as floats: the server gives 1e16 back as an integer, and a zero has no sign."""
    if isinstance(asked, float):
        return type(got) in (int, float) and float(got) == asked
    if type(asked) is not type(got):
        return False
    if isinstance(asked, dict):
        return asked.keys() == got.keys() and all(same(asked[key], got[key]) for key in asked)
    if isinstance(asked, list):
        return len(asked) == len(got) and all(map(same, asked, got))
    return bool(asked == got)


@pytest.fixture(scope="module")
def store(layout_dsns: dict[Any, str]) -> Iterator[Store]:
    """Creates states of one run and reads them back by id, all examples in one event loop and on one connection."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(layout_dsns["flowstates"]))
    states = FlowRunStateRepository(connection)

    async def create_and_read(*asked: dict[str, Any]) -> tuple[FlowRunState, list[FlowRunState]]:
        run = uuid4()
        created = [await states.create_flow_run_state(run, **values) for values in asked]
        read = [await states.read_flow_run_state(state.id) for state in created]
        assert read == created == await states.read_flow_run_states(run)
        assert [state.flow_run_id for state in created] == [run] * len(created)
        return created[0], created

    yield lambda *asked: loop.run_until_complete(create_and_read(*asked))
    loop.run_until_complete(connection.close())
    loop.close()


def test_the_comparison_tells_values_apart() -> None:
    for asked, got in ((1, True), (0, False), (1, 1.0), ([1], [2]), ({"a": 1}, {"a": 1, "b": 1}), (0.1, 0.2), (None, 0), ("1", 1), (1.0, True)):
        assert not same(asked, got)
    assert same([1e16, -0.0, {"a": None}], [10**16, 0.0, {"a": None}])
    assert same(1e308, 10**308)
    assert math.copysign(1, -0.0) == -1


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (1.0, "1.0"), (-3.0, "-3.0"), (1e15, "1000000000000000.0"), (9999999999999998.0, "9999999999999998.0"), (-0.0, "0.0"), (1.5e-7, "1.5e-07"),
        (1e16, "1" + 16 * "0"), (-1e16, "-1" + 16 * "0"), (1e23, "1" + 23 * "0"), (2.0**70, "1180591620717411300000"),
    ],
)  # fmt: skip
def test_floats_from_1e16_on_come_back_as_integers(store: Store, asked: float, got: str) -> None:
    state, _ = store({"type": "RUNNING", "data": asked, "state_details": {"x": asked}})
    assert [repr(state.data), repr((state.state_details.model_extra or {})["x"])] == [got, got]
    assert float(got) == asked


@examples
@given(given_states)
@example({"type": StateType.RUNNING, "data": 10**4000 - 1, "state_details": {"x": 1 - 10**4000}})
@example({"type": StateType.RUNNING, "data": [1e308, 5e-324, -0.0, 1e23], "state_details": {"x": [1e308, 5e-324, -0.0, 1e23]}})
@example({"type": StateType.RUNNING, "name": "\uffff\U0010ffff\x01\u202e\ufeff", "message": "'; -- \\u0000 $1 {} %s", "data": {"\\u0000": "\\"}})
def test_an_accepted_state_comes_back_as_it_was_asked_for(store: Store, asked: dict[str, Any]) -> None:
    state, _ = store(asked)
    assert state.type is asked["type"]
    assert state.name == asked.get("name", asked["type"].capitalize())
    assert (state.message, state.result_artifact_id) == (asked.get("message"), asked.get("result_artifact_id"))
    assert same(asked.get("data"), state.data)
    wanted = StateDetails.model_validate(asked.get("state_details", {}))
    assert {field: getattr(wanted, field) for field in FIELDS} == {field: getattr(state.state_details, field) for field in FIELDS}
    assert same(dict(wanted.model_extra or {}), dict(state.state_details.model_extra or {}))
    if "timestamp" in asked:
        assert state.timestamp == asked["timestamp"]
    for moment in (state.created, state.updated, state.timestamp):
        assert moment.tzinfo is UTC


@examples
@given(given_states)
def test_a_stored_state_survives_its_dump_and_pickle(store: Store, asked: dict[str, Any]) -> None:
    state, _ = store(asked)
    shown = state.model_dump(mode="json")
    again = FlowRunState.model_validate(json.loads(json.dumps(shown, allow_nan=False)))
    assert again == state
    assert again.model_dump(mode="json") == shown
    assert pickle.loads(pickle.dumps(state)) == state
    rest = state.to_rest()
    assert json.loads(json.dumps(rest, allow_nan=False)) == rest


@examples
@given(st.lists(st.datetimes(datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 4), timezones=st.just(UTC)), min_size=1, max_size=8))
def test_a_history_rises_and_moves_only_what_would_not(store: Store, asked: list[datetime]) -> None:
    _, created = store(*({"type": "RUNNING", "timestamp": moment} for moment in asked))
    before = datetime.min.replace(tzinfo=UTC)
    for moment, state in zip(asked, created, strict=True):
        assert state.timestamp == max(moment, before + timedelta(microseconds=1))
        before = state.timestamp


@examples
@given(values, st.sampled_from(["\0", "\ud800", "\udfff", float("nan"), float("inf"), 10**4000, (1,), b"", {1: 1}]), st.lists(texts, max_size=6))
def test_a_value_that_cannot_be_stored_is_refused_wherever_it_is(value: Any, wrong: Any, path: list[str]) -> None:
    for key in path:
        wrong = {"before": value, key: [value, wrong]}
    details: Any = {"unknown": wrong}
    for field, given_ in (("data", wrong), ("state_details", details)):
        with pytest.raises(InvalidInputError) as caught:
            NewFlowRunState(flow_run_id=uuid4(), type="RUNNING", **{field: given_})
        assert caught.value.field == field
