"""The fast way from row to record, held against full validation."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowstates import FlowRunState, StateDetails, StateType, UnreadableRowError
from flowstates.rows import COLUMNS, are_native, to_states, to_states_from_json

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
ROW: tuple[Any, ...] = (
    pgproto.UUID("00000000-0000-0000-0000-000000000001"), NOON, NOON, UUID(int=2), "RUNNING", NOON, "Running", None, "{}", None, None,
)  # fmt: skip

uuids = st.uuids() | st.uuids().map(lambda id_: pgproto.UUID(id_.bytes))
times = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
details = st.fixed_dictionaries(
    {},
    optional={
        "flow_run_id": uuids.map(str) | st.none(),
        "scheduled_time": times.map(datetime.isoformat) | st.none(),
        "cache_key": texts | st.none(),
        "deferred": st.booleans() | st.none(),
        "untrackable_result": st.booleans(),
        "run_input_keyset": st.dictionaries(texts, texts) | st.none(),
        "from_tomorrow": values,
    },
)
rows = st.tuples(
    uuids, times, times, uuids, st.sampled_from(list(StateType)).map(str), times, texts, texts | st.none(), details.map(json.dumps),
    (values | details).map(json.dumps) | st.none(), uuids | st.none(),
)  # fmt: skip


def validated(row: tuple[Any, ...]) -> FlowRunState:
    given = dict(zip(COLUMNS, row, strict=True))
    given["state_details"] = json.loads(given["state_details"])
    given["data"] = None if given["data"] is None else json.loads(given["data"])
    return FlowRunState.model_validate(given)


def slots(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in BaseModel.__slots__ if name != "__dict__"} | {"__dict__": model.__dict__}


@given(st.lists(rows, max_size=4))
def test_a_record_of_a_row_is_the_one_that_validation_makes(given: list[tuple[Any, ...]]) -> None:
    for fast, full in zip(to_states(given), map(validated, given), strict=True):
        assert fast == full
        assert slots(fast) == slots(full)
        assert fast.model_dump() == full.model_dump()
        assert fast.model_dump_json() == full.model_dump_json()
        assert fast.to_rest() == full.to_rest()
        assert hash(fast) == hash(full)
        assert FlowRunState.model_validate_json(fast.model_dump_json()) == full
        for again in (copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), FlowRunState.model_validate(fast.model_dump())):
            assert again == full
        assert {name: type(value) for name, value in fast} == {name: type(value) for name, value in full}


def test_pydantic_has_no_other_slots_than_those_that_are_filled() -> None:
    # A record is filled without Pydantic's validation. A release of Pydantic with another layout is to be noticed here.
    assert set(BaseModel.__slots__) == {"__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"}
    assert FlowRunState.__private_attributes__ == {}
    assert FlowRunState.model_config == {"frozen": True}


@pytest.mark.parametrize(
    ("field", "bad"),
    [("type", "SUSPENDED"), ("state_details", "[]"), ("state_details", '{"deferred": 5}'), ("name", None), ("data", "{")]
    + [(field, datetime.max) for field in ("created", "updated", "timestamp")],
)
def test_a_row_that_does_not_fit_fails_by_name(field: str, bad: object) -> None:
    row = tuple(bad if column == field else value for column, value in zip(COLUMNS, ROW, strict=True))
    with pytest.raises(UnreadableRowError) as caught:
        to_states([ROW, row])
    assert (caught.value.flow_run_state_id, caught.value.field) == (ROW[0], field)


@pytest.mark.parametrize("odd", [(str(ROW[0]), *ROW[1:]), (ROW[0], 5, *ROW[2:]), (ROW[0], NOON.astimezone(), *ROW[2:]), (None, *ROW[1:])])
def test_rows_of_other_codecs_are_known_by_the_first(odd: tuple[Any, ...]) -> None:
    assert are_native([ROW])
    assert are_native([])
    assert are_native([odd]) is (odd[1:2] == (NOON,) and odd[1].tzinfo is UTC and odd[0] is ROW[0])


def test_rows_as_objects_give_the_same_records() -> None:
    given = dict(zip(COLUMNS, ROW, strict=True))
    times = {column: given[column].astimezone(None).isoformat() for column in ("created", "updated", "timestamp")}
    assert to_states_from_json([given | times | {"id": str(ROW[0]), "flow_run_id": str(ROW[3]), "agrees": True}]) == to_states([ROW])
    for field in times:
        with pytest.raises(UnreadableRowError) as caught:
            to_states_from_json([given | times | {field: "infinity"}])
        assert caught.value.field == field


def test_equal_details_are_one_object() -> None:
    first, second = to_states([ROW, (*ROW[:8], '{"cache_key": "k"}', *ROW[9:])])
    assert first.state_details == StateDetails()
    assert second.state_details == StateDetails(cache_key="k")
    later = first.timestamp + timedelta(1)
    assert first.model_copy(update={"timestamp": later}).timestamp == later
