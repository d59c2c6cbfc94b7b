"""What would be wrong with the write path is found: each fault is planted in a database of its own, and a schedule shows it.

The same schedules find nothing where nothing is planted. Random writers find these faults too; a schedule does so each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, NewFlowRunState, StateType
from flowstates.engine import execution, queries
from flowstates.values import Layout
from tests.schedules import Schedule, schedule


async def delete_the_current_state(at: Schedule) -> None:
    await at.created(None)
    last = await at.created(...)
    await at.writers.delete("d", ids=[last.id])


async def delete_behind_a_delete_of_the_current_state(at: Schedule) -> None:
    before, last = await at.created(None), await at.created(...)
    async with at.transaction() as other:
        await other.delete(last.id)
        delete = await at.begin(at.writers.delete("d", ids=[before.id]))
    await delete


async def delete_the_current_state_behind_a_delete_of_the_one_before(at: Schedule) -> None:
    before, last = await at.created(None), await at.created(...)
    async with at.transaction() as other:
        await other.delete(before.id)
        delete = await at.begin(at.writers.delete("d", ids=[last.id]))
    await delete


async def delete_what_an_append_follows_that_waits_for_its_id(at: Schedule) -> None:
    before, last, id_ = await at.created(None), await at.created(...), uuid4()
    transaction = at.other.transaction()
    await transaction.start()
    await FlowRunStateRepository(at.other).create_flow_run_state(uuid4(), StateType.PENDING, id=id_)
    append = await at.begin(at.create(last.id, id=id_))
    delete = await at.begin(at.writers.delete("d", ids=[last.id]))
    stale = await at.begin(at.create(before.id))
    await transaction.rollback()
    await asyncio.gather(append, delete, stale)


async def append_to_a_run_that_has_just_ended(at: Schedule) -> None:
    before = await at.created(None)
    async with at.transaction() as other:
        last = await other.create(at.run, before.id)
        await other.delete(before.id, last.id)
        append = await at.begin(at.create(before.id))
    await append


async def append_with_an_early_number(at: Schedule) -> None:
    async with at.transaction() as other:
        await at.other.execute("select pg_current_xact_id()")
        before = await at.created(None)
        await other.create(at.run, before.id)


async def append_behind_a_batch(at: Schedule) -> None:
    await at.created(None)
    await at.writers.bulk("b", [NewFlowRunState(flow_run_id=at.run, type=StateType.PENDING, message=at.writers.log.message("b"))])


async def in_the_function(dsn: str, *changes: tuple[str, str]) -> None:
    """Changes the text of the function that follows deletes of states."""
    connection = await asyncpg.connect(dsn)
    text: str = await connection.fetchval("select pg_get_functiondef(oid) from pg_proc where proname = 'follow_deleted_states'")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    await connection.execute(text)
    await connection.close()


def in_the_query(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[str], str]) -> None:
    query = queries.query

    def planted(asked: str, layout: Layout) -> str:
        text = query(asked, layout)
        if asked != name:
            return text
        changed = change(text)
        assert changed != text
        return changed

    execution._insert_text.cache_clear()
    monkeypatch.setattr(queries, "query", planted)


UPSERT = """with moved as (
    select id, state_id, state_type, state_name, state_timestamp as timestamp, transaction from flow_run where false
), made as (
    insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
    select $1::text::uuid, $3::text::uuid, $2::text::state_type, $5::text, coalesce($4::text::timestamptz, clock_timestamp()), pg_current_xact_id()
     where (exists (select from flow_run where id = $1::text::uuid) or ($10::text is null and ($11::text[] is null or '' = any ($11::text[]))))
       and /* slot: is_free */ not exists (select from flow_run_state where id = $3::text::uuid) /* end */
        on conflict (id) do update
       set state_id = excluded.state_id, state_type = excluded.state_type, state_name = excluded.state_name,
           state_timestamp = greatest(excluded.state_timestamp, flow_run.state_timestamp + interval '1 microsecond'),
           transaction = greatest(excluded.transaction, flow_run.transaction)
     where ($10::text is null or flow_run.state_id = $10::text::uuid)
       and ($11::text[] is null or flow_run.state_type::text = any ($11::text[]))
       and flow_run.state_id <> $3::text::uuid
    returning flow_run.id, flow_run.state_id, flow_run.state_type, flow_run.state_name, flow_run.state_timestamp as timestamp, flow_run.transaction
"""
LOCK = "update flow_run set state_id = flow_run.state_id where id = run_id;"
POINTS_AT_WHAT_WENT = "and state_id = gone.id"
NUMBER = "greatest(pg_current_xact_id(), flow_run.transaction)"
ELSEWHERE = """
create function elsewhere() returns trigger language plpgsql as $$
begin update flow_run set state_id = gen_random_uuid(); return null; end $$;
create trigger elsewhere after insert on flow_run_state for each statement execute function elsewhere();
"""


async def without_the_second_query(dsn: str, _: pytest.MonkeyPatch) -> None:
    await in_the_function(dsn, (POINTS_AT_WHAT_WENT, "and false"))


async def in_one_query(dsn: str, _: pytest.MonkeyPatch) -> None:
    await in_the_function(dsn, (LOCK, "null;"), (POINTS_AT_WHAT_WENT, ""))


async def with_a_lock_that_leaves_no_trace(dsn: str, _: pytest.MonkeyPatch) -> None:
    await in_the_function(dsn, (LOCK, "perform from flow_run where id = run_id for update;"))


async def with_an_insert_of_the_run_that_has_gone(_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_query(monkeypatch, "create_flow_run_state", lambda text: f"/* planted */ {UPSERT}{text[text.index('), stored as') :]}")


async def with_a_number_of_its_own(_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_query(monkeypatch, "create_flow_run_state", lambda text: text.replace(NUMBER, "pg_current_xact_id()"))


async def with_a_batch_that_moves_nothing(_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, still = "set state_id = newest.id", "set state_id = flow_run.state_id"
    in_the_query(monkeypatch, "create_flow_run_states.currents", lambda text: text.replace(moved, still))


async def pointing_elsewhere(dsn: str, _: pytest.MonkeyPatch) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(ELSEWHERE)
    await connection.close()


pytestmark = pytest.mark.server

Steps = Callable[[Schedule], Awaitable[Any]]
Plant = Callable[[str, pytest.MonkeyPatch], Awaitable[None]]

CASES: list[tuple[Plant, Steps, str, str]] = [
    (without_the_second_query, delete_the_current_state, "read committed", "row"),
    (in_one_query, delete_behind_a_delete_of_the_current_state, "read committed", "row"),
    (with_a_lock_that_leaves_no_trace, delete_the_current_state_behind_a_delete_of_the_one_before, "repeatable read", "row"),
    (with_an_insert_of_the_run_that_has_gone, append_to_a_run_that_has_just_ended, "read committed", "fork"),
    (with_a_number_of_its_own, append_with_an_early_number, "read committed", "disorder"),
    (with_a_batch_that_moves_nothing, append_behind_a_batch, "read committed", "row"),
    (pointing_elsewhere, delete_the_current_state, "read committed", "row"),
]


STEPS = [*dict.fromkeys(case[1] for case in CASES), delete_what_an_append_follows_that_waits_for_its_id]


@pytest.fixture(autouse=True)
def texts_of_their_own() -> Any:
    yield
    execution._insert_text.cache_clear()


@pytest.mark.parametrize(("plant", "steps", "isolation", "kind"), CASES, ids=[case[0].__name__ for case in CASES])
async def test_a_planted_fault_is_found(
    own_database: str, monkeypatch: pytest.MonkeyPatch, plant: Plant, steps: Steps, isolation: str, kind: str
) -> None:
    await plant(own_database, monkeypatch)
    async with schedule(own_database, isolation) as at:
        await steps(at)
        assert kind in {problem.partition(":")[0] for problem in await at.writers.problems()}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: steps.__name__)
async def test_where_nothing_is_planted_nothing_is_found(own_database: str, steps: Steps, isolation: str) -> None:
    async with schedule(own_database, isolation) as at:
        await steps(at)
        assert await at.writers.problems() == []
