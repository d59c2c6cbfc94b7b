"""What docs/retention.md shows is run here, as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowstates import FlowRunStateRepository, StateType, check, migrate
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.examples import BLOCK, names_of
from tests.test_cli import run
from tests.test_retention import lengths, make, own_pool

pytestmark = pytest.mark.once

__all__ = ["own_pool"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "retention.md"
BLOCKS = BLOCK.findall(PAGE.read_text())
(LIBRARY,) = [code for language, code in BLOCKS if language == "python"]
(FLOW,) = [code for language, code in BLOCKS if language == "py"]
(COMMANDS,) = [code for language, code in BLOCKS if language == "sh"]
(CRON,) = [code for language, code in BLOCKS if language == "cron"]
(UNITS,) = [code for language, code in BLOCKS if language == "ini"]
PG_CRON, STORAGE = [code for language, code in BLOCKS if language == "sql"]


async def test_the_library(own_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [(await make(own_pool, 1, end=end))[0] for end in (StateType.COMPLETED, StateType.FAILED, StateType.RUNNING)]
    await names_of(LIBRARY)["clean"](own_pool)
    assert await lengths(own_pool, runs) == [0, 0, 4]
    assert capsys.readouterr().out.startswith("0 0 True OldestRun(")


def test_the_commands(own_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("migrate", "--database-url", own_dsn).code == 0
    assert run("create", "0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f", "FAILED", "--timestamp", "2020-01-01T00:00:00Z", "--database-url", own_dsn).code == 0
    scheduled = [*re.findall(r"^17 3 \* \* \*  (.*)", CRON, re.MULTILINE), *re.findall(r"ExecStart=(.*)", UNITS)]
    assert [command.startswith("/") for command in scheduled] == [True, True]
    commands = [*COMMANDS.splitlines(), *scheduled]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        done = run(*arguments, "--database-url", own_dsn)
        assert (Path(program).name, done.code) == ("flowstates", 0), done.err


def test_the_units_are_what_systemd_reads() -> None:
    service, timer = re.split(r"^# .*\.timer\n", UNITS, flags=re.MULTILINE)
    for unit, section in ((service, "Service"), (timer, "Timer")):
        parser = ConfigParser(interpolation=None)
        parser.read_string(unit)
        assert section in parser


async def test_the_flow(layout_dsns: dict[Layout, str], monkeypatch: pytest.MonkeyPatch) -> None:
    prefect = ModuleType("prefect")
    prefect.flow = lambda function: function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prefect", prefect)
    assert isinstance(await names_of(FLOW)["thin"](layout_dsns["prefect"]), int)


async def test_pg_cron(own_pool: Pool) -> None:
    done = await make(own_pool, 2)
    alive = await make(own_pool, 1, end=StateType.PAUSED)
    await own_pool.execute(PG_CRON.split("$$")[1])
    assert await lengths(own_pool, [*done, *alive]) == [0, 0, 4]
    assert await check(own_pool, data=True) == []


async def test_the_storage_parameters(connection: Connection, prefect_pool: Pool) -> None:
    await prefect_pool.execute(STORAGE)
    await migrate(connection)
    found: Any = {row["relname"]: row["reloptions"] for row in await connection.fetch("select relname, reloptions from pg_class")}
    assert "autovacuum_vacuum_scale_factor=0.02" in found["flow_run_state"]
    assert "autovacuum_vacuum_scale_factor=0.02" in found["flow_run"]
    assert await FlowRunStateRepository(connection).count_flow_run_states() == 0
