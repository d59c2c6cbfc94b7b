"""Whoever deletes states, and however, a run's row says its newest state or is gone, at each isolation level and against others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import product
from random import Random
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import ContentionError, FlowRunState, FlowRunStateRepository, NewFlowRunState, StateType, UnexpectedStateError, create_pool
from flowstates.engine.connections import AnyConnection
from tests.conftest import Pool
from tests.schedules import LIMIT, schedule
from tests.servers import POINT_AT_NEWEST
from tests.stored import wrong_rows
from tests.writers import ISOLATION, defaults, level

pytestmark = pytest.mark.server

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING

Delete: TypeAlias = Callable[[AnyConnection, FlowRunState], Awaitable[Any]]

UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
SERVICE = """
create table service (id uuid primary key);
alter table flow_run_state add constraint of_service foreign key (flow_run_id) references service on delete cascade;
"""


async def one(connection: AnyConnection, state: FlowRunState) -> None:
    await FlowRunStateRepository(connection).delete_flow_run_state(state.id)


async def many(connection: AnyConnection, state: FlowRunState) -> None:
    await FlowRunStateRepository(connection).delete_flow_run_states(flow_run_state_ids=[uuid4(), state.id])


async def of_the_run(connection: AnyConnection, state: FlowRunState) -> None:
    await FlowRunStateRepository(connection).delete_flow_run_states(flow_run_ids=[state.flow_run_id])


async def by_sql(connection: AnyConnection, state: FlowRunState) -> None:
    await connection.execute("delete from flow_run_state where flow_run_id = $1 and timestamp >= $2", state.flow_run_id, state.timestamp)


async def by_a_cascade(connection: AnyConnection, state: FlowRunState) -> None:
    await connection.execute("delete from service where id = $1", state.flow_run_id)


async def of_the_row(connection: AnyConnection, state: FlowRunState) -> None:
    await connection.execute("delete from flow_run where id = $1", state.flow_run_id)


async def of_all_rows(connection: AnyConnection, _: FlowRunState) -> None:
    await connection.execute("delete from flow_run")


async def by_truncate(connection: AnyConnection, _: FlowRunState) -> None:
    await connection.execute("truncate flow_run_state")


async def by_truncate_of_both(connection: AnyConnection, _: FlowRunState) -> None:
    await connection.execute("truncate flow_run, flow_run_state")


async def by_truncate_of_the_service(connection: AnyConnection, _: FlowRunState) -> None:
    await connection.execute("truncate service cascade")


EMPTYING: list[Delete] = [of_all_rows, by_truncate, by_truncate_of_both, by_truncate_of_the_service]
WAYS: list[Delete] = [one, many, of_the_run, by_sql, by_a_cascade, of_the_row, *EMPTYING]
OF_STATES = [one, many, by_sql]


@pytest.fixture
async def service(own_database: str) -> AsyncIterator[Pool]:
    """A database in which a service's table is referenced by the states."""
    async with create_pool(own_database) as pool:
        await pool.execute(SERVICE)
        yield pool


async def a_run(pool: Pool, states: int = 3) -> list[FlowRunState]:
    run = uuid4()
    await pool.execute("insert into service values ($1)", run)
    return [await FlowRunStateRepository(pool).create_flow_run_state(run, RUNNING) for _ in range(states)]


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_each_way_leaves_the_rows_right(service: Pool, way: Delete, isolation: str) -> None:
    run, other = await a_run(service), await a_run(service, 1)
    async with service.acquire() as connection, connection.transaction(isolation=level(isolation)):
        await way(connection, run[-1])
        assert await wrong_rows(connection) == []
        after = await FlowRunStateRepository(connection).read_flow_run_states(run[0].flow_run_id)
        assert after == (run[:-1] if way in OF_STATES else [])
    assert await wrong_rows(service) == []
    assert await FlowRunStateRepository(service).read_flow_run_states(other[0].flow_run_id) == ([] if way in EMPTYING else other)


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_truncate_of_the_rows_alone_is_refused_while_there_are_states(service: Pool, isolation: str) -> None:
    run = await a_run(service)
    async with service.acquire() as connection:
        with pytest.raises(asyncpg.RaiseError, match="cannot be truncated"):
            async with connection.transaction(isolation=level(isolation)):
                await connection.execute("truncate flow_run")
    assert await FlowRunStateRepository(service).read_flow_run_states(run[0].flow_run_id) == run
    assert await wrong_rows(service) == []
    await service.execute("truncate flow_run_state")
    await service.execute("truncate flow_run")


@pytest.mark.parametrize("what", ["flow_run_state", "flow_run", "flow_run, flow_run_state"])
@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_truncate_with_an_old_snapshot_leaves_no_row_and_no_state_alone(service: Pool, isolation: str, what: str) -> None:
    async with service.acquire() as connection:
        transaction = connection.transaction(isolation=level(isolation))
        await transaction.start()
        await connection.execute("select from flow_run_state")
        await a_run(service)
        try:
            await connection.execute(f"truncate {what}")
        except asyncpg.RaiseError:
            await transaction.rollback()
            assert what == "flow_run"
        else:
            await transaction.commit()
        assert await wrong_rows(connection) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_truncate_of_rows_that_others_reference_is_the_servers_error_where_it_cannot_be_a_delete(service: Pool, isolation: str) -> None:
    await service.execute("create table job (run uuid references flow_run on delete cascade)")
    (state,) = await a_run(service, 1)
    await service.execute("insert into job values ($1)", state.flow_run_id)
    async with service.acquire() as connection:
        transaction = connection.transaction(isolation=level(isolation))
        await transaction.start()
        if isolation == "read committed":
            await by_truncate(connection, state)
            await transaction.commit()
        else:
            with pytest.raises(asyncpg.FeatureNotSupportedError):
                await by_truncate(connection, state)
            await transaction.rollback()
    assert await service.fetchval("select count(*) from job") == (0 if isolation == "read committed" else 1)
    assert await wrong_rows(service) == []


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("way", [one, by_sql], ids=lambda way: way.__name__)
async def test_a_delete_that_waits_behind_another_of_its_run(own_database: str, way: Delete, in_transaction: bool, isolation: str) -> None:
    async with schedule(own_database, isolation) as at:

        async def delete(state: FlowRunState) -> None:
            async with at.pool.acquire() as connection:
                if in_transaction:
                    async with connection.transaction():
                        await way(connection, state)
                else:
                    await way(connection, state)

        for left, is_current_last in product([0, 1], [False, True]):
            at.run = uuid4()
            kept = [await at.created(...) for _ in range(left)]
            before, current = await at.created(...), await at.created(...)
            gone, waiting = (before, current) if is_current_last else (current, before)
            async with at.other.transaction():
                await one(at.other, gone)
                task = await at.begin(delete(waiting))
            is_undone = isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncpg.SerializationError)
            # Alone, the library repeats what was undone.
            assert is_undone == (isolation != "read committed" and (in_transaction or way is by_sql))
            assert await FlowRunStateRepository(at.pool).read_flow_run_states(at.run) == kept + [waiting] * is_undone
            assert await wrong_rows(at.pool) == []


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_each_way_races_appends_and_other_deletes(service: Pool, own_database: str, way: Delete, isolation: str) -> None:
    """Nobody ever sees a row that is wrong, while one deletes in this way and others append and delete."""
    runs, random, appended = [uuid4() for _ in range(3)], Random(0), asyncio.Semaphore(0)
    rounds = 0
    wrong: set[str] = set()

    async with asyncio.timeout(LIMIT), create_pool(own_database, max_size=12, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool)
        newest: dict[UUID, FlowRunState] = {}

        async def append(run: UUID) -> None:
            while rounds < 20:
                known = newest.get(run)
                try:
                    if random.random() < 0.8:
                        newest[run] = await states.create_flow_run_state(run, RUNNING, expected=known.id if known and random.random() < 0.5 else ...)
                    else:
                        await states.create_flow_run_states([NewFlowRunState(flow_run_id=id_, type=PENDING) for id_ in runs])
                    appended.release()
                except UnexpectedStateError as error:
                    newest.pop(run, None)
                    if error.current:
                        newest[run] = error.current
                except (ContentionError, asyncpg.ForeignKeyViolationError, *UNDONE):
                    await asyncio.sleep(0.001)

        async def delete() -> None:
            while rounds < 20:
                if known := newest.get(random.choice(runs)):
                    await states.delete_flow_run_state(known.id)
                await asyncio.sleep(0)

        async def delete_in_this_way() -> None:
            nonlocal rounds
            while rounds < 20:
                await service.executemany("insert into service values ($1) on conflict do nothing", [(run,) for run in runs])
                for _ in range(10):
                    await appended.acquire()
                state = newest.get(random.choice(runs))
                if state is None:
                    continue
                try:
                    async with pool.acquire() as connection:
                        if rounds % 2:
                            async with connection.transaction():
                                await way(connection, state)
                        else:
                            await way(connection, state)
                except UNDONE:
                    pass
                rounds += 1

        async def watch() -> None:
            while rounds < 20:
                with suppress(*UNDONE):
                    wrong.update(await wrong_rows(service))

        await asyncio.gather(*[append(run) for run in runs * 2], delete(), delete(), delete_in_this_way(), watch())
        assert wrong == set()
        assert await wrong_rows(pool) == []


READ_WHOLE = "select sum(seq_scan)::int from pg_stat_xact_user_tables where relname in ('flow_run', 'flow_run_state')"
MANY_RUNS = """
insert into flow_run_state (type, name, flow_run_id, timestamp)
select 'RUNNING', 'Running', md5(run::text)::uuid, '2024-01-01'::timestamptz + state * interval '1 s'
  from generate_series(1, 4000) as run
 cross join generate_series(1, 3) as state
"""


@pytest.mark.parametrize("table", ["flow_run_state", "flow_run"])
async def test_a_delete_of_many_leaves_no_plan_behind_by_which_one_reads_a_table(own_database: str, table: str) -> None:
    async with create_pool(own_database) as pool:
        await pool.execute(MANY_RUNS)
        await pool.execute(POINT_AT_NEWEST["flowstates"], None)
        await pool.execute("vacuum analyze flow_run, flow_run_state")
        async with pool.acquire() as connection:
            # Enough that a plan for as many would read the table; of half of these runs the older states stay.
            await connection.execute(
                "delete from flow_run_state where timestamp > '2024-01-01 00:00:02' and flow_run_id < '80000000-0000-0000-0000-000000000000'"
            )
            await connection.execute("delete from flow_run where id < '40000000-0000-0000-0000-000000000000'")
            key = "id" if table == "flow_run" else "flow_run_id"
            run = await connection.fetchval("select id from flow_run limit 1")
            async with connection.transaction():
                before = await connection.fetchval(READ_WHOLE)  # of the session, as long as the server has not counted it
                await connection.execute(f"delete from {table} where {key} = $1", run)
                assert await connection.fetchval(READ_WHOLE) == before
        assert await wrong_rows(pool) == []


async def test_a_delete_of_many_does_not_go_by_a_plan_for_small_tables(own_database: str) -> None:
    async with create_pool(own_database) as pool, pool.acquire() as connection:
        states, runs = FlowRunStateRepository(connection), [uuid4() for _ in range(300)]
        first = await states.create_flow_run_state(uuid4(), PENDING)
        await states.create_flow_run_state(first.flow_run_id, RUNNING)
        await connection.execute("vacuum analyze flow_run")  # it has one page now, which one reads whole
        await connection.execute("vacuum analyze flow_run_state")
        await states.delete_flow_run_state(first.id)
        await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type=type_) for run in runs for type_ in (PENDING, RUNNING)])
        async with connection.transaction():
            before = await connection.fetchval(READ_WHOLE)
            await states.delete_flow_run_states(flow_run_ids=runs)
            assert await connection.fetchval(READ_WHOLE) <= before + 1  # the delete itself may


PUT_BACK = {
    "a state": (
        "with gone as (delete from flow_run_state where id = $1 returning *)"
        " insert into flow_run_state (id, type, timestamp, name, message, flow_run_id, transaction)"
        " select id, type, timestamp, name, 'other words', flow_run_id, transaction from gone"
    ),
    "a run's row": ("with gone as (delete from flow_run where state_id = $1 returning *) insert into flow_run select * from gone"),
}


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("what", PUT_BACK)
async def test_what_a_statement_deletes_and_puts_back_is_there(service: Pool, isolation: str, what: str) -> None:
    run = await a_run(service)
    async with service.acquire() as connection, connection.transaction(isolation=level(isolation)):
        await connection.execute(PUT_BACK[what], run[-1].id)
    states = FlowRunStateRepository(service)
    assert [state.id for state in await states.read_flow_run_states(run[0].flow_run_id)] == [state.id for state in run]
    current = await states.read_current_flow_run_state(run[0].flow_run_id)
    assert current is not None
    assert current.id == run[-1].id
    assert current.message == ("other words" if what == "a state" else None)
    assert await wrong_rows(service) == []


@pytest.mark.parametrize("type_", ["uuid", "text", "int8", "flow_run", "flow_run_state"])
async def test_nothing_temporary_takes_a_place_in_the_triggers(service: Pool, own_database: str, type_: str) -> None:
    """They run with the rights of the tables' owner where a cascade deletes."""
    run = await a_run(service)
    made = f"temp table {type_} (x int)" if type_.startswith("flow") else f"domain pg_temp.{type_} as pg_catalog.{type_} check (false)"
    connection = await asyncpg.connect(own_database)
    await connection.execute(f"create {made}")
    await connection.execute("delete from service where id = $1", run[0].flow_run_id)
    await connection.close()
    assert await FlowRunStateRepository(service).read_flow_run_states(run[0].flow_run_id) == []
    assert await wrong_rows(service) == []


@pytest.mark.parametrize(("way", "event"), [*product([one, many, by_sql], ["update", "delete"]), (of_the_run, "delete"), (by_a_cascade, "delete")])
async def test_a_delete_whose_runs_row_is_kept_back_is_an_error(service: Pool, way: Delete, event: str) -> None:
    run = (await a_run(service, 3 if event == "update" else 1))[-1]
    await service.execute(
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        f"create trigger nothing before {event} on flow_run for each row execute function nothing()"
    )
    async with service.acquire() as connection:
        with pytest.raises(asyncpg.RaiseError, match="flow_run") as caught:
            await way(connection, run)
        assert "row level security" in (caught.value.hint or "")
        assert run in await FlowRunStateRepository(connection).read_flow_run_states(run.flow_run_id)
        assert await wrong_rows(connection) == []
