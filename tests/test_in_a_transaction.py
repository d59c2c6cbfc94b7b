"""Writes in a transaction of the caller's: what they answer, what of it leaves the transaction usable, and what does not.

`others` do what they do by themselves, between the statements of the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunState,
    FlowRunStateConflictError,
    FlowRunStateRepository,
    GeneratedIdConflictError,
    NewFlowRunState,
    StateType,
    UnexpectedStateError,
    create_pool,
)
from flowstates.engine.appending import Expected
from flowstates.engine.connections import AnyConnection
from tests.conftest import Pool
from tests.schedules import LIMIT, schedule
from tests.stored import wrong_rows
from tests.writers import ISOLATION, level

pytestmark = pytest.mark.server

PENDING, RUNNING, COMPLETED = StateType.PENDING, StateType.RUNNING, StateType.COMPLETED


class Case(NamedTuple):
    """A run that has one state, and a transaction that has begun but not read yet."""

    states: FlowRunStateRepository
    connection: AnyConnection
    others: FlowRunStateRepository
    run: UUID
    first: FlowRunState

    async def is_usable(self, *history: FlowRunState) -> None:
        assert await self.states.read_flow_run_states(self.run) == list(history)
        await self.states.create_flow_run_state(uuid4(), RUNNING)


@asynccontextmanager
async def begun(pool: Pool, isolation: str) -> AsyncIterator[Case]:
    others, run = FlowRunStateRepository(pool), uuid4()
    first = await others.create_flow_run_state(run, PENDING)
    async with asyncio.timeout(LIMIT), pool.acquire() as connection, connection.transaction(isolation=level(isolation)):
        yield Case(FlowRunStateRepository(connection), connection, others, run, first)
    assert await wrong_rows(pool, run) == []


@pytest.fixture(params=ISOLATION)
async def case(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Case]:
    """One whose transaction is committed after the test."""
    async with create_pool(dsn) as pool, begun(pool, request.param) as case:
        yield case


async def test_a_repeat_by_id_is_what_is_stored_by_whomever(case: Case) -> None:
    theirs = await case.others.create_flow_run_state(case.run, RUNNING, id=uuid4(), expected=case.first.id)
    assert await case.states.create_flow_run_state(case.run, RUNNING, id=theirs.id, expected=case.first.id) == theirs
    mine = await case.states.create_flow_run_state(case.run, COMPLETED, id=uuid4(), expected=theirs.id)
    last = await case.states.create_flow_run_state(case.run, PENDING, expected={COMPLETED})
    for state, expected in ((mine, theirs.id), (theirs, case.first.id)):
        assert await case.states.create_flow_run_state(case.run, state.type, id=state.id, expected=expected) == state
    await case.is_usable(case.first, theirs, mine, last)


async def test_a_repeat_after_a_savepoint_was_undone_is_stored(case: Case) -> None:
    id_ = uuid4()
    savepoint = case.connection.transaction()
    await savepoint.start()
    await case.states.create_flow_run_state(case.run, RUNNING, id=id_, expected=case.first.id)
    await case.states.create_flow_run_states([NewFlowRunState(flow_run_id=case.run, type=COMPLETED)])
    await case.states.delete_flow_run_state(case.first.id)
    await savepoint.rollback()
    again = await case.states.create_flow_run_state(case.run, RUNNING, id=id_, expected=case.first.id)
    await case.is_usable(case.first, again)


async def test_a_conflict_leaves_the_transaction_usable(case: Case) -> None:
    for run, type_ in ((case.run, RUNNING), (uuid4(), PENDING)):
        with pytest.raises(FlowRunStateConflictError) as caught:
            await case.states.create_flow_run_state(run, type_, id=case.first.id)
        assert caught.value.stored == case.first
    assert not isinstance(caught.value, GeneratedIdConflictError)
    (outcome,) = await case.states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type=PENDING, id=case.first.id)])
    assert outcome.status == "refused"
    await case.is_usable(case.first)


async def test_an_expectation_that_does_not_hold_leaves_the_transaction_usable(case: Case) -> None:
    mine = await case.states.create_flow_run_state(case.run, RUNNING, expected=case.first.id)
    expectations: list[Expected] = [None, case.first.id, uuid4(), {PENDING, COMPLETED}]
    for expected in expectations:
        with pytest.raises(UnexpectedStateError) as caught:
            await case.states.create_flow_run_state(case.run, RUNNING, expected=expected)
        assert caught.value.current == mine
    for expected in expectations[1:]:
        with pytest.raises(UnexpectedStateError) as caught:
            await case.states.create_flow_run_state(uuid4(), RUNNING, expected=expected)
        assert caught.value.current is None
    assert await case.states.delete_flow_run_state(mine.id)
    again = await case.states.create_flow_run_state(case.run, RUNNING, expected=case.first.id)
    await case.is_usable(case.first, again)


async def test_a_run_may_end_and_begin_anew(case: Case) -> None:
    assert await case.states.delete_flow_run_states(flow_run_ids=[case.run]) == [case.first.id]
    with pytest.raises(UnexpectedStateError):
        await case.states.create_flow_run_state(case.run, RUNNING, expected=case.first.id)
    await case.is_usable(await case.states.create_flow_run_state(case.run, RUNNING, expected=None, id=case.first.id))


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("what", ["append", "append and delete", "delete", "first", "bulk"])
async def test_what_others_did_after_the_snapshot_is_seen_or_is_40001(pool: Pool, isolation: str, what: str) -> None:
    """Also where a history looks to the transaction as if nothing had happened: its current state was replaced, or its run made anew."""
    is_undone, answer = False, None
    try:
        async with begun(pool, isolation) as case:
            await case.states.read_flow_run_states(case.run)
            run = uuid4() if what == "first" else case.run
            if what in ("append", "append and delete", "first"):
                await case.others.create_flow_run_state(run, RUNNING)
            if what == "bulk":
                await case.others.create_flow_run_states([NewFlowRunState(flow_run_id=run, type=RUNNING)])
            if what in ("append and delete", "delete"):
                await case.others.delete_flow_run_state(case.first.id)
            expected: Expected = None if what == "first" else case.first.id
            try:
                answer = await case.states.create_flow_run_state(run, COMPLETED, expected=expected)
            except UnexpectedStateError:
                await case.states.create_flow_run_state(run, COMPLETED)
    except asyncpg.SerializationError:
        is_undone = True
    assert answer is None
    assert is_undone == (isolation != "read committed")
    assert [state.type for state in await case.others.read_flow_run_states(run)][-1:] == (
        [] if is_undone and what == "delete" else [RUNNING] if is_undone else [COMPLETED]
    )
    assert await wrong_rows(pool, run) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_batch_or_a_delete_after_the_snapshot_is_done_or_is_40001(pool: Pool, isolation: str) -> None:
    for is_batch in (True, False):
        is_undone = False
        try:
            async with begun(pool, isolation) as case:
                await case.states.read_flow_run_states(case.run)
                theirs = await case.others.create_flow_run_state(case.run, RUNNING)
                if is_batch:
                    await case.states.create_flow_run_states([NewFlowRunState(flow_run_id=case.run, type=COMPLETED)])
                else:
                    await case.states.delete_flow_run_state(case.first.id)
        except asyncpg.SerializationError:
            is_undone = True
        assert is_undone == (isolation != "read committed")
        history = [state.type for state in await case.others.read_flow_run_states(case.run)]
        assert history == ([PENDING, RUNNING] if is_undone else [PENDING, RUNNING, COMPLETED] if is_batch else [RUNNING])
        assert theirs.type == RUNNING


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_one_id_in_two_runs_at_the_same_moment_is_a_key_that_is_taken(own_database: str, isolation: str) -> None:
    """In a transaction that is the server's error, which a savepoint contains; alone it is looked up."""
    id_, run = uuid4(), uuid4()
    async with schedule(own_database, isolation) as at, at.pool.acquire() as connection, connection.transaction(isolation=level(isolation)):
        states = FlowRunStateRepository(connection)
        await states.read_flow_run_states(run)
        async with at.other.transaction():
            theirs = await FlowRunStateRepository(at.other).create_flow_run_state(at.run, RUNNING, id=id_)
            savepoint = connection.transaction()
            await savepoint.start()
            inside = await at.begin(states.create_flow_run_state(run, RUNNING, id=id_))
            alone = await at.begin(FlowRunStateRepository(at.pool).create_flow_run_state(uuid4(), RUNNING, id=id_))
        with pytest.raises(FlowRunStateConflictError) as caught:
            await alone
        assert caught.value.stored == theirs
        with pytest.raises(asyncpg.UniqueViolationError):
            await inside
        await savepoint.rollback()
        mine = await states.create_flow_run_state(run, RUNNING, expected=None)
        assert await states.read_flow_run_states(run) == [mine]
        assert await wrong_rows(connection, run) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_repeat_at_the_same_moment_alone_is_what_the_first_one_stored(own_database: str, isolation: str) -> None:
    id_ = uuid4()
    async with schedule(own_database, isolation) as at:
        for expected in (None, ...):
            at.run, id_ = uuid4(), uuid4()
            async with at.other.transaction():
                theirs = await FlowRunStateRepository(at.other).create_flow_run_state(at.run, RUNNING, id=id_)
                repeat = await at.begin(FlowRunStateRepository(at.pool).create_flow_run_state(at.run, RUNNING, id=id_, expected=expected))
            assert await repeat == theirs
            assert await wrong_rows(at.pool) == []
