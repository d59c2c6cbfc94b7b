"""What holds for the README and each page of docs: links lead somewhere, lines are short, examples are run, ids of runs are UUIDv7."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from uuid import UUID

import pytest

import flowstates.errors
from tests.examples import BLOCK, ROOT

pytestmark = pytest.mark.once

PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").rglob("*.md"))
OF_PAGES = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    text = BLOCK.sub("", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@OF_PAGES
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        # The site has what is in docs, and nothing else.
        assert linked.is_relative_to(ROOT / "docs") or not page.is_relative_to(ROOT / "docs"), target
        assert not anchor or anchor in anchors(linked), target


@OF_PAGES
def test_lines_are_short(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 120 and not line.startswith("|")] == []


@OF_PAGES
def test_examples_are_run(page: Path) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    if {language for language, _ in BLOCK.findall(page.read_text())} & {"python", "sh", "sql"}:
        name = str(page.relative_to(ROOT))
        assert re.search(rf'"{re.escape(name)}"|"{re.escape(page.name)}"', tests), "no test reads its examples"


@OF_PAGES
def test_ids_are_uuid7(page: Path) -> None:
    text = page.read_text()
    ids = re.findall(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", text)
    assert {UUID(id).version for id in ids} <= {7}
    assert "uuid4" not in "".join(code for _, code in BLOCK.findall(text))


def test_the_site_has_all_pages_and_no_other() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = re.findall(r"'([\w/-]+\.md)'", str(project["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_the_site_shows_the_docstrings_of_all_public_names() -> None:
    shown = re.findall(r"^::: flowstates\.(\w+)$", "".join(page.read_text() for page in (ROOT / "docs" / "api").iterdir()), re.MULTILINE)
    assert {*flowstates.__all__} - {*vars(flowstates.errors)} == {*shown} - {"errors", "models"}
    assert len(shown) == len(set(shown))
