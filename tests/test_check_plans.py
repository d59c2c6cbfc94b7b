from __future__ import annotations

import json
import secrets

import asyncpg
import pytest

from flowstates import InvalidInputError, create_pool
from flowstates.database.plans import SlowQuestion, check_plans
from flowstates.values import Layout
from tests.conftest import Connection
from tests.servers import POINT_AT_NEWEST
from tests.test_checks import make

pytestmark = pytest.mark.server

BY_TIME = "create index concurrently on flow_run_state (timestamp, id)"
BY_RUN = "create unique index concurrently on flow_run_state (flow_run_id, timestamp)"
OF_PREFECT = {
    "read_flow_run_state_page(order='time')": BY_TIME,
    "read_flow_run_state_page(order='time', newest_first=True)": BY_TIME,
}
CURRENT = "create index concurrently on flow_run (state_type, state_timestamp, id)"
OF_CURRENT = {
    "read_flow_run_state_page(current=True, order='time')": CURRENT,
    "read_flow_run_state_page(current=True, order='time', newest_first=True)": CURRENT,
    "stream_flow_run_states(current=True, types)": CURRENT,
    "stream_flow_run_states(current=True, since, until)": CURRENT,
    "count_flow_run_states(current=True, types)": CURRENT,
    "count_flow_run_states(current=True, since, until)": CURRENT,
    "measure_time_in_states()": CURRENT,
    "count_occupancy()": CURRENT,
}
MOVED = "create index concurrently on flow_run (state_timestamp)"
OF_MOVED = {
    "stream_flow_run_states(since, until)": MOVED,
    "count_flow_run_states(since, until)": MOVED,
    "stream_flow_run_states(current=True, since, until)": MOVED,
    "count_flow_run_states(current=True, since, until)": MOVED,
    "measure_time_in_states()": MOVED,
    "count_occupancy()": MOVED,
    "count_transitions()": MOVED,
}
FILL = """
insert into flow_run_state (type, timestamp, name, flow_run_id)
select 'RUNNING', now() + n * interval '1 second', 'Running', md5((n / 10)::text)::uuid from generate_series(1, {count}) as n
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


@pytest.mark.parametrize(
    ("layout", "index", "named"),
    [
        ("prefect", None, OF_PREFECT),
        ("prefect", "ix_flow_run__state_timestamp", OF_PREFECT | OF_MOVED),
        ("flowstates", "ix_flow_run__state_type_state_timestamp_id", OF_CURRENT),
    ],
)
async def test_the_index_that_it_names_helps(connection: Connection, layout: Layout, index: str | None, named: dict[str, str]) -> None:
    await make(connection, layout)
    if index is not None:
        await connection.execute(f"drop index {index}")
    assert answers(await check_plans(connection, layout=layout)) == named
    for cure in set(named.values()):
        await connection.execute(cure)
    assert await check_plans(connection, layout=layout) == []


@pytest.mark.parametrize("count", [0, 100, 20_000])
@pytest.mark.parametrize("analyzed", [True, False])
async def test_neither_size_nor_old_statistics_change_the_answer(connection: Connection, count: int, analyzed: bool) -> None:
    await make(connection, "flowstates")
    for table in ("flow_run_state", "flow_run"):
        await connection.execute(f"alter table {table} set (autovacuum_enabled = off); analyze {table}")
    await connection.execute(FILL.format(count=count))
    await connection.execute(POINT_AT_NEWEST["flowstates"], None)
    if analyzed:
        await connection.execute("analyze flow_run_state, flow_run")
    assert await check_plans(connection) == []
    await connection.execute("drop index ix_flow_run_state__timestamp_id")
    slow = await check_plans(connection)
    of_time = {"stream_flow_run_states(since, until)", "count_flow_run_states(since, until)", "count_transitions()"}
    assert answers(slow) == OF_PREFECT | dict.fromkeys(of_time, BY_TIME) | {"count_transitions()": f"{BY_TIME} include (type)"}
    assert all(question.plan.endswith((" on flow_run_state", " on flow_run_state, and a sort")) for question in slow)
    await connection.execute("drop index ix_flow_run__state_type_state_timestamp_id")
    more = [question for question in await check_plans(connection) if question not in slow]
    assert answers(more) == OF_CURRENT
    assert all(question.plan.endswith((" on flow_run", " on flow_run, and a sort")) for question in more)


@pytest.mark.parametrize(
    ("layout", "index", "named"),
    [
        ("flowstates", "constraint pk_flow_run_state", {"read_flow_run_state()", "stream_flow_run_states(ids)", "count_flow_run_states(ids)"}),
        ("flowstates", "uq_flow_run_state__flow_run_id_timestamp", {"read_flow_run_states()", "read_current_flow_run_states()", "count_occupancy()"}),
        ("flowstates", "constraint pk_flow_run", {"read_flow_run_state_page(current=True, order='run')", "count_flow_run_states(current=True, ids)"}),
        ("prefect", "uq_flow_run_state__flow_run_id_timestamp_desc", {"read_flow_run_states()", "measure_time_in_states(flow_run_ids)"}),
        ("prefect", "constraint flow_run_pkey", {"read_current_flow_run_state()", "read_current_flow_run_states()"}),
        ("prefect", "ix_flow_run__state_id", {"count_flow_run_states(current=True, ids)", "count_occupancy()", "measure_time_in_states()"}),
        ("prefect", "ix_flow_run__state_name", {"stream_flow_run_states(current=True, names)", "count_flow_run_states(current=True, names)"}),
    ],
)
async def test_a_missing_index_is_named(connection: Connection, layout: Layout, index: str, named: set[str]) -> None:
    await make(connection, layout)
    before = answers(await check_plans(connection, layout=layout)).keys()
    table = "flow_run" if "flow_run_state" not in index else "flow_run_state"
    drop = f"alter table {table} drop {index} cascade" if "constraint" in index else f"drop index {index}"
    await connection.execute(drop)
    assert answers(await check_plans(connection, layout=layout)).keys() - before >= named - before


async def test_the_plan_shown_is_the_one_that_the_server_would_use(connection: Connection) -> None:
    await make(connection, "prefect")
    await connection.execute("insert into flow_run (id) select md5((n / 10)::text)::uuid from generate_series(10, 20000, 10) as n")
    await connection.execute("insert into flow_run (id) values (md5('0')::uuid)")
    await connection.execute(FILL.format(count=20_000))
    await connection.execute(POINT_AT_NEWEST["prefect"], None)
    await connection.execute("drop index ix_flow_run__state_id; analyze flow_run_state, flow_run")
    slow = {question.question: question for question in await check_plans(connection, layout="prefect")}
    assert slow["read_flow_run_state_page(order='time')"].plan == "Seq Scan on flow_run_state, and a sort"
    assert slow["count_occupancy()"].plan.startswith("Seq Scan on flow_run")
    assert str(slow["count_occupancy()"]).endswith("rows; create index concurrently on flow_run (state_id) would help")


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
        await connection.execute(f"reset role; grant select on flow_run_state, flow_run to {role}")
        await connection.execute(f"set default_transaction_read_only = on; set role {role}")
        assert await check_plans(connection) == []
    finally:
        await connection.execute("set default_transaction_read_only = off")
        await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_nothing_is_run(connection: Connection) -> None:
    await make(connection, "flowstates")
    await connection.execute(FILL.format(count=5_000))
    await connection.execute(POINT_AT_NEWEST["flowstates"], None)
    async with connection.transaction():
        reads = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables where relname like 'flow_run%'"
        before = await connection.fetchval(reads)
        await check_plans(connection)
        assert await connection.fetchval(reads) - before < 1_000  # the planner looks at the ends of indexes


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
