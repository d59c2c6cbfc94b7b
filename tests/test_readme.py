"""Every example of the README is run here, as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import FlowRunStateRepository, StateType, UnexpectedStateError, create_pool, migrate
from flowstates.engine import queries
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.examples import BLOCK, write_examples
from tests.servers import PREFECT_TABLES
from tests.test_cli_embedded import folder

__all__ = ["folder"]  # a fixture

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = BLOCK.findall(README)
PYTHON = [code for language, code in BLOCKS if language == "python"]
TEN_LINES, EMBEDDED, CLAIM, JOBS, BACKFILL, ASKING, WITH_SQLALCHEMY, ON_PREFECT, SERVICE, POOLER = PYTHON
MAKE, COMMANDS = [code for language, code in BLOCKS if language == "sh"]
GRANTS, POLICIES = [code for language, code in BLOCKS if language == "sql"]


def names_of(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "README.md", "exec", dont_inherit=True), names)
    return names


def test_the_library_in_ten_lines(own_dsn: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", TEN_LINES], check=True, env=os.environ | {"DATABASE_URL": own_dsn}, timeout=60)


async def test_a_server_for_a_block(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for applied in ([name for name, _ in queries.migrations()], []):
        await names_of(EMBEDDED)["try_it"](str(folder))
        assert capsys.readouterr().out == f"{applied}\n"


async def test_writing_with_an_expectation(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    claim = names_of(CLAIM)["claim"]
    states, run = FlowRunStateRepository(pool), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)
    assert sorted([await claim(states, run, "one"), await claim(states, run, "two")]) == [False, True]
    assert re.fullmatch(rf"not ours: the current state of run {run} is .* \(RUNNING\); expected was PENDING\n", capsys.readouterr().out)


async def test_transitions(pool: Pool) -> None:
    states, run = names_of(JOBS)["jobs"](pool), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)
    with pytest.raises(UnexpectedStateError):
        await states.create_flow_run_state(run, StateType.COMPLETED)


async def test_backfilling(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
    for status in ("created", "refused"):
        await names_of(BACKFILL)["backfill"](states, run)
        assert re.findall(r"^\S+ (\w+)", capsys.readouterr().out, re.MULTILINE) == [status] * 2
    assert [state.timestamp.hour for state in await states.read_flow_run_states(run)] == [12, 13]


async def test_asking(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    states, run = FlowRunStateRepository(pool), uuid4()
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
    assert await names_of(POOLER)["history_behind_a_pooler"](str(uuid4())) == []


async def test_with_sqlalchemy(dsn: str, pool: Pool) -> None:
    drop: Callable[[AsyncSession, str], Awaitable[bool]] = names_of(WITH_SQLALCHEMY)["drop"]
    states = FlowRunStateRepository(pool)
    state = await states.create_flow_run_state(uuid4(), StateType.RUNNING)
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session:
        assert await drop(session, str(state.id)) is True
        await session.rollback()
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
    run = uuid4()
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


@pytest.mark.once
def test_the_examples_of_all_pages_are_written_for_type_checkers_at_their_lines(tmp_path: Path) -> None:
    (tmp_path / "docs" / "guides").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# One\n```python\na = 1\n```\n```sh\nls\n```\n```python\nb = 1\n```\n")
    (tmp_path / "docs" / "guides" / "how-to.md").write_text("- Indented:\n  ```python\n  if c:\n      d()\n  ```\n")
    for _ in range(2):
        write_examples(tmp_path)
        written = {path.name: path.read_text() for path in (tmp_path / "build" / "examples").iterdir()}
        assert written == {"README_3.py": "\n\na = 1\n", "README_9.py": "\n" * 8 + "b = 1\n", "docs_guides_how_to_3.py": "\n\nif c:\n    d()\n"}
        (tmp_path / "build" / "examples" / "of_yesterday.py").touch()


def test_the_commands(own_dsn: str, tmp_path: Path) -> None:
    environment = os.environ | {"FLOWSTATES_DATABASE_URL": own_dsn, "PYTHONPATH": str(Path(__file__).parent.parent)}
    assert {line.split()[1] for line in COMMANDS.splitlines()} >= {"migrate", "check", "create", "list", "show", "delete", "import", "export"}
    for line in COMMANDS.splitlines():
        command = re.sub(r"^flowstates ", f"{shlex.quote(sys.executable)} -m flowstates.cli ", line)
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (line, done.stderr)


def test_the_make_targets_that_are_named_are_there() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert re.findall(r"^make (\S+)", MAKE, re.MULTILINE) == ["demo", "test"]
    for target in re.findall(r"make ([a-z-]+)`?", MAKE + README.replace(" and make:", "")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


async def test_the_grants(connection: Connection, own_dsn: str) -> None:
    roles = {role: f"{role}_{uuid4().hex[:8]}" for role in ("migrator", "reader", "writer")}
    await connection.execute("".join(f"create role {role};" for role in roles.values()))
    schema, after = GRANTS.split("-- After migrate", 1)
    after = f"-- After migrate{after}"
    for role, own in roles.items():
        schema, after = re.sub(rf"\b{role}\b", own, schema), re.sub(rf"\b{role}\b", own, after)
    await connection.execute(schema)
    pools = {role: create_pool(own_dsn, init=_as(own)) for role, own in roles.items()}
    try:
        async with pools["migrator"], pools["reader"], pools["writer"]:
            assert await migrate(pools["migrator"]) != []
            await pools["migrator"].execute(after)
            state = await FlowRunStateRepository(pools["writer"]).create_flow_run_state(uuid4(), "RUNNING")
            await FlowRunStateRepository(pools["writer"]).create_flow_run_state(state.flow_run_id, "COMPLETED")
            reader = FlowRunStateRepository(pools["reader"])
            assert await reader.read_flow_run_state(state.id) == state
            for role in ("reader", "writer"):
                assert await migrate(pools[role]) == []
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
                await reader.create_flow_run_state(uuid4(), "RUNNING")
            assert "creating insert on both" in caught.value.__notes__[0]
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.delete_flow_run_state(state.id)
            assert await FlowRunStateRepository(pools["writer"]).delete_flow_run_state(state.id)
    finally:
        await connection.execute("".join(f"drop owned by {role} cascade; drop role {role};" for role in roles.values()))


def _as(role: str) -> Callable[[Connection], Awaitable[None]]:
    async def init(connection: Connection) -> None:
        await connection.execute(f"set role {role}")

    return init


async def test_prefects_tables_of_the_tests_refuse_what_the_readme_says(connection: Connection) -> None:
    await connection.execute(PREFECT_TABLES)
    run = await connection.fetchval("insert into flow_run default values returning id")
    state = await connection.fetchval("insert into flow_run_state (flow_run_id, type, name) values ($1, 'RUNNING', 'x') returning id", run)
    await connection.execute("update flow_run set state_id = $1, state_name = 'x'", state)
    assert await FlowRunStateRepository(connection, layout="prefect").delete_flow_run_state(state) is True
    assert tuple(await connection.fetchrow("select state_id, state_name from flow_run")) == (None, "x")  # type: ignore[arg-type]
