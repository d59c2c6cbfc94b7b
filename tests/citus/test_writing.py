"""Appends and deletes on Citus: where they run, and what they mean by the caller's isolation level, in a schema, and where two runs have one id."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, FlowStatesError, NewFlowRunState, StateType, UnexpectedStateError, create_pool, migrate
from flowstates.engine import queries
from tests.conftest import Connection, Pool
from tests.writers import level

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING
APPEND, DELETE = "create_flow_run_state", "delete_flow_run_states.of_run"


def listening(connection: Connection) -> list[str]:
    """What Citus says of each statement from now on, if it is one that it sends to another server as it is."""
    said: list[str] = []

    def note(_: object, message: asyncpg.PostgresLogMessage) -> None:
        if "pushing down the function call" in str(message):
            said.append(str(message))

    connection.add_log_listener(note)
    return said


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_call_runs_where_its_run_is(citus_dsn: str, in_transaction: bool) -> None:
    connection = await asyncpg.connect(citus_dsn, server_settings={"client_min_messages": "debug1"})
    said = listening(connection)
    states, run = FlowRunStateRepository(connection, layout="citus"), uuid4()
    transaction = connection.transaction()
    if in_transaction:
        await transaction.start()
    made = [await states.create_flow_run_state(run, RUNNING, data={"n": number}) for number in range(10)]  # from the sixth on plans may be generic
    assert len(said) == 10
    for state in made[:8]:
        assert await states.delete_flow_run_state(state.id)
    assert len(said) == 18
    await states.delete_flow_run_states(flow_run_ids=[run])
    assert len(said) == 19
    if in_transaction:
        await transaction.commit()
    assert await states.read_flow_run_states(run) == []
    assert await connection.fetch("select from flow_run where id = $1", run) == []
    await connection.close()


async def test_a_call_that_citus_does_not_send_is_judged_by_the_same_row(citus_dsn: str) -> None:
    """As a part of another query, say: it runs on the coordinator, statement by statement, with the same locks."""
    text = queries.query(APPEND, "citus")
    inside = text.replace("select", "with stored as materialized (select", 1).rstrip().removesuffix(";") + ") select id from stored"
    async with create_pool(citus_dsn, max_size=12) as pool:
        states, run = FlowRunStateRepository(pool, layout="citus"), uuid4()
        expected = (await states.create_flow_run_state(run, PENDING)).id
        for _ in range(20):
            arguments = [(run.hex, "RUNNING", uuid4().hex, None, "Running", None, "{}", None, None, expected.hex, None) for _ in range(12)]
            found = await asyncio.gather(*[pool.fetch(inside if number % 2 else text, *given) for number, given in enumerate(arguments)])
            ((won,),) = [rows for rows in found if rows]
            current = await states.read_current_flow_run_state(run)
            assert current is not None
            assert str(current.id) == won["id"]
            expected = current.id


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("change", ["append", "delete"])
async def test_what_another_changed_since_a_snapshot_is_a_serialization_failure(pool: Pool, isolation: str, change: str) -> None:
    states, run, other_run = FlowRunStateRepository(pool, layout="citus"), uuid4(), uuid4()
    first = await states.create_flow_run_state(run, PENDING)
    last = await states.create_flow_run_state(run, RUNNING)
    async with pool.acquire() as connection:
        mine = FlowRunStateRepository(connection, layout="citus")
        transaction = connection.transaction(isolation=level(isolation))
        await transaction.start()
        assert await mine.read_flow_run_states(run) == [first, last]
        await mine.create_flow_run_state(other_run, RUNNING)
        if change == "append":
            await states.create_flow_run_state(run, RUNNING)
        else:
            await states.delete_flow_run_state(last.id)
        assert await mine.read_flow_run_states(run) == [first, last]
        with pytest.raises(asyncpg.SerializationError):
            await mine.create_flow_run_state(run, RUNNING, expected=last.id)
        await transaction.rollback()
    assert last.id in [state.id for state in await states.read_flow_run_states(run)] or change == "delete"
    assert await states.read_flow_run_states(other_run) == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_sessions_level_is_no_matter_to_a_call_by_itself(citus_dsn: str, isolation: str) -> None:
    async with create_pool(citus_dsn, max_size=8, server_settings={"default_transaction_isolation": isolation}) as pool:
        states, run = FlowRunStateRepository(pool, layout="citus"), uuid4()
        expected = None
        for _ in range(8):
            tries = [states.create_flow_run_state(run, RUNNING, expected=expected) for _ in range(8)]
            done = await asyncio.gather(*tries, return_exceptions=True)
            (winner,) = [state for state in done if not isinstance(state, BaseException)]
            assert all(isinstance(lost, UnexpectedStateError) and lost.current == winner for lost in done if lost is not winner)
            expected = winner.id


async def test_an_id_that_two_runs_have_names_neither(pool: Pool) -> None:
    states, runs = FlowRunStateRepository(pool, layout="citus"), sorted([uuid4(), uuid4()])
    first = await states.create_flow_run_state(runs[0], RUNNING)
    await states.create_flow_run_state(runs[1], RUNNING, id=first.id)
    other = await states.create_flow_run_state(runs[1], RUNNING)
    asks = (
        states.read_flow_run_state(first.id),
        states.delete_flow_run_state(first.id),
        states.delete_flow_run_states(flow_run_state_ids=[other.id, first.id]),
    )
    for ask in asks:
        with pytest.raises(FlowStatesError) as caught:
            await ask
        assert all(str(id_) in str(caught.value) for id_ in (first.id, *runs))
    assert [len(await states.read_flow_run_states(run)) for run in runs] == [1, 2]
    assert len(await states.delete_flow_run_states(flow_run_ids=[runs[1]])) == 2
    assert await states.read_flow_run_state(first.id) == first
    assert await states.delete_flow_run_state(first.id)


async def test_a_create_whose_id_is_taken_in_its_run(pool: Pool) -> None:
    states, run = FlowRunStateRepository(pool, layout="citus"), uuid4()
    first = await states.create_flow_run_state(run, PENDING, expected=None, message="m")
    await states.create_flow_run_state(run, RUNNING)
    assert await states.create_flow_run_state(run, PENDING, id=first.id, expected=None, message="m") == first
    with pytest.raises(FlowStatesError, match="is stored already, with other content"):
        await states.create_flow_run_state(run, PENDING, id=first.id, message="another")


async def test_deletes_of_many_are_one_transaction(pool: Pool) -> None:
    states, runs = FlowRunStateRepository(pool, layout="citus"), [uuid4() for _ in range(4)]
    made = [await states.create_flow_run_state(run, RUNNING) for run in runs * 2]
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        gone = await FlowRunStateRepository(connection, layout="citus").delete_flow_run_states(flow_run_ids=runs)
        assert set(gone) == {state.id for state in made}
        await transaction.rollback()
    assert [len(await states.read_flow_run_states(run)) for run in runs] == [2, 2, 2, 2]
    some = [state.id for state in made[4:]]
    assert set(await states.delete_flow_run_states(flow_run_state_ids=[*some, uuid4()])) == set(some)
    assert await states.read_current_flow_run_states(runs) == {state.flow_run_id: state for state in made[:4]}
    assert set(await states.delete_flow_run_states(flow_run_ids=[*runs, *runs, uuid4()])) == {state.id for state in made[:4]}
    assert await pool.fetch("select from flow_run where id = any ($1)", runs) == []


async def test_a_schema_may_be_renamed(empty_dsn: str) -> None:
    run, path = uuid4(), {"search_path": "first"}
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("create schema first")
    await connection.close()
    async with create_pool(empty_dsn, max_size=2, server_settings=path) as pool:
        await migrate(pool, distributed=True)
        states = FlowRunStateRepository(pool, layout="citus")
        first = await states.create_flow_run_state(run, PENDING)
        await pool.execute("alter schema first rename to second")
        await pool.expire_connections()
    async with create_pool(empty_dsn, max_size=2, server_settings={"search_path": "second"}) as pool:
        states = FlowRunStateRepository(pool, layout="citus")
        second = await states.create_flow_run_state(run, RUNNING, expected=first.id)
        assert await states.read_flow_run_states(run) == [first, second]
        assert await states.delete_flow_run_state(second.id)
        assert await states.read_current_flow_run_state(run) == first


async def test_nothing_temporary_takes_a_place_in_the_functions(citus_dsn: str) -> None:
    connection = await asyncpg.connect(citus_dsn)
    await connection.execute("create temp table flow_run_state (x int)")
    states, run = FlowRunStateRepository(connection, layout="citus"), uuid4()
    await connection.execute("set search_path = public, pg_temp")
    state = await states.create_flow_run_state(run, RUNNING)
    assert await states.read_flow_run_states(run) == [state]
    await connection.close()


async def test_a_state_that_a_trigger_keeps_back_is_an_error(own_dsn: str) -> None:
    async with create_pool(own_dsn, max_size=1) as pool:
        await pool.execute(
            "set citus.enable_unsafe_triggers = on;create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        )
        await pool.execute("create trigger nothing before insert on flow_run_state for each row execute function nothing()")
        run = uuid4()
        with pytest.raises(asyncpg.RaiseError, match=f"flow_run_state keeps the new state of run {run} back"):
            await FlowRunStateRepository(pool, layout="citus").create_flow_run_state(run, RUNNING)
        assert await pool.fetch("select from flow_run") == []


async def test_a_batch_may_have_one_id_in_two_runs(citus_dsn: str) -> None:
    async with create_pool(citus_dsn) as pool:
        states, id_, one, two = FlowRunStateRepository(pool, layout="citus"), uuid4(), uuid4(), uuid4()
        batch = [NewFlowRunState(flow_run_id=run, type=PENDING, id=id_) for run in (one, two)]
        more = [NewFlowRunState(flow_run_id=two, type=RUNNING), NewFlowRunState(flow_run_id=two, type=PENDING, id=id_)]
        outcomes = await states.create_flow_run_states([*batch, *more])
        assert [outcome.status for outcome in outcomes] == ["created", "created", "created", "present"]
        assert [len(await states.read_flow_run_states(run)) for run in (one, two)] == [1, 2]
        assert [outcome.status for outcome in await states.create_flow_run_states(batch)] == ["present", "present"]
