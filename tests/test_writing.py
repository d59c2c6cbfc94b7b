"""Creates with an expectation, by the same id, in batches, and deletes of many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import ANY
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    ContentionError,
    CreateOutcome,
    FlowRunStateConflictError,
    FlowRunStateRepository,
    InvalidInputError,
    NewFlowRunState,
    StateType,
    UnexpectedStateError,
    create_pool,
)
from tests.conftest import Pool

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))
MICROSECOND = timedelta(microseconds=1)
PENDING, RUNNING, COMPLETED = StateType.PENDING, StateType.RUNNING, StateType.COMPLETED


async def length(pool: Pool, run: UUID) -> int:
    """How many states a run has, whose row points at the newest."""
    history = await FlowRunStateRepository(pool).read_flow_run_states(run)
    row = await pool.fetchrow("select state_id, state_type, state_name, state_timestamp from flow_run where id = $1", run)
    assert (row and tuple(row)) == ((history and (history[-1].id, history[-1].type, history[-1].name, history[-1].timestamp)) or None)
    return len(history)


def new(run: UUID, **values: Any) -> NewFlowRunState:
    given: dict[str, Any] = {"flow_run_id": run, "type": RUNNING, "timestamp": NOON}
    return NewFlowRunState(**given | values)


async def test_expecting_an_id(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    first = await states.create_flow_run_state(run, PENDING, expected=None)
    second = await states.create_flow_run_state(run, RUNNING, expected=first.id)
    for expected in (first.id, str(first.id), None, uuid4(), {PENDING}, [PENDING, COMPLETED]):
        with pytest.raises(UnexpectedStateError) as caught:
            await states.create_flow_run_state(run, COMPLETED, expected=expected)
        assert caught.value.current == second
    assert (await states.create_flow_run_state(run, COMPLETED, expected={PENDING, RUNNING})).type is COMPLETED


async def test_expecting_something_of_a_run_without_history(pool: Pool) -> None:
    for expected in (uuid4(), {RUNNING}):
        with pytest.raises(UnexpectedStateError) as caught:
            await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), RUNNING, expected=expected)
        assert caught.value.current is None


async def test_after_a_delete_the_state_before_is_current_again(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    first = await states.create_flow_run_state(run, PENDING)
    second = await states.create_flow_run_state(run, RUNNING, expected=first.id)
    await states.delete_flow_run_state(second.id)
    await states.create_flow_run_state(run, COMPLETED, expected=first.id)


@pytest.mark.parametrize("expected", [5, "x", set(), {"x"}, PENDING, [None], b"1"])
async def test_an_expectation_that_is_none_is_refused(pool: Pool, expected: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), RUNNING, expected=expected)
    assert caught.value.field == "expected"


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_of_many_that_expect_the_same_one_wins(dsn: str, isolation: str) -> None:
    run = uuid4()
    async with create_pool(dsn, max_size=16, server_settings={"default_transaction_isolation": isolation}) as pool:
        states = FlowRunStateRepository(pool)
        expected = None
        for _ in range(8):
            tries = [states.create_flow_run_state(run, RUNNING, expected=expected) for _ in range(16)]
            done = await asyncio.gather(*tries, return_exceptions=True)
            (winner,) = [state for state in done if not isinstance(state, BaseException)]
            assert all(isinstance(lost, UnexpectedStateError) and lost.current == winner for lost in done if lost is not winner)
            expected = winner.id
        assert await length(pool, run) == 8


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_many_writers_at_one_timestamp_all_succeed(dsn: str, isolation: str) -> None:
    run = uuid4()
    async with create_pool(dsn, max_size=16, server_settings={"default_transaction_isolation": isolation}) as pool:
        states = FlowRunStateRepository(pool)
        await asyncio.gather(*[states.create_flow_run_state(run, RUNNING, timestamp=NOON) for _ in range(200)])
        history = await states.read_flow_run_states(run)
        assert [state.timestamp for state in history] == [NOON + number * MICROSECOND for number in range(200)]
        assert await length(pool, run) == 200


async def test_with_types_each_is_judged_at_its_turn(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    await states.create_flow_run_state(run, RUNNING)
    done = await asyncio.gather(*[states.create_flow_run_state(run, RUNNING, expected={RUNNING}) for _ in range(20)])
    assert len({state.id for state in done}) == 20


async def test_the_same_id_with_the_same_content_returns_what_is_stored(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    first = await states.create_flow_run_state(run, PENDING)
    content: dict[str, Any] = {"id": uuid4(), "message": "m", "data": {"a": [1, None], "b": 1e23}, "state_details": {"cache_key": "k"}}
    stored = await states.create_flow_run_state(run, RUNNING, expected=first.id, **content)
    await states.create_flow_run_state(run, COMPLETED, expected=stored.id)
    for same in (
        content,
        content | {"data": {"b": 10**23, "a": [1.0, None]}},
        content | {"name": "Running", "timestamp": stored.timestamp},
    ):
        assert await states.create_flow_run_state(run, RUNNING, expected=first.id, **same) == stored
    assert len(await states.read_flow_run_states(run)) == 3


async def test_a_repeat_with_the_time_that_was_moved_passes_and_one_with_another_time_does_not(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    await states.create_flow_run_state(run, PENDING, timestamp=NOON)
    moved = await states.create_flow_run_state(run, RUNNING, id=uuid4(), timestamp=NOON - MICROSECOND)
    assert moved.timestamp == NOON + MICROSECOND
    for asked in (NOON - MICROSECOND, NOON, NOON + MICROSECOND, None):
        assert await states.create_flow_run_state(run, RUNNING, id=moved.id, timestamp=asked) == moved
    with pytest.raises(FlowRunStateConflictError):
        await states.create_flow_run_state(run, RUNNING, id=moved.id, timestamp=NOON + 2 * MICROSECOND)
    later = await states.create_flow_run_state(run, COMPLETED, id=uuid4(), timestamp=NOON + timedelta(hours=1))
    with pytest.raises(FlowRunStateConflictError):
        await states.create_flow_run_state(run, COMPLETED, id=later.id, timestamp=NOON)
    again = [new(run, id=moved.id), new(run, id=later.id, type=COMPLETED), new(run, id=later.id, type=COMPLETED, timestamp=None)]
    assert [outcome.status for outcome in await states.create_flow_run_states(again)] == ["present", "refused", "present"]


@pytest.mark.parametrize(
    "other",
    [{"message": None}, {"name": "Other"}, {"data": {"a": True}}, {"data": None}, {"state_details": None}, {"result_artifact_id": uuid4()},
     {"timestamp": datetime(2100, 1, 1, tzinfo=UTC)}, {"type": COMPLETED}, {"flow_run_id": uuid4()}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
async def test_the_same_id_with_other_content_is_a_conflict(pool: Pool, other: dict[str, Any]) -> None:
    states = FlowRunStateRepository(pool)
    content: dict[str, Any] = {
        "flow_run_id": uuid4(), "type": RUNNING, "id": uuid4(), "message": "m", "data": {"a": 1}, "state_details": {"cache_key": "k"},
    }  # fmt: skip
    stored = await states.create_flow_run_state(**content)
    with pytest.raises(FlowRunStateConflictError) as caught:
        await states.create_flow_run_state(**content | other)
    assert caught.value.stored == stored


async def test_a_deleted_state_may_be_created_again(pool: Pool) -> None:
    states, run, id_ = FlowRunStateRepository(pool), uuid4(), uuid4()
    await states.create_flow_run_state(run, RUNNING, id=id_)
    await states.delete_flow_run_state(id_)
    assert (await states.create_flow_run_state(run, COMPLETED, id=id_)).type is COMPLETED


async def test_the_same_id_many_times_at_once_is_stored_once(pool: Pool) -> None:
    states, run, id_ = FlowRunStateRepository(pool), uuid4(), uuid4()
    done = await asyncio.gather(*[states.create_flow_run_state(run, RUNNING, id=id_, expected=None) for _ in range(20)])
    assert [state.id for state in await states.read_flow_run_states(run)] == [id_]
    assert done == [done[0]] * 20


async def test_a_write_that_succeeds_is_one_statement(pool: Pool) -> None:
    queries: list[str] = []
    async with pool.acquire() as connection:
        with connection.query_logger(lambda record: queries.append(record.query)):
            states, run = FlowRunStateRepository(connection), uuid4()
            state = await states.create_flow_run_state(run, RUNNING)
            await asyncio.sleep(0)
            assert len(queries) == 1
            await states.create_flow_run_state(run, RUNNING, id=state.id)
            await asyncio.sleep(0)
            assert len(queries) == 3


async def test_in_the_callers_transaction_a_serialization_failure_passes_through(dsn: str) -> None:
    run = uuid4()
    async with create_pool(dsn, max_size=3) as pool:
        states = FlowRunStateRepository(pool)
        await states.create_flow_run_state(run, PENDING)
        async with pool.acquire() as connection:
            with pytest.raises(asyncpg.SerializationError):  # noqa: PT012 (the error may leave at any of the lines)
                async with connection.transaction(isolation="repeatable_read"):
                    await FlowRunStateRepository(connection).read_flow_run_states(run)
                    await states.create_flow_run_state(run, RUNNING)
                    await FlowRunStateRepository(connection).create_flow_run_state(run, COMPLETED)
        assert [state.type for state in await states.read_flow_run_states(run)] == [PENDING, RUNNING]


async def test_a_savepoint_undoes_a_create_and_the_rest_stays(pool: Pool) -> None:
    run = uuid4()
    async with pool.acquire() as connection, connection.transaction():
        states = FlowRunStateRepository(connection)
        first = await states.create_flow_run_state(run, PENDING)
        savepoint = connection.transaction()
        await savepoint.start()
        await states.create_flow_run_state(run, RUNNING, expected=first.id)
        await states.create_flow_run_states([new(run)])
        await savepoint.rollback()
        await states.create_flow_run_state(run, COMPLETED, expected=first.id)
    assert [state.type for state in await FlowRunStateRepository(pool).read_flow_run_states(run)] == [PENDING, COMPLETED]


async def test_contention_that_does_not_end_says_that_nothing_was_stored(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()

    async def lost(*_: Any, **__: Any) -> None:
        await FlowRunStateRepository(pool).create_flow_run_states([new(run, timestamp=None)])

    monkeypatch.setattr("flowstates.engine.execution.Execution.insert", lost)
    with pytest.raises(ContentionError, match="nothing was stored"):
        await states.create_flow_run_state(run, RUNNING)
    assert await length(pool, run) == 5


async def test_a_batch_keeps_timestamps_and_the_given_order_of_outcomes(pool: Pool) -> None:
    states, (one, two) = FlowRunStateRepository(pool), (uuid4(), uuid4())
    current = await states.create_flow_run_state(one, COMPLETED, timestamp=NOON + timedelta(hours=1))
    batch = [new(two), new(one, timestamp=NOON - timedelta(days=9)), new(one), new(two, timestamp=NOON - MICROSECOND), new(one, timestamp=None)]
    outcomes = await states.create_flow_run_states(batch)
    assert [outcome.id for outcome in outcomes] == [state.id for state in batch]
    assert {outcome.status for outcome in outcomes} == {"created"}
    assert [outcome.timestamp for outcome in outcomes[:4]] == [state.timestamp for state in batch[:4]]
    history = await states.read_flow_run_states(one)
    assert [state.id for state in history] == [batch[1].id, batch[2].id, current.id, batch[4].id]
    assert await length(pool, one) == 4
    assert await length(pool, two) == 2


async def test_a_tie_takes_the_first_free_microsecond(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    await states.create_flow_run_states([new(run), new(run, timestamp=NOON + 2 * MICROSECOND)])
    outcomes = await states.create_flow_run_states([new(run) for _ in range(3)])
    assert [outcome.timestamp for outcome in outcomes] == [NOON + number * MICROSECOND for number in (1, 3, 4)]
    outcomes = await states.create_flow_run_states([new(run), new(run, timestamp=NOON - MICROSECOND), new(run, timestamp=None)], on_tie="refuse")
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [
        ("refused", "its timestamp is taken in its run"), ("created", None), ("created", None),
    ]  # fmt: skip
    assert await length(pool, run) == 7


async def test_many_ties_take_time_in_proportion(pool: Pool) -> None:
    run = uuid4()
    outcomes = await FlowRunStateRepository(pool).create_flow_run_states([new(run) for _ in range(20_000)], timeout=30)
    assert [outcome.timestamp for outcome in outcomes] == [NOON + number * MICROSECOND for number in range(20_000)]


async def test_a_batch_again_is_present_and_other_content_is_refused(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    batch = [new(run, data={"a": number}, message="tab\there\\N\nnew", name="näme") for number in range(5)]
    created = await states.create_flow_run_states(batch)
    assert [state.message for state in await states.read_flow_run_states(run)] == ["tab\there\\N\nnew"] * 5
    again = await states.create_flow_run_states([*batch, new(run, id=batch[0].id), new(uuid4(), id=batch[1].id, data={"a": 1}), new(run)])
    assert again[:5] == [CreateOutcome(outcome.id, "present", outcome.timestamp) for outcome in created]
    assert [outcome.status for outcome in again[5:]] == ["refused", "refused", "created"]
    assert len(await states.read_flow_run_states(run)) == 6


async def test_the_same_id_twice_in_a_batch(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    state = new(run, data={"a": 1})
    outcomes = await states.create_flow_run_states([state, new(run, id=state.id, data={"a": 1.0}), new(run, id=state.id)])
    assert [outcome.status for outcome in outcomes] == ["created", "present", "refused"]
    assert await states.create_flow_run_states([]) == []


@pytest.mark.parametrize("others", [0, 1, 5])
async def test_the_same_id_twice_of_which_the_first_is_refused_for_its_time(pool: Pool, others: int) -> None:
    states, (run, other) = FlowRunStateRepository(pool), (uuid4(), uuid4())
    await states.create_flow_run_state(run, PENDING, timestamp=NOON)
    state = new(run)
    again = [new(other) for _ in range(others)]
    outcomes = await states.create_flow_run_states([state, *again[:1], state, *again[1:]], on_tie="refuse")
    refused = CreateOutcome(state.id, "refused", reason="its timestamp is taken in its run")
    assert [outcome for outcome in outcomes if outcome.id == state.id] == [refused, refused]
    assert [outcome.status for outcome in outcomes if outcome.id != state.id] == ["created", *["refused"] * (others - 1)][:others]
    assert (await length(pool, run), await length(pool, other)) == (1, min(others, 1))


async def test_the_second_of_an_id_is_stored_where_the_first_is_refused(pool: Pool) -> None:
    states, (run, other, none) = FlowRunStateRepository(pool), (uuid4(), uuid4(), uuid4())
    await states.create_flow_run_state(run, PENDING, timestamp=NOON)
    refused, id_ = new(run), uuid4()
    later = new(run, id=refused.id, timestamp=NOON + MICROSECOND)
    batch = [refused, later, later, new(run, id=id_), new(other, id=id_), new(none, id=id_)]
    outcomes = await states.create_flow_run_states(batch, on_tie="refuse")
    assert [outcome.status for outcome in outcomes] == ["refused", "created", "present", "refused", "created", "refused"]
    assert [await length(pool, each) for each in (run, other, none)] == [2, 1, 0]
    assert await states.create_flow_run_states(batch[1:2], on_tie="refuse") == [CreateOutcome(later.id, "present", NOON + MICROSECOND)]


@pytest.mark.parametrize("id", [UUID(int=0), UUID(int=2**128 - 1)])
async def test_any_id_can_be_a_states_or_a_runs(own_database: str, id: UUID) -> None:
    async with create_pool(own_database) as pool:
        states = FlowRunStateRepository(pool)
        for run in (id, uuid4()):
            assert await states.create_flow_run_states([new(run, id=id), new(run, timestamp=NOON - MICROSECOND)]) == [
                CreateOutcome(id, "created", NOON),
                CreateOutcome(ANY, "created", NOON - MICROSECOND),
            ]
            assert await length(pool, run) == 2
            assert await states.create_flow_run_states([new(run), new(run, id=id)]) == [ANY, CreateOutcome(id, "present", NOON)]
            assert await length(pool, run) == 3
            assert (await states.create_flow_run_states([new(uuid4(), id=id)]))[0].status == "refused"
            await states.delete_flow_run_states(flow_run_ids=[run])
            assert (await states.create_flow_run_state(run, RUNNING, id=id, expected=None)).id == id
            second = await states.create_flow_run_state(run, RUNNING, expected=id)
            await states.create_flow_run_states([new(run)])
            assert await states.delete_flow_run_states(flow_run_state_ids=[second.id]) == [second.id]
            assert await states.delete_flow_run_state(id)
            assert await length(pool, run) == 1
            await states.delete_flow_run_states(flow_run_ids=[run])
        assert await pool.fetchval("select count(*) from flow_run") == 0


async def test_an_id_of_another_run_is_refused_though_its_own_run_is_new(pool: Pool) -> None:
    states = FlowRunStateRepository(pool)
    stored = await states.create_flow_run_state(uuid4(), RUNNING)
    outcomes = await states.create_flow_run_states([new(uuid4(), id=stored.id), new(uuid4())])
    assert [outcome.status for outcome in outcomes] == ["refused", "created"]


async def test_a_batch_leaves_no_gap_for_a_writer_with_an_old_view(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    stored = [new(run) for _ in range(3)]
    await states.create_flow_run_states(stored)
    await states.create_flow_run_states([stored[0], new(run), stored[1], new(run, id=stored[2].id, data=1), new(run)])
    assert await length(pool, run) == 5


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_batches_and_creates_of_the_same_runs_at_once(dsn: str, isolation: str) -> None:
    runs = [uuid4() for _ in range(5)]
    async with create_pool(dsn, max_size=12, server_settings={"default_transaction_isolation": isolation}) as pool:
        states = FlowRunStateRepository(pool)
        batches = [states.create_flow_run_states([new(run) for run in order for _ in range(10)], timeout=60) for order in (runs, runs[::-1]) * 3]
        creates = [states.create_flow_run_state(run, RUNNING) for run in runs for _ in range(10)]
        await asyncio.gather(*batches, *creates)
        for run in runs:
            assert await length(pool, run) == 70


async def test_a_cancelled_batch_is_wholly_undone_and_the_pool_usable(dsn: str) -> None:
    run = uuid4()
    async with create_pool(dsn, max_size=1) as pool:
        states = FlowRunStateRepository(pool)
        for delay in (0.0, 0.001, 0.003, 0.01, 0.02):
            batch = [new(run) for _ in range(2000)]
            task = asyncio.create_task(states.create_flow_run_states(batch))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(await states.read_flow_run_states(run)) % 2000 == 0


@pytest.mark.parametrize("given", [[{"flow_run_id": uuid4()}], NewFlowRunState(flow_run_id=uuid4(), type=RUNNING), 5])
async def test_a_batch_of_something_else_is_refused(pool: Pool, given: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await FlowRunStateRepository(pool).create_flow_run_states(given)
    assert caught.value.field == "states"


class Thawed(NewFlowRunState, frozen=False):
    pass


@pytest.mark.parametrize("kind", [NewFlowRunState, Thawed])
async def test_what_a_batch_says_is_what_it_stores_though_states_were_changed(pool: Pool, kind: type[NewFlowRunState]) -> None:
    states, run, one = FlowRunStateRepository(pool), uuid4(), kind(flow_run_id=uuid4(), type=RUNNING)

    def given() -> Iterator[NewFlowRunState]:
        for second in range(3):
            for field, value in (("flow_run_id", run), ("id", uuid4()), ("timestamp", NOON.astimezone(INDIA) + timedelta(seconds=second))):
                object.__setattr__(one, field, value)
            yield one
        object.__setattr__(one, "id", "no uuid")

    outcomes = await states.create_flow_run_states(given())
    assert [(outcome.status, outcome.timestamp) for outcome in outcomes] == [("created", NOON + timedelta(seconds=second)) for second in range(3)]
    assert [(state.id, state.timestamp) for state in await states.read_flow_run_states(run)] == [(made.id, made.timestamp) for made in outcomes]
    with pytest.raises(InvalidInputError, match=r"^states: \[0\] id: "):
        await states.create_flow_run_states([one])


async def test_deleting_many(pool: Pool) -> None:
    states, (one, two) = FlowRunStateRepository(pool), (uuid4(), uuid4())
    made = [await states.create_flow_run_state(run, RUNNING) for run in (one, one, one, two)]
    assert await states.delete_flow_run_states(flow_run_state_ids=[made[0].id, str(made[1].id), uuid4()]) in (
        [made[0].id, made[1].id], [made[1].id, made[0].id],
    )  # fmt: skip
    assert set(await states.delete_flow_run_states(flow_run_ids={one, two, uuid4()})) == {made[2].id, made[3].id}
    assert await states.delete_flow_run_states(flow_run_ids=[]) == await states.delete_flow_run_states(flow_run_state_ids=[]) == []


@pytest.mark.parametrize(
    ("given", "field"),
    [({}, "flow_run_state_ids"), ({"flow_run_ids": [], "flow_run_state_ids": []}, "flow_run_state_ids"), ({"flow_run_ids": ["x"]}, "flow_run_ids"),
     ({"flow_run_state_ids": str(uuid4())}, "flow_run_state_ids"), ({"flow_run_ids": 5}, "flow_run_ids")],
)  # fmt: skip
async def test_deleting_many_of_what_is_unclear_is_refused(pool: Pool, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await FlowRunStateRepository(pool).delete_flow_run_states(**given)
    assert caught.value.field == field


async def test_transitions_say_what_a_create_expects(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool, transitions={None: [PENDING], PENDING: [RUNNING], RUNNING: [PENDING, COMPLETED]}), uuid4()
    with pytest.raises(UnexpectedStateError) as caught:
        await states.create_flow_run_state(run, RUNNING)
    assert caught.value.current is None
    first = await states.create_flow_run_state(run, PENDING)
    for type_ in (PENDING, COMPLETED):
        with pytest.raises(UnexpectedStateError) as caught:
            await states.create_flow_run_state(run, type_)
        assert caught.value.current == first
    with pytest.raises(InvalidInputError, match="type: FAILED follows nothing"):
        await states.create_flow_run_state(run, StateType.FAILED)
    await states.create_flow_run_state(run, RUNNING)
    await states.create_flow_run_state(run, StateType.FAILED, expected={RUNNING})  # what is said goes before what is given for all
    assert await length(pool, run) == 3


@pytest.mark.parametrize("transitions", [{"x": []}, {None: ["x"]}, {PENDING: "RUNNING"}, {PENDING: 5}, [PENDING], 5])
async def test_transitions_that_are_none_are_refused(pool: Pool, transitions: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateRepository(pool, transitions=transitions)
    assert caught.value.field == "transitions"
