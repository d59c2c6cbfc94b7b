from __future__ import annotations

import asyncpg
import pytest

from flowstates import InvalidInputError, Mismatch, check, migrate
from flowstates.engine.queries import Layout
from tests.conftest import Connection
from tests.servers import PREFECT_TABLES
from tests.test_pool import BehindPooler


async def make(connection: Connection, layout: Layout) -> None:
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection)


LAYOUTS: list[Layout] = ["flowstates", "prefect"]


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


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("drop index uq_flow_run_state__flow_run_id_sequence", "index on flow_run_state (flow_run_id, sequence)"),
        ("alter table flow_run_state disable trigger user", "trigger tr_flow_run_state__refuse_fork of flow_run_state"),
        ("drop index ix_flow_run_state__timestamp_id", "index on flow_run_state (timestamp, id)"),
        ("alter table flow_run_state drop constraint ck_flow_run_state__timestamp", "constraint ck_flow_run_state__timestamp of flow_run_state"),
        ("alter table flow_run_state add extra int not null", "column flow_run_state.extra"),
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
    assert "column flow_run_state.sequence" in {mismatch.where for mismatch in await check(connection)}


async def test_needs_no_right_on_the_tables(connection: Connection) -> None:
    await migrate(connection)
    role = f"flowstates_{connection.get_server_pid()}"
    await connection.execute(f"create role {role}; set role {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("select from flow_run_state")
    assert await check(connection) == []
    await connection.execute(f"reset role; drop role {role}")


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
        assert [mismatch.where for mismatch in await check(pool, layout="prefect")] == ["statement cache", "table artifact"]


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
    assert await connection.fetchval("select count(*) from pg_prepared_statements where statement like '-- read%'") == 0
