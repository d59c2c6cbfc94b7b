from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from typer.testing import CliRunner

from flowstates import FlowRunStateRepository, Mismatch, NewFlowRunState, StateType, check, create_pool, migrate
from flowstates.cli.app import app
from flowstates.database import data
from flowstates.engine import queries
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.servers import PREFECT_TABLES
from tests.tools import psql

pytestmark = pytest.mark.server

START = datetime(2024, 3, 5, 12, tzinfo=UTC)
OTHER = UUID(int=2**127)


def state(run: UUID, minutes: int, type: StateType = StateType.RUNNING) -> NewFlowRunState:
    return NewFlowRunState(flow_run_id=run, type=type, timestamp=START + timedelta(minutes=minutes))


async def filled(connection: Connection, runs: int = 3, states: int = 3) -> list[UUID]:
    await migrate(connection)
    ids = [UUID(int=number) for number in range(runs)]  # from the least id on
    await FlowRunStateRepository(connection).create_flow_run_states([state(run, minute) for run in ids for minute in range(states)])
    return ids


async def newest(connection: Connection, run: UUID) -> UUID:
    current = await FlowRunStateRepository(connection).read_current_flow_run_state(run)
    assert current is not None
    return current.id


UNSEEN = "set session_replication_role = replica; {}; reset session_replication_role"


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ("delete from flow_run where id = '{run}'", "a row in flow_run with the state_id {newest}", "none"),
        ("delete from flow_run_state where flow_run_id = '{run}'", "no row in flow_run, as it has no state", "one"),
        ("update flow_run set state_id = '{other}' where id = '{run}'", "the state_id {newest}, its newest state", "{other}"),
        (
            "delete from flow_run_state where id = '{newest}'; insert into flow_run_state (id, flow_run_id, type, name)"
            " values ('{other}', '{run}', 'FAILED', 'Failed')",
            "the state_id {other}, its newest state",
            "{newest}",
        ),
        ("update flow_run set state_type = 'FAILED' where id = '{run}'", "in flow_run what state {newest} says", "another state_type"),
        (
            "update flow_run set state_name = 'x', state_timestamp = now(), transaction = '1' where id = '{run}'",
            "in flow_run what state {newest} says",
            "another state_name, state_timestamp, transaction",
        ),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_run_that_disagrees_with_its_states_is_named_and_mended(
    own_dsn: str, connection: Connection, change: str, expected: str, found: str, place: int
) -> None:
    runs = await filled(connection)
    assert await check(connection, data=True) == []
    names = {"run": runs[place], "newest": await newest(connection, runs[place]), "other": OTHER}
    await connection.execute(UNSEEN.format(change.format(**names)))
    assert await check(connection) == []
    (mismatch,) = await check(connection, data=True)
    mend = mismatch.mend
    assert mend is not None
    assert mend.endswith(queries.catalog("mend_flow_runs"))
    assert mismatch == Mismatch(f"run {runs[place]}", expected.format(**names), found.format(**names), mend)
    await psql(own_dsn, mend)
    assert await check(connection, data=True) == []
    # The run goes on, and so do the others.
    states = FlowRunStateRepository(connection)
    for run in runs:
        made = await states.create_flow_run_state(run, StateType.COMPLETED)
        assert await states.delete_flow_run_state(made.id)
    assert await check(connection, data=True) == []


@pytest.mark.parametrize("schema", ["own", 'O\'wn, "$$" \\ :é'])
async def test_what_is_printed_mends_the_schema_that_was_looked_at(own_dsn: str, connection: Connection, schema: str) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    await connection.execute(f"{PREFECT_TABLES} insert into flow_run default values; create schema {quoted}; set search_path = {quoted}")
    runs = await filled(connection)
    await connection.execute(UNSEEN.format("delete from flow_run"))
    (mend,) = {mismatch.mend for mismatch in await check(connection, data=True)}
    assert mend is not None
    # A session whose search path finds others, or nothing, and one with temporary tables.
    temporary = "create temporary table flow_run as select gen_random_uuid() as id;"
    await psql(own_dsn, f"{temporary} {mend} select 1 / count(*) from pg_temp.flow_run;")
    assert await check(connection, data=True) == []
    assert await connection.fetchval("select count(*) from public.flow_run") == 1
    assert (await FlowRunStateRepository(connection).read_current_flow_run_states(runs)).keys() == set(runs)


@pytest.mark.parametrize("table", ["flow_run", "flow_run_state"])
async def test_where_rows_may_be_hidden_nothing_is_offered(own_dsn: str, connection: Connection, table: str) -> None:
    runs = await filled(connection)
    role = f"reader_{connection.get_server_pid()}"
    await connection.execute(f"create role {role}; grant all on flow_run, flow_run_state, flowstates_migration to {role}")
    await connection.execute(f"alter table {table} enable row level security")
    # Who owns the tables sees all rows.
    assert [mismatch.where for mismatch in await check(connection, data=True)] == [f"row level security of {table}"]
    await connection.execute(f"update flow_run set state_name = 'x'; create policy all_rows on {table} using (true); set role {role}")
    found = [mismatch for mismatch in await check(connection, data=True) if mismatch.where.startswith("run ")]
    assert [mismatch.where for mismatch in found] == [f"run {run}" for run in runs]
    assert {mismatch.mend for mismatch in found} == {None}
    assert all(mismatch.found.endswith("; row level security may hide rows from this role, so nothing is offered to mend it") for mismatch in found)
    await connection.execute("reset role")
    (mend,) = {mismatch.mend for mismatch in await check(connection, data=True) if mismatch.where.startswith("run ")}
    assert mend is not None
    # The right text in the wrong hands.
    await connection.execute(f"set role {role}")
    with pytest.raises(asyncpg.RaiseError, match="row level security may hide rows"):
        await connection.execute(mend)
    await connection.execute("reset role")
    await psql(own_dsn, mend)
    assert [mismatch.where for mismatch in await check(connection, data=True)] == [f"row level security of {table}"]
    assert (await FlowRunStateRepository(connection).read_current_flow_run_states(runs)).keys() == set(runs)
    await connection.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize(
    "change",
    [
        "create schema other; alter table flow_run set schema other; set search_path = public, other",
        "create table child () inherits (flow_run)",
        "create rule keep as on delete to flow_run do instead nothing",
    ],
)
async def test_where_the_tables_are_tied_to_others_nothing_is_offered(connection: Connection, change: str) -> None:
    await filled(connection)
    await connection.execute(UNSEEN.format(f"update flow_run set state_name = 'x'; {change}"))
    found = await check(connection, data=True)
    assert len(found) == 4
    assert {mismatch.mend for mismatch in found} == {None}


async def test_a_later_number_of_a_run_is_kept(own_dsn: str, connection: Connection) -> None:
    (run,) = await filled(connection, runs=1)
    await connection.execute("update flow_run set transaction = '1000000000'")  # as after deletes of later states
    assert await check(connection, data=True) == []
    await connection.execute("update flow_run set state_name = 'x'")
    await psql(own_dsn, queries.catalog("mend_flow_runs"))
    assert await connection.fetchval("select transaction::text from flow_run") == "1000000000"
    await connection.execute(
        UNSEEN.format("update flow_run_state set transaction = '2000000000' where timestamp = (select min(timestamp) from flow_run_state)")
    )
    await connection.execute(UNSEEN.format("delete from flow_run"))
    await psql(own_dsn, queries.catalog("mend_flow_runs"))
    assert await connection.fetchval("select transaction::text from flow_run where id = $1", run) == "2000000000"


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_every_run_is_looked_at_whatever_a_page_holds(connection: Connection, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(data, "_RUNS_A_PAGE", size)
    monkeypatch.setattr(data, "_STATES_A_PAGE", size)
    runs = await filled(connection, runs=9)
    await connection.execute(UNSEEN.format(f"delete from flow_run where id = any ('{{{runs[0]},{runs[1]},{runs[4]}}}')"))
    await connection.execute(UNSEEN.format(f"delete from flow_run_state where flow_run_id = any ('{{{runs[2]},{runs[5]},{runs[8]}}}')"))
    lacking = [runs[index] for index in (0, 1, 2, 4, 5, 8)]
    assert [mismatch.where for mismatch in await check(connection, data=True)] == [f"run {run}" for run in lacking]


async def test_tables_of_either_kind_alone_are_walked(connection: Connection) -> None:
    runs = await filled(connection, runs=2)
    await connection.execute(UNSEEN.format("create table kept as select * from flow_run; delete from flow_run"))
    assert [mismatch.found for mismatch in await check(connection, data=True)] == ["none"] * len(runs)
    await connection.execute(UNSEEN.format("delete from flow_run_state; insert into flow_run select * from kept"))
    assert [mismatch.found for mismatch in await check(connection, data=True)] == ["one"] * len(runs)
    await connection.execute(UNSEEN.format("delete from flow_run"))
    assert await check(connection, data=True) == []


async def test_a_hundred_are_named_and_the_others_counted(connection: Connection) -> None:
    await filled(connection, runs=1203, states=1)
    await connection.execute(UNSEEN.format("update flow_run set state_name = 'x'; update flow_run_state set state_details = '{\"retriable\": 5}'"))
    found = await check(connection, data=True)
    runs, states = found[:101], found[101:]
    assert len({mismatch.where for mismatch in runs}) == len({mismatch.where for mismatch in states}) == 101
    assert runs[-1] == Mismatch("runs", "rows in flow_run that agree with the states", "1,103 more", runs[0].mend)
    assert states[-1] == Mismatch("states", "rows that fit their record", "1,103 more")


async def test_what_writers_do_meanwhile_is_no_mismatch(own_dsn: str, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_RUNS_A_PAGE", 2)
    runs = await filled(connection, runs=12)
    is_over = asyncio.Event()

    async with create_pool(own_dsn, max_size=4) as pool:
        states = FlowRunStateRepository(pool)

        async def write(run: UUID) -> None:
            while not is_over.is_set():
                made = await states.create_flow_run_state(run, StateType.RUNNING)
                await states.create_flow_run_states([state(run, -1), state(run, 10**7)])
                await states.delete_flow_run_state(made.id)
                await states.delete_flow_run_states(flow_run_ids=[run])

        async with asyncio.TaskGroup() as writers:
            for run in runs:
                writers.create_task(write(run))
            try:
                for _ in range(20):
                    assert await check(connection, data=True) == []
            finally:
                is_over.set()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_mend_beside_writers_leaves_rows_that_agree(own_dsn: str, connection: Connection, isolation: str) -> None:
    runs = await filled(connection, runs=40)
    wrong = "delete from flow_run where id::text like '%1'; update flow_run set state_id = id where id::text like '%2'"
    await connection.execute(f"set default_transaction_isolation = '{isolation}'")
    is_over = asyncio.Event()
    async with create_pool(own_dsn, max_size=6) as pool:
        states = FlowRunStateRepository(pool)

        async def write(run: UUID) -> None:
            while not is_over.is_set():
                made = await states.create_flow_run_state(run, StateType.RUNNING)
                await states.delete_flow_run_state(made.id)
                await states.delete_flow_run_states(flow_run_ids=[run])

        async with asyncio.TaskGroup() as writers:
            for run in [*runs[3:8], uuid4()]:
                writers.create_task(write(run))
            try:
                for _ in range(10):
                    for text in (UNSEEN.format(wrong), queries.catalog("mend_flow_runs")):
                        while True:
                            # Above READ COMMITTED it is done, or undone by the server.
                            with suppress(asyncpg.SerializationError):
                                await connection.execute(text)
                                break
                    assert await check(connection, data=True) == []
            finally:
                is_over.set()


async def test_a_state_that_is_deleted_while_its_run_is_mended_is_let_go(own_dsn: str, connection: Connection) -> None:
    (run,) = await filled(connection, runs=1)
    await connection.execute(UNSEEN.format("delete from flow_run"))
    async with create_pool(own_dsn) as pool, pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        assert await FlowRunStateRepository(other).delete_flow_run_state(await newest(connection, run))
        mending = asyncio.create_task(connection.execute(queries.catalog("mend_flow_runs")))
        await waiting(pool, connection)
        await transaction.commit()
        await mending
    assert await check(connection, data=True) == []


async def waiting(pool: Pool, connection: Connection) -> None:
    while not await pool.fetchval("select cardinality(pg_blocking_pids($1)) > 0 from pg_sleep(0.01)", connection.get_server_pid()):
        pass


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
@pytest.mark.parametrize("size", [1, 500])
async def test_every_state_that_cannot_be_read_is_named(connection: Connection, monkeypatch: pytest.MonkeyPatch, layout: Layout, size: int) -> None:
    monkeypatch.setattr(data, "_STATES_A_PAGE", size)
    await connection.execute(PREFECT_TABLES) if layout == "prefect" else await migrate(connection)
    if layout == "flowstates":
        await connection.execute("alter table flow_run_state drop constraint ck_flow_run_state__timestamp")
    else:
        await connection.execute("insert into flow_run (id) select uuid_in(lpad(n::text, 32, '0')::cstring) from generate_series(1, 9) as n")
    await connection.execute(
        "insert into flow_run_state (id, flow_run_id, type, name, timestamp, created, state_details, data)"
        " select uuid_in(lpad(n::text, 32, '0')::cstring), uuid_in(lpad(n::text, 32, '0')::cstring), 'RUNNING', 'Running',"
        " case n when 2 then 'infinity' when 3 then '-infinity' when 4 then '0044-03-15 BC' when 5 then '10000-01-01' else '2024-01-01'"
        " end::timestamptz,"
        " case n when 6 then 'infinity' else now() end::timestamptz,"
        " case n when 7 then '{\"retriable\": 5}' else '{}' end::jsonb, case n when 8 then repeat('1', 5000) end::jsonb"
        " from generate_series(1, 9) as n"
    )
    found = [mismatch for mismatch in await check(connection, layout=layout, data=True) if mismatch.where.startswith("state ")]
    assert [mismatch.where for mismatch in found] == [f"state {UUID(int=number)}" for number in range(2, 9)]
    assert [mismatch.found.partition(":")[0] for mismatch in found] == ["timestamp"] * 4 + ["created", "state_details", "data"]
    assert {mismatch.mend for mismatch in found} == {None}


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ("update flow_run set state_type = 'FAILED'", "the state_type RUNNING, which its state has", "FAILED"),
        ("update flow_run set state_type = null", "the state_type RUNNING, which its state has", "null"),
        ("update flow_run set state_id = '{other}'", "a state of its own as state_id", "{other} of run {other_run}"),
        (
            "alter table flow_run drop constraint flow_run_state_id_fkey; update flow_run set state_id = '{run}'",
            "a state of its own as state_id",
            "{run}, which is none",
        ),
    ],
)
async def test_of_prefects_rows_those_that_contradict_their_state_are_named(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, change: str, expected: str, found: str
) -> None:
    monkeypatch.setattr(data, "_RUNS_A_PAGE", 2)
    await connection.execute(PREFECT_TABLES)
    ids = {name: UUID(int=number) for number, name in enumerate(("run", "other_run", "state", "other"))}
    runs, states = [ids["run"], ids["other_run"], OTHER], [ids["state"], ids["other"]]
    await connection.execute("insert into flow_run (id) select unnest($1::uuid[])", runs)
    await connection.execute(
        "insert into flow_run_state (id, flow_run_id, type, name) select *, 'RUNNING', 'Running' from unnest($1::uuid[], $2::uuid[])",
        states,
        runs[:2],
    )
    await connection.execute(
        "update flow_run set state_id = state.id, state_type = state.type from flow_run_state as state where state.flow_run_id = flow_run.id"
    )
    await connection.execute("update flow_run set state_type = 'FAILED' where id = $1", OTHER)  # as after a delete of its current state
    assert await check(connection, layout="prefect", data=True) == []
    await connection.execute(f"{change.format(**ids)} where id = '{ids['run']}'")
    mismatches = [mismatch for mismatch in await check(connection, layout="prefect", data=True) if mismatch.where.startswith("run ")]
    assert mismatches == [Mismatch(f"run {ids['run']}", expected, found.format(**ids))]


async def test_rows_are_left_alone_where_the_tables_are_others(connection: Connection) -> None:
    assert await check(connection, data=True) == await check(connection)
    await filled(connection)
    await connection.execute(UNSEEN.format("delete from flow_run; alter table flow_run drop column state_name"))
    assert [mismatch.where for mismatch in await check(connection, data=True)] == ["column flow_run.state_name"]


async def test_the_command_names_them_and_prints_what_mends_them(own_dsn: str, connection: Connection) -> None:
    runs = await filled(connection)
    assert await asyncio.to_thread(invoke, "check", "--data", "--database-url", own_dsn) == (0, "the database fits the layout flowstates\n", "")
    await connection.execute(UNSEEN.format("delete from flow_run"))
    assert (await asyncio.to_thread(invoke, "check", "--database-url", own_dsn))[0] == 0
    code, out, _ = await asyncio.to_thread(invoke, "check", "--data", "--json", "--database-url", own_dsn)
    records = [json.loads(line) for line in out.splitlines()]
    assert (code, [record["where"] for record in records]) == (1, [f"run {run}" for run in runs])
    code, out, _ = await asyncio.to_thread(invoke, "check", "--data", "--database-url", own_dsn)
    lines, _, mend = out.partition("\n\n")
    assert (code, len(lines.splitlines())) == (1, 3)
    title, _, statement = mend.partition("\n")
    assert title == "This mends rows in flow_run; paste it into psql:"
    assert statement == records[0]["mend"]
    assert "set search_path = public, pg_temp;\n" in statement
    await psql(own_dsn, statement)
    assert (await asyncio.to_thread(invoke, "check", "--data", "--database-url", own_dsn))[0] == 0


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr
