"""A service's own table that references flow_run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Literal
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunState, FlowRunStateRepository, NewFlowRunState, StateType, check, create_pool, migrate
from tests.conftest import Connection, Pool

pytestmark = pytest.mark.server


@pytest.fixture
async def service(own_dsn: str) -> AsyncIterator[Pool]:
    """A pool on a database with two tables of a service's: reports go with their run, invoices forbid that it goes."""
    # What waits for a lock that nobody lets go of fails.
    async with create_pool(own_dsn, min_size=2, server_settings={"lock_timeout": "10s"}) as pool:
        await migrate(pool)
        await pool.execute(
            "create table report (id int generated always as identity, flow_run_id uuid not null references flow_run (id) on delete cascade);"
            "create table invoice (id int generated always as identity, flow_run_id uuid not null references flow_run (id));"
            "create table ledger (flow_run_id uuid not null references flow_run (id) deferrable initially deferred)"
        )
        assert await check(pool) == []
        yield pool


async def runs_of(pool: Pool, table: str) -> set[UUID]:
    return {row["flow_run_id"] for row in await pool.fetch(f"select flow_run_id from {table}")}


def new(run: UUID, type: StateType = StateType.RUNNING) -> NewFlowRunState:
    return NewFlowRunState(flow_run_id=run, type=type)


async def test_a_run_can_be_referenced_as_long_as_it_has_a_state(service: Pool) -> None:
    states, run = FlowRunStateRepository(service), uuid4()
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await service.execute("insert into report (flow_run_id) values ($1)", run)
    async with service.acquire() as connection, connection.transaction():
        # In one transaction with the run's first state too.
        await FlowRunStateRepository(connection).create_flow_run_state(run, StateType.PENDING)
        await connection.execute("insert into report (flow_run_id) values ($1)", run)
    first = await states.read_current_flow_run_state(run)
    await states.create_flow_run_states([new(run), new(run)])
    second = await states.create_flow_run_state(run, StateType.COMPLETED)
    assert first is not None
    assert await states.delete_flow_run_states(flow_run_state_ids=[first.id, second.id])
    assert await runs_of(service, "report") == {run}
    current = await states.read_current_flow_run_state(run)
    assert current is not None
    assert current.type is StateType.RUNNING


async def delete(pool: Pool, by: str, gone: list[FlowRunState]) -> None:
    states = FlowRunStateRepository(pool)
    match by:
        case "state":
            assert await states.delete_flow_run_state(gone[-1].id)
        case "states":
            assert len(await states.delete_flow_run_states(flow_run_state_ids=[state.id for state in gone])) == len(gone)
        case "run":
            assert len(await states.delete_flow_run_states(flow_run_ids=[state.flow_run_id for state in gone])) == len(gone)
        case "sql":
            await pool.execute("delete from flow_run_state where id = any ($1)", [state.id for state in gone])
        case "sql of the run":
            await pool.execute("delete from flow_run where id = any ($1)", [state.flow_run_id for state in gone])
        case "truncate":
            await pool.execute("truncate flow_run_state")


WAYS = ["state", "states", "run", "sql", "sql of the run", "truncate"]


@pytest.mark.parametrize("by", WAYS)
async def test_what_cascades_goes_with_the_last_state(service: Pool, by: str) -> None:
    states, run, other = FlowRunStateRepository(service), uuid4(), uuid4()
    state = await states.create_flow_run_state(run, StateType.PENDING)
    await states.create_flow_run_state(other, StateType.PENDING)
    await service.executemany("insert into report (flow_run_id) values ($1)", [(run,), (other,), (run,)])
    await delete(service, by, [state])
    assert await runs_of(service, "report") == (set() if by == "truncate" else {other})
    assert await check(service, data=True) == []


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("table", ["invoice", "ledger"])
async def test_what_forbids_it_is_its_own_error_and_nothing_is_deleted(service: Pool, table: str, by: str) -> None:
    states, run, other = FlowRunStateRepository(service), uuid4(), uuid4()
    state = await states.create_flow_run_state(run, StateType.PENDING)
    another = await states.create_flow_run_state(other, StateType.PENDING)
    await service.executemany("insert into report (flow_run_id) values ($1)", [(run,), (other,)])
    await service.execute(f"insert into {table} (flow_run_id) values ($1)", run)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as raised:
        await delete(service, by, [another, state])
    assert (raised.value.table_name, raised.value.constraint_name) == (table, f"{table}_flow_run_id_fkey")
    assert await states.read_current_flow_run_states([run, other]) == {run: state, other: another}
    assert await runs_of(service, "report") == {run, other}
    assert await check(service, data=True) == []
    # Of a run that keeps a state nothing is forbidden.
    later = await states.create_flow_run_state(run, StateType.RUNNING)
    assert await states.delete_flow_run_states(flow_run_state_ids=[state.id, another.id])
    assert await states.read_current_flow_run_states([run, other]) == {run: later}
    await service.execute(f"delete from {table}")
    assert await states.delete_flow_run_state(later.id)


async def test_in_the_callers_transaction_it_is_undone_to_the_savepoint(service: Pool) -> None:
    run = uuid4()
    async with service.acquire() as connection, connection.transaction():
        states = FlowRunStateRepository(connection)
        state = await states.create_flow_run_state(run, StateType.PENDING)
        await connection.execute("insert into invoice (flow_run_id) values ($1)", run)
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with connection.transaction():
                await states.delete_flow_run_state(state.id)
        assert await states.read_current_flow_run_state(run) == state
    assert await check(service, data=True) == []


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_who_has_just_referenced_a_run_is_locked_by_no_append_and_locks_none(
    service: Pool, isolation: Literal["read_committed", "repeatable_read", "serializable"]
) -> None:
    states, run = FlowRunStateRepository(service), uuid4()
    await states.create_flow_run_states([new(run), new(run)])
    async with service.acquire() as connection:
        for table in ("report", "invoice"):
            async with connection.transaction(isolation=isolation):
                await connection.execute(f"insert into {table} (flow_run_id) values ($1)", run)
                first = await states.create_flow_run_state(run, StateType.RUNNING)
                await states.create_flow_run_state(run, StateType.RUNNING, expected=first.id)
                assert [outcome.status for outcome in await states.create_flow_run_states([new(run), new(uuid4())])] == ["created"] * 2
                assert await states.delete_flow_run_state(first.id)
                current = await states.read_current_flow_run_state(run)
                assert current is not None
                assert await states.delete_flow_run_state(current.id)
        # And the other way round: who has appended locks nobody who references the run.
        async with connection.transaction(isolation=isolation):
            own = FlowRunStateRepository(connection)
            appended = await own.create_flow_run_state(run, StateType.COMPLETED)
            await own.create_flow_run_states([new(run)])
            await own.delete_flow_run_state(appended.id)
            await service.execute("insert into report (flow_run_id) values ($1)", run)
            await service.execute("insert into invoice (flow_run_id) values ($1)", run)
    assert await check(service, data=True) == []


@pytest.mark.parametrize("table", ["flow_run", "report"])
async def test_triggers_of_the_service_run_under_the_search_path_of_our_trigger(service: Pool, connection: Connection, table: str) -> None:
    states, run = FlowRunStateRepository(connection), uuid4()
    await connection.execute("create schema jobs; create table jobs.gone (run_id uuid); set search_path = public, jobs")
    await connection.execute(
        "create function jobs.note() returns trigger language plpgsql as $$ begin insert into gone values (null); return null; end $$;"
        f"create trigger note after delete on {table} for each row execute function jobs.note()"
    )
    state = await states.create_flow_run_state(run, StateType.PENDING)
    await connection.execute("insert into report (flow_run_id) values ($1)", run)
    with pytest.raises(asyncpg.UndefinedTableError, match='relation "gone" does not exist'):
        await states.delete_flow_run_state(state.id)
    await connection.execute("alter function jobs.note() set search_path = jobs")
    assert await states.delete_flow_run_state(state.id)
    assert await connection.fetchval("select count(*) from gone") == 1


async def refused(work: Awaitable[object]) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await work


async def test_the_delete_of_a_last_state_waits_for_who_references_its_run(service: Pool) -> None:
    states, run = FlowRunStateRepository(service), uuid4()
    state = await states.create_flow_run_state(run, StateType.PENDING)
    async with service.acquire() as connection, asyncio.TaskGroup() as tasks, connection.transaction():
        await connection.execute("insert into invoice (flow_run_id) values ($1)", run)
        deleting = tasks.create_task(refused(states.delete_flow_run_state(state.id)))
        waiting = "select exists (select from pg_stat_activity where pg_backend_pid() = any (pg_blocking_pids(pid))) from pg_sleep(0.01)"
        while not await connection.fetchval(waiting):
            assert not deleting.done()
    assert await states.read_current_flow_run_state(run) == state


async def test_of_a_new_run_whose_batch_is_refused_nothing_is_left_to_reference(service: Pool, connection: Connection) -> None:
    states, run, other = FlowRunStateRepository(service), uuid4(), uuid4()
    taken = await states.create_flow_run_state(run, StateType.PENDING)
    refused = NewFlowRunState(flow_run_id=other, type=StateType.PENDING, id=taken.id)
    assert [outcome.status for outcome in await states.create_flow_run_states([refused])] == ["refused"]
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("insert into report (flow_run_id) values ($1)", other)
    assert await check(service, data=True) == []


async def test_appends_and_references_of_one_run_at_once(service: Pool) -> None:
    states, run = FlowRunStateRepository(service), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)

    async def append() -> None:
        for _ in range(20):
            await states.create_flow_run_state(run, StateType.RUNNING)

    async def reference() -> None:
        for _ in range(20):
            await service.execute("insert into report (flow_run_id) values ($1)", run)

    await asyncio.gather(append(), reference(), append(), reference())
    assert await service.fetchval("select count(*) from report") == 40
    assert len(await states.read_flow_run_states(run)) == 41
    assert await check(service, data=True) == []
