"""What somebody else has put on the tables and that stands in the way of a write: nothing is changed, and the error says what it may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import ContentionError, FlowRunStateRepository, FlowStatesError, NewFlowRunState, StateType, create_pool
from tests.conftest import Pool
from tests.schedules import LIMIT
from tests.statements import counting
from tests.stored import wrong_rows
from tests.writers import ISOLATION, defaults

pytestmark = pytest.mark.server

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING
APPEND, MISS = "create_flow_run_state", "create_flow_run_state.miss"

INDEX = "create unique index of_the_owner on flow_run_state ((state_details ->> 'cache_key'))"
KEEPS_BACK = """
create function keep_back() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger keep_back before {event} on {table} for each row {condition} execute function keep_back();
"""
CHANGES_ROWS = """
create function change_rows() returns trigger language plpgsql as $$ begin {change}; return coalesce(new, old); end $$;
create trigger change_rows before {event} on {table} for each row execute function change_rows();
"""
CHANGES = [
    ("insert", "flow_run_state", change)
    for change in (
        "new.id := gen_random_uuid()", "new.timestamp := new.timestamp + interval '1 s'", "new.flow_run_id := gen_random_uuid()",
        "new.type := 'FAILED'", "new.name := 'theirs'", "new.transaction := '3'",
    )
] + [
    (event, "flow_run", change)
    for event in ("insert", "update")
    for change in (
        "new.id := gen_random_uuid()", "new.state_id := gen_random_uuid()", "new.state_type := 'FAILED'", "new.state_name := 'theirs'",
    )
]  # fmt: skip
UNDOES = """
create function undo() returns trigger language plpgsql as $$
begin perform pg_sleep({seconds}); raise exception 'once more' using errcode = '40001'; end $$;
create trigger undo before insert on {table} for each row execute function undo();
"""
DIVIDES = """
create function divide() returns trigger language plpgsql as $$ begin perform 1 / (new.message is not null)::int; return new; end $$;
create trigger divide before insert on flow_run_state for each row execute function divide();
"""
KEEPING_BACK = [
    ("insert", "flow_run_state", ""),
    ("insert", "flow_run", ""),
    ("update", "flow_run", ""),
    ("update", "flow_run", "when (new.state_id <> old.state_id)"),
]


class Table(NamedTuple):
    pool: Pool
    counts: dict[str, int]

    async def stored(self) -> tuple[list[Any], list[Any]]:
        return await self.pool.fetch("select * from flow_run_state order by id"), await self.pool.fetch("select * from flow_run order by id")


@pytest.fixture(params=ISOLATION)
async def table(request: pytest.FixtureRequest, own_database: str) -> AsyncIterator[Table]:
    connection_class, counts = counting()
    async with asyncio.timeout(LIMIT), create_pool(own_database, max_size=4, connection_class=connection_class, **defaults(request.param)) as pool:
        yield Table(pool, counts)


def new(run: UUID, **values: Any) -> NewFlowRunState:
    return NewFlowRunState(flow_run_id=run, type=RUNNING, **values)


async def test_a_key_of_the_owner_is_the_servers_error_after_a_few_statements(table: Table) -> None:
    await table.pool.execute(INDEX)
    states, run = FlowRunStateRepository(table.pool), uuid4()
    await states.create_flow_run_state(run, PENDING, state_details={"cache_key": "taken"})
    for at in (run, uuid4()):
        before = await table.stored()
        table.counts.clear()
        with pytest.raises(asyncpg.UniqueViolationError, match="of_the_owner"):
            await states.create_flow_run_state(at, RUNNING, state_details={"cache_key": "taken"})
        assert table.counts == {APPEND: 2, MISS: 2}
        table.counts.clear()
        with pytest.raises(asyncpg.UniqueViolationError, match="of_the_owner"):
            await states.create_flow_run_states([new(at, state_details={"cache_key": "taken"}), new(at)])
        assert sum(table.counts.values()) <= 16
        assert await table.stored() == before


async def test_a_key_of_the_owner_is_the_servers_error_though_other_writers_move_the_run(table: Table) -> None:
    await table.pool.execute(INDEX)
    states, run, is_told = FlowRunStateRepository(table.pool), uuid4(), False
    await states.create_flow_run_state(run, PENDING, state_details={"cache_key": "taken"})

    async def move() -> None:
        while not is_told:
            await states.create_flow_run_state(run, RUNNING)

    moving = asyncio.create_task(move())
    for _ in range(5):
        table.counts.clear()
        with pytest.raises(asyncpg.UniqueViolationError, match="of_the_owner"):
            await states.create_flow_run_state(run, RUNNING, state_details={"cache_key": "taken"})
        assert table.counts[MISS] <= 4
    is_told = True
    await moving
    assert await wrong_rows(table.pool) == []


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize(("event", "on", "condition"), KEEPING_BACK, ids=["insert of a state", "insert of a run", "update of a run", "move of a run"])
async def test_a_trigger_that_keeps_rows_back_lets_nothing_be_changed(
    table: Table, event: str, on: str, condition: str, in_transaction: bool
) -> None:
    states, run = FlowRunStateRepository(table.pool), uuid4()
    await states.create_flow_run_state(run, PENDING)
    await table.pool.execute(KEEPS_BACK.format(event=event, table=on, condition=condition))
    before = await table.stored()
    for at in (run, uuid4()):

        async def create(states: FlowRunStateRepository, at: UUID = at) -> None:
            await states.create_flow_run_state(at, RUNNING)

        async def bulk(states: FlowRunStateRepository, at: UUID = at) -> None:
            await states.create_flow_run_states([new(at), new(at)])

        # One create does not insert a known run, nor update a new one.
        is_met = on == "flow_run_state" or event == ("update" if at is run else "insert")
        for write in (create, bulk) if is_met else (bulk,):
            with pytest.raises(FlowStatesError, match="trigger"):  # noqa: PT012 (a transaction, and what is asked in it)
                if in_transaction:
                    async with table.pool.acquire() as connection, connection.transaction():
                        await write(FlowRunStateRepository(connection))
                else:
                    await write(states)
            assert await table.stored() == before


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize(("event", "on", "change"), CHANGES)
async def test_a_trigger_that_changes_rows_lets_nothing_be_changed(table: Table, event: str, on: str, change: str, in_transaction: bool) -> None:
    states, run = FlowRunStateRepository(table.pool), uuid4()
    await states.create_flow_run_state(run, PENDING)
    await table.pool.execute(CHANGES_ROWS.format(event=event, table=on, change=change))
    before = await table.stored()
    for at in (run, uuid4()):

        async def create(states: FlowRunStateRepository, at: UUID = at) -> None:
            await states.create_flow_run_state(at, RUNNING)

        async def bulk(states: FlowRunStateRepository, at: UUID = at) -> None:
            await states.create_flow_run_states([new(at), new(at), new(uuid4())])

        # One create does not insert a known run, nor update a new one. A batch moves the row that it inserts.
        is_met = on == "flow_run_state" or event == ("update" if at is run else "insert")
        is_put_right = event == "insert" and on == "flow_run" and change.partition(" ")[0] in ("new.state_id", "new.state_type", "new.state_name")
        for write in (*([create] if is_met else []), *([] if is_put_right else [bulk])):
            with pytest.raises(FlowStatesError, match="trigger"):  # noqa: PT012 (a transaction, and what is asked in it)
                if in_transaction:
                    async with table.pool.acquire() as connection, connection.transaction():
                        await write(FlowRunStateRepository(connection))
                else:
                    await write(states)
            assert await table.stored() == before


async def test_a_trigger_that_changes_what_is_the_owners_is_let_be(table: Table) -> None:
    await table.pool.execute(CHANGES_ROWS.format(event="insert", table="flow_run_state", change="new.message := 'theirs'"))
    states, run = FlowRunStateRepository(table.pool), uuid4()
    assert (await states.create_flow_run_state(run, RUNNING)).message == "theirs"
    assert [outcome.status for outcome in await states.create_flow_run_states([new(run), new(uuid4())])] == ["created"] * 2
    assert {state.message for state in await states.read_flow_run_states(run)} == {"theirs"}
    assert await wrong_rows(table.pool) == []


async def test_a_batch_is_compared_only_where_a_trigger_may_change_it(table: Table) -> None:
    states = FlowRunStateRepository(table.pool)
    for event, times in (("delete", 0), ("update", 1)):
        await table.pool.execute(CHANGES_ROWS.format(event=event, table="flow_run", change="perform 1"))
        table.counts.clear()
        await states.create_flow_run_states([new(uuid4())])
        assert table.counts["create_flow_run_states.meant"] == times
        await table.pool.execute("drop function change_rows cascade")


async def test_a_trigger_that_keeps_rows_back_is_met_a_few_times(table: Table) -> None:
    await table.pool.execute(KEEPS_BACK.format(event="insert", table="flow_run", condition=""))
    with pytest.raises(ContentionError, match="row level security"):
        await FlowRunStateRepository(table.pool).create_flow_run_state(uuid4(), RUNNING)
    assert table.counts == {APPEND: 5, MISS: 4}


async def test_a_division_by_zero_in_somebody_elses_trigger_stays_what_it_is(table: Table) -> None:
    await table.pool.execute(DIVIDES)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await FlowRunStateRepository(table.pool).create_flow_run_state(uuid4(), RUNNING)
    assert await table.stored() == ([], [])


@pytest.mark.parametrize("on", ["flow_run_state", "flow_run"])
async def test_a_trigger_that_always_says_40001_is_the_servers_error_after_a_few_tries(table: Table, on: str) -> None:
    await table.pool.execute(UNDOES.format(table=on, seconds=0))
    states = FlowRunStateRepository(table.pool)
    with pytest.raises(asyncpg.SerializationError, match="once more") as caught:
        await states.create_flow_run_state(uuid4(), RUNNING)
    assert "5 times" in caught.value.__notes__[0]
    assert table.counts == {APPEND: 5}
    with pytest.raises(asyncpg.SerializationError, match="once more") as caught:
        await states.create_flow_run_states([new(uuid4())])
    assert "5 times" in caught.value.__notes__[0]
    assert await table.stored() == ([], [])


async def test_the_timeout_of_a_call_is_for_all_its_tries(table: Table) -> None:
    await table.pool.execute(UNDOES.format(table="flow_run", seconds=0.3))
    with pytest.raises(TimeoutError):
        await FlowRunStateRepository(table.pool).create_flow_run_state(uuid4(), RUNNING, timeout=0.5)
    assert table.counts[APPEND] <= 2
