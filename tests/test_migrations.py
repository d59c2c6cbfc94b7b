from __future__ import annotations

import asyncio

import asyncpg
import pytest
from typer.testing import CliRunner

from flowstates import FlowRunStateRepository, MigrationError, Mismatch, StateType, check, create_pool, migrate
from flowstates.cli.app import app
from flowstates.database.definitions import made
from flowstates.database.migrations import migration_script
from flowstates.engine import queries
from tests.conftest import Connection, Pool
from tests.servers import PREFECT_TABLES

pytestmark = pytest.mark.server

ALL = [name for name, _ in queries.migrations()]
RUN = "0195f2a0-0000-7000-8000-000000000001"


async def test_applies_all_once(connection: Connection) -> None:
    assert await migrate(connection) == ALL
    assert await migrate(connection) == []
    assert await check(connection) == []
    assert [row["name"] for row in await connection.fetch("select name from flowstates_migration order by name")] == ALL


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_of_several_at_once_one_applies_and_all_succeed(own_dsn: str, isolation: str) -> None:
    async with create_pool(own_dsn, min_size=6, server_settings={"default_transaction_isolation": isolation}) as pool:
        assert sorted(await asyncio.gather(*[migrate(pool) for _ in range(6)])) == [[], [], [], [], [], ALL]


async def test_joins_the_callers_transaction(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    assert await migrate(connection) == ALL
    await FlowRunStateRepository(connection).create_flow_run_state(RUN, StateType.PENDING)
    await transaction.rollback()
    assert await connection.fetchval("select to_regclass('flow_run_state')") is None
    assert await migrate(connection) == ALL


async def test_refuses_a_changed_file(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(connection)
    changed = [(name, text + "-- changed\n") for name, text in queries.migrations()]
    monkeypatch.setattr(queries, "migrations", lambda: changed)
    with pytest.raises(MigrationError, match=f"{ALL[0]} has changed"):
        await migrate(connection)


async def test_refuses_a_migration_that_it_does_not_have_between_its_own(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("insert into flowstates_migration values ('0000_before', 'x')")
    with pytest.raises(MigrationError, match="0000_before"):
        await migrate(connection)


async def test_leaves_alone_what_a_newer_version_added(own_dsn: str, connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("insert into flowstates_migration values ('9999_newer', 'x')")
    assert await migrate(connection) == []
    done = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "--database-url", own_dsn])
    assert (done.exit_code, done.stdout) == (0, "nothing to apply\n")
    assert done.stderr == "applied by a newer version, and not known to this one: 9999_newer\n"
    assert await check(connection) == [Mismatch("migration 9999_newer", "none that this version does not know", "an applied one")]


@pytest.mark.parametrize("alembic", [True, False])
async def test_refuses_prefects_database_and_changes_nothing(connection: Connection, alembic: bool) -> None:
    await connection.execute(PREFECT_TABLES)
    if not alembic:
        await connection.execute("drop table alembic_version")
    with pytest.raises(MigrationError) as raised:
        await migrate(connection)
    assert "Prefect's, which the layout prefect reads: table flow_run, table flow_run_state, type state_type; give flowstates a schema" in str(
        raised.value
    )
    assert await connection.fetchval("select to_regclass('flowstates_migration')") is None


OTHERS = {
    "create table flow_run (id int)": "table flow_run",
    "create table flow_run_state (id int)": "table flow_run_state",
    "create type state_type as enum ('ON', 'OFF')": "type state_type",
    "create domain state_type as text": "type state_type",
    "create type state_type as (a int)": "type state_type",
    "create table state_type (id int)": "table state_type",
    "create view flow_run as select 1 as id": "view flow_run",
    "create materialized view flow_run as select 1 as id": "materialized view flow_run",
    "create sequence flow_run": "sequence flow_run",
    "create table other (id int); create index flow_run on other (id)": "index flow_run",
    "create table other (id int constraint pk_flow_run primary key)": "index pk_flow_run",
    "create type flow_run as enum ('A')": "type flow_run",
    "create sequence flowstates_migration": "sequence flowstates_migration",
    "create table flowstates_migration (name text)": "table flowstates_migration",
    "create function follow_deleted_states() returns trigger language plpgsql as 'begin return null; end'": "function follow_deleted_states",
    "create function follow_deleted_runs() returns int language sql return 1": "function follow_deleted_runs",
    "create temporary table flow_run (id int)": "temporary table flow_run",
    "create temporary view flow_run_state as select 1 as id": "temporary view flow_run_state",
    "create type pg_temp.state_type as enum ('ON')": "temporary type state_type",
}


@pytest.mark.parametrize("statement", OTHERS)
@pytest.mark.parametrize("alembic", [True, False])
async def test_refuses_what_is_somebody_elses_by_kind_and_name_with_the_cure(connection: Connection, statement: str, alembic: bool) -> None:
    if alembic:  # which many have, and not only Prefect
        await connection.execute("create table alembic_version (version_num varchar(32) not null primary key)")
    await connection.execute(statement)
    objects = "select count(*) from (select oid from pg_class union all select oid from pg_type union all select oid from pg_proc) as object"
    before = await connection.fetchval(objects)
    with pytest.raises(MigrationError) as raised:
        await migrate(connection)
    is_temporary = "temp" in statement
    assert str(raised.value) == (
        f"temporary objects hide what a migration is to make: {OTHERS[statement]}; drop them, or migrate on another connection"
        if is_temporary
        else f"schema public has what a migration is to make, not made by flowstates: {OTHERS[statement]}; "
        "give flowstates a schema of its own (create schema flowstates) and a search path that begins with it"
    )
    assert await connection.fetchval(objects) == before
    if is_temporary:
        await connection.execute(f"drop {OTHERS[statement].removeprefix('temporary ')}")
        assert await migrate(connection) == ALL
    else:
        await connection.execute("create schema flowstates; set search_path = flowstates, public")
        assert await migrate(connection) == ALL
        assert await check(connection) == []
        await FlowRunStateRepository(connection).create_flow_run_state(RUN, StateType.PENDING)


async def test_our_own_tables_without_their_record_are_not_prefects(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("drop table flowstates_migration; create table artifact (id uuid, data json)")
    with pytest.raises(MigrationError, match="not made by flowstates: "):
        await migrate(connection)


async def test_names_that_only_look_alike_are_nobodys_business(connection: Connection) -> None:
    await connection.execute(
        'create table "Flow_Run" (id int); create table flow_run_states (id int);'
        "create function follow_deleted_runs(int) returns int language sql return 1"
    )
    await connection.execute("create schema other; create table other.flow_run (id int)")
    assert await migrate(connection) == ALL
    assert await check(connection) == []


async def test_every_name_that_the_migrations_take_is_known(connection: Connection) -> None:
    names = set(made([queries.catalog("create_migration_table"), *[text for _, text in queries.migrations()]]))
    await migrate(connection)
    taken = await connection.fetch(
        "select relname as name from pg_class where relnamespace = 'public'::regnamespace"
        " union select typname from pg_type where typnamespace = 'public'::regnamespace and typname not like '\\_%'"
        " union select proname from pg_proc where pronamespace = 'public'::regnamespace"
    )
    # Such a name is chosen by the server among those that are free.
    assert {row["name"] for row in taken} - {"flowstates_migration_pkey"} == names


async def test_a_current_database_takes_no_lock(own_dsn: str, connection: Connection) -> None:
    await migrate(connection)
    async with connection.transaction(), create_pool(own_dsn) as pool:
        await connection.execute(queries.catalog("lock_migrations"))
        assert await migrate(pool, timeout=30) == []
        async with pool.acquire() as other, other.transaction():
            assert await migrate(other, timeout=30) == []
            assert await other.fetchval("select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'") == 0


async def test_a_role_that_may_only_read_the_record_finds_a_current_database(connection: Connection) -> None:
    await migrate(connection)
    role = f"flowstates_{connection.get_server_pid()}"
    await connection.execute(f"create role {role}; grant select on flowstates_migration to {role}; set role {role}")
    assert await migrate(connection) == []
    await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_a_schema_of_its_own_stands_beside_prefects(connection: Connection) -> None:
    await connection.execute(PREFECT_TABLES)
    await connection.execute("create schema own; set search_path = own, public")
    assert await migrate(connection) == ALL
    assert await connection.fetchval("select to_regclass('own.flow_run_state') is not null")
    assert await check(connection) == []
    # The type that is found is our own, and not the one that it hides.
    await FlowRunStateRepository(connection).create_flow_run_state(RUN, StateType.PENDING)
    assert await connection.fetchval("select count(*) from own.flow_run") == 1
    await connection.execute("set search_path = public")
    assert await check(connection, layout="prefect") == []
    await connection.execute("set search_path = public, own")
    with pytest.raises(MigrationError, match="Prefect"):
        await migrate(connection)
    await connection.execute("set search_path = nowhere")
    with pytest.raises(MigrationError, match="search path"):
        await migrate(connection)


async def test_a_failing_migration_leaves_nothing(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [*queries.migrations(), ("9998_broken", "create table made_by_broken (id int); select 1 / 0;")]
    monkeypatch.setattr(queries, "migrations", lambda: broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection)
    assert await connection.fetchval("select to_regclass('flow_run_state')") is None


async def test_the_printed_script_does_what_migrate_does(connection: Connection, pool: Pool) -> None:
    await connection.execute(migration_script())
    assert await check(connection) == []
    assert await migrate(connection) == []


async def test_the_time_limit_holds_while_it_waits_for_the_lock(own_dsn: str, connection: Connection) -> None:
    async with connection.transaction(), create_pool(own_dsn) as pool:
        await connection.execute(queries.catalog("lock_migrations"))
        with pytest.raises(TimeoutError):
            await migrate(pool, timeout=0.3)
    assert await migrate(connection) == ALL
