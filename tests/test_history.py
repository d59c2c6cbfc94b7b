"""The checker finds what is planted, passes what is right, and finds the fork that an append without its locks makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstates import FlowRunState, FlowRunStateRepository, StateDetails, StateType, create_pool, migrate
from flowstates.engine import queries
from flowstates.engine.queries import Layout
from tests.conftest import Pool
from tests.faults import ISOLATION
from tests.history import Call, Create, Delete, Stored, check
from tests.writers import KINDS, Step, Writers, random_steps

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
PENDING, RUNNING, COMPLETED = StateType.PENDING, StateType.RUNNING, StateType.COMPLETED


class Made:
    """A history by hand: creates and deletes, one after another, a second each, all acknowledged and stored."""

    def __init__(self) -> None:
        self.run = uuid4()
        self.log: list[Call] = []
        self.rows: list[Stored] = []
        self._second = 0

    def create(self, *, stored: bool = True, **values: Any) -> Create:
        self._second += 1
        at, id_ = NOON + timedelta(seconds=self._second), uuid4()
        state = FlowRunState(
            id=id_, created=at, updated=at, flow_run_id=self.run, type=RUNNING, timestamp=at, name="Running", message=f"m{self._second}",
            state_details=StateDetails(), data=None, result_artifact_id=None,
        )  # fmt: skip
        times = {"begun": float(self._second), "ended": self._second + 0.5}
        call = Create(**times | {"run": self.run, "message": state.message, "id": id_, "outcome": "acknowledged", "record": state} | values)
        self.log.append(call)
        if stored:
            self.rows.append(Stored(state, len(self.rows) + 1))
        return call

    def delete(self, *creates: Create, **values: Any) -> Delete:
        self._second += 1
        ids = frozenset(create.id for create in creates if create.id)
        times = {"begun": float(self._second), "ended": self._second + 0.5}
        call = Delete(**times | {"ids": ids, "gone": ids, "outcome": "acknowledged"} | values)
        self.log.append(call)
        self.rows = [row for row in self.rows if row.state.id not in ids]
        return call

    def kinds(self) -> set[str]:
        return {problem.partition(":")[0] for problem in check(self.log, self.rows)}

    def move(self, index: int, *, sequence: int | None = None, **values: Any) -> None:
        """Changes a stored row, and what was acknowledged of it."""
        row = self.rows[index]
        state = row.state.model_copy(update=values)
        self.rows[index] = Stored(state, sequence or row.sequence)
        for call in self.log:
            if isinstance(call, Create) and call.record == row.state:
                call.record = state


def history() -> Made:
    made = Made()
    first = made.create(expected=None)
    second = made.create(expected=first.id)
    made.delete(second)
    made.create(expected=first.id)
    made.create(expected={RUNNING})
    made.create()
    return made


def test_a_right_history_passes() -> None:
    made = history()
    assert check(made.log, made.rows) == []


def test_a_loss_is_caught() -> None:
    made = history()
    del made.rows[1]
    assert made.kinds() == {"lost"}


def test_a_delete_that_did_not_find_what_was_there_is_caught() -> None:
    made = Made()
    made.delete(made.create(stored=False), gone=frozenset())
    assert made.kinds() == {"lost"}


def test_a_delete_that_was_acknowledged_and_not_done_is_caught() -> None:
    made = history()
    row = made.rows[0]
    made.delete(gone=frozenset({row.state.id}))
    assert made.kinds() == {"lost"}


def test_half_a_batch_is_caught() -> None:
    made = Made()
    for stored in (True, False):
        made.create(stored=stored, batch="b", outcome="unknown", record=None)
    assert made.kinds() == {"lost"}


def test_a_double_is_caught() -> None:
    made = history()
    made.rows.append(made.rows[0])
    assert made.kinds() >= {"doubled"}
    made = history()
    copy = made.rows[-1].state.model_copy(update={"id": uuid4(), "timestamp": NOON + timedelta(days=1)})
    made.rows.append(Stored(copy, 9))
    assert made.kinds() >= {"doubled"}


def test_what_nobody_wrote_is_caught() -> None:
    made = history()
    made.log = [call for call in made.log if not (isinstance(call, Create) and call.id == made.rows[-1].state.id)]
    assert made.kinds() == {"phantom"}


def test_what_was_refused_and_is_there_is_caught() -> None:
    made = history()
    made.create(outcome="refused", record=None)
    assert made.kinds() == {"phantom"}


def test_a_record_that_differs_from_its_row_is_caught() -> None:
    made = history()
    made.rows[0] = replace(made.rows[0], state=made.rows[0].state.model_copy(update={"name": "Other"}))
    assert made.kinds() == {"differs"}


def test_disorder_is_caught() -> None:
    made = history()
    made.move(2, timestamp=NOON)
    assert made.kinds() >= {"disorder"}
    made = history()
    made.move(2, timestamp=made.rows[3].state.timestamp)
    assert made.kinds() >= {"disorder"}
    made = history()
    made.move(2, sequence=4)
    assert made.kinds() >= {"disorder"}


def test_a_fork_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    made.create(expected=first.id)
    made.create(expected=first.id)
    assert made.kinds() == {"fork"}


def test_two_first_states_are_caught() -> None:
    made = Made()
    made.create(expected=None)
    made.create(expected=None)
    assert made.kinds() == {"fork"}


def test_a_winner_against_a_state_that_is_no_longer_current_is_caught_though_the_other_winner_is_deleted() -> None:
    made = Made()
    first = made.create(expected=None)
    second = made.create(expected=first.id)
    made.create(expected=second.id)
    made.delete(second)
    stale = made.create(expected=first.id)
    made.rows[-1] = replace(made.rows[-1], sequence=2)  # the number that the delete has freed
    made.rows[-2] = replace(made.rows[-2], sequence=3)
    made.move(-1, timestamp=NOON + timedelta(seconds=1.5))
    stale.begun = 1.2  # it was under way all the time
    assert made.kinds() == {"fork"}


def test_an_append_into_a_gap_that_a_batch_left_is_caught() -> None:
    made = Made()
    first = made.create(expected=None)
    batch = made.create(batch="b")
    stale = made.create(expected=first.id)
    made.create(expected=batch.id)
    made.rows = [replace(row, sequence=number) for row, number in zip(made.rows, (1, 3, 2, 4), strict=True)]
    stale.begun = 1.6  # before the batch
    assert made.kinds() == {"fork"}


def test_an_expectation_of_a_type_that_was_not_current_is_caught() -> None:
    made = Made()
    made.create(expected=None)
    made.create(expected={COMPLETED})
    assert made.kinds() == {"fork"}


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_not_known_may_be_there_or_not(stored: bool) -> None:
    made = history()
    made.create(stored=stored, outcome="unknown", record=None)
    assert made.kinds() == set()


@pytest.mark.parametrize("stored", [False, True])
def test_a_delete_of_which_nothing_is_known_may_have_been_done_or_not(stored: bool) -> None:
    made = history()
    made.delete(made.create(stored=False) if not stored else Create(run=made.run, message="none"), outcome="unknown", gone=frozenset())
    assert made.kinds() == set()


def test_a_state_that_was_deleted_and_asked_for_again_may_be_there() -> None:
    made = history()
    again = made.create()
    row = made.rows[-1]
    made.delete(again)
    made.log.append(replace(again, begun=100.0, ended=101.0))
    made.rows.append(row)
    assert made.kinds() == set()


plans = st.lists(st.lists(st.builds(Step, st.sampled_from(KINDS), st.integers(0, 99)), min_size=1, max_size=8), min_size=1, max_size=8)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans, runs=st.integers(1, 3), isolation=st.sampled_from(ISOLATION))
def test_whatever_writers_ask_at_once_the_history_is_right(layout_dsns: dict[Layout, str], plan: list[list[Step]], runs: int, isolation: str) -> None:
    async def write() -> list[str]:
        async with write_at_once(layout_dsns["flowstates"], plan, runs, isolation) as writers:
            return await writers.problems()

    assert asyncio.run(write()) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_many_steps_of_many_writers_leave_a_right_history(dsn: str, isolation: str) -> None:
    random = Random(isolation)
    async with write_at_once(dsn, [random_steps(random, 25) for _ in range(12)], 2, isolation) as writers:
        assert await writers.problems() == []


@asynccontextmanager
async def write_at_once(dsn: str, plan: list[list[Step]], runs: int, isolation: str) -> AsyncIterator[Writers]:
    async with (
        asyncio.timeout(20),
        create_pool(dsn, max_size=8, server_settings={"default_transaction_isolation": isolation}) as pool,
    ):
        writers = Writers(pool, runs, timeout=15)
        async with asyncio.TaskGroup() as group:
            for number, steps in enumerate(plan):
                group.create_task(writers.work(f"w{number}", steps))
        yield writers


class Schedule:
    """A run with two states, and calls that wait for each other as a test wants it."""

    def __init__(self, pool: Pool, other: asyncpg.Connection[asyncpg.Record]) -> None:
        self.pool = pool
        self.writers = Writers(pool, 1)
        self.run = self.writers.runs[0]
        self.other = other  # has an open transaction, which holds the others up

    async def create(self, expected: Any, *, id: UUID | None = None) -> FlowRunState | None:
        return await self.writers.create("w", self.run, RUNNING, expected=expected, id=id or uuid4())

    async def created(self, expected: Any) -> FlowRunState:
        state = await self.create(expected)
        assert state is not None
        return state

    async def is_done_or_waits(self, task: asyncio.Task[Any]) -> None:
        """Until the call is done or its server process waits for a lock."""
        text = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        before = self._waiting
        while not task.done() and await self.pool.fetchval(text) <= before:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.005)
        self._waiting = before + (not task.done())

    _waiting = 0


@asynccontextmanager
async def schedule(dsn: str) -> AsyncIterator[Schedule]:
    async with asyncio.timeout(10), create_pool(dsn, max_size=8) as pool, pool.acquire() as other:
        yield Schedule(pool, other)  # type: ignore[arg-type]  # a proxy has all that a connection has


async def delete_what_an_append_follows(dsn: str) -> list[str]:
    """An append that has read the current state is held up, by its id, which another transaction may be about to store. Then that state is
    deleted, and another append expects the one before it."""
    async with schedule(dsn) as at:
        before = await at.created(None)
        last = await at.created(before.id)
        id_ = uuid4()
        transaction = at.other.transaction()
        await transaction.start()
        await FlowRunStateRepository(at.other).create_flow_run_state(uuid4(), PENDING, id=id_)
        append = asyncio.create_task(at.create(last.id, id=id_))
        await at.is_done_or_waits(append)
        delete = asyncio.create_task(at.writers.delete("d", ids=[last.id]))
        await at.is_done_or_waits(delete)
        await at.create(before.id)
        await transaction.rollback()
        await asyncio.gather(append, delete)
        return await at.writers.problems()


async def test_the_locks_of_an_append_keep_a_history_from_forking(own_database: str) -> None:
    assert await delete_what_an_append_follows(own_database) == []


async def test_an_append_without_its_locks_is_caught(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = queries.query

    def unlocked(name: str, layout: Layout) -> str:
        return text(name, layout).replace("for key share", "") if name == "create_flow_run_state" else text(name, layout)

    monkeypatch.setattr(queries, "query", unlocked)
    problems = await delete_what_an_append_follows(own_database)
    assert "fork" in {problem.partition(":")[0] for problem in problems}


async def test_a_state_that_was_replaced_in_a_transaction_is_not_followed_by_what_expects_the_one_before_it(own_database: str) -> None:
    async with schedule(own_database) as at:
        before = await at.created(None)
        last = await at.created(before.id)
        async with at.other.transaction():
            states = FlowRunStateRepository(at.other)
            new = await states.create_flow_run_state(at.run, COMPLETED, expected=last.id)
            await states.delete_flow_run_state(last.id)
            append = asyncio.create_task(at.create(before.id))
            await at.is_done_or_waits(append)
        assert await append is None, f"it expected {before.id}, and {new.id} was current"


async def test_a_number_that_a_delete_frees_is_not_for_an_append_that_has_read_before(own_database: str) -> None:
    async with schedule(own_database) as at:
        first = await at.created(None)
        async with at.other.transaction():
            states = FlowRunStateRepository(at.other)
            second = await states.create_flow_run_state(at.run, RUNNING, expected=first.id)
            third = await states.create_flow_run_state(at.run, COMPLETED, expected=second.id)
            await states.delete_flow_run_state(second.id)
            append = asyncio.create_task(at.create(first.id))
            await at.is_done_or_waits(append)
        assert await append is None, f"it expected {first.id}, and {third.id} was current"


@pytest.fixture
async def own_database(own_dsn: str) -> str:
    """Only the test's own calls wait for locks in it."""
    async with create_pool(own_dsn) as pool:
        await migrate(pool)
    return own_dsn
