"""What docs/tests.md shows is run here, as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from flowstates.testing import Databases, assert_history, history
from flowstates.testing import plugin as plugin_module
from tests.examples import BLOCK
from tests.test_alembic import ENV, REVISION
from tests.test_testing_histories import RUN, stored
from tests.test_testing_plugin import names_on
from tests.tools import psql

pytestmark = pytest.mark.once

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "tests.md").read_text()
BLOCKS = BLOCK.findall(PAGE)
CONFTEST, TEST, STATEMENTS, ALEMBIC = [code for language, code in BLOCKS if language == "python"]
(FAILURE,) = [code for language, code in BLOCKS if language == "text"]
(DROPS,) = [code for language, code in BLOCKS if language == "psql"]

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
JOB = """
def test_a_job(flowstates_dsn):
    import asyncio, asyncpg

    async def count():
        connection = await asyncpg.connect(flowstates_dsn)
        found = await connection.fetchval("select count(*) from job left join flow_run on run_id = flow_run.id")
        await connection.close()
        return found

    assert asyncio.run(count()) == 0
"""


@pytest.fixture
def service(pytester: pytest.Pytester, flowstates_server: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("FLOWSTATES_TEST_POSTGRES", flowstates_server)
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
    pytester.makeini(INI)
    return pytester


@pytest.mark.once
def test_a_test(service: pytest.Pytester) -> None:
    service.makeconftest(CONFTEST)
    service.makepyfile(TEST)
    service.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.once
def test_statements(service: pytest.Pytester) -> None:
    service.makeconftest(CONFTEST + STATEMENTS)
    service.makepyfile(JOB)
    service.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.once
def test_alembic(service: pytest.Pytester) -> None:
    config = Config(service.path / "alembic.ini")
    command.init(config, str(service.path / "alembic"), template="async")
    (service.path / "alembic" / "env.py").write_text(ENV)
    (service.path / "alembic" / "versions" / "flowstates.py").write_text(REVISION)
    (service.path / "alembic" / "versions" / "job.py").write_text("""
from alembic import op

revision = "job"
down_revision = "f10357a7e501"

def upgrade():
    op.execute("create table job (run_id uuid references flow_run)")
""")
    service.makeconftest(CONFTEST + ALEMBIC)
    service.makepyfile(JOB)
    service.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.once
def test_the_failure() -> None:
    states = stored(history(RUN, "PENDING +1s RUNNING +12s FAILED", begin=datetime(2030, 1, 31, tzinfo=UTC)))
    with pytest.raises(AssertionError) as caught:
        assert_history(states, "PENDING +1s RUNNING +30s COMPLETED")
    assert str(caught.value).startswith(f"{FAILURE}\nis:\n")


@pytest.mark.once
def test_the_fixtures_are_all_that_there_are() -> None:
    lines = dict(re.findall(r"^\| `(\w+)` \| (test|session) \|", PAGE, re.MULTILINE))
    scopes = {"test": "function", "session": "session"}
    for name, scope in lines.items():
        assert getattr(plugin_module, name)._fixture_function_marker.scope == scopes[scope]
    public = [name for name in vars(plugin_module) if name.startswith(("flowstates_", "prefect_"))]
    assert sorted(public) == sorted([*lines, "prefect_template"])


async def test_templates_that_stayed_are_dropped(flowstates_server: str, flowstates_template: str) -> None:
    databases = Databases(flowstates_server)
    template = await asyncio.to_thread(databases.template, "create table of_this_test ()")
    await asyncio.to_thread(databases.close)
    assert "like 'flowstates_template_%'" in DROPS
    # Not those that other tests are just using.
    await psql(flowstates_server, DROPS.replace("flowstates_template_%", template))
    there = await asyncio.to_thread(names_on, flowstates_server)
    assert template not in there
    assert flowstates_template in there
