"""What `check` says of tables on Citus, and what the layouts say to tables that are not theirs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, NewFlowRunState, StateType, check, create_pool, migrate
from flowstates.engine import queries
from tests.conftest import Connection, Pool

RUNNING = StateType.RUNNING
BY_HAND = """
alter table flow_run_state drop constraint pk_flow_run_state, add constraint pk_flow_run_state primary key (flow_run_id, id);
set citus.enable_unsafe_triggers = on;
"""


@pytest.fixture
async def connection(own_dsn: str) -> Any:
    connection = await asyncpg.connect(own_dsn)
    yield connection
    await connection.close()


async def test_the_functions_that_are_checked_are_all_that_there_are(connection: Connection) -> None:
    there = await connection.fetch("select proname from pg_proc where pronamespace = 'public'::regnamespace and probin is null")
    texts = "".join(text for _, text in queries.distributed_migrations())
    assert {row["proname"] for row in there} == set(re.findall(r"^create function (\w+)", texts, re.MULTILINE))
    assert await check(connection, layout="citus", data=True) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("drop function append_flow_run_state", ["function append_flow_run_state: expected a function of (run_id uuid"]),
        (
            "create or replace function delete_flow_run_states(run_id uuid, state_ids uuid[], beside regclass)"
            " returns setof uuid language sql as 'select run_id'",
            ["function delete_flow_run_states: expected returns setof uuid language plpgsql", "function delete_flow_run_states: expected the body"],
        ),
        ("drop index ix_flow_run_state__id", ["index on flow_run_state (id): expected an index, found none"]),
        ("select undistribute_table('flow_run')", ["distribution of flow_run: expected by id, with the other table"]),
        ("alter table flow_run drop column state_name", ["column flow_run.state_name"]),
    ],
)
async def test_what_does_not_fit_is_named(connection: Connection, change: str, named: list[str]) -> None:
    await connection.execute(change)
    found = [str(mismatch) for mismatch in await check(connection, layout="citus")]
    for beginning in named:
        assert any(one.startswith(beginning) for one in found), found


async def test_a_function_that_is_not_distributed_is_named(empty_dsn: str) -> None:
    """As after a restore from a dump, which has the functions alone."""
    connection = await asyncpg.connect(empty_dsn)
    for _, text in queries.distributed_migrations():
        for statement in text.split(";\n\n"):
            if "create_distributed_function" not in statement:
                await connection.execute(statement)
    found = [str(mismatch) for mismatch in await check(connection, layout="citus")]
    assert [one for one in found if one.startswith("distribution of ")] == [
        f"distribution of {name}: expected by its first parameter, with the tables, and with force_delegation, found none"
        for name in re.findall(r"^create function (\w+)", text, re.MULTILINE)
    ]
    await connection.close()


async def test_runs_that_do_not_agree_are_named(connection: Connection) -> None:
    states, runs = FlowRunStateRepository(connection, layout="citus"), sorted(uuid4() for _ in range(4))
    for run in runs * 2:
        await states.create_flow_run_state(run, RUNNING)
    await connection.execute("update flow_run set state_name = 'x' where id = $1", runs[0])
    await connection.execute("delete from flow_run where id = $1", runs[1])
    await connection.execute("delete from flow_run_state where flow_run_id = $1", runs[2])
    found = {mismatch.where: (mismatch.found, mismatch.mend) for mismatch in await check(connection, layout="citus", data=True)}
    assert found == {f"run {runs[0]}": ("another state_name", None), f"run {runs[1]}": ("none", None), f"run {runs[2]}": ("one", None)}


CALLS: dict[str, Callable[[FlowRunStateRepository], Awaitable[object]]] = {
    "create": lambda states: states.create_flow_run_state(uuid4(), RUNNING),
    "batch": lambda states: states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type=RUNNING)]),
    "delete": lambda states: states.delete_flow_run_states(flow_run_ids=[uuid4()]),
}


async def test_tables_that_somebody_distributed_are_refused_by_name(empty_dsn: str) -> None:
    async with create_pool(empty_dsn, max_size=2) as pool:
        await migrate(pool)
        await pool.execute(BY_HAND + "select create_distributed_table('flow_run_state', 'flow_run_id')")
        assert [one.where for one in await check(pool) if one.where.startswith("distribution of ")] == ["distribution of flow_run_state"]
        await pool.execute("set citus.enable_unsafe_triggers = on; select create_distributed_table('flow_run', 'id')")
        found = [str(mismatch) for mismatch in await check(pool)]
        assert sum(one.startswith("distribution of ") and "layout='citus'" in one for one in found) == 2
        for name, call in CALLS.items():
            for layout in ("flowstates", "citus"):
                with pytest.raises(asyncpg.PostgresError) as caught:
                    await call(FlowRunStateRepository(pool, layout=layout))
                notes = " ".join(caught.value.__notes__)
                assert "Citus" in notes, (name, layout)
                assert "migrate --distributed" in notes
        assert await pool.fetchval("select count(*) from flow_run_state") == 0


async def test_the_tables_of_citus_are_not_those_of_the_layout_flowstates(pool: Pool) -> None:
    found = [mismatch.where for mismatch in await check(pool)]
    assert {"distribution of flow_run_state", "distribution of flow_run", "column flow_run.transaction"} <= set(found)
    for call in CALLS.values():
        with pytest.raises(asyncpg.PostgresError) as caught:
            await call(FlowRunStateRepository(pool))
        assert "layout='citus'" in " ".join(caught.value.__notes__)


async def test_a_database_without_citus_does_not_fit(flowstates_dsn: str) -> None:
    connection = await asyncpg.connect(flowstates_dsn)
    assert "extension citus: expected an extension of the database, found none" in map(str, await check(connection, layout="citus"))
    await connection.close()


@pytest.mark.parametrize("path", sorted(Path(str(queries.root())).glob("catalog/citus/*.sql")), ids=lambda path: path.stem)
async def test_a_text_of_the_catalog_is_one_that_the_coordinator_takes(citus_dsn: str, path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"-- {path.stem}\(.*\) -> (one|many|optional) row", text)
    connection = await asyncpg.connect(citus_dsn)
    statement = await connection.prepare(text)
    given = re.findall(r"\w+ (\w+)", text[text.index("(") + 1 : text.index(")")])
    assert [parameter.name for parameter in statement.get_parameters()] == given
    await connection.close()
