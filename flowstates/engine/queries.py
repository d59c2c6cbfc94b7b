"""Finds and hands out the text of the .sql files; it does not look into it."""

from __future__ import annotations

from functools import cache
from importlib.resources.abc import Traversable
from itertools import dropwhile
from pathlib import Path

from flowstates.errors import FlowStatesError
from flowstates.values import Layout

_HEADING = "# The SQL of flowstates\n"  # of its README


@cache
def root() -> Traversable:
    """The folder `sql`: inside the installed package, or beside the package in a checkout, which has none inside; FlowStatesError without either."""
    package = Path(__file__).parent.parent
    # A link may lead to a checkout's package.
    for inside in (package / "sql", package.resolve() / "sql"):
        if inside.is_dir():
            return inside
    beside = package.resolve().parent / "sql"
    # Beside a copy of the package may be another project's folder of that name.
    readme = beside / "README.md"
    if readme.is_file() and readme.read_text("utf-8", errors="replace").startswith(_HEADING):
        return beside
    raise FlowStatesError(
        f"the package at {package} has no SQL: {inside} is not there, and {beside} is not that of flowstates; "
        "install flowstates, or copy the folder sql of its source into the package"
    )


@cache
def query(name: str, layout: Layout) -> str:
    """The text that method `name` runs on `layout`: the layout's own, else the one that serves both. Its filter is still to be filled in."""
    own = root() / layout / f"{name}.sql"
    return _named(name, _with_columns(_body(own if own.is_file() else root() / "queries" / f"{name}.sql"), layout))


@cache
def catalog(name: str, layout: Layout | None = None) -> str:
    """The text of `sql/catalog/<name>.sql`; with the columns of `layout`, if it has a slot for them."""
    text = _body(root() / "catalog" / f"{name}.sql")
    return _named(name, text if layout is None else _with_columns(text, layout))


@cache
def testing(name: str) -> str:
    """The text of `sql/testing/<name>.sql`."""
    return _named(name, _body(root() / "testing" / f"{name}.sql"))


def migrations() -> list[tuple[str, str]]:
    """Name and text of every migration, in order."""
    return _migrations(root() / "migrations")


def distributed_migrations() -> list[tuple[str, str]]:
    """The same of those that make tables that Citus distributes, in place of the others."""
    return _migrations(root() / "migrations" / "distributed")


def _migrations(folder: Traversable) -> list[tuple[str, str]]:
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(entry.name.removesuffix(".sql"), entry.read_text("utf-8")) for entry in sorted(found, key=lambda entry: entry.name)]


def name_of(text: str) -> str:
    """The name of the query that a text is of."""
    return text[3 : text.index(" */")]


def fill(text: str, slot: str, clause: str) -> str:
    """`text` with `clause` in the place of each `/* slot: <slot> */ ... /* end */`."""
    first, *rest = text.split(f"/* slot: {slot} */")
    if not rest:
        raise LookupError(f"no slot named {slot}")
    return first + "".join(clause + part.partition("/* end */")[2] for part in rest)


def _with_columns(text: str, layout: Layout) -> str:
    columns = root() / "columns"
    for folder in (columns / layout, columns):
        for entry in folder.iterdir():
            slot = entry.name.removesuffix(".sql")
            if f"/* slot: {slot} */" in text:
                text = fill(text, slot, _with_columns(_body(entry).rstrip(), layout))
    return text


def _body(file: Traversable) -> str:
    """The text of a file without the comment at its head, which is for readers."""
    lines = file.read_text("utf-8").splitlines(keepends=True)
    return "".join(dropwhile(lambda line: line.startswith("--"), lines))


def _named(name: str, text: str) -> str:
    # pg_stat_activity shows it, and tracing takes a comment off that is on the keyword's line.
    return f"/* {name} */ {text}"
