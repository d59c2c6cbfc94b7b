from __future__ import annotations

import asyncio
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunState,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    StateType,
    UnreadableRowError,
    check,
    create_pool,
    migrate,
)
from flowstates.records import NewFlowRunState
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection, Pool

START = datetime(2024, 3, 5, 12, tzinfo=UTC)


def history(count: int) -> list[FlowRunState]:
    types = (StateType.RUNNING, StateType.PAUSED, StateType.FAILED)
    return [model.state(UUID(int=n % 7), UUID(int=n), types[n % 3], START + n * timedelta(seconds=1)) for n in range(count)]


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


async def test_is_of_the_filter_as_it_was_when_it_was_given(connection: Connection) -> None:
    states = await filled(connection, 3)
    filter = FlowRunStateFilter(types=["RUNNING"])
    given = states.stream_flow_run_states(filter)
    object.__setattr__(filter, "since", datetime(2024, 1, 1))
    async with given as stream:
        assert len([state async for state in stream]) == 3
    with pytest.raises(InvalidInputError, match=r"^filter\.since: "):
        states.stream_flow_run_states(filter)


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


async def test_the_timeout_is_for_a_batch(own_dsn: str, connection: Connection) -> None:
    states = await filled(connection, 5)
    async with create_pool(own_dsn, max_size=1) as pool:
        other = FlowRunStateRepository(pool)
        async with connection.transaction():
            await connection.execute("lock table flow_run_state in access exclusive mode")
            with pytest.raises(TimeoutError):
                async with other.stream_flow_run_states(timeout=0.2) as stream:
                    await anext(stream)
        async with other.stream_flow_run_states(timeout=5) as stream:
            assert len([state async for state in stream]) == 5
    assert await states.count_flow_run_states() == 5


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
    assert (caught.value.flow_run_state_id, caught.value.field) == (last, "timestamp")
    assert 0 < seen < 700


async def test_unreadable_rows_are_handed_over_in_their_place_and_left_out(connection: Connection) -> None:
    states = await filled(connection, 700)
    await connection.execute("alter table flow_run_state drop constraint ck_flow_run_state__timestamp")
    ids = [row["id"] for row in await connection.fetch("select id from flow_run_state order by flow_run_id")]
    bad = [ids[0], ids[10], ids[699]]
    await connection.execute("update flow_run_state set timestamp = '20000-01-01' where id = any ($1)", bad)
    seen: list[UUID | None] = []
    async with states.stream_flow_run_states(on_unreadable=lambda error: seen.append(error.flow_run_state_id)) as stream:
        async for state in stream:
            seen += [state.id]
    assert seen == ids

    def stop(error: UnreadableRowError) -> None:
        raise KeyError(error.field)

    with pytest.raises(KeyError, match="timestamp"):
        async with states.stream_flow_run_states(on_unreadable=stop) as stream:
            await anext(stream)
    with pytest.raises(InvalidInputError, match="on_unreadable: is a bool, not a function"):
        states.stream_flow_run_states(on_unreadable=True)  # type: ignore[arg-type]


async def test_a_codec_of_the_connection_changes_nothing(connection: Connection) -> None:
    states = await filled(connection, 600)
    async with states.stream_flow_run_states() as stream:
        plain = [state async for state in stream]
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
    async with states.stream_flow_run_states() as stream:
        assert [state async for state in stream] == plain


@pytest.mark.parametrize("layout", model.LAYOUTS)
@pytest.mark.parametrize(
    "filter",
    [
        None,
        FlowRunStateFilter(types=["RUNNING"], names=["Running", "Paused"], terminal=False),
        FlowRunStateFilter(flow_run_ids=[UUID(int=3)], since=START + timedelta(minutes=1)),
        FlowRunStateFilter(ids=[UUID(int=900), UUID(int=1000), UUID(int=7)]),
        FlowRunStateFilter(names=[]),
    ],
)
async def test_gives_the_states_of_a_filter(connection: Connection, layout: Layout, filter: FlowRunStateFilter | None) -> None:
    await model.prepare(connection, layout)
    await model.store(connection, layout, history(1200))
    async with FlowRunStateRepository(connection, layout=layout).stream_flow_run_states(filter) as stream:
        assert [state async for state in stream] == model.find(history(1200), filter)


@pytest.mark.parametrize("layout", model.LAYOUTS)
async def test_a_client_that_stops_reading_holds_nobody_up_and_may_go_on(own_dsn: str, connection: Connection, layout: Layout) -> None:
    await model.prepare(connection, layout)
    await model.store(connection, layout, history(1200))
    async with create_pool(own_dsn, max_size=1) as pool, FlowRunStateRepository(pool, layout=layout).stream_flow_run_states() as stream:
        seen = [await anext(stream)]
        # The server has sent one batch and waits for the next question; it does not push.
        waiting = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"
        assert await connection.fetchval(waiting) == 1
        # Meanwhile others delete, and the table is tidied up.
        other = FlowRunStateRepository(connection, layout=layout)
        async with asyncio.timeout(10):
            await other.delete_flow_run_states(flow_run_ids=[UUID(int=5)])
            await connection.execute("vacuum flow_run_state")
        seen += [state async for state in stream]
    assert seen == model.find(history(1200))


async def test_a_task_that_is_cancelled_while_it_waits_gives_its_connection_back(own_dsn: str, connection: Connection) -> None:
    await filled(connection, 600)
    async with create_pool(own_dsn, max_size=1) as pool:
        states, reading = FlowRunStateRepository(pool), asyncio.Event()

        async def read() -> None:
            async with states.stream_flow_run_states() as stream:
                async for _ in stream:
                    reading.set()
                    await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await states.count_flow_run_states(timeout=5) == 600


@pytest.mark.once
async def test_memory_does_not_grow_with_what_has_been_read(connection: Connection) -> None:
    states = await filled(connection, 0)
    await connection.execute(
        "insert into flow_run_state (flow_run_id, type, name, timestamp, message)"
        " select md5((n / 10)::text)::uuid, 'RUNNING', 'Running', '2024-03-05 12:00Z'::timestamptz + n * interval '1 second', repeat('x', 100)"
        " from generate_series(1, 200000) as n"
    )
    blocks, count = [sys.getallocatedblocks()], 0
    async with states.stream_flow_run_states() as stream:
        async for _ in stream:
            count += 1
            if count % 5_000 == 1:
                blocks.append(sys.getallocatedblocks())
    assert count == 200_000
    # A batch is 500 rows; a state is a dozen blocks. tracemalloc would tell bytes, and take five times as long.
    assert max(blocks) - blocks[0] < 30_000


@pytest.mark.once
async def test_large_states_come_a_few_at_a_time(connection: Connection) -> None:
    states = await filled(connection, 0)
    await connection.execute(
        "insert into flow_run_state (flow_run_id, type, name, timestamp, data)"
        " select md5(n::text)::uuid, 'RUNNING', 'Running', '2024-03-05 12:00Z', to_jsonb(repeat('x', 1000000)) from generate_series(1, 100) as n"
    )
    tracemalloc.start()
    try:
        async with states.stream_flow_run_states() as stream:
            assert len([len(state.data) async for state in stream]) == 100
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        await check(connection, data=True)
        checked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A state's text and its data, of the first 10.
    assert max(streamed, checked) < 50_000_000


async def test_what_the_block_raises_is_the_block_s_and_gets_no_note(pool: Pool, own_dsn: str) -> None:
    with pytest.raises(asyncpg.UndefinedTableError) as caught:
        async with FlowRunStateRepository(pool).stream_flow_run_states():
            await pool.execute("select from of_theirs")
    assert not hasattr(caught.value, "__notes__")
    async with create_pool(own_dsn) as empty:
        with pytest.raises(asyncpg.UndefinedTableError) as caught:
            async with FlowRunStateRepository(empty).stream_flow_run_states() as stream:
                await anext(stream)
    assert [note.partition(":")[0] for note in caught.value.__notes__] == ["a table of flowstates is not on the search path"]
