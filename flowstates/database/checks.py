"""Whether a database fits a layout."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from flowstates.database.pool import has_pooler
from flowstates.engine.execution import AnyConnection, PoolOrConnection, acquired, ask
from flowstates.engine.queries import Layout
from flowstates.errors import InvalidInputError
from flowstates.records import StateType


@dataclass(frozen=True)
class Mismatch:
    """One thing that does not fit: `where` it is, what is `expected` there and what was `found`."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


class _Table(NamedTuple):
    columns: dict[str, str]
    unique: tuple[str, ...]
    indexes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    closed: bool = False  # whether only this library writes to it


_STATE = {
    "id": "uuid not null",
    "created": "timestamp with time zone not null",
    "updated": "timestamp with time zone not null",
    "type": "state_type not null",
    "timestamp": "timestamp with time zone not null",
    "name": "character varying not null",
    "message": "character varying",
    "state_details": "jsonb not null",
    "data": "jsonb",
    "flow_run_id": "uuid not null",
    "result_artifact_id": "uuid",
}
_LAYOUTS: dict[Layout, dict[str, _Table]] = {
    "flowstates": {
        "flow_run_state": _Table(
            columns={**_STATE, "sequence": "bigint not null"},
            unique=("id", "flow_run_id, timestamp", "flow_run_id, sequence"),
            indexes=("timestamp, id",),
            checks=("ck_flow_run_state__name", "ck_flow_run_state__state_details", "ck_flow_run_state__timestamp"),
            triggers=("tr_flow_run_state__refuse_fork",),
            closed=True,
        )
    },
    "prefect": {
        "flow_run_state": _Table(columns=_STATE, unique=("id", "flow_run_id, timestamp")),
        "artifact": _Table(columns={"id": "uuid not null", "data": "json"}, unique=("id",)),
    },
}


async def check(pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates", timeout: float | None = None) -> list[Mismatch]:
    """What of a database does not fit `layout`: each column, type, index, check, trigger or enum label; [] if all does.

    It reads the server's catalog and nothing else, so it needs no right on the tables. Names are looked up on the connection's search path.
    What is there beyond the layout fits, unless it hinders: a label that the library does not know, a column that its inserts do not fill.
    `timeout` is in seconds, for all of it.

    A connection that keeps prepared statements behind a pooler is named too, with `statement cache` as its `where`: `create_pool` says why and
    what cures it. A pooler in session mode, or one that keeps the statements apart, looks the same from here; then leave this one out. What
    else is named is right behind a pooler as well.
    """
    if layout not in _LAYOUTS:
        raise InvalidInputError("layout", f"is {layout!r}, not 'flowstates' or 'prefect'")
    async with asyncio.timeout(timeout), acquired(pool_or_connection) as connection:
        found = await _check_pooler(connection)
        for name, table in _LAYOUTS[layout].items():
            found += await _check_table(connection, name, table)
        return found + await _check_labels(connection)


async def _check_pooler(connection: AnyConnection) -> list[Mismatch]:
    # asyncpg says nowhere in public whether it keeps statements, short of preparing one under a name. Should the attribute go, it counts as yes.
    if not getattr(connection, "_stmt_cache_enabled", True) or not await has_pooler(connection):
        return []
    cure = "none behind a pooler in transaction mode: statement_cache_size=0, or create_pool(..., transaction_pooling=True)"
    return [Mismatch("statement cache", cure, "a pooler, and prepared statements that are kept")]


async def _check_table(connection: AnyConnection, name: str, table: _Table) -> list[Mismatch]:
    rows = await ask(connection, "read_columns", name)
    if not rows:
        return [Mismatch(f"table {name}", "a table on the search path", "none")]
    columns = {row["name"]: row["type"] + (" not null" if row["not_null"] else "") for row in rows}
    found = [
        Mismatch(f"column {name}.{column}", type_, columns.get(column, "none"))
        for column, type_ in table.columns.items()
        if columns.get(column) != type_
    ]
    if table.closed:
        found += [
            Mismatch(f"column {name}.{row['name']}", "none, or one with a default", columns[row["name"]])
            for row in rows
            if row["name"] not in table.columns and row["not_null"] and not row["has_default"]
        ]
    indexes = [(row["columns"], row["is_unique"]) for row in await ask(connection, "read_indexes", name)]
    found += [Mismatch(f"index on {name} ({key})", "a unique index", "none") for key in table.unique if (key, True) not in indexes]
    keys = {key for key, _ in indexes}
    found += [Mismatch(f"index on {name} ({key})", "an index", "none") for key in table.indexes if key not in keys]
    checks = {row["name"] for row in await ask(connection, "read_checks", name)} if table.checks else set()
    found += [Mismatch(f"constraint {key} of {name}", "a check", "none") for key in table.checks if key not in checks]
    triggers = {row["name"] for row in await ask(connection, "read_triggers", name)} if table.triggers else set()
    found += [Mismatch(f"trigger {key} of {name}", "a trigger", "none") for key in table.triggers if key not in triggers]
    return found


async def _check_labels(connection: AnyConnection) -> list[Mismatch]:
    labels = [row["label"] for row in await ask(connection, "read_enum_labels", "state_type")]
    if not labels:
        return [Mismatch("type state_type", "an enum on the search path", "none")]
    return [Mismatch(f"label {type_} of state_type", "a label", "none") for type_ in StateType if type_ not in labels] + [
        Mismatch(f"label {label} of state_type", "none", "a label") for label in labels if label not in list(StateType)
    ]
