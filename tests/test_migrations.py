from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, MigrationError, StateType, check, create_pool, migrate
from flowstates.database.migrations import migration_script
from flowstates.engine import queries
from tests.conftest import Connection, Pool
from tests.servers import PREFECT_TABLES

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


async def test_leaves_alone_what_a_newer_version_added(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("insert into flowstates_migration values ('9999_newer', 'x')")
    assert await migrate(connection) == []


async def test_refuses_prefects_database_and_changes_nothing(connection: Connection) -> None:
    await connection.execute(PREFECT_TABLES)
    with pytest.raises(MigrationError, match="Prefect"):
        await migrate(connection)
    assert await connection.fetchval("select to_regclass('flowstates_migration')") is None
    await connection.execute("drop table alembic_version")
    with pytest.raises(MigrationError, match="not made by flowstates"):
        await migrate(connection)


async def test_a_schema_of_its_own_stands_beside_prefects(connection: Connection) -> None:
    await connection.execute(PREFECT_TABLES)
    await connection.execute("create schema own; set search_path = own, public")
    assert await migrate(connection) == ALL
    assert await connection.fetchval("select to_regclass('own.flow_run_state') is not null")
    assert await check(connection) == []
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
