"""Brings a database to the tables of the layout `flowstates`."""

from __future__ import annotations

import asyncio
from hashlib import sha256

from flowstates.engine import queries
from flowstates.engine.execution import PoolOrConnection, acquired, ask
from flowstates.errors import MigrationError


async def migrate(pool_or_connection: PoolOrConnection, *, timeout: float | None = None) -> list[str]:
    """Applies what is missing of `sql/migrations`, in order, and returns the names; [] when the database is current.

    All of it is one transaction, or a part of the caller's, behind a lock that lets one migration run at a time: of several processes that start at
    once one applies and the others find it done. The tables are made in the first schema of the search path. Inside a caller's transaction at
    REPEATABLE READ or above the lock does not help, as the snapshot is older than the lock.

    MigrationError, and nothing changes, if the schema has a `flow_run_state` that flowstates did not make, if an applied migration's text
    has changed since, or if the search path names no schema. `timeout` is in seconds, for all of it.
    """
    async with asyncio.timeout(timeout), acquired(pool_or_connection) as connection:
        # The lock is worth something only if what is read behind it is newer than the lock.
        nested = connection.is_in_transaction()
        async with connection.transaction(isolation=None if nested else "read_committed"):
            await ask(connection, "lock_migrations")
            schema, has_migrations, has_states, has_alembic = (await ask(connection, "read_schema"))[0]
            if schema is None:
                raise MigrationError("the search path names no schema that exists")
            if not has_migrations:
                if has_states:
                    owner = "Prefect's: read it with the layout prefect" if has_alembic else "not made by flowstates"
                    raise MigrationError(f"the table flow_run_state in schema {schema} is {owner}, or give flowstates a schema of its own")
                await connection.execute(queries.catalog("create_migration_table"))
            missing = _missing({row["name"]: row["checksum"] for row in await ask(connection, "read_migrations")})
            for name, text in missing:
                await connection.execute(text)
                await ask(connection, "record_migration", name, _checksum(text))
    return [name for name, _ in missing]


def migration_script() -> str:
    """What `migrate` runs on an empty schema, as one text for other tools: it also records the migrations, so that `migrate` then finds them done."""
    parts = [queries.catalog("create_migration_table")]
    for name, text in queries.migrations():
        record = queries.catalog("record_migration").replace("$1", f"'{name}'").replace("$2", f"'{_checksum(text)}'")
        parts += [text, record]
    return "\n".join(parts)


def _missing(applied: dict[str, str]) -> list[tuple[str, str]]:
    known = queries.migrations()
    for name, text in known:
        if applied.get(name, _checksum(text)) != _checksum(text):
            raise MigrationError(f"migration {name} has changed since it was applied here")
    # A newer flowstates may have been here; what it added comes after all that this one knows.
    if foreign := [name for name in applied if name not in dict(known) and name < known[-1][0]]:
        raise MigrationError(f"migration {foreign[0]} was applied here, and this flowstates does not have it")
    return [(name, text) for name, text in known if name not in applied]


def _checksum(text: str) -> str:
    return sha256(text.encode()).hexdigest()
