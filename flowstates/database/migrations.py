"""Brings a database to the tables of the layout `flowstates`, or of the layout `citus`."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import asyncpg

from flowstates.database import definitions
from flowstates.database.definitions import checksum
from flowstates.engine import queries
from flowstates.engine.connections import Acquired, AnyConnection, PoolOrConnection, ask
from flowstates.errors import InvalidInputError, MigrationError
from flowstates.filters import array_of
from flowstates.values import flag, seconds

_CURE = "give flowstates a schema of its own (create schema flowstates) and a search path that begins with it"


async def migrate(pool_or_connection: PoolOrConnection, *, distributed: bool = False, timeout: float | None = None) -> list[str]:
    """Applies what is missing of `sql/migrations`, in order, and returns the names; [] when the database is current.

    With `distributed=True` they are those of the layout `citus`: tables that Citus distributes by the run, made on its coordinator, in a database
    that has the extension on all nodes. A database is migrated one way or the other.

    All of it is one transaction, or a part of the caller's, behind a lock that lets one migration run at a time: of several processes that start at
    once one applies and the others find it done. On a current database no lock is taken. Inside a caller's transaction at REPEATABLE READ or above
    the lock does not help, as the snapshot is older than the lock.

    The tables are made in the first schema of the search path. What later schemas of the path have under the same names is hidden by them on this
    path, and stays as it is. What a newer version of flowstates has added is left alone.

    MigrationError, and nothing changes, if that schema has an object under a name that a migration is to make, or a temporary one would hide it; if
    an applied migration's text has changed since, or the database was migrated the other way; if the search path names no schema; if `distributed`
    is asked for and there is no Citus. `timeout` is in seconds, for all of it.
    """
    distributed, timeout = flag("distributed", distributed), seconds(timeout)
    async with asyncio.timeout(timeout), Acquired(pool_or_connection, timeout) as connection:
        # Whoever may connect can hold the lock, so it is taken only where there is something to do.
        if not (await _look(connection, distributed)).missing:
            return []
        # The lock is worth something only if what is read behind it is newer than the lock.
        nested = connection.is_in_transaction()
        async with connection.transaction(isolation=None if nested else "read_committed"):
            await ask(connection, "lock_migrations")
            found = await _look(connection, distributed)
            if distributed and not found.has_citus:
                raise MigrationError("this database has no Citus: `create extension citus` on each node, or migrate without `distributed`")
            await _refuse_others(connection, found)
            if not found.has_migrations:
                await connection.execute(queries.catalog("create_migration_table"))
            for name, text in found.missing:
                # Citus plans a statement by itself.
                for statement in definitions.statements(text) if distributed else (text,):
                    await connection.execute(statement)
                await ask(connection, "record_migration", name, checksum(text))
    return [name for name, _ in found.missing]


async def unknown_migrations(connection: AnyConnection, *, distributed: bool = False) -> list[str]:
    """The migrations that were applied where `migrate` looks, and that this version of flowstates does not have."""
    found = await _look(connection, distributed)
    return [name for name in found.applied if name not in dict(_known(distributed))]


def migration_sql(*, since: str | None = None, until: str | None = None, distributed: bool = False) -> list[str]:
    """What `migrate` runs, with `distributed=True` for tables that Citus distributes, for a tool that runs it in its place: statements, to be run one
    by one and in order, in one transaction.

    They are those of all migrations after the one named `since`, up to and with the one named `until`. Without `since` they are for an empty schema;
    without `until` they go up to the newest that this version has, so a text that is to stay what it is names it. They record the migrations, and
    `migrate` then finds them done. No database is asked.

    InvalidInputError for a name that is no migration of this version, and if `until` comes before `since`.
    """
    return list(definitions.statements(migration_script(since=since, until=until, distributed=distributed)))


def migration_script(*, since: str | None = None, until: str | None = None, distributed: bool = False) -> str:
    """The statements of `migration_sql` as one text, with the comments of the files."""
    known = _known(flag("distributed", distributed))
    names = [name for name, _ in known]
    begin = 0 if since is None else _place("since", since, names)
    end = len(names) if until is None else _place("until", until, names)
    if end < begin:
        raise InvalidInputError("until", f"{until} comes before {since}")
    parts = [] if since is not None else [queries.catalog("create_migration_table")]
    for name, text in known[begin:end]:
        record = queries.catalog("record_migration").replace("$1", f"'{name}'").replace("$2", f"'{checksum(text)}'")
        parts += [text, record]
    return "\n".join(parts)


def _place(field: str, name: str, names: list[str]) -> int:
    """How many migrations there are up to the one of that name."""
    if name not in names:
        raise InvalidInputError(field, f"{name!r} is no migration of this version, which has {', '.join(names)}")
    return names.index(name) + 1


class _Found(NamedTuple):
    schema: str
    is_prefects: bool
    has_citus: bool
    has_migrations: bool
    applied: list[str]
    missing: list[tuple[str, str]]


def _known(distributed: bool) -> list[tuple[str, str]]:
    return queries.distributed_migrations() if distributed else queries.migrations()


async def _look(connection: AnyConnection, distributed: bool) -> _Found:
    schema, has_migrations, is_prefects, has_citus = (await ask(connection, "read_schema"))[0]
    if schema is None:
        raise MigrationError("the search path names no schema that exists")
    applied = {row["name"]: row["checksum"] for row in await ask(connection, "read_migrations")} if has_migrations else {}
    return _Found(schema, is_prefects, has_citus, has_migrations, list(applied), _missing(applied, distributed))


def _missing(applied: dict[str, str], distributed: bool) -> list[tuple[str, str]]:
    known = _known(distributed)
    if other := [name for name, _ in _known(not distributed) if name in applied]:
        if distributed:
            raise MigrationError(f"migration {other[0]} was applied here, which makes tables that are not distributed: {_CURE}")
        raise MigrationError(f"migration {other[0]} was applied here, so the tables are distributed: migrate with `distributed`, or {_CURE}")
    for name, text in known:
        if applied.get(name, checksum(text)) != checksum(text):
            raise MigrationError(f"migration {name} has changed since it was applied here")
    # A newer flowstates may have been here; what it added comes after all that this one knows.
    if foreign := [name for name in applied if name not in dict(known) and name < known[-1][0]]:
        raise MigrationError(f"migration {foreign[0]} was applied here, and this flowstates does not have it")
    return [(name, text) for name, text in known if name not in applied]


async def _refuse_others(connection: AnyConnection, found: _Found) -> None:
    """Refuses to make what is there already, which is not ours, since it is not recorded."""
    texts = [text for _, text in found.missing]
    names = definitions.made(texts if found.has_migrations else [queries.catalog("create_migration_table"), *texts])
    rows = await ask(connection, "read_objects", array_of(names))
    if hiding := [_words(row) for row in rows if row["is_temporary"]]:
        raise MigrationError(f"temporary objects hide what a migration is to make: {', '.join(hiding)}; drop them, or migrate on another connection")
    if taken := [_words(row) for row in rows]:
        whose = "Prefect's, which the layout prefect reads" if found.is_prefects else "not made by flowstates"
        raise MigrationError(f"schema {found.schema} has what a migration is to make, {whose}: {', '.join(taken)}; {_CURE}")


def _words(row: asyncpg.Record) -> str:
    return f"{definitions.kind(row['kind'], row['is_temporary'])} {row['name']}"
