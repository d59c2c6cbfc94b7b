from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from flowstates import (
    ContentionError,
    FlowRunState,
    FlowRunStateConflictError,
    FlowRunStateFilter,
    FlowStatesError,
    InvalidInputError,
    Keep,
    MigrationError,
    NewFlowRunState,
    ReadOnlyLayoutError,
    StateDetails,
    StateType,
    UnexpectedStateError,
    UnreadableRowError,
    new_run_id,
)
from flowstates.engine.appending import Expectation, expectations
from flowstates.engine.rows import to_states
from flowstates.values import EARLIEST, LATEST, to_uuid

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parent.parent
RUN = UUID("0d7f9b52-5b0e-4c0e-8f2b-6a1e3f0c9a11")
INDIA = timezone(timedelta(hours=5, minutes=30))
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

DETAILS: dict[str, tuple[Any, Any]] = {  # field: default, another value as JSON has it
    "flow_run_id": (None, str(RUN)),
    "task_run_id": (None, str(RUN)),
    "child_flow_run_id": (None, str(RUN)),
    "scheduled_time": (None, "2024-03-05T12:00:00.000001Z"),
    "cache_key": (None, "ключ"),
    "cache_expiration": (None, "9999-12-31T23:59:59.999999Z"),
    "deferred": (False, True),
    "untrackable_result": (False, True),
    "pause_timeout": (None, "0001-01-01T00:00:00Z"),
    "pause_reschedule": (False, True),
    "pause_key": (None, "1"),
    "run_input_keyset": (None, {"keyset": "a", "": ""}),
    "refresh_cache": (None, False),
    "retriable": (None, True),
    "transition_id": (None, str(RUN)),
    "task_parameters_id": (None, str(RUN)),
    "traceparent": (None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "deployment_concurrency_lease_id": (None, str(RUN)),
}


def make_state(**changes: Any) -> FlowRunState:
    values = {
        "id": UUID(int=1), "created": NOON, "updated": NOON, "flow_run_id": RUN, "type": "RUNNING", "timestamp": NOON, "name": "Läuft",
        "message": None, "state_details": {"cache_key": "k", "from_tomorrow": [1]}, "data": {"a": [1.5, None, "☃"]}, "result_artifact_id": None,
    }  # fmt: skip
    return FlowRunState(**values | changes)


def new(**given: Any) -> NewFlowRunState:
    values: dict[str, Any] = {"flow_run_id": RUN, "type": "RUNNING"}
    return NewFlowRunState(**values | given)


def nested(levels: int, *, of: type[list[Any]] | type[dict[str, Any]] = list) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if of is list else {"a": value}
    return value


def test_the_types_are_nine_and_four_of_them_are_terminal() -> None:
    assert list(StateType) == ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"]
    assert {type_ for type_ in StateType if type_.is_terminal} == {"COMPLETED", "CANCELLED", "FAILED", "CRASHED"}
    assert f"{StateType.RUNNING}" == "RUNNING"


def test_details_have_eighteen_fields_in_order_with_their_defaults() -> None:
    assert len(DETAILS) == 18
    assert list(StateDetails.model_fields) == list(DETAILS)
    assert StateDetails().model_dump(mode="json") == {field: default for field, (default, _) in DETAILS.items()}


@pytest.mark.parametrize("field", DETAILS)
def test_a_detail_is_read_shown_and_stored_as_it_is(field: str) -> None:
    value = DETAILS[field][1]
    details = StateDetails.model_validate({field: value})
    assert details == StateDetails.model_validate_json(json.dumps({field: value}))
    assert details != StateDetails()
    assert details.model_dump(mode="json")[field] == value
    assert json.loads(new(state_details=details).as_parameters()[6] or "") == {field: value}


@pytest.mark.parametrize("key", ["from_tomorrow", "", "_private", "__class__", "__dict__", "model_dump", "model_extra", "self", "ключ"])
def test_a_key_of_the_details_that_is_not_known_is_kept(key: str) -> None:
    details = StateDetails.model_validate({key: {"a": [1, None]}})
    assert details.model_extra == {key: {"a": [1, None]}}
    assert details.model_dump(mode="json")[key] == {"a": [1, None]}
    assert json.loads(new(state_details=details).as_parameters()[6] or "") == {key: {"a": [1, None]}}
    assert details not in (StateDetails(), StateDetails.model_validate({key: 2}))
    assert pickle.loads(pickle.dumps(details)) == copy.deepcopy(details) == details


def test_details_with_no_default_of_their_own_take_none_where_none_is_stored() -> None:
    assert json.loads(new(state_details={"deferred": None}).as_parameters()[6] or "") == {"deferred": None}
    assert StateDetails.model_validate_json('{"deferred": null}').deferred is None


def test_details_show_what_differs_from_their_defaults() -> None:
    assert repr(StateDetails(deferred=False, cache_key=None)) == repr(StateDetails()) == "StateDetails()"
    assert repr(StateDetails(deferred=None, retriable=False)) == "StateDetails(deferred=None, retriable=False)"
    assert "state_details=StateDetails(cache_key='k', from_tomorrow=[1]), data=" in repr(make_state())
    assert "state_details=StateDetails(), data=" in repr(new())


def test_records_are_frozen() -> None:
    for record, field in ((make_state(), "name"), (StateDetails(), "cache_key"), (new(), "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, field, "other")
        with pytest.raises(ValidationError, match="frozen"):
            delattr(record, field)


@pytest.mark.parametrize("field", FlowRunState.model_fields)
def test_states_are_equal_when_all_fields_are_and_hash_by_id(field: str) -> None:
    others: dict[str, Any] = {
        "id": UUID(int=2), "flow_run_id": UUID(int=2), "type": "FAILED", "name": "x", "message": "", "state_details": {"cache_key": "k"},
        "data": None, "result_artifact_id": UUID(int=2),
    }  # fmt: skip
    state, other = make_state(), make_state(**{field: others.get(field, NOON + MICROSECOND)})
    assert state == make_state()
    assert state != other
    assert hash(state) == hash(state.id) == hash(make_state())
    assert (hash(state) == hash(other)) is (field != "id")
    assert len({state, make_state(), other}) == 2


def test_a_state_survives_pickle_copy_and_its_own_dump() -> None:
    state = make_state(timestamp=NOON.astimezone(INDIA), data=nested(199))  # and one level for the state itself
    for other in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state), state.model_copy()):
        assert (other, hash(other)) == (state, hash(state))
    shown = state.model_dump(mode="json")
    assert list(shown) == list(FlowRunState.model_fields)
    assert FlowRunState.model_validate(json.loads(json.dumps(shown))) == state
    assert FlowRunState.model_validate_json(state.model_dump_json()) == state
    assert FlowRunState.model_validate(shown).model_dump(mode="json") == shown


def test_times_are_plain_and_in_utc_whatever_they_came_as() -> None:
    class OtherDatetime(datetime):
        pass

    other = OtherDatetime(2024, 3, 5, 12, tzinfo=UTC)
    state = make_state(created=NOON.astimezone(INDIA), updated="2024-03-05T17:30:00+05:30", timestamp=other, state_details={"scheduled_time": other})
    for moment in (state.created, state.updated, state.timestamp, state.state_details.scheduled_time):
        assert moment == NOON
        assert moment.tzinfo is UTC
        assert type(moment) is datetime


@pytest.mark.parametrize("field", ["created", "updated", "timestamp"])
def test_a_state_has_no_naive_time(field: str) -> None:
    with pytest.raises(ValidationError):
        make_state(**{field: NOON.replace(tzinfo=None)})


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (NOON, "2024-03-05T12:00:00Z"),
        (NOON + MICROSECOND, "2024-03-05T12:00:00.000001Z"),
        (NOON + timedelta(milliseconds=100), "2024-03-05T12:00:00.100000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_the_rest_shape_has_seven_keys_in_order_and_times_with_z(time: datetime, text: str) -> None:
    state = make_state(timestamp=time, state_details={"scheduled_time": time})
    rest = state.to_rest()
    assert list(rest) == ["id", "type", "name", "timestamp", "message", "data", "state_details"]
    assert rest["timestamp"] == rest["state_details"]["scheduled_time"] == text
    assert list(rest["state_details"]) == list(DETAILS)
    assert json.loads(json.dumps(rest)) == rest
    assert (rest["id"], rest["type"], rest["data"]) == (str(state.id), "RUNNING", state.data)


@pytest.mark.parametrize("text", ["[" * 300 + "]" * 300, r'{"\ud800": "\udfff"}'])
def test_the_rest_shape_has_data_that_pydantic_does_not_go_through(text: str) -> None:
    state = make_state(data=json.loads(text))
    rest = state.to_rest()
    assert list(rest) == ["id", "type", "name", "timestamp", "message", "data", "state_details"]
    assert rest["data"] == state.data
    assert rest["data"] is not state.data
    assert json.loads(json.dumps(rest)) == rest


@pytest.mark.parametrize("type_", StateType)
def test_what_a_new_state_leaves_out_is_resolved(type_: StateType) -> None:
    state = new(type=type_.value, name=None, id=None, state_details=None)
    assert state == new(type=type_, id=state.id)
    assert state.type is type_
    assert state.name == type_.value.capitalize()
    assert state.id.version == 7
    assert state.id != new().id
    assert (state.timestamp, state.message, state.data, state.result_artifact_id) == (None, None, None, None)
    assert (state.state_details, state.as_parameters()[6], state.as_parameters()[7]) == (StateDetails(), "{}", None)


IDS = [
    "",
    "no uuid",
    f"{RUN} ",
    f"{{{RUN.hex}}}",
    f"urn:uuid:{RUN.hex}",
    f"{{{RUN}",
    f"{RUN.hex}}}",
    f"{RUN}}}",
    f"{RUN.hex[:8]}-{RUN.hex[8:]}",
    str(RUN).replace("-", "", 1),
    f"urn:uu\u0131d:{RUN}",
    str(RUN)[:-1],
    "1_2_3_4_5_6_7_8_9_0_1_2_3_4_5_67",
    f"+{RUN.hex[1:]}",
    "\0",
    "\ud800",
    5,
    10**5000,
    True,
    b"0" * 16,
    [RUN],
]


@pytest.mark.parametrize("text", [str(RUN), str(RUN).upper(), f"{{{RUN}}}", RUN.hex, RUN.urn])
def test_an_id_is_a_uuid_or_its_text(text: str) -> None:
    state = new(flow_run_id=text, id=text, result_artifact_id=text, state_details={"flow_run_id": text})
    assert (state.flow_run_id, state.id, state.result_artifact_id, state.state_details.flow_run_id) == (RUN, RUN, RUN, RUN)
    filter = FlowRunStateFilter(flow_run_ids=[text], ids=[text])
    assert (filter.flow_run_ids, filter.ids, to_uuid(text), Expectation.of(text).id) == ((RUN,), (RUN,), RUN, RUN)


@pytest.mark.parametrize("text", [pytest.param(text, id=str(number)) for number, text in enumerate(IDS)])
def test_what_is_no_id_is_none_anywhere(text: Any) -> None:
    for refuse in (
        lambda: new(state_details={"flow_run_id": text}),
        lambda: FlowRunStateFilter(flow_run_ids=[text]),
        lambda: FlowRunStateFilter(ids=[text]),
        lambda: to_uuid(text),
    ):
        with pytest.raises(ValueError, match="is not a UUID or its text"):
            refuse()
    with pytest.raises(InvalidInputError, match=r"^expected: "):
        Expectation.of(text)


@pytest.mark.parametrize("type_", [b"RUNNING", bytearray(b"RUNNING"), memoryview(b"RUNNING")])
def test_bytes_are_no_type(type_: Any) -> None:
    transitions: dict[StateType | None, list[Any]] = {None: [type_]}
    for refuse in (
        lambda: new(type=type_),
        lambda: FlowRunStateFilter(types=[type_]),
        lambda: Expectation.of([type_]),
        lambda: expectations(transitions),
    ):
        with pytest.raises(InvalidInputError):
            refuse()


@pytest.mark.parametrize("time", [1700000000, 1700000000.5, "1700000000", True, b"2024-01-01T00:00:00Z"])
@pytest.mark.parametrize("field", ["scheduled_time", "cache_expiration", "pause_timeout"])
def test_what_is_no_time_in_details_is_refused_and_read_where_it_is_stored(field: str, time: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"^state_details: {field}: .* is not a time"):
        new(state_details={field: time})
    with pytest.raises(ValueError, match="is not a time"):
        StateDetails(**{field: time})
    if not isinstance(time, bool | bytes):
        for other in ({}, {"cache_key": ","}, {"pause_timeout" if field != "pause_timeout" else "scheduled_time": "2024-01-01T00:00:00"}):
            moment = json.dumps(NOON.replace(tzinfo=None).isoformat())
            text = json.dumps({field: time, **other})
            (state,) = to_states([(str(RUN), moment, None, str(RUN), "RUNNING", moment, "Running", None, text, None, None)])
            assert getattr(state.state_details, field) == datetime.fromtimestamp(float(time), UTC)


TEXTS = ["nul \0", "\ud800", "\udfff tail", b"bytes", 5, True]


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-05T02:30:00+05:30",
        "2024-03-05T02:30:00.000001-11:00",
        "0001-01-01T00:00:00+05:30",
        "9999-12-31T23:59:59-00:30",
        "2024-03-05T02:30:00Z",
    ],
)
def test_times_in_details_keep_their_offset(text: str) -> None:
    state = make_state(timestamp=NOON, state_details={"scheduled_time": text})
    assert state.to_rest()["state_details"]["scheduled_time"] == text
    assert state.state_details.scheduled_time == datetime.fromisoformat(text)
    new = NewFlowRunState(flow_run_id=RUN, type="RUNNING", state_details={"scheduled_time": datetime.fromisoformat(text)})
    assert json.loads(new.as_parameters()[6] or "") == {"scheduled_time": text}


def test_a_time_in_details_is_equal_to_the_same_instant_elsewhere() -> None:
    here, there = StateDetails(scheduled_time=NOON), StateDetails(scheduled_time=NOON.astimezone(INDIA))
    assert here == there
    assert here.model_dump_json(exclude_none=True) != there.model_dump_json(exclude_none=True)
    # Berlin in 1880: an offset with seconds, which JSON has no form for.
    odd = StateDetails(scheduled_time=datetime(1880, 1, 1, tzinfo=timezone(timedelta(seconds=3208))))
    assert odd.scheduled_time is not None
    assert odd.scheduled_time.tzinfo is UTC


CHANGES: list[tuple[str, Any]] = [
    ("state_details", StateDetails().model_copy(update={"retriable": "maybe"})),
    ("state_details", StateDetails().model_copy(update={"scheduled_time": datetime(2024, 1, 1)})),
    ("state_details", StateDetails.model_construct(deferred=[])),  # type: ignore[arg-type]
    ("state_details", StateDetails().model_copy(update={"cache_key": "\0"})),
    ("message", "\0"),
    ("message", 5),
    ("name", ""),
    ("id", "x\ty\n"),
    ("flow_run_id", 5),
    ("type", "RUNING"),
    ("timestamp", datetime(2024, 1, 1)),
    ("data", {1: 2}),
    ("unknown", 1),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_what_was_changed_past_its_checks_is_checked_again(field: str, value: Any) -> None:
    changed = new().model_copy(update={field: value})
    with pytest.raises(InvalidInputError) as caught:
        changed.checked()
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_what_was_set_past_the_checks_is_checked_again(field: str, value: Any) -> None:
    changed = new()
    object.__setattr__(changed, field, value)
    with pytest.raises(InvalidInputError) as caught:
        changed.checked()
    assert caught.value.field == field


class Thawed(NewFlowRunState, frozen=False):
    pass


def test_a_good_value_that_was_set_afterwards_is_taken() -> None:
    thawed = Thawed(flow_run_id=RUN, type="RUNNING", data=1)
    for field, value in (("message", "b"), ("data", True), ("data", 1.0), ("timestamp", NOON.astimezone(INDIA))):
        assert thawed.checked() is thawed or field != "message"
        setattr(thawed, field, value)
        again = thawed.checked()
        assert repr(getattr(again, field)) == repr(value.astimezone(UTC) if isinstance(value, datetime) else value)
        assert again.as_parameters()[7] == json.dumps(thawed.data)
    del thawed.__dict__["message"]
    assert thawed.checked().message is None


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (FlowRunStateFilter(types=["RUNNING"]), "since", datetime(2024, 1, 1)),
        (FlowRunStateFilter(), "since", "soon"),
        (FlowRunStateFilter(), "types", 5),
        (FlowRunStateFilter(current=True), "current", 1),
        (Keep(newest=1), "newest", True),
        (Keep(), "types", "RUNNING"),
    ],
)
def test_a_filter_and_a_policy_that_were_changed_are_checked_again(given: FlowRunStateFilter | Keep, field: str, value: Any) -> None:
    assert given.checked() is given
    object.__setattr__(given, field, value)
    with pytest.raises(InvalidInputError, match=f"^{field}"):
        given.checked()


def test_what_was_never_checked_is_checked_and_a_good_change_is_taken() -> None:
    with pytest.raises(InvalidInputError, match=r"^flow_run_id: "):
        NewFlowRunState.model_construct(type=StateType.RUNNING).checked()  # type: ignore[call-arg]
    good = new(message="a")
    assert good.checked() is good
    changed = good.model_copy(update={"message": "b", "flow_run_id": str(RUN)}).checked()
    assert (changed.message, changed.as_parameters()[5], changed.flow_run_id) == ("b", "b", RUN)
    assert new().model_copy(update={"name": None}).checked().name == "Running"
    assert (copy.deepcopy(good).checked(), pickle.loads(pickle.dumps(good)).checked()) == (good, good)
    with pytest.raises(InvalidInputError, match=r"^types"):
        FlowRunStateFilter(types=["RUNNING"]).model_copy(update={"types": ("x",)}).checked()


class OtherDefaults(StateDetails):
    cache_key: str | None = "k"
    retriable: bool | None = True


class MoreFields(StateDetails):
    tenant: str = "A"


def forced(details: StateDetails, field: str, value: Any) -> StateDetails:
    object.__setattr__(details, field, value)
    return details


def with_extra(details: StateDetails, **extra: Any) -> StateDetails:
    assert details.model_extra is not None
    details.model_extra.update(extra)
    return details


@pytest.mark.parametrize(
    ("details", "stored"),
    [
        (OtherDefaults(), {"cache_key": "k", "retriable": True}),
        (OtherDefaults(cache_key=None), {"retriable": True}),
        (MoreFields(), {"tenant": "A"}),
        (StateDetails.model_construct(_fields_set=set(), cache_key="k"), {"cache_key": "k"}),
        (StateDetails.model_construct(_fields_set=set(), tenant="A"), {"tenant": "A"}),
        (forced(StateDetails(), "cache_key", "k"), {"cache_key": "k"}),
        (forced(StateDetails(), "deferred", None), {"deferred": None}),
        (with_extra(StateDetails(), tenant=0), {"tenant": 0}),
        (StateDetails(deferred=False), {}),
        (StateDetails(), {}),
    ],
)
def test_details_are_stored_by_their_values(details: StateDetails, stored: dict[str, Any]) -> None:
    assert json.loads(new(state_details=details).as_parameters()[6] or "") == stored


@pytest.mark.parametrize(
    "details",
    [forced(StateDetails(), "cache_key", "\0"), forced(StateDetails(), "retriable", "maybe"), with_extra(StateDetails(), tenant=object())],
)
def test_details_that_were_changed_past_their_checks_are_refused(details: StateDetails) -> None:
    with pytest.raises(InvalidInputError, match=r"^state_details: "):
        new(state_details=details)


def test_what_is_changed_inside_afterwards_is_not_sent() -> None:
    data, keyset = {"a": [1]}, {"k": "v"}
    state = new(data=data, state_details={"run_input_keyset": keyset})
    data["a"].append(float("nan"))  # type: ignore[arg-type]
    state.data["b"] = object()
    assert state.state_details.run_input_keyset is not None
    state.state_details.run_input_keyset["k"] = "\0"
    assert [json.loads(text or "") for text in state.as_parameters()[6:8]] == [{"run_input_keyset": {"k": "v"}}, {"a": [1]}]


@pytest.mark.parametrize("field", ["message", "data", "name", "state_details"])
def test_what_jsonb_and_a_message_of_the_protocol_cannot_hold_is_refused(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstates.records._MOST_BYTES", 1_000)
    long = "é" * 500
    with pytest.raises(InvalidInputError, match=f"^{field}: takes more than 1,000 bytes"):
        new(**{field: {"x": long} if field == "state_details" else long + "x"})


TIMES = [
    datetime(2024, 1, 1), datetime.max, datetime.min, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), LATEST,
    EARLIEST - MICROSECOND, datetime.min.replace(tzinfo=INDIA), datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), date(2024, 1, 1),
    "2024-01-01T00:00:00", "2024-01-01T00:00:00+05:70", "2024-01-01T00:00:00-0560", "20240101T0000+05:30:60", "soon", 1700000000, 1.5, True,
]  # fmt: skip
VALUES = [
    float("nan"), float("inf"), -float("inf"), "\0", "\ud800", {"\0": 1}, {"\ud800": 1}, {1: 2}, {None: 1}, {10**5000: 1}, (1,), {1}, b"", object(),
    NOON, RUN, 1j, 10**4000, -(10**4000), nested(201), nested(201, of=dict),
]  # fmt: skip
KEYSETS: list[Any] = [{"a": "\0"}, {"\ud800": "a"}, {"a": 1}, []]
LOOP: list[Any] = []
LOOP.append(LOOP)


def refused() -> list[tuple[str, Any]]:
    table: list[tuple[str, Any]] = [(field, value) for field in ("name", "message") for value in TEXTS]
    table += [(field, value) for field in ("flow_run_id", "id", "result_artifact_id") for value in IDS]
    table += [("timestamp", value) for value in TIMES]
    table += [("data", value) for value in VALUES] + [("data", [{"a": value}]) for value in VALUES] + [("data", LOOP)]
    table += [("state_details", {"unknown": value}) for value in VALUES] + [("state_details", value) for value in ([], "{}", 5, LOOP)]
    table += [("state_details", {key: 1}) for key in ("\0", "\ud800", 1)]
    table += [("state_details", {field: value}) for field in ("cache_key", "pause_key", "traceparent") for value in ("\0", "\ud800", 5)]
    table += [("state_details", {"run_input_keyset": value}) for value in KEYSETS]
    table += [("state_details", {"scheduled_time": value}) for value in (datetime.max, "2024-01-01T00:00:00")]
    table += [("state_details", {"deferred": []}), ("state_details", {"flow_run_id": "x"}), ("state_details", {"untrackable_result": None})]
    table += [("state_details", StateDetails.model_validate({"unknown": float("nan")})), ("state_details", StateDetails(cache_key="\0"))]
    table += [("state_details", {field: value}) for field in ("flow_run_id", "transition_id") for value in (b"0" * 16, RUN.hex.encode(), 5)]
    table += [("state_details", {field: b"x"}) for field in ("cache_key", "retriable", "run_input_keyset")]
    table += [("state_details", {"run_input_keyset": {key: value}}) for key, value in ((b"x", "x"), ("x", b"x"))]
    table += [("type", value) for value in (None, b"RUNNING", "running", "Running", "", "UNKNOWN", 5)] + [
        ("name", ""),
        ("flow_run_id", None),
        ("unknown", 1),
    ]
    return table


@pytest.mark.parametrize(("field", "value"), [pytest.param(*case, id=f"{number}-{case[0]}") for number, case in enumerate(refused())])
def test_what_cannot_be_stored_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        new(**{field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert isinstance(caught.value, ValueError)
    str(caught.value).encode()


def test_what_is_missing_is_refused_by_name() -> None:
    given: dict[str, Any] = {"flow_run_id": RUN, "type": "RUNNING"}
    for field in given:
        with pytest.raises(InvalidInputError) as caught:
            NewFlowRunState(**{key: value for key, value in given.items() if key != field})
        assert caught.value.field == field


@pytest.mark.parametrize(
    "time",
    [
        EARLIEST,
        LATEST - MICROSECOND,
        EARLIEST.astimezone(INDIA),
        (LATEST - MICROSECOND).astimezone(INDIA),
        NOON.isoformat(),
        "2024-03-05T12:00:00+05:59",
        "20240305T120059-0530",
        "2024-03-05T12:00:00.75+05:30:59.75",
        "2024-W10-2T12:00Z",
    ],
)
def test_times_up_to_the_limits_are_taken(time: datetime | str) -> None:
    taken = new(timestamp=time).timestamp
    assert taken == (datetime.fromisoformat(time) if isinstance(time, str) else time)
    assert taken is not None
    assert taken.tzinfo is UTC


@pytest.mark.parametrize(
    "value", [nested(200), nested(200, of=dict), 10**4000 - 1, 1 - 10**4000, 0, 0.0, "", False, [], {}], ids=lambda value: type(value).__name__
)
def test_data_up_to_the_limits_and_falsy_data_are_taken(value: Any) -> None:
    assert json.loads(new(data=value).as_parameters()[7] or "none") == value
    inside = value[0] if value == nested(200) else value["a"] if value == nested(200, of=dict) else value
    assert StateDetails.model_validate_json(new(state_details={"x": inside}).as_parameters()[6] or "").model_extra == {"x": inside}


def test_checking_numbers_costs_about_as_much_as_checking_texts() -> None:
    # A power of ten with 4,000 digits for each number would hold the event loop for half a second here.
    def seconds(data: Any) -> float:
        start = time.perf_counter()
        new(data=data)
        return time.perf_counter() - start

    assert min(seconds(list(range(5000))) for _ in range(3)) < 10 * min(seconds(["text"] * 5000) for _ in range(3))


@pytest.mark.parametrize(
    "error",
    [
        FlowStatesError("text"),
        InvalidInputError("name", "is empty"),
        UnreadableRowError(RUN, "data", "is odd"),
        UnreadableRowError(None, "data", "is odd"),
        UnexpectedStateError(make_state(), RUN, "PENDING"),
        UnexpectedStateError(None, RUN, "state x"),
        FlowRunStateConflictError(make_state()),
        ContentionError("text"),
        ReadOnlyLayoutError("text"),
        MigrationError("text"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickle_and_copy(error: FlowStatesError) -> None:
    error.add_note("a note")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert vars(other) == vars(error)
        assert (other.args, str(other)) == (error.args, str(error))
    assert isinstance(error, FlowStatesError)


FORKING = """
import os
from flowstates import NewFlowRunState

def ids():
    return [str(NewFlowRunState(flow_run_id="0d7f9b52-5b0e-4c0e-8f2b-6a1e3f0c9a11", type="RUNNING").id) for _ in range(100)]

ids()  # the generator has begun before the workers do
for _ in range(8):
    if os.fork() == 0:
        os.write(1, "".join(id + "\\n" for id in ids()).encode())
        os._exit(0)
    os.wait()
print(*ids(), sep="\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_forked_workers_make_ids_of_their_own() -> None:
    """Servers fork their workers after the application was imported. Ids of one millisecond differ by their random part alone."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    made = [UUID(line) for line in done.stdout.splitlines()]
    assert len(made) == 900
    assert len({id_.int & (1 << 62) - 1 for id_ in made}) == 900


def test_ids_of_runs_rise_with_time() -> None:
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert ids == sorted(ids, key=lambda made: made.int >> 80)
    assert {id.version for id in ids} == {7}
    assert {type(id) for id in ids} == {UUID}
