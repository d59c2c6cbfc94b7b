"""The fast way from row to record, held against full validation."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flowstates import FlowRunState, NewFlowRunState, StateDetails, StateType, UnreadableRowError
from flowstates.engine.rows import COLUMNS, next_rows, to_states

RUN = "00000000-0000-0000-0000-000000000002"
ROW: tuple[str | None, ...] = (
    "00000000-0000-0000-0000-000000000001", '"2024-03-05T12:00:00"', '"2024-03-05T12:00:00"', RUN,
    "RUNNING", '"2024-03-05T12:00:00.5"', "Running", None, "{}", None, None,
)  # fmt: skip

uuids = st.uuids().map(str)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
offsets = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=offsets | st.just(UTC)).map(datetime.isoformat)


def of_field(name: str) -> st.SearchStrategy[Any]:
    """Values of a field of the details as another writer may have stored them."""
    if name.endswith("_id"):
        return uuids | st.none()
    if name in ("scheduled_time", "cache_expiration", "pause_timeout"):
        return instants.map(lambda text: text.replace("+00:00", "Z")) | st.none()  # as RFC 3339 has them
    if name == "run_input_keyset":
        return st.dictionaries(texts, texts) | st.none()
    if name in ("cache_key", "pause_key", "traceparent"):
        return texts | st.none()
    return st.booleans() | st.none() if name in ("deferred", "refresh_cache", "retriable") else st.booleans()


fields = {name: of_field(name) for name in StateDetails.model_fields}
details = st.fixed_dictionaries({}, optional=fields | {"from_tomorrow": values, "": values}) | st.fixed_dictionaries(fields)
separators = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", " :\t")])
json_texts = st.builds(lambda value, pair, plain: json.dumps(value, separators=pair, ensure_ascii=plain), details, separators, st.booleans())
# PostgreSQL leaves out the zeros at the end of a fraction.
times = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(lambda time: json.dumps(re.sub(r"(\.\d*[1-9])0+$", r"\1", time.isoformat())))
rows = st.tuples(
    uuids, times, times | st.none(), uuids, st.sampled_from(list(StateType)).map(str), times, texts, texts | st.none(), json_texts,
    (values | details).map(json.dumps) | st.none(), uuids | st.none(),
)  # fmt: skip


def validated(row: tuple[Any, ...]) -> FlowRunState:
    given = dict(zip(COLUMNS, row, strict=True))
    given["updated"] = given["updated"] or given["created"]
    for field in ("created", "updated", "timestamp"):
        given[field] = json.loads(given[field]) + "Z"
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
        for name, value in full:
            assert isinstance(getattr(fast, name), type(value))
        for state in (fast, full):
            assert all((type(time), time.tzinfo) == (datetime, UTC) for time in (state.created, state.updated, state.timestamp))
            for time in (state.state_details.scheduled_time, state.state_details.pause_timeout):
                assert time is None or (type(time), type(time.tzinfo)) == (datetime, timezone)


def test_pydantic_has_no_other_slots_than_those_that_are_filled() -> None:
    # A record is filled without Pydantic's validation. A release of Pydantic with another layout is to be noticed here.
    assert set(BaseModel.__slots__) == {"__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"}
    assert FlowRunState.__private_attributes__ == StateDetails.__private_attributes__ == {}
    assert (FlowRunState.model_config, StateDetails.model_config) == (
        {"frozen": True},
        {"frozen": True, "extra": "allow", "revalidate_instances": "always"},
    )
    for field in StateDetails.model_fields.values():
        assert field.default in (None, False)
        assert field.default_factory is None


@pytest.mark.parametrize(
    ("field", "bad"),
    [("type", "SUSPENDED"), ("state_details", "[]"), ("state_details", '{"deferred": 5}'), ("name", None), ("data", "{"), ("flow_run_id", "8")]
    + [(field, json.dumps(bad)) for field in ("created", "updated", "timestamp") for bad in ("infinity", "-infinity", "10000-01-01T00:00:00")]
    + [
        (field, json.dumps(bad))
        for field in ("created", "updated", "timestamp")
        for bad in ("0044-03-15T12:00:00 BC", "2024-03-05T12:00:00+00:00", 5)
    ]
    + [("flow_run_id", None), ("created", None), ("timestamp", None), ("state_details", None)],
)
def test_a_row_that_does_not_fit_fails_by_name(field: str, bad: str | None) -> None:
    row = tuple(bad if column == field else value for column, value in zip(COLUMNS, ROW, strict=True))
    with pytest.raises(UnreadableRowError) as caught:
        to_states([ROW, row])
    assert (str(caught.value.flow_run_state_id), caught.value.field) == (ROW[0], field)


def test_a_row_without_an_id_that_can_be_read_says_so() -> None:
    with pytest.raises(UnreadableRowError) as caught:
        to_states([("8", *ROW[1:])])
    assert (caught.value.flow_run_state_id, caught.value.field) == (None, "id")


marked = st.sampled_from(
    ["????-??-??T??:??:??Z", "????-??-??T??:??:??.??????Z", "????-??-??T??:??:??.??+??:??", "????-??-??T??:??:??", "????-?-???T??:??:??Z"]
)
filled = st.builds(
    lambda form, fill, year: year + "".join(next(fill) if mark == "?" else mark for mark in form[4:]),
    marked,
    st.lists(st.sampled_from("00011223459"), min_size=30, max_size=30).map(iter),
    st.sampled_from(["2024", "0000", "0001", "9999", "2O24", "٢٠٢٤"]),
)
spoiled = st.builds(
    lambda text, at, mark: text[: at % len(text)] + mark + text[at % len(text) + 1 :], filled, st.integers(0, 40), st.sampled_from("+-:.,ZTzt W٣")
)


@example("0000-01-01T00:00:00Z")
@example("0000-01-01T00:00:00")
@example("2024-03-05T24:00:00Z")
@example("2024-03-05T12:00:00")
@example("2024-03-05T12:00:00+05:70")
@example("2024-03-05T12:00:00-05:60")
@example("2024-03-05T12:00:00.123456+00:99")
@example("2024-03-05T12:00:00+05:59")
@example("2024-03-05T12:00:00+24:00")
@given(filled | spoiled)
def test_a_time_in_details_is_the_one_that_validation_makes(text: str) -> None:
    details = json.dumps({"scheduled_time": text})
    try:
        try:
            expected = StateDetails.model_validate_json(details)
        except ValidationError as error:
            if error.errors()[0]["type"] != "timezone_aware":
                raise
            expected = StateDetails.model_validate_json(json.dumps({"scheduled_time": text + "Z"}))  # as Prefect reads it
    except ValueError:
        with pytest.raises(UnreadableRowError) as caught:
            to_states([(*ROW[:8], details, *ROW[9:])])
        assert caught.value.field == "state_details"
    else:
        (state,) = to_states([(*ROW[:8], details, *ROW[9:])])
        assert slots(state.state_details) == slots(expected)
        found, wanted = state.state_details.scheduled_time, expected.scheduled_time
        assert found is not None
        assert wanted is not None
        assert (found.utcoffset(), type(found.tzinfo)) == (wanted.utcoffset(), timezone)


def test_unknown_keys_are_kept_however_the_json_is_written() -> None:
    for text in ('{"cache_key":"a","new":1}', '{"new" : 1 , "cache_key" : "a"}', '{"cache_key": "b", "cache_key": "a", "new": 1}'):
        (state,) = to_states([(*ROW[:8], text, *ROW[9:])])
        assert state.state_details == StateDetails.model_validate({"cache_key": "a", "new": 1})
    (state,) = to_states([(*ROW[:8], '{"cache_key": "a,b"}', *ROW[9:])])
    assert state.state_details == StateDetails(cache_key="a,b")


def test_what_states_share_is_not_changed_by_what_is_done_to_one() -> None:
    first, second, third = to_states([ROW, (*ROW[:8], '{"cache_key": "k"}', *ROW[9:]), ROW])
    assert first.state_details == third.state_details == StateDetails()
    assert second.state_details == StateDetails(cache_key="k")
    changed = first.model_copy(update={"timestamp": first.timestamp + timedelta(1), "state_details": StateDetails(pause_key="p")})
    assert (changed.model_fields_set, third.model_fields_set) == (set(COLUMNS), set(COLUMNS))
    assert third == to_states([ROW])[0]


@pytest.mark.parametrize("text", ["{}", '{"cache_key": "k"}', '{"run_input_keyset": {"a": "b"}}', '{"new": {"a": [1]}}'])
def test_no_part_that_can_be_changed_is_another_records(text: str) -> None:
    def read() -> list[FlowRunState]:
        return to_states([(*ROW[:8], text, *ROW[9:])] * 2)

    first, second = read()
    was = second.model_copy(deep=True)
    details: Any = first.state_details
    changes: list[Callable[[], object]] = [
        lambda: details.model_extra.update(tenant="A"),
        lambda: details.model_extra["new"]["a"].append(2),
        lambda: details.run_input_keyset.update(a="changed"),
        lambda: details.model_fields_set.add("tenant"),
        lambda: first.model_fields_set.clear(),
    ]
    for one in changes:
        # What they share says that it is shared; what they do not have cannot be changed; what is the record's own can.
        with suppress(TypeError, KeyError, AttributeError):
            one()
    again, _ = read()
    for other in (second, again):
        assert other == was
        assert other.to_rest() == was.to_rest()
        assert other.model_dump(exclude_unset=True) == was.model_dump(exclude_unset=True)
    assert StateDetails().model_extra == {}
    new = NewFlowRunState(flow_run_id=RUN, type=StateType.RUNNING).state_details
    assert (new, new.model_extra) == (StateDetails(), {})


def test_what_records_share_says_so_when_it_is_changed_and_copies_do_not_share_it() -> None:
    (state,) = to_states([ROW])
    new = NewFlowRunState(flow_run_id=RUN, type=StateType.RUNNING)
    details: Any
    for details in (state.state_details, new.state_details):
        with pytest.raises(TypeError, match="model_copy"):
            details.model_extra["tenant"] = "A"
        for again in (details.model_copy(), copy.copy(details), copy.deepcopy(details), pickle.loads(pickle.dumps(details))):
            assert (type(again.model_extra), type(again.model_fields_set)) == (dict, set)
            again.model_extra["tenant"] = "A"
            again.model_fields_set.add("tenant")
        assert details.model_copy(update={"tenant": "A"}).model_extra == {"tenant": "A"}
        assert details == StateDetails()
    for method in ("add", "remove", "discard", "pop", "clear", "update", "difference_update", "__iand__", "__ior__", "__isub__", "__ixor__"):
        with pytest.raises(TypeError, match="share"):
            getattr(state.model_fields_set, method)({"id"})
    assert type(state.model_fields_set.copy()) is set


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_many_rows(enabled: bool) -> None:
    was_enabled, seen = gc.isenabled(), []

    class Watching(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            seen.append(gc.isenabled())
            return super().__iter__()

    try:
        (gc.enable if enabled else gc.disable)()
        assert len(to_states(Watching([ROW] * 1000))) == 1000
        assert gc.isenabled() is enabled
        with pytest.raises(UnreadableRowError):
            to_states([*[ROW] * 1000, (*ROW[:4], "SUSPENDED", *ROW[5:])])
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert seen == [False]


def test_the_next_rows_are_as_many_as_make_some_mib() -> None:
    def rows(count: int, **values: str) -> list[tuple[str | None, ...]]:
        return [tuple(values.get(column, value) for column, value in zip(COLUMNS, ROW, strict=True))] * count

    assert [next_rows(rows(count), 500) for count in (1, 10, 80, 500)] == [8, 80, 500, 500]
    assert next_rows(rows(10), 1) == 1
    for column in ("name", "message", "state_details", "data"):
        large = {column: "x" * 1_000_000}
        assert [next_rows(rows(count, **large), 500) for count in (1, 10, 500)] == [4, 4, 4]
        assert next_rows(rows(10, **{column: "x" * 10_000_000}), 500) == 1
    # Runs of 11 states, of which the last is large.
    mixed = [row for _ in range(45) for row in (*rows(10), *rows(1, data="x" * 1_000_000))]
    assert 20 <= next_rows(mixed, 500) <= 100
