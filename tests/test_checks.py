from __future__ import annotations

import asyncpg
import pytest

from flowstates import InvalidInputError, Mismatch, check, migrate
from flowstates.database.definitions import functions, triggers
from flowstates.database.layouts import LAYOUTS as LAYOUTS_OF_TABLES
from flowstates.engine import queries
from flowstates.values import Layout
from tests.conftest import Connection
from tests.model import LAYOUTS
from tests.servers import PREFECT_TABLES, create_database, drop_database
from tests.test_pool import BehindPooler

pytestmark = pytest.mark.server


async def make(connection: Connection, layout: Layout) -> None:
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection, distributed=layout == "citus")


async def test_the_triggers_and_functions_that_are_checked_are_all_that_there_are(connection: Connection) -> None:
    await migrate(connection)
    there = await connection.fetch(
        "select tgname, tgrelid::regclass::text, proname from pg_trigger join pg_proc on pg_proc.oid = tgfoid where not tgisinternal"
    )
    made = triggers(queries.migrations())
    assert {tuple(row) for row in there} == {(name, trigger.table, trigger.function) for name, trigger in made.items()}
    functions_there = await connection.fetch("select proname from pg_proc where pronamespace = 'public'::regnamespace")
    assert (
        {row["proname"] for row in functions_there}
        == set(functions(queries.migrations()))
        == {trigger.function for trigger in triggers(queries.migrations()).values()}
    )


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_was_made_for_a_layout_fits_it(connection: Connection, layout: Layout) -> None:
    assert await check(connection, layout=layout) != []
    await make(connection, layout)
    assert await check(connection, layout=layout) == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        ("alter table flow_run_state drop column message", "column flow_run_state.message", "none"),
        ("alter table flow_run_state alter name type varchar(50)", "column flow_run_state.name", "character varying(50) not null"),
        ("alter table flow_run_state alter name drop not null", "column flow_run_state.name", "character varying"),
        ("alter type state_type add value 'SUSPENDED'", "label SUSPENDED of state_type", "a label"),
        ("alter type state_type rename value 'CRASHED' to 'BROKEN'", "label CRASHED of state_type", "none"),
        ("alter type state_type rename to other_type", "type state_type", "none"),
        ("drop index {index}", "index on flow_run_state (flow_run_id, timestamp)", "none"),
        ("drop table flow_run_state cascade", "table flow_run_state", "none"),
    ],
)
async def test_a_change_that_hinders_is_named(connection: Connection, layout: Layout, change: str, where: str, found: str) -> None:
    await make(connection, layout)
    suffix = "_desc" if layout == "prefect" else ""
    await connection.execute(change.format(index=f"uq_flow_run_state__flow_run_id_timestamp{suffix}"))
    mismatches = await check(connection, layout=layout)
    assert (where, found) in {(mismatch.where, mismatch.found) for mismatch in mismatches}
    assert str(mismatches[0]).startswith(f"{mismatches[0].where}: expected ")


TRIGGERS_OF_RUNS = (
    "drop trigger tr_flow_run__delete on child; create trigger tr_flow_run__delete after delete on flow_run"
    " referencing old table as gone for each statement execute function follow_deleted_runs();"
    "drop trigger tr_flow_run__truncate on child; create trigger tr_flow_run__truncate after truncate on flow_run"
    " for each statement execute function follow_deleted_runs();"
)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("drop index ix_flow_run_state__timestamp_id", "index on flow_run_state (timestamp, id)"),
        ("drop index ix_flow_run_state__transaction_timestamp_id", "index on flow_run_state (transaction, timestamp, id)"),
        ("drop index ix_flow_run__state_type_state_timestamp_id", "index on flow_run (state_type, state_timestamp, id)"),
        ("alter table flow_run drop constraint pk_flow_run", "index on flow_run (id)"),
        ("alter table flow_run drop constraint pk_flow_run, add primary key (id) deferrable", "index on flow_run (id)"),
        ("alter table flow_run drop constraint pk_flow_run; create unique index on flow_run ((id::text))", "index on flow_run (id)"),
        ("alter table flow_run_state alter created drop default", "column flow_run_state.created"),
        ("alter table flow_run_state alter updated drop expression", "column flow_run_state.updated"),
        ("alter table flow_run add extra int not null", "column flow_run.extra"),
        ("alter table flow_run alter state_id drop not null", "column flow_run.state_id"),
        ("alter table flow_run alter transaction type bigint using 1", "column flow_run.transaction"),
        ("alter table flow_run_state drop constraint ck_flow_run_state__timestamp", "constraint ck_flow_run_state__timestamp of flow_run_state"),
        ("alter table flow_run_state add extra int not null", "column flow_run_state.extra"),
        ("alter table flow_run_state alter timestamp set default now()", "column flow_run_state.timestamp"),
        ("alter table flow_run_state alter transaction drop default", "column flow_run_state.transaction"),
        ("alter table flow_run alter state_id set default gen_random_uuid()", "column flow_run.state_id"),
        ("alter table flow_run_state alter state_details set default '{\"retriable\": true}'", "column flow_run_state.state_details"),
        ("alter table flow_run_state drop updated, add updated timestamptz not null default now()", "column flow_run_state.updated"),
        (
            "alter table flow_run_state drop updated, add updated timestamptz not null generated always as (timestamp) stored",
            "column flow_run_state.updated",
        ),
        ("alter table flow_run_state set unlogged", "table flow_run_state"),
        ("alter table flow_run set unlogged", "table flow_run"),
        ("create table child () inherits (flow_run_state)", "inheritance of flow_run_state"),
        ("create table parent (like flow_run); alter table flow_run inherit parent", "inheritance of flow_run"),
        (
            "create table parent (like flow_run_state including generated) partition by list (type);"
            "alter table parent attach partition flow_run_state default",
            "inheritance of flow_run_state",
        ),
        (
            "alter table flow_run rename to child; create table flow_run (like child including all) partition by hash (id);"
            f"{TRIGGERS_OF_RUNS} alter table child rename constraint pk_flow_run to pk",
            "inheritance of flow_run",
        ),
        (
            "alter table flow_run_state drop constraint ck_flow_run_state__name, add constraint ck_flow_run_state__name check (name <> 'x')",
            "constraint ck_flow_run_state__name of flow_run_state",
        ),
        (
            "alter table flow_run_state drop constraint ck_flow_run_state__timestamp, add constraint ck_flow_run_state__timestamp"
            " check (timestamp >= '0001-01-03 00:00:00+00' and timestamp < '9999-12-31 00:00:00+00')",
            "constraint ck_flow_run_state__timestamp of flow_run_state",
        ),
        (
            "alter table flow_run_state drop constraint ck_flow_run_state__name, add constraint ck_flow_run_state__name check (name <> '') not valid",
            "constraint ck_flow_run_state__name of flow_run_state",
        ),
        (
            "drop index uq_flow_run_state__flow_run_id_timestamp;"
            "create unique index uq_flow_run_state__flow_run_id_timestamp on flow_run_state (flow_run_id, timestamp)",
            "index on flow_run_state (flow_run_id, timestamp)",
        ),
        (
            "drop index ix_flow_run_state__timestamp_id;"
            "create index ix_flow_run_state__timestamp_id on flow_run_state (timestamp, id) include (name)",
            "index on flow_run_state (timestamp, id)",
        ),
        (
            "drop index ix_flow_run__state_type_state_timestamp_id;"
            "create index ix_flow_run__state_type_state_timestamp_id on flow_run (state_type, state_timestamp desc, id)",
            "index on flow_run (state_type, state_timestamp, id)",
        ),
        (
            "drop index ix_flow_run__state_type_state_timestamp_id;"
            "create index ix_flow_run__state_type_state_timestamp_id on flow_run (state_timestamp, state_type, id)",
            "index on flow_run (state_type, state_timestamp, id)",
        ),
        (
            "drop index uq_flow_run_state__flow_run_id_timestamp; create index on flow_run_state (flow_run_id, timestamp)",
            "index on flow_run_state (flow_run_id, timestamp)",
        ),
        (
            "drop index uq_flow_run_state__flow_run_id_timestamp;"
            "create unique index on flow_run_state (flow_run_id, timestamp) where type = 'RUNNING'",
            "index on flow_run_state (flow_run_id, timestamp)",
        ),
    ],
)
async def test_what_our_writes_rest_on_is_named(connection: Connection, change: str, where: str) -> None:
    await migrate(connection)
    await connection.execute(change)
    assert [mismatch.where for mismatch in await check(connection)] == [where]


HEAD = "returns trigger language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off"
STRANGE = "create function strange() returns trigger language plpgsql as 'begin return new; end'; "
OURS = "tr_flow_run_state__delete of flow_run_state"
DELETES = "after delete on flow_run_state referencing old table as gone for each statement execute function follow_deleted_states()"


@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        ("alter table flow_run_state disable trigger tr_flow_run_state__delete", f"trigger {OURS}", "one that is off"),
        ("alter table flow_run_state enable replica trigger tr_flow_run_state__delete", f"trigger {OURS}", "one that fires for replication only"),
        ("alter table flow_run_state enable always trigger tr_flow_run_state__delete", f"trigger {OURS}", "one that fires for replication too"),
        ("drop trigger tr_flow_run_state__delete on flow_run_state", f"trigger {OURS}", "none"),
        ("drop trigger tr_flow_run__truncate on flow_run", "trigger tr_flow_run__truncate of flow_run", "none"),
        ("alter trigger tr_flow_run__delete on flow_run rename to other", "trigger tr_flow_run__delete of flow_run", "none"),
        (f"{STRANGE} drop function follow_deleted_runs() cascade", "trigger tr_flow_run__delete of flow_run", "none"),
        (
            f"create or replace trigger tr_flow_run_state__delete {DELETES.replace('gone', 'went')}",
            f"trigger {OURS}",
            DELETES.replace("gone", "went"),
        ),
        (
            f"create or replace trigger tr_flow_run_state__delete {DELETES.replace('states()', 'runs()')}",
            f"trigger {OURS}",
            DELETES.replace("states()", "runs()"),
        ),
        (
            f"{STRANGE} drop trigger tr_flow_run_state__delete on flow_run_state;"
            "create trigger tr_flow_run_state__delete before insert or delete on flow_run_state for each row when (true) execute function strange(1)",
            f"trigger {OURS}",
            "before insert or delete on flow_run_state for each row when (...) execute function strange(...)",
        ),
        (
            f"create or replace function follow_deleted_states() {HEAD} as 'begin return null; end'",
            "function follow_deleted_states",
            "another",
        ),
        (
            f"create schema other; create function other.follow_deleted_states() {HEAD} as 'begin return null; end';"
            f"create or replace trigger tr_flow_run_state__delete {DELETES.replace('follow', 'other.follow')}",
            "function follow_deleted_states",
            "another",
        ),
        (
            "alter function follow_deleted_runs() reset search_path",
            "function follow_deleted_runs",
            "returns trigger language plpgsql set enable_seqscan = off",
        ),
        (
            "alter function follow_deleted_runs() security definer",
            "function follow_deleted_runs",
            HEAD.replace("set", "security definer set", 1),
        ),
        *[
            (f"alter function follow_deleted_states() {words}", "function follow_deleted_states", head)
            for words, head in {
                "stable": HEAD.replace("set", "stable set", 1),
                "immutable strict": HEAD.replace("set", "immutable strict set", 1),
                "leakproof parallel safe": HEAD.replace("set", "leakproof parallel safe set", 1),
            }.items()
        ],
        ("set session_replication_role = replica", "setting session_replication_role", "replica"),
        ("alter table flow_run enable row level security", "row level security of flow_run", "on"),
        ("alter table flow_run_state enable row level security", "row level security of flow_run_state", "on"),
        ("create rule keep as on delete to flow_run_state do instead nothing", "rules of flow_run_state", "keep"),
        (
            f"{STRANGE} create trigger t before insert on flow_run_state for each row execute function strange()",
            "trigger t of flow_run_state",
            "before insert on flow_run_state for each row execute function strange()",
        ),
        (
            f"{STRANGE} create trigger t before insert or update on flow_run for each row execute function strange()",
            "trigger t of flow_run",
            "before insert or update on flow_run for each row execute function strange()",
        ),
        *[
            (
                f"{STRANGE} create trigger t before {event} on {table} for each row execute function strange()",
                f"trigger t of {table}",
                f"before {event} on {table} for each row execute function strange()",
            )
            for event, table in (("delete", "flow_run_state"), ("delete", "flow_run"), ("update", "flow_run"), ("insert or delete", "flow_run_state"))
        ],
        ("create temporary table flow_run (id uuid)", "table flow_run", "a temporary table"),
        ("create temporary table flow_run_state (id uuid)", "table flow_run_state", "a temporary table"),
        ("alter table flow_run rename to runs; create view flow_run as select * from runs", "table flow_run", "a view"),
        ("create schema other; alter table flow_run set schema other; set search_path = public, other", "schema of flow_run", "other"),
        ("drop table flowstates_migration", "table flowstates_migration", "none"),
        ("delete from flowstates_migration where name = '0001_flow_run_state'", "migration 0001_flow_run_state", "none"),
        ("update flowstates_migration set checksum = 'x' where name = '0001_flow_run_state'", "migration 0001_flow_run_state", "another"),
        ("insert into flowstates_migration values ('0002_newer', 'x')", "migration 0002_newer", "an applied one"),
    ],
)
async def test_what_would_let_rows_and_histories_disagree_is_named(connection: Connection, change: str, where: str, found: str) -> None:
    await migrate(connection)
    await connection.execute(change)
    for _ in range(2):
        # Whatever the session's settings are.
        mismatches = await check(connection)
        assert (where, found) in [(mismatch.where, mismatch.found) for mismatch in mismatches]
        assert len(mismatches) == (2 if "cascade" in change else 1)
        await connection.execute("set quote_all_identifiers = on")


@pytest.mark.parametrize(
    "change",
    [
        f"{STRANGE} create trigger t after insert on flow_run for each row execute function strange()",
        f"{STRANGE} create trigger t before delete on flow_run for each statement execute function strange()",
        "drop index ix_flow_run_state__timestamp_id; create index other on flow_run_state (timestamp, id) include (message, type)",
        "alter table flow_run_state add extra int default 1, add other int not null default 1, add check (extra > 0)",
        f"{STRANGE} create trigger t before insert on flow_run for each statement execute function strange()",
        f"{STRANGE} create trigger t before insert on flow_run for each row execute function strange(); alter table flow_run disable trigger t",
        "create table report (run uuid references flow_run on delete cascade)",
        "set session_replication_role = local",
        'set search_path = "$user", pg_catalog, public',
    ],
)
async def test_what_hinders_nothing_fits(connection: Connection, change: str) -> None:
    await migrate(connection)
    await connection.execute(change)
    assert await check(connection) == []


async def test_a_setting_that_quotes_all_names_changes_nothing(connection: Connection) -> None:
    await connection.execute("set quote_all_identifiers = on")
    assert await migrate(connection) != []
    assert await check(connection, data=True) == []
    await connection.execute('create schema "Prefect""s"; set search_path = "Prefect""s"')
    await connection.execute(PREFECT_TABLES)
    assert await check(connection, layout="prefect", data=True) == []


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_settings_of_the_session_change_nothing_and_stay_as_they_are(connection: Connection, layout: Layout) -> None:
    await make(connection, layout)
    wanted = {"TimeZone": "Asia/Kolkata", "DateStyle": "German, DMY", "search_path": '"$user", public, pg_catalog'}
    for name, value in wanted.items():
        await connection.execute("select set_config($1, $2, false)", name, value)
    # What hides a name, which the server then shows with its schema.
    await connection.execute("create function public.clock_timestamp() returns timestamptz language sql return now()")
    for _ in range(2):
        async with connection.transaction():
            assert await check(connection, layout=layout) == []
            assert {name: await connection.fetchval("select current_setting($1)", name) for name in wanted} == wanted
        assert await check(connection, layout=layout) == []
        await connection.execute("alter table flow_run_state add check (timestamp > '2000-01-01')")


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_database_that_fits_has_all_that_the_queries_ask(connection: Connection, layout: Layout) -> None:
    await make(connection, layout)
    for table in await connection.fetch("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"):
        if (name := table["relname"]) not in LAYOUTS_OF_TABLES[layout]:
            continue
        columns = await connection.fetch("select attname from pg_attribute where attrelid = to_regclass($1) and attnum > 0", name)
        for column in {row["attname"] for row in columns} - LAYOUTS_OF_TABLES[layout][name].columns.keys():
            await connection.execute(f"alter table {name} drop column {column} cascade")
    assert await check(connection, layout=layout) == []
    folders = [queries.root() / "queries", queries.root() / layout]
    names = {entry.name.removesuffix(".sql") for folder in folders for entry in folder.iterdir() if entry.name.endswith(".sql")}
    # Results are deleted only where that is asked for, and came to Prefect later.
    for name in names - {"prune.artifacts"}:
        await connection.prepare(queries.query(name, layout))


async def test_a_type_that_only_looks_alike_is_named(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("create schema other; create domain other.uuid as text; alter table flow_run_state alter message type other.uuid")
    (mismatch,) = await check(connection)
    assert (mismatch.where, mismatch.found) == ("column flow_run_state.message", "other.uuid")


async def test_a_type_that_the_search_path_finds_elsewhere_is_named(connection: Connection) -> None:
    await connection.execute("create schema own; set search_path = own")
    await migrate(connection)
    await connection.execute("create schema first; create type first.state_type as enum ('RUNNING'); set search_path = first, own")
    found = {mismatch.where: mismatch.found for mismatch in await check(connection)}
    assert found["column flow_run_state.type"] == found["column flow_run.state_type"] == "own.state_type not null"


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_a_database_of_another_encoding_is_named(server_dsn: str, layout: Layout) -> None:
    dsn = await create_database(server_dsn, template="template0 encoding 'LATIN1' locale 'C'")
    connection = await asyncpg.connect(dsn)
    try:
        await make(connection, layout)
        assert await check(connection, layout=layout) == [Mismatch("encoding of the database", "UTF8", "LATIN1")]
    finally:
        await connection.close()
        await drop_database(server_dsn, dsn)


@pytest.mark.parametrize(
    ("change", "where", "expected", "found"),
    [
        (
            "alter table flow_run drop constraint flow_run_state_id_fkey",
            "foreign key of flow_run.state_id",
            "flow_run_state (id) on delete set null",
            "none",
        ),
        (
            "alter table flow_run drop constraint flow_run_state_id_fkey, add foreign key (state_id) references flow_run_state (id)",
            "foreign key of flow_run.state_id",
            "flow_run_state (id) on delete set null",
            "flow_run_state (id) on delete no action",
        ),
        (
            "alter table flow_run_state disable trigger all",
            "foreign key of flow_run.state_id",
            "flow_run_state (id) on delete set null",
            "flow_run_state (id) on delete set null, switched off",
        ),
        (
            "alter table flow_run_state drop constraint flow_run_state_flow_run_id_fkey",
            "foreign key of flow_run_state.flow_run_id",
            "flow_run (id) on delete cascade",
            "none",
        ),
        ("alter table flow_run drop column state_timestamp", "column flow_run.state_timestamp", "timestamp with time zone", "none"),
        ("alter table flow_run drop column state_name", "column flow_run.state_name", "character varying", "none"),
        ("alter table flow_run drop column end_time", "column flow_run.end_time", "timestamp with time zone", "none"),
        ("alter table flow_run drop column state_id", "column flow_run.state_id", "uuid", "none"),
        ("alter table flow_run alter state_type type text", "column flow_run.state_type", "state_type", "text"),
        ("alter table artifact enable row level security", "row level security of artifact", "off, as it hides rows", "on"),
        ("drop table flow_run cascade", "table flow_run", "a table on the search path", "none"),
    ],
)
async def test_what_our_work_on_prefects_tables_rests_on_is_named(connection: Connection, change: str, where: str, expected: str, found: str) -> None:
    await make(connection, "prefect")
    await connection.execute(change)
    assert Mismatch(where, expected, found) in await check(connection, layout="prefect")


async def test_what_is_there_beyond_the_layout_fits(connection: Connection) -> None:
    await make(connection, "prefect")
    await connection.execute(
        "alter table flow_run_state add extra int not null, add constraint c check (extra > 0); create index on flow_run_state (created)"
    )
    assert await check(connection, layout="prefect") == []


async def test_prefects_artifact_table_is_looked_at(connection: Connection) -> None:
    await make(connection, "prefect")
    await connection.execute("alter table artifact alter data type jsonb")
    assert await check(connection, layout="prefect") == [Mismatch("column artifact.data", "json", "jsonb")]


async def test_one_layout_does_not_pass_for_the_other(connection: Connection) -> None:
    await make(connection, "prefect")
    assert "column flow_run_state.transaction" in {mismatch.where for mismatch in await check(connection)}


async def test_needs_no_right_on_the_tables(connection: Connection) -> None:
    await migrate(connection)
    role = f"flowstates_{connection.get_server_pid()}"
    await connection.execute(f"insert into flowstates_migration values ('9999_newer', 'x'); create role {role}; set role {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("select from flow_run_state")
    assert await check(connection) == []
    await connection.execute(f"reset role; grant select on flowstates_migration to {role}; set role {role}")
    assert [mismatch.where for mismatch in await check(connection)] == ["migration 9999_newer"]
    await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_a_read_only_transaction_is_enough(connection: Connection) -> None:
    await migrate(connection)
    async with connection.transaction(readonly=True):
        assert await check(connection) == []


async def test_an_unknown_layout_is_refused(connection: Connection) -> None:
    with pytest.raises(InvalidInputError, match=r"^layout: "):
        await check(connection, layout="airflow")  # type: ignore[arg-type]


async def test_a_statement_cache_behind_a_pooler_is_named(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, connection_class=BehindPooler) as pool:
        found = await check(pool)
        assert [(mismatch.where, mismatch.found) for mismatch in found] == [("statement cache", "a pooler, and prepared statements that are kept")]
        assert "transaction_pooling=True" in found[0].expected
        async with pool.acquire() as connection:
            assert await check(connection) == found
        assert {"statement cache", "table artifact"} <= {mismatch.where for mismatch in await check(pool, layout="prefect")}


async def test_a_pooler_without_a_statement_cache_fits(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, connection_class=BehindPooler, statement_cache_size=0) as pool:
        assert await check(pool) == []


async def test_a_transaction_that_was_begun_by_hand_goes_on(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("begin; create table uncommitted ()")
    assert await check(connection) == []
    assert connection.is_in_transaction()
    await connection.execute("rollback")
    assert await connection.fetchval("select to_regclass('uncommitted')") is None


async def test_nothing_stays_prepared_on_the_connection(connection: Connection) -> None:
    await check(connection)
    assert await connection.fetchval("select count(*) from pg_prepared_statements where statement like '/* read%'") == 0
