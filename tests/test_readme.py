"""The README: its example is run, its links lead somewhere, and it is short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.examples import ROOT, blocks_of, write_examples

README = (ROOT / "README.md").read_text()
(TEN_LINES,) = blocks_of("README.md", "python")
INSTALL, MAKE = blocks_of("README.md", "sh")


def test_the_library_in_ten_lines(own_dsn: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", TEN_LINES], check=True, env=os.environ | {"DATABASE_URL": own_dsn}, timeout=60)


@pytest.mark.once
def test_it_is_read_in_some_minutes() -> None:
    assert len(README.split()) <= 750
    assert max(map(len, README.splitlines())) <= 120
    assert [line for line in TEN_LINES.partition("with create_pool")[2].splitlines()[1:] if line.startswith(" ")][9:] == []


@pytest.mark.once
@pytest.mark.parametrize("word", ["append", "compare-and-set", "idempotent", "pagination", "retention", "change feed", "UUIDv7"])
def test_it_has_the_words_that_people_search_for(word: str) -> None:
    assert word.lower() in README.lower()


@pytest.mark.once
def test_the_extras_that_it_names_are_those_that_there_are() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sentence = README.partition("The extras are ")[2].partition(".")[0]
    extras = pyproject["project"]["optional-dependencies"]
    assert {extra for extra in extras if f"`{extra}`" in sentence} == extras.keys()
    assert re.search(r"\[(.+)\]", INSTALL)[1].split(",") == ["cli", "embedded"]  # type: ignore[index]


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


@pytest.mark.once
def test_the_make_targets_that_are_named_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"^make (\S+)", MAKE, re.MULTILINE) == ["demo", "test"]
    pages = "".join(page.read_text() for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")))
    for target in {*re.findall(r"`make ([a-z-]+)[ `]", pages), *re.findall(r"^make ([a-z-]+)", MAKE, re.MULTILINE)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
