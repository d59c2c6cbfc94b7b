"""Finds and hands out the text of the .sql files; it does not look into it."""

from __future__ import annotations

from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

Layout = Literal["flowstates", "prefect"]


@cache
def root() -> Traversable:
    """The folder `sql`: inside the installed package, or beside the package in a checkout, which has none inside."""
    package = Path(__file__).parent.parent
    inside = package / "sql"
    # Beside an installed package may be a stranger's folder of that name.
    return inside if inside.is_dir() else package.parent / "sql"


@cache
def query(name: str, layout: Layout) -> str:
    """The text that method `name` runs on `layout`: the layout's own, else the one that serves both."""
    own = root() / layout / f"{name}.sql"
    return (own if own.is_file() else root() / "queries" / f"{name}.sql").read_text("utf-8")


@cache
def catalog(name: str) -> str:
    """The text of `sql/catalog/<name>.sql`."""
    return (root() / "catalog" / f"{name}.sql").read_text("utf-8")


def migrations() -> list[tuple[str, str]]:
    """Name and text of every migration, in order."""
    found = (entry for entry in (root() / "migrations").iterdir() if entry.name.endswith(".sql"))
    return [(entry.name.removesuffix(".sql"), entry.read_text("utf-8")) for entry in sorted(found, key=lambda entry: entry.name)]


def fill(text: str, slot: str, clause: str) -> str:
    """`text` with `clause` in the place of `/* slot: <slot> */ ... /* end */`."""
    before, _, rest = text.partition(f"/* slot: {slot} */")
    _, end, after = rest.partition("/* end */")
    if not end:
        raise LookupError(f"no slot named {slot}")
    return f"{before}{clause}{after}"
