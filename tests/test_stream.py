from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from flowstates import FlowRunState, FlowRunStateRepository, UnreadableRowError, create_pool, migrate
from flowstates.records import NewFlowRunState
from tests.conftest import Connection


async def filled(connection: Connection, count: int) -> FlowRunStateRepository:
    await migrate(connection)
    states = FlowRunStateRepository(connection)
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="RUNNING") for _ in range(count)])
    return states


async def test_gives_all_states_run_by_run(connection: Connection) -> None:
    states = await filled(connection, 1100)
    for number in (1, 2):
        await states.create_flow_run_state((await first(states)).flow_run_id, "PAUSED", message=str(number))
    async with states.stream_flow_run_states() as stream:
        seen = [state async for state in stream]
    assert len(seen) == 1102
    assert seen == sorted(seen, key=lambda state: (state.flow_run_id, state.timestamp))
    assert not connection.is_in_transaction()


async def first(states: FlowRunStateRepository) -> FlowRunState:
    async with states.stream_flow_run_states() as stream:
        async for state in stream:
            return state
    raise AssertionError


async def test_leaving_the_block_early_frees_the_connection(dsn: str) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        states = FlowRunStateRepository(pool)
        await states.create_flow_run_state(uuid4(), "RUNNING")
        async with states.stream_flow_run_states() as stream:
            async for _ in stream:
                break
        # The generator is still referenced here.
        assert await asyncio.wait_for(states.read_flow_run_states(uuid4()), 5) == []
        assert stream is not None


async def test_is_of_one_moment(own_dsn: str, connection: Connection) -> None:
    states = await filled(connection, 600)
    async with create_pool(own_dsn) as pool, states.stream_flow_run_states() as stream:
        assert await anext(stream)
        other = FlowRunStateRepository(pool)
        await other.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="RUNNING") for _ in range(600)])
        assert len([state async for state in stream]) == 599


async def test_joins_the_callers_transaction(connection: Connection) -> None:
    states = await filled(connection, 0)
    async with connection.transaction():
        state = await states.create_flow_run_state(uuid4(), "RUNNING")
        async with states.stream_flow_run_states() as stream:
            assert [state async for state in stream] == [state]
        assert connection.is_in_transaction()


async def test_names_an_unreadable_row(connection: Connection) -> None:
    states = await filled(connection, 700)
    await connection.execute("alter table flow_run_state drop constraint ck_flow_run_state__timestamp")
    last = await connection.fetchval("select id from flow_run_state order by flow_run_id desc limit 1")
    await connection.execute("update flow_run_state set timestamp = '20000-01-01' where id = $1", last)
    seen = 0
    with pytest.raises(UnreadableRowError) as caught:  # noqa: PT012 (the error leaves the loop)
        async with states.stream_flow_run_states() as stream:
            async for _ in stream:
                seen += 1
    assert (caught.value.flow_run_state_id, caught.value.field, seen) == (last, "timestamp", 500)


async def test_a_codec_of_the_connection_changes_nothing(connection: Connection) -> None:
    states = await filled(connection, 600)
    async with states.stream_flow_run_states() as stream:
        plain = [state async for state in stream]
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
    async with states.stream_flow_run_states() as stream:
        assert [state async for state in stream] == plain
