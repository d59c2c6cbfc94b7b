"""What the migrations make, read from their text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

_MADE = re.compile(r"^(?:/\*.*?\*/ )?create (?:unique )?(?:table|type|index|function) (\w+)|^ +constraint (\w+) primary key", re.MULTILINE)
_FUNCTION = re.compile(r"^create function (\w+)\(([^)]*)\)\s(.*?) as \$\$(.*?)\$\$;", re.MULTILINE | re.DOTALL)
_TRIGGER = re.compile(r"^create trigger (\w+) (.*? on (\w+)\s.*?);", re.MULTILINE | re.DOTALL)
# Where a semicolon ends nothing: comments, texts, quoted names, and bodies in dollars.
_APART = re.compile(r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*"|\$(\w*)\$.*?\$\1\$|;""", re.DOTALL)
_KINDS = {
    "r": "table",
    "p": "table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "I": "index",
    "c": "type",
}


TABLES: frozenset[str] = frozenset({"flow_run_state", "flow_run", "flowstates_consumer", "flowstates_pruned", "flowstates_migration"})
"""The names of all tables that `migrate` makes, for tools that compare a database with models of their own."""


class Function(NamedTuple):
    """A function: the migration that makes it, its parameters, what stands between these and its body, and the body."""

    migration: str
    arguments: str
    head: str
    body: str


class Trigger(NamedTuple):
    """A trigger of a table: what stands behind its name, with one space between words, and the name of its function."""

    table: str
    definition: str
    function: str


def made(texts: Iterable[str]) -> list[str]:
    """The names that these texts take in a schema: of tables, types, indexes and functions."""
    return [name or key for text in texts for name, key in _MADE.findall(text)]


def statements(text: str) -> Iterator[str]:
    """The statements of a text one by one, each without the semicolon at its end and with the comments before it."""
    begin = 0
    for found in _APART.finditer(text):
        if found[0] == ";":
            yield text[begin : found.start()].strip()
            begin = found.end()


def kind(catalogs: str, is_temporary: bool) -> str:
    """What an object is in words, from what the server's catalog calls it."""
    return ("temporary " if is_temporary else "") + _KINDS.get(catalogs, catalogs)


def functions(migrations: Iterable[tuple[str, str]]) -> dict[str, Function]:
    """The functions that migrations make, by name."""
    return {
        name: Function(migration, " ".join(arguments.split()), " ".join(head.split()), body)
        for migration, text in migrations
        for name, arguments, head, body in _FUNCTION.findall(text)
    }


def triggers(migrations: Iterable[tuple[str, str]]) -> dict[str, Trigger]:
    """The triggers that migrations make, by name."""
    found = {}
    for _, text in migrations:
        for name, words, table in _TRIGGER.findall(text):
            definition = " ".join(words.split())
            found[name] = Trigger(table, definition, definition.rpartition(" ")[2].removesuffix("()"))
    return found


def checksum(text: str) -> str:
    """What is recorded of a migration's text."""
    return sha256(text.encode()).hexdigest()
