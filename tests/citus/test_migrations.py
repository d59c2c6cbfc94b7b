"""Tables that Citus distributes, made by `migrate`."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from typer.testing import CliRunner

from flowstates import MigrationError, create_pool, migrate, migration_sql
from flowstates.cli.app import app
from flowstates.engine import queries

ALL = [name for name, _ in queries.distributed_migrations()]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_of_several_at_once_one_applies_and_all_succeed(empty_dsn: str, isolation: str) -> None:
    async with create_pool(empty_dsn, min_size=4, server_settings={"default_transaction_isolation": isolation}) as pool:
        assert sorted(await asyncio.gather(*[migrate(pool, distributed=True) for _ in range(4)])) == [[], [], [], ALL]
        assert await migrate(pool, distributed=True) == []
        (run, state) = await pool.fetch("select table_name::text, distribution_column, colocation_id from citus_tables order by 1")
        assert (run["table_name"], run["distribution_column"], state["table_name"]) == ("flow_run", "id", "flow_run_state")
        assert (state["distribution_column"], state["colocation_id"]) == ("flow_run_id", run["colocation_id"])


async def test_a_database_is_migrated_one_way(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await migrate(connection, distributed=True)
    with pytest.raises(MigrationError, match=f"{ALL[0]} was applied here, so the tables are distributed: migrate with `distributed`"):
        await migrate(connection)
    await connection.execute("create schema plain; set search_path = plain")
    await migrate(connection)
    with pytest.raises(MigrationError, match="0001_flow_run_state was applied here, which makes tables that are not distributed"):
        await migrate(connection, distributed=True)
    await connection.close()


async def test_what_is_there_already_is_named(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("create function append_flow_run_state(regclass) returns int language sql as 'select 1'")
    with pytest.raises(MigrationError, match="has what a migration is to make, not made by flowstates: function append_flow_run_state; give"):
        await migrate(connection, distributed=True)
    assert await connection.fetchval("select to_regclass('flow_run')") is None
    await connection.close()


async def test_another_tool_runs_the_statements(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    async with connection.transaction():
        for statement in migration_sql(distributed=True):
            await connection.execute(statement)
    assert await migrate(connection, distributed=True) == []
    await connection.close()


@pytest.mark.parametrize("by", ["option", "variable"])
async def test_the_command(empty_dsn: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "variable":
        monkeypatch.setenv("FLOWSTATES_LAYOUT", "citus")
    options = ["--distributed"] if by == "option" else []
    done = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", *options, "--database-url", empty_dsn])
    assert (done.exit_code, done.stdout) == (0, "".join(f"applied: {name}\n" for name in ALL))
