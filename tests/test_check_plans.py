from __future__ import annotations

import json
import secrets

import asyncpg
import pytest

from flowstates import InvalidInputError, create_pool
from flowstates.database.plans import SlowQuestion, check_plans
from flowstates.engine.queries import Layout
from tests.conftest import Connection
from tests.test_checks import make

pytestmark = pytest.mark.server

BY_TIME = "create index concurrently on flow_run_state (timestamp, id)"
BY_RUN = "create unique index concurrently on flow_run_state (flow_run_id, timestamp)"
OF_PREFECT = {
    "read_flow_run_state_page(order='time')": BY_TIME,
    "read_flow_run_state_page(order='time', newest_first=True)": BY_TIME,
    "stream_flow_run_states(since, until)": BY_TIME,
    "count_flow_run_states(since, until)": BY_TIME,
    "count_transitions()": BY_TIME,
    "count_occupancy()": f"{BY_RUN} include (type)",
}
FILL = """
insert into flow_run_state (type, timestamp, name, flow_run_id{column})
select 'RUNNING', now() + n * interval '1 second', 'Running', md5((n / 10)::text)::uuid{value} from generate_series(1, {count}) as n
"""
SETTINGS = "select string_agg(setting, ' ' order by name) from pg_settings where name like 'enable\\_%'"


def answers(slow: list[SlowQuestion]) -> dict[str, str]:
    return {question.question: question.index for question in slow}


async def test_our_own_indexes_serve_every_question(connection: Connection) -> None:
    await make(connection, "flowstates")
    assert await check_plans(connection) == []


async def test_what_prefects_indexes_do_not_serve_is_named(connection: Connection) -> None:
    await make(connection, "prefect")
    assert answers(await check_plans(connection, layout="prefect")) == OF_PREFECT


async def test_the_index_that_it_names_helps(connection: Connection) -> None:
    await make(connection, "prefect")
    for index in set(OF_PREFECT.values()):
        await connection.execute(index)
    assert await check_plans(connection, layout="prefect") == []


@pytest.mark.parametrize("count", [0, 100, 20_000])
@pytest.mark.parametrize("analyzed", [True, False])
async def test_neither_size_nor_old_statistics_change_the_answer(connection: Connection, count: int, analyzed: bool) -> None:
    await make(connection, "flowstates")
    await connection.execute("alter table flow_run_state set (autovacuum_enabled = off); analyze flow_run_state")
    await connection.execute(FILL.format(column=", sequence", value=", n % 10", count=count))
    if analyzed:
        await connection.execute("analyze flow_run_state")
    assert await check_plans(connection) == []
    await connection.execute("drop index ix_flow_run_state__timestamp_id")
    slow = await check_plans(connection)
    assert answers(slow).keys() == OF_PREFECT.keys() - {"count_occupancy()"}
    assert all(question.plan.endswith((" on flow_run_state", " on flow_run_state, and a sort")) for question in slow)


@pytest.mark.parametrize(
    ("layout", "index", "named"),
    [
        ("flowstates", "constraint pk_flow_run_state", {"read_flow_run_state()", "stream_flow_run_states(ids)", "count_flow_run_states(ids)"}),
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", {"read_flow_run_states()", "read_current_flow_run_states()", "count_occupancy()"}),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", {"read_flow_run_states()", "measure_time_in_states(flow_run_ids)"}),
    ],
)
async def test_a_missing_index_is_named(connection: Connection, layout: Layout, index: str, named: set[str]) -> None:
    await make(connection, layout)
    before = answers(await check_plans(connection, layout=layout)).keys()
    drop = f"alter table flow_run_state drop {index} cascade" if "constraint" in index else f"drop index {index}"
    await connection.execute(drop)
    assert answers(await check_plans(connection, layout=layout)).keys() - before >= named - before


async def test_the_plan_shown_is_the_one_that_the_server_would_use(connection: Connection) -> None:
    await make(connection, "prefect")
    await connection.execute("insert into flow_run (id) select md5((n / 10)::text)::uuid from generate_series(10, 20000, 10) as n")
    await connection.execute("insert into flow_run (id) values (md5('0')::uuid)")
    await connection.execute(FILL.format(column="", value="", count=20_000) + "; analyze flow_run_state")
    slow = {question.question: question for question in await check_plans(connection, layout="prefect")}
    assert slow["count_occupancy()"].plan.startswith("Seq Scan on flow_run_state")
    assert str(slow["count_transitions()"]).endswith(f"{BY_TIME} would help")


async def test_it_runs_in_the_callers_transaction_and_leaves_its_settings(connection: Connection) -> None:
    await make(connection, "prefect")
    await connection.execute("set enable_sort = off")
    before = await connection.fetchval(SETTINGS)
    for begin in ("begin", "begin read only", "begin isolation level serializable read only"):
        await connection.execute(begin)
        assert answers(await check_plans(connection, layout="prefect")) == OF_PREFECT
        assert await connection.fetchval(SETTINGS) == before
        assert connection.is_in_transaction()
        await connection.execute("commit")
        assert await connection.fetchval(SETTINGS) == before
    async with connection.transaction():
        await check_plans(connection, layout="prefect")
    await check_plans(connection, layout="prefect")
    assert await connection.fetchval(SETTINGS) == before


async def test_select_on_the_tables_is_enough(connection: Connection) -> None:
    await make(connection, "flowstates")
    role = f"flowstates_{secrets.token_hex(4)}"
    await connection.execute(f"create role {role}; set role {role}")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as error:
            await check_plans(connection)
        assert "select on flow_run_state" in error.value.__notes__[0]
        await connection.execute(f"reset role; grant select on flow_run_state to {role}")
        await connection.execute(f"set default_transaction_read_only = on; set role {role}")
        assert await check_plans(connection) == []
    finally:
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_nothing_is_run(connection: Connection) -> None:
    await make(connection, "flowstates")
    await connection.execute(FILL.format(column=", sequence", value=", n % 10", count=5_000))
    async with connection.transaction():
        reads = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables where relname = 'flow_run_state'"
        await check_plans(connection)
        assert await connection.fetchval(reads) < 1_000  # the planner looks at the ends of indexes


async def test_a_codec_of_the_callers_is_no_hindrance(connection: Connection) -> None:
    await make(connection, "flowstates")
    await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    assert await check_plans(connection) == []


async def test_a_pool_and_a_timeout(own_dsn: str) -> None:
    async with create_pool(own_dsn, max_size=1) as pool:
        with pytest.raises(asyncpg.UndefinedTableError):
            await check_plans(pool)
        async with pool.acquire() as connection:
            await make(connection, "flowstates")  # type: ignore[arg-type]
            with pytest.raises(TimeoutError):
                await check_plans(pool, timeout=0.05)
        assert await check_plans(pool, timeout=10) == []
    with pytest.raises(InvalidInputError, match=r"^layout: "):
        await check_plans(pool, layout="airflow")  # type: ignore[arg-type]
