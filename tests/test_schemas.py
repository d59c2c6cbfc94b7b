"""Nothing in the database keeps the name of a schema: it may be renamed, moved, dumped and restored, and written to from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import TABLES, FlowRunStateFeed, FlowRunStateRepository, NewFlowRunState, StateType, check, migrate
from tests.conftest import Connection
from tests.feeds import told
from tests.servers import create_database, drop_database
from tests.tools import psql, run

pytestmark = pytest.mark.server

START = datetime(2024, 3, 5, 12, tzinfo=UTC)
# A name that is nowhere else in a dump, and one that needs its quotes.
OURS, OTHER = "flowstates_of_one", 'Of two, "three"'


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def new(run: UUID, minutes: int, type: StateType = StateType.RUNNING) -> NewFlowRunState:
    return NewFlowRunState(flow_run_id=run, type=type, timestamp=START + timedelta(minutes=minutes), data={"a": ["\\", '"', "é\n"]})


async def use(connection: Connection, *schemas: str) -> None:
    await connection.execute(f"set search_path = {', '.join(map(quoted, schemas))}")


async def made(connection: Connection, schema: str) -> list[UUID]:
    """A schema with tables and five runs, of three states each."""
    await connection.execute(f"create schema {quoted(schema)}")
    await use(connection, schema)
    await migrate(connection)
    runs = [uuid4() for _ in range(5)]
    await FlowRunStateRepository(connection).create_flow_run_states([new(run, minutes) for run in runs for minutes in range(3)])
    return runs


async def goes_on(connection: Connection, runs: list[UUID]) -> None:
    """What can be done with runs, known and new ones, on the tables that the search path finds."""
    path = await connection.fetchval("show search_path")
    states = FlowRunStateRepository(connection)
    assert await check(connection, data=True) == []
    assert await states.read_current_flow_run_states(runs) == {run: (await states.read_flow_run_states(run))[-1] for run in runs}
    known, emptied, bulked, by_hand, unknown = *runs[:4], uuid4()
    for one in (known, unknown):
        before = await states.read_current_flow_run_state(one)
        first = await states.create_flow_run_state(one, StateType.PENDING, expected=before.id if before else None)
        second = await states.create_flow_run_state(one, StateType.RUNNING, expected=first.id)
        assert await states.delete_flow_run_state(second.id)
        assert await states.read_current_flow_run_state(one) == first
        third = await states.create_flow_run_state(one, StateType.COMPLETED, expected={StateType.PENDING})
        assert await states.read_current_flow_run_state(one) == third
    made_now = uuid4()
    batch = [new(bulked, -1), new(bulked, 10**6), new(made_now, 1)]
    assert [outcome.status for outcome in await states.create_flow_run_states(batch)] == ["created"] * 3
    assert (await states.read_current_flow_run_states([bulked, made_now])).keys() == {bulked, made_now}
    assert await states.delete_flow_run_states(flow_run_ids=[emptied, unknown])
    await connection.execute("delete from flow_run_state where flow_run_id = $1 and id = (select state_id from flow_run where id = $1)", by_hand)
    await connection.execute("delete from flow_run where id = $1", made_now)
    gone = await connection.fetchval("select count(*) from flow_run where id = any ($1)", [emptied, unknown, made_now])
    assert (gone, await states.read_flow_run_states(made_now)) == (0, [])
    assert await check(connection, data=True) == []
    assert await connection.fetchval("show search_path") == path
    # A feed tells what is left, and a consumer goes by it.
    feed, left = FlowRunStateFeed(connection), {row[0] for row in await connection.fetch("select id from flow_run_state")}
    found, _ = await told(feed, None, left)
    assert (len(found), set(found)) == (len(left), left)
    await feed.move("schemas", "beginning")
    async with feed.consume("schemas", limit=10_000) as told_batch:
        assert [state.id for state in told_batch.states] == found
    assert [(one.name, one.states) for one in await feed.positions()] == [("schemas", 0)]
    assert await connection.fetchval("show search_path") == path
    # For who comes next.
    await states.create_flow_run_states([new(one, minutes) for one in (emptied, by_hand) for minutes in range(3)])


@asynccontextmanager
async def another_database(server_dsn: str) -> AsyncIterator[tuple[str, Connection]]:
    dsn = await create_database(server_dsn)
    connection = await asyncpg.connect(dsn)
    try:
        yield dsn, connection
    finally:
        await connection.close()
        await drop_database(server_dsn, dsn)


async def test_a_schema_is_renamed(connection: Connection) -> None:
    runs = await made(connection, OURS)
    await goes_on(connection, runs)
    await connection.execute(f"alter schema {OURS} rename to {quoted(OTHER)}")
    await use(connection, OTHER)
    await goes_on(connection, runs)
    assert await migrate(connection) == []


async def test_the_tables_move_with_their_type(connection: Connection) -> None:
    runs = await made(connection, OURS)
    await connection.execute(f"create schema {quoted(OTHER)}; alter type state_type set schema {quoted(OTHER)}")
    for table in TABLES:
        await connection.execute(f"alter table {table} set schema {quoted(OTHER)}")
    await use(connection, OTHER)
    await goes_on(connection, runs)
    assert await migrate(connection) == []


@pytest.mark.parametrize("path", [(OURS, OTHER), (OTHER, OURS)])
async def test_the_tables_move_alone(connection: Connection, path: tuple[str, ...]) -> None:
    runs = await made(connection, OURS)
    await connection.execute(f"create schema {quoted(OTHER)}")
    for table in TABLES - {"flowstates_migration"}:
        await connection.execute(f"alter table {table} set schema {quoted(OTHER)}")
    await use(connection, *path)
    await goes_on(connection, runs)


# pg_restore takes no other name than the dump's, so the schema is renamed afterwards; in a text the name is another.
WAYS = [(), ("--inserts",), ("--rows-per-insert=2",), ("--format=custom",)]


async def restore(dsn: str, connection: Connection, file: Path, options: tuple[str, ...], target: str) -> None:
    if "--format=custom" in options:
        await run("pg_restore", dsn, "--exit-on-error", str(file))
        if target != OURS:
            await connection.execute(f"alter schema {OURS} rename to {quoted(target)}")
    else:
        await psql(dsn, file.read_text("utf-8").replace(OURS, quoted(target)))


@pytest.mark.parametrize("target", [OURS, OTHER])
@pytest.mark.parametrize("options", WAYS, ids=str)
async def test_a_dump_is_restored_into_another_database(
    server_dsn: str, own_dsn: str, connection: Connection, options: tuple[str, ...], target: str, tmp_path: Path
) -> None:
    runs = await made(connection, OURS)
    await run("pg_dump", own_dsn, f"--schema={OURS}", f"--file={tmp_path / 'dump'}", *options)
    async with another_database(server_dsn) as (dsn, other):
        await restore(dsn, other, tmp_path / "dump", options, target)
        await use(other, target)
        await goes_on(other, runs)
        assert await migrate(other) == []


@pytest.mark.parametrize("options", WAYS[:3], ids=str)
async def test_a_dump_is_restored_beside_its_origin(own_dsn: str, connection: Connection, options: tuple[str, ...]) -> None:
    runs = await made(connection, OURS)
    text = await run("pg_dump", own_dsn, f"--schema={OURS}", *options)
    await psql(own_dsn, text.replace(OURS, quoted(OTHER)))
    for schema in (OTHER, OURS):
        await use(connection, schema)
        await goes_on(connection, runs)


@pytest.mark.parametrize("target", [OURS, OTHER])
@pytest.mark.parametrize("options", [*WAYS, ("--disable-triggers",)], ids=str)
async def test_data_alone_is_restored_into_tables_that_migrate_made(
    server_dsn: str, own_dsn: str, connection: Connection, options: tuple[str, ...], target: str, tmp_path: Path
) -> None:
    runs = await made(connection, OURS)
    dump = ["--data-only", f"--schema={OURS}", "--exclude-table=*.flowstates_migration", f"--file={tmp_path / 'dump'}", *options]
    await run("pg_dump", own_dsn, *dump)
    async with another_database(server_dsn) as (dsn, other):
        before = OURS if "--format=custom" in options else target
        await other.execute(f"create schema {quoted(before)}")
        await use(other, before)
        await migrate(other)
        await restore(dsn, other, tmp_path / "dump", options, target)
        await use(other, target)
        await goes_on(other, runs)


async def test_states_alone_are_restored_and_their_runs_mended(server_dsn: str, own_dsn: str, connection: Connection, tmp_path: Path) -> None:
    runs = await made(connection, OURS)
    text = await run("pg_dump", own_dsn, "--data-only", f"--table={OURS}.flow_run_state")
    async with another_database(server_dsn) as (dsn, other):
        await other.execute(f"create schema {OURS}")
        await use(other, OURS)
        await migrate(other)
        await psql(dsn, text)
        found = await check(other, data=True)
        assert {(mismatch.where, mismatch.found) for mismatch in found} == {(f"run {run_id}", "none") for run_id in runs}
        assert found[0].mend is not None
        await psql(dsn, found[0].mend)
        await goes_on(other, runs)


@asynccontextmanager
async def role_with_tables(connection: Connection, schema: str) -> AsyncIterator[str]:
    """A role that has tables of its own in a schema, and what a writer needs on ours."""
    role = f"flowstates_{connection.get_server_pid()}"
    await connection.execute(f"create role {role}; create schema {quoted(schema)} authorization {role}")
    await connection.execute(
        f"grant usage on schema {OURS} to {role}; grant select, insert, delete on {OURS}.flow_run_state to {role};"
        f"grant select, insert, update, delete on {OURS}.flow_run to {role}; grant select on {OURS}.flowstates_migration to {role};"
        f"grant select, insert, update, delete on {OURS}.flowstates_pruned to {role};"
        f"grant select, insert, update on {OURS}.flowstates_consumer to {role}"
    )
    try:
        await connection.execute(f"set session authorization {role}")
        yield role
    finally:
        await connection.execute(f"reset session authorization; drop owned by {role} cascade; drop role {role}")


@pytest.mark.parametrize("schema", [OTHER, "{role}"])  # the second one is on the default search path
async def test_a_role_with_tables_of_its_own_writes_to_others(connection: Connection, schema: str) -> None:
    runs = await made(connection, OURS)
    schema = schema.format(role=f"flowstates_{connection.get_server_pid()}")
    async with role_with_tables(connection, schema):
        await use(connection, schema)
        await migrate(connection)
        states = FlowRunStateRepository(connection)
        # The same runs are known there, in other states.
        await states.create_flow_run_states([new(run_id, 1, StateType.PAUSED) for run_id in runs])
        own = await states.read_current_flow_run_states(runs)
        for path in ((OURS,), (OURS, schema)):
            await use(connection, *path)
            await goes_on(connection, runs)
        # By qualified names, with its own tables on the path, or none.
        for number, path_text in enumerate((quoted(schema), '"$user", public', "''")):
            await connection.execute(f"set search_path = {path_text}")
            one = runs[2 + number]
            await connection.execute(f"delete from {OURS}.flow_run_state where id = (select state_id from {OURS}.flow_run where id = $1)", one)
            assert await newest_left(connection, one)
            await connection.execute(f"delete from {OURS}.flow_run_state where flow_run_id = $1", one)
            assert await connection.fetchval(f"select count(*) from {OURS}.flow_run where id = $1", one) == 0
        await connection.execute(f"delete from {OURS}.flow_run where id = $1", runs[0])
        assert await connection.fetchval(f"select count(*) from {OURS}.flow_run_state where flow_run_id = $1", runs[0]) == 0
        await use(connection, OURS)
        assert await check(connection, data=True) == []
        await use(connection, schema)
        assert await check(connection, data=True) == []
        assert await states.read_current_flow_run_states(runs) == own


async def newest_left(connection: Connection, run_id: UUID) -> bool:
    """Whether a run's row points at the newest of its states."""
    found = await connection.fetchval(
        f"select state_id = (select id from {OURS}.flow_run_state where flow_run_id = $1 order by timestamp desc limit 1)"
        f" from {OURS}.flow_run where id = $1",
        run_id,
    )
    assert found is not None
    return bool(found)


async def test_deletes_by_psql_need_no_search_path(own_dsn: str, connection: Connection) -> None:
    runs = await made(connection, OURS)
    await psql(
        own_dsn,
        "select set_config('search_path', '', false) \\gset ignored_\n"
        f"delete from {OURS}.flow_run_state where id = (select state_id from {OURS}.flow_run where id = '{runs[0]}');\n"
        f"delete from {OURS}.flow_run_state where flow_run_id = '{runs[1]}';\n"
        f"delete from {OURS}.flow_run where id = '{runs[2]}';\n",
    )
    assert await newest_left(connection, runs[0])
    assert await connection.fetchval("select count(*) from flow_run") == 3
    assert await connection.fetchval("select count(*) from flow_run_state") == 8
    assert await check(connection, data=True) == []
    await psql(own_dsn, f"set search_path = '';\ntruncate {OURS}.flow_run_state;\n")
    assert await connection.fetchval("select count(*) from flow_run") == 0
    assert await check(connection, data=True) == []


async def test_no_temporary_table_takes_the_place_of_ours_in_the_triggers(connection: Connection) -> None:
    runs = await made(connection, OURS)
    await connection.execute(
        f"create temporary table flow_run as select * from {OURS}.flow_run;"
        f"create temporary table flow_run_state as select * from {OURS}.flow_run_state"
    )
    before = await connection.fetch("select * from pg_temp.flow_run order by id")
    for path in (OURS, "public"):
        await use(connection, path)
        assert [mismatch.found for mismatch in await check(connection)][:2] == ["a temporary table"] * 2
        one, two, *runs = runs
        await connection.execute(f"delete from {OURS}.flow_run_state where id = (select state_id from {OURS}.flow_run where id = $1)", one)
        assert await newest_left(connection, one)
        await connection.execute(f"delete from {OURS}.flow_run_state where flow_run_id = $1", one)
        await connection.execute(f"delete from {OURS}.flow_run where id = $1", two)
        left = await connection.fetch(f"select id from {OURS}.flow_run union select flow_run_id from {OURS}.flow_run_state")
        assert {row["id"] for row in left} == set(runs)
    assert await connection.fetch("select * from pg_temp.flow_run order by id") == before
    await connection.execute(f"truncate {OURS}.flow_run_state")
    assert await connection.fetch("select * from pg_temp.flow_run order by id") == before
    await connection.execute("drop table pg_temp.flow_run, pg_temp.flow_run_state")
    await use(connection, OURS)
    assert await check(connection, data=True) == []
