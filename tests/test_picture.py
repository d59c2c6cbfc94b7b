"""The picture at the head of the README is what the command line draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.picture import PICTURE, ROOT, draw

pytestmark = pytest.mark.once


def test_the_picture_is_as_it_would_be_drawn_now(own_dsn: str, tmp_path: Path) -> None:
    draw(own_dsn, tmp_path / "timeline.svg")
    assert PICTURE.read_text() == (tmp_path / "timeline.svg").read_text(), "make picture draws it anew"


def test_the_readme_shows_it_at_its_top_and_says_what_it_shows() -> None:
    title, picture, *_ = (ROOT / "README.md").read_text().split("\n\n")
    found = re.fullmatch(r"!\[(?P<text>[^\]]{40,})\]\((?P<path>[^)]+)\)", picture)
    assert title == "# flowstates"
    assert found is not None
    assert ROOT / found["path"] == PICTURE
