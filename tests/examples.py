"""The examples of the README and of the pages under docs, as files for type checkers: `python -m tests.examples` writes them to build/examples."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

ROOT = Path(__file__).parent.parent


def blocks_of(page: str, language: str) -> list[str]:
    """What a page shows in a language, in its order."""
    return [dedent(code) for shown, code in BLOCK.findall((ROOT / page).read_text()) if shown == language]


def names_of(example: str) -> dict[str, Any]:
    """What an example defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "an example", "exec", dont_inherit=True), names)
    return names


def write_examples(root: Path) -> None:
    folder = root / "build" / "examples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = page.read_text()
        name = re.sub(r"\W", "_", str(page.relative_to(root).with_suffix("")))
        for block in BLOCK.finditer(text):
            if block[1] == "python":
                # At the lines of its page, which a checker's complaint then names.
                before = text.count("\n", 0, block.start(2))
                (folder / f"{name}_{before + 1}.py").write_text("\n" * before + dedent(block[2]))


if __name__ == "__main__":
    write_examples(ROOT)
