"""What the shorter pages of docs show is run here, as it stands there."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import (
    ContentionError,
    FlowRunStateRepository,
    InvalidInputError,
    StateType,
    UnexpectedStateError,
    create_pool,
    migrate,
    new_run_id,
)
from flowstates.engine import queries
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.examples import ROOT, blocks_of, names_of
from tests.servers import PREFECT_TABLES
from tests.test_cli import run
from tests.test_cli_embedded import folder

pytestmark = pytest.mark.once

__all__ = ["folder"]  # a fixture

TOUR, EMBEDDED = blocks_of("docs/tour.md", "python")
(TOUR_PRINTS,) = blocks_of("docs/tour.md", "text")
CLAIM, WORKER, JOBS = blocks_of("docs/worker.md", "python")
(BACKFILL,) = blocks_of("docs/imports.md", "python")
(ASKING,) = blocks_of("docs/asking.md", "python")
WITH_SQLALCHEMY, RUNS_OF_SQLALCHEMY = blocks_of("docs/sqlalchemy.md", "python")
(ON_PREFECT,) = blocks_of("docs/prefect.md", "python")
SERVICE, ERRORS = blocks_of("docs/service.md", "python")
POOLER, KEPT_APART = blocks_of("docs/pgbouncer.md", "python")
(OWN_SCHEMA,) = blocks_of("docs/backup.md", "python")
(AFTER_RESTORE,) = blocks_of("docs/backup.md", "sh")


async def test_the_tour(own_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    await names_of(TOUR)["tour"](own_dsn)
    assert capsys.readouterr().out == TOUR_PRINTS


async def test_a_server_for_a_block(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for applied in ([name for name, _ in queries.migrations()], []):
        await names_of(EMBEDDED)["try_it"](str(folder))
        assert capsys.readouterr().out == f"{applied}\n"


async def test_writing_with_an_expectation(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    claim = names_of(CLAIM)["claim"]
    states, run = FlowRunStateRepository(pool), new_run_id()
    await states.create_flow_run_state(run, StateType.PENDING)
    assert sorted([await claim(states, run, "one"), await claim(states, run, "two")]) == [False, True]
    assert re.fullmatch(rf"not ours: the current state of run {run} is .* \(RUNNING\); expected was PENDING\n", capsys.readouterr().out)


async def test_workers_do_each_run_once_and_put_back_what_was_lost(own_database: str) -> None:
    names, done = names_of(WORKER), Counter[UUID]()
    runs = [new_run_id() for _ in range(6)]

    async def do(run_id: UUID) -> None:
        done[run_id] += 1
        if run_id == runs[0]:
            raise ValueError("no rows")

    async with create_pool(own_database) as pool:
        states = FlowRunStateRepository(pool)
        for run_id in runs:
            await states.create_flow_run_state(run_id, StateType.PENDING)
        lost = await states.create_flow_run_state(new_run_id(), StateType.RUNNING, timestamp=datetime(2020, 1, 1, tzinfo=UTC))
        await names["put_back"](states, timedelta(hours=1))
        counts = await asyncio.gather(*(names["work"](states, f"worker {number}", do) for number in range(3)))
        assert (sum(counts), done) == (7, Counter([*runs, lost.flow_run_id]))
        current = await states.read_current_flow_run_states(runs)
        assert [current[run_id].type for run_id in runs] == [StateType.FAILED] + [StateType.COMPLETED] * 5
        assert [state.name for state in await states.read_flow_run_states(lost.flow_run_id)] == ["Running", "Lost", "Running", "Completed"]


async def test_transitions(pool: Pool) -> None:
    states, run = names_of(JOBS)["jobs"](pool), new_run_id()
    await states.create_flow_run_state(run, StateType.PENDING)
    with pytest.raises(UnexpectedStateError):
        await states.create_flow_run_state(run, StateType.COMPLETED)


async def test_backfilling(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    states, run = FlowRunStateRepository(pool), new_run_id()
    for status in ("created", "refused"):
        await names_of(BACKFILL)["backfill"](states, run)
        assert re.findall(r"^\S+ (\w+)", capsys.readouterr().out, re.MULTILINE) == [status] * 2
    assert [state.timestamp.hour for state in await states.read_flow_run_states(run)] == [12, 13]


async def test_asking(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    states, run = FlowRunStateRepository(pool), new_run_id()
    for _ in range(45):
        await states.create_flow_run_state(run, StateType.FAILED)
    await names_of(ASKING)["look"](pool, [run])
    out = capsys.readouterr().out
    assert out.count(str(run)) == 45
    assert re.search(r"StateType.FAILED: 'FAILED'>: [1-9]", out)
    assert re.search(r"^1 0 \d+$", out, re.MULTILINE)
    assert re.search(r"^24 24$", out, re.MULTILINE)


async def test_behind_a_pooler(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert await names_of(POOLER)["history_behind_a_pooler"](str(new_run_id())) == []
    assert await names_of(KEPT_APART)["history_with_the_cache"](str(new_run_id())) == []


async def test_with_sqlalchemy(dsn: str, pool: Pool) -> None:
    drop: Callable[[AsyncSession, str], Awaitable[bool]] = names_of(WITH_SQLALCHEMY)["drop"]
    states = FlowRunStateRepository(pool)
    state = await states.create_flow_run_state(new_run_id(), StateType.RUNNING)
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session:
        assert await drop(session, str(state.id)) is True
        await session.rollback()
        pending = await states.create_flow_run_state(new_run_id(), StateType.PENDING)
        assert pending.flow_run_id in await names_of(RUNS_OF_SQLALCHEMY)["waiting"](session)
        assert await states.read_flow_run_state(state.id) == state
        assert await drop(session, str(state.id)) is True
        await session.commit()
    await engine.dispose()
    assert await states.read_flow_run_state(state.id) is None


async def test_on_prefects_database(layout_dsns: dict[Layout, str], prefect_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", layout_dsns["prefect"].replace("postgresql://", "postgresql+asyncpg://"))
    run = await prefect_pool.fetchval("insert into flow_run default values returning id")
    await prefect_pool.execute("insert into flow_run_state (flow_run_id, type, name) values ($1, 'RUNNING', 'Running')", run)
    history_of = names_of(ON_PREFECT)["history_of"]
    history = await history_of(str(run))
    assert [(state["type"], state["name"]) for state in history] == [("RUNNING", "Running")]
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", layout_dsns["flowstates"])
    with pytest.raises(RuntimeError, match=r"table artifact: expected a table on the search path, found none"):
        await history_of(str(run))


def test_a_services_whole_life(own_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", own_dsn)
    run = new_run_id()
    with TestClient(names_of(SERVICE)["app"]) as client:
        state = client.post(f"/runs/{run}/retry", params={"why": "lost worker"}).json()
        assert client.get(f"/runs/{run}/states").json() == [state]
        assert (state["type"], state["name"]) == ("SCHEDULED", "AwaitingRetry")

    async def stored() -> tuple[UUID, str]:
        connection = await asyncpg.connect(own_dsn)
        row = await connection.fetchrow("select run_id, why from retry")
        await connection.close()
        return tuple(row)  # type: ignore[arg-type]

    assert asyncio.run(stored()) == (run, "lost worker")


def test_errors_are_answered_by_what_they_are() -> None:
    app = FastAPI()
    names_of(ERRORS)["answer_errors"](app)
    id = new_run_id()
    raised = {
        "input": (InvalidInputError("name", "is empty"), 422),
        "state": (UnexpectedStateError(None, id, "PENDING"), 409),
        "others": (ContentionError("five tries"), 503),
        "away": (ConnectionRefusedError(), 503),
        "slow": (TimeoutError(), 503),
        "broken": (asyncpg.ConnectionDoesNotExistError(), 503),
        "undone": (asyncpg.SerializationError(), 503),
        "mistake": (asyncpg.UndefinedTableError(), 500),
    }

    @app.get("/{name}")
    async def fail(name: str) -> None:
        raise raised[name][0]

    with TestClient(app, raise_server_exceptions=False) as client:
        assert {name: client.get(f"/{name}").status_code for name in raised} == {name: status for name, (_, status) in raised.items()}


async def test_prefects_tables_of_the_tests_do_what_the_page_says(connection: Connection) -> None:
    await connection.execute(PREFECT_TABLES)
    run = await connection.fetchval("insert into flow_run default values returning id")
    state = await connection.fetchval("insert into flow_run_state (flow_run_id, type, name) values ($1, 'RUNNING', 'x') returning id", run)
    await connection.execute("update flow_run set state_id = $1, state_name = 'x'", state)
    assert await FlowRunStateRepository(connection, layout="prefect").delete_flow_run_state(state) is True
    assert tuple(await connection.fetchrow("select state_id, state_name from flow_run")) == (None, "x")  # type: ignore[arg-type]


async def test_a_schema_of_its_own(own_dsn: str, connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    for applied in ([name for name, _ in queries.migrations()], []):
        await names_of(OWN_SCHEMA)["set_up"](own_dsn)
        assert capsys.readouterr().out == f"{applied}\n"
    assert await connection.fetchval("select to_regclass('jobs.flow_run') is not null and to_regclass('public.flow_run') is null")


def test_after_a_restore(own_dsn: str) -> None:
    program, *arguments = AFTER_RESTORE.split()
    for before in (["migrate"], arguments):
        assert (run(*before, "--database-url", own_dsn).code, program) == (0, "flowstates")


async def test_sql_of_a_services_own(connection: Connection) -> None:
    question, table = blocks_of("docs/tables.md", "sql")
    await migrate(connection)
    await connection.execute(table)
    run, states = new_run_id(), FlowRunStateRepository(connection)
    stuck = await states.create_flow_run_state(run, StateType.RUNNING, timestamp=datetime(2020, 1, 1, tzinfo=UTC))
    await connection.execute("insert into job (run_id, name) values ($1, 'import')", run)
    assert [tuple(row) for row in await connection.fetch(question)] == [("import", stuck.timestamp)]


@pytest.mark.once
def test_a_query_file_is_as_it_is_shown() -> None:
    (text,) = blocks_of("docs/working.md", "sql")
    assert text == (ROOT / "sql" / "queries" / "read_flow_run_states.sql").read_text()


@pytest.mark.once
def test_the_files_that_are_named_are_there() -> None:
    page = (ROOT / "docs" / "working.md").read_text()
    assert [name for name in re.findall(r"`((?:tests|sql|flowstates|benchmarks|\.ci)(?:/[\w./]+)?)`", page) if not (ROOT / name).exists()] == []
