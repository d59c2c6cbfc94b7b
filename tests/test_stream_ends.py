"""How a stream ends: the cursor goes, the consumer's own error is seen, and a server that ended the connection does not spoil a `break`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from flowstates import FlowRunState, FlowRunStateFilter, FlowRunStateRepository, NewFlowRunState, UnreadableRowError, create_pool, migrate
from tests.conftest import Connection, Pool

RUN, OTHER = UUID(int=1), UUID(int=2)
OF_RUN, OF_OTHER = FlowRunStateFilter(flow_run_ids=[RUN]), FlowRunStateFilter(flow_run_ids=[OTHER])
STATES = 1200  # of RUN: three batches
CURSORS = "select count(*) from pg_cursors where name <> ''"


@pytest.fixture
async def states(own_dsn: str, connection: Connection) -> FlowRunStateRepository:
    await migrate(connection)
    states = FlowRunStateRepository(connection)
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=RUN, type="RUNNING") for _ in range(STATES)])
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=OTHER, type="PAUSED") for _ in range(5)])
    return states


async def half_read(states: FlowRunStateRepository, filter: FlowRunStateFilter = OF_RUN) -> FlowRunState:
    async with states.stream_flow_run_states(filter) as stream:
        return await anext(stream)


async def test_a_thousand_that_are_half_read_leave_nothing_in_the_callers_transaction(connection: Connection, states: FlowRunStateRepository) -> None:
    async with connection.transaction():
        for _ in range(1000):
            await half_read(states)
        assert await connection.fetchval(CURSORS) == 0
        assert await connection.fetchval("select count(*) from pg_prepared_statements") < 10


@pytest.mark.parametrize("is_in_transaction", [False, True])
async def test_a_stream_in_a_stream(connection: Connection, states: FlowRunStateRepository, is_in_transaction: bool) -> None:
    async with AsyncExitStack() as stack:
        if is_in_transaction:
            await stack.enter_async_context(connection.transaction())
        seen: list[UUID] = []
        async with states.stream_flow_run_states(OF_RUN) as outer:
            async for state in outer:
                seen.append(state.id)
                if len(seen) % 400 == 1:
                    assert (await half_read(states, OF_OTHER)).flow_run_id == OTHER
                    async with states.stream_flow_run_states(OF_OTHER) as inner:
                        assert len([state async for state in inner]) == 5
        assert len(set(seen)) == STATES
        assert connection.is_in_transaction() is is_in_transaction
        assert await connection.fetchval(CURSORS) == 0


async def test_two_streams_that_are_left_in_another_order(connection: Connection, states: FlowRunStateRepository) -> None:
    async with connection.transaction():
        first, second = states.stream_flow_run_states(OF_RUN), states.stream_flow_run_states(OF_OTHER)
        outer, inner = await first.__aenter__(), await second.__aenter__()
        assert (await anext(outer)).flow_run_id == RUN
        assert (await anext(inner)).flow_run_id == OTHER
        await first.__aexit__(None, None, None)
        assert len([state async for state in inner]) == 4
        await second.__aexit__(None, None, None)
        assert await connection.fetchval(CURSORS) == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_of_the_callers_that_ends_in_the_block(connection: Connection, states: FlowRunStateRepository, end: str) -> None:
    own = connection.transaction()
    await own.start()
    async with states.stream_flow_run_states(OF_RUN) as stream:
        await anext(stream)
        await getattr(own, end)()
    assert await connection.fetchval(CURSORS) == 0


async def test_a_transaction_of_the_callers_that_fails_in_the_block(connection: Connection, states: FlowRunStateRepository) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):  # noqa: PT012 (the error leaves the block)
        async with connection.transaction(), states.stream_flow_run_states(OF_RUN) as stream:
            await anext(stream)
            await connection.execute("select 1 / 0")
    async with connection.transaction():
        savepoint = connection.transaction()
        await savepoint.start()
        async with states.stream_flow_run_states(OF_RUN) as stream:
            await anext(stream)
            await savepoint.rollback()
        assert await connection.fetchval(CURSORS) == 0


async def test_an_unreadable_row_leaves_no_cursor(connection: Connection, states: FlowRunStateRepository) -> None:
    await connection.execute("alter table flow_run_state drop constraint ck_flow_run_state__timestamp")
    await connection.execute("update flow_run_state set timestamp = timestamp + interval '20000 years' where flow_run_id = $1", OTHER)
    async with connection.transaction():
        with pytest.raises(UnreadableRowError):
            await half_read(states, OF_OTHER)
        assert await connection.fetchval(CURSORS) == 0


class ConsumerError(Exception):
    pass


@pytest.fixture(params=["ours", "asyncpg_s"])
async def idle_pool(own_dsn: str, states: FlowRunStateRepository, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    """A pool of one."""
    make = create_pool if request.param == "ours" else asyncpg.create_pool
    async with make(own_dsn, min_size=1, max_size=1) as pool:
        yield pool


async def ended(reading: Pool | Connection, connection: Connection) -> None:
    """Lets the server end the session that is read from, as it is idle in a transaction; asyncpg sees it before the answer to another question."""
    if isinstance(reading, asyncpg.Pool):
        reading = reading._holders[0]._con  # type: ignore[attr-defined]
    # Only now, as a slow machine may pause between two reads.
    await reading.execute("set idle_in_transaction_session_timeout = '50ms'")
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"
    async with asyncio.timeout(20):
        while await connection.fetchval(waiting):
            await connection.fetchval("select pg_sleep(0.05)")
        await connection.fetchval("select pg_sleep(0.05)")


@pytest.mark.parametrize("reads", [1, STATES])
async def test_a_consumer_that_pauses_for_too_long_may_leave(idle_pool: Pool, connection: Connection, reads: int) -> None:
    states, seen = FlowRunStateRepository(idle_pool), 0
    async with states.stream_flow_run_states(OF_RUN) as stream:
        async for _ in stream:
            seen += 1
            if seen == reads:
                await ended(idle_pool, connection)
                break
    assert await states.count_flow_run_states(OF_RUN, timeout=10) == STATES


@pytest.mark.parametrize("error", [ConsumerError, TimeoutError, OSError, asyncio.CancelledError, asyncpg.DivisionByZeroError, KeyError])
async def test_the_error_of_a_consumer_that_pauses_for_too_long_is_seen(idle_pool: Pool, connection: Connection, error: type[BaseException]) -> None:
    states = FlowRunStateRepository(idle_pool)
    with pytest.raises(error) as caught:  # noqa: PT012
        async with states.stream_flow_run_states(OF_RUN) as stream:
            await anext(stream)
            await ended(idle_pool, connection)
            raise error("the consumer's")
    assert caught.value.args == ("the consumer's",)
    assert await states.count_flow_run_states(OF_RUN, timeout=10) == STATES


async def test_reading_on_after_too_long_a_pause_raises_the_servers_error(idle_pool: Pool, connection: Connection) -> None:
    states = FlowRunStateRepository(idle_pool)
    # asyncpg throws the server's own error away when nobody waits for an answer.
    with pytest.raises(asyncpg.InterfaceError) as caught:  # noqa: PT012
        async with states.stream_flow_run_states(OF_RUN) as stream:
            await anext(stream)
            await ended(idle_pool, connection)
            assert len([state async for state in stream]) < 500  # those of the batch that is here
    assert "idle_in_transaction_session_timeout" in caught.value.__notes__[0]
    assert await states.count_flow_run_states(OF_RUN, timeout=10) == STATES


@pytest.mark.parametrize("is_in_transaction", [False, True])
async def test_on_the_callers_connection_too(own_dsn: str, connection: Connection, states: FlowRunStateRepository, is_in_transaction: bool) -> None:
    for error in (None, ConsumerError):
        other = await asyncpg.connect(own_dsn)
        if is_in_transaction:
            await other.transaction().start()
        try:
            async with FlowRunStateRepository(other).stream_flow_run_states(OF_RUN) as stream:
                await anext(stream)
                await ended(other, connection)
                if error is not None:
                    raise error
        except ConsumerError:
            assert error is not None
        assert other.is_closed()


async def test_a_generator_of_the_consumers_that_is_not_read_to_its_end(connection: Connection, own_dsn: str, states: FlowRunStateRepository) -> None:
    async with create_pool(own_dsn, max_size=1) as pool:
        repository = FlowRunStateRepository(pool)

        async def ids(**given: Any) -> AsyncGenerator[UUID, None]:
            async with repository.stream_flow_run_states(OF_RUN, **given) as stream:
                async for state in stream:
                    yield state.id

        async with aclosing(ids(timeout=5)) as found:
            async for _ in found:
                break
        assert await repository.count_flow_run_states(OF_RUN, timeout=10) == STATES
