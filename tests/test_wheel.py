from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = "0195f2a0-0000-7000-8000-00000000000a"
LIBRARY = """
import asyncio, sys, flowstates

async def main(dsn):
    async with flowstates.create_pool(dsn) as pool:
        print(await flowstates.migrate(pool))
        states = flowstates.FlowRunStateRepository(pool)
        state = await states.create_flow_run_state("0195f2a0-0000-7000-8000-00000000000b", "RUNNING")
        print(await states.read_flow_run_states(state.flow_run_id) == [state])
        print(await states.delete_flow_run_state(state.id), await states.delete_flow_run_state(state.id))

asyncio.run(main(sys.argv[1]))
"""

STRANGER = "-- read_flow_run_state(flow_run_state_id text) -> optional FlowRunState\nselect 1 / 0;\n"


def plant_a_stranger(beside: Path) -> None:
    """What makes a folder look like a checkout of this project, with a SQL of its own."""
    shutil.copy(ROOT / "pyproject.toml", beside)
    for path in (ROOT / "sql").rglob("*.sql"):
        other = beside / path.relative_to(ROOT)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(STRANGER)


@pytest.mark.once
def test_a_checkout_works_from_the_path_alone(tmp_path: Path, own_dsn: str) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("flowstates", "sql"):
        shutil.copytree(ROOT / folder, checkout / folder)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    code = LIBRARY + "print(flowstates.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code, own_dsn], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == ["['0001_flow_run_state', '0002_feed']", "True", "True False", str(checkout / "flowstates" / "__init__.py")]


@pytest.mark.once
def test_a_copy_or_a_link_of_the_package_takes_no_strangers_sql(tmp_path: Path, own_dsn: str) -> None:
    def run(project: Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(project)}
        return subprocess.run(
            [sys.executable, "-c", LIBRARY, own_dsn], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=300
        )

    copied, linked, alone = (tmp_path / name for name in ("copied", "linked", "alone"))
    for project in (copied, linked, alone):
        project.mkdir()
    plant_a_stranger(copied)
    plant_a_stranger(linked)
    (copied / "sql/README.md").write_text("# SQL\n")
    shutil.copytree(ROOT / "flowstates", copied / "flowstates")
    shutil.copytree(ROOT / "flowstates", alone / "flowstates")
    (linked / "flowstates").symlink_to(ROOT / "flowstates")
    for project in (copied, alone):
        done = run(project)
        assert done.returncode == 1
        assert f"FlowStatesError: the package at {project / 'flowstates'} has no SQL" in done.stderr
        shutil.copytree(ROOT / "sql", project / "flowstates/sql")
    assert [run(project).stdout.splitlines()[1:] for project in (linked, copied, alone)] == [["True", "True False"]] * 3


@pytest.mark.once
def test_the_wheel_works_alone_in_a_clean_environment(tmp_path: Path, own_dsn: str) -> None:
    def run(*command: str | Path) -> str:
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout

    # With it the package would be the one of the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    sql = {f"flowstates/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.sql")}
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "flowstates/web/templates").iterdir()}
    assert len(templates) >= 6
    assert sql | templates | {"flowstates/py.typed"} <= inside
    assert not [name for name in inside if name.startswith(("tests", "sql/"))]

    run(sys.executable, "-m", "venv", "env")
    pip = tmp_path / "env/bin/pip"
    bare = {line.split("==")[0].lower() for line in run(pip, "freeze").splitlines()}
    run(pip, "install", "--quiet", "--disable-pip-version-check", wheel)
    installed = {item["name"].lower() for item in json.loads(run(pip, "list", "--format", "json", "--disable-pip-version-check"))} - bare
    needed = {"flowstates", "asyncpg", "pydantic", "pydantic_core", "pypika", "typing_extensions", "typing-inspection", "annotated-types"}
    assert installed - {"pip", "setuptools"} <= needed | {"uuid_utils"}
    python = tmp_path / "env/bin/python"
    package = Path(run(python, "-c", "import flowstates; print(flowstates.__file__)").strip()).parent
    assert package.is_relative_to(tmp_path / "env")
    plant_a_stranger(package.parent)
    assert run(python, "-c", LIBRARY, own_dsn).splitlines() == ["['0001_flow_run_state', '0002_feed']", "True", "True False"]

    lacking = subprocess.run([python, "-c", "import flowstates.web"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert lacking.stderr.splitlines()[-1] == "ImportError: flowstates.web needs fastapi: pip install 'flowstates[web]'"
    command = tmp_path / "env/bin/flowstates"
    without = subprocess.run([command, "list", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert "pip install 'flowstates[cli,embedded]'" in without.stderr
    assert "Traceback" not in without.stderr
    run(pip, "install", "--quiet", "--disable-pip-version-check", f"{wheel}[cli]")
    arguments = ("--database-url", own_dsn, "--json")
    assert run(command, "migrate", *arguments) == ""
    state = json.loads(run(command, "create", RUN, "RUNNING", *arguments))
    assert [json.loads(line) for line in run(command, "list", RUN, *arguments).splitlines()] == [state]
    assert json.loads(run(command, "delete", state["id"], "--yes", *arguments))["deleted"] is True
    run(pip, "install", "--quiet", "--disable-pip-version-check", f"{wheel}[web]")
    assert run(python, "-W", "error", "-c", "import flowstates.web.app") == ""
