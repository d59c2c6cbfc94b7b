"""Whether a database fits a layout."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from flowstates.database import definitions
from flowstates.database.data import disagreeing_runs, mending, unreadable_states
from flowstates.database.distribution import check_distribution
from flowstates.database.layouts import LAYOUTS, Index, Table
from flowstates.database.mismatches import Mismatch
from flowstates.database.pool import has_pooler
from flowstates.engine import queries
from flowstates.engine.connections import Acquired, AnyConnection, PoolOrConnection, ask
from flowstates.records import StateType
from flowstates.values import LAYOUTS as ALL_LAYOUTS
from flowstates.values import Layout, flag, one_of, seconds

_FIRES = {"D": "one that is off", "R": "one that fires for replication only", "A": "one that fires for replication too"}


async def check(
    pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates", data: bool = False, timeout: float | None = None
) -> list[Mismatch]:
    """What of a database does not fit `layout`; [] if all does.

    Columns, types, indexes, foreign keys and enum labels; on our own tables also defaults, check constraints, the triggers and functions, word for
    word, the triggers of others that can change or keep back what is written or deleted, and migrations that this version does not know; on Citus
    that tables and functions are distributed by the run and kept together, or on the layout `flowstates` that no table is. Row level security,
    rules, inheritance and partitions are named, as they hide rows or add some, and unlogged tables. Names are looked up on the connection's search
    path. What is there beyond the layout fits, unless it hinders: a label that the library does not know, a column that its inserts do not fill.

    It reads the server's catalog, so it needs no right on the tables; which migrations were applied it reads where it may.

    With `data=True` it reads all rows too, in pages, where tables and columns fit. On our own tables it names the runs whose row in `flow_run` is not
    what their newest state says, as after a restore in pieces, with what mends them as `mend`; without it where that could do harm, as row level
    security may hide rows from this role, say, and on Citus. On Prefect's it names those whose `state_id` names no state of theirs or whose
    `state_type` is not that state's, and has nothing to mend them with. On both it names the states that do not fit their record. A hundred of either
    are named and the others counted. What others commit meanwhile is no mismatch.

    A connection that keeps prepared statements behind a pooler is named too, with `statement cache` as its `where`: `create_pool` says why and
    what cures it. A pooler in session mode, or one that keeps the statements apart, looks the same from here; then leave this one out. What
    else is named is right behind a pooler as well.

    `timeout` is in seconds, for all of it.
    """
    layout = one_of("layout", layout, *ALL_LAYOUTS)
    data = flag("data", data)
    timeout = seconds(timeout)
    async with asyncio.timeout(timeout), Acquired(pool_or_connection, timeout) as connection:
        settings = (await ask(connection, "read_settings"))[0]
        found = await _check_pooler(connection) + _check_settings(settings)
        tables = LAYOUTS[layout]
        lacking, places = [], {}
        for name, table in tables.items():
            there = await ask(connection, "read_table", name)
            kind = f"a {definitions.kind(there[0]['kind'], there[0]['is_temporary'])}" if there else "none"
            if kind == "a table":
                places[name] = there[0]
                lacking += await _check_columns(connection, name, table, layout)
            else:
                lacking.append(Mismatch(f"table {name}", "a table on the search path", kind))
        found += lacking
        for name, place in places.items():
            found += _check_place(name, place) + await _check_keys(connection, name, tables[name], layout)
        found += await _check_labels(connection)
        found += await check_distribution(connection, layout, places, has_citus=settings["has_citus"])
        if layout != "prefect":
            migrations = queries.distributed_migrations() if layout == "citus" else queries.migrations()
            found += _check_schemas(places)
            for name in places:
                found += await _check_triggers(connection, name, migrations)
            found += await _check_migrations(connection, migrations)
        if data and not lacking:
            hides_rows = any(place["hides_rows"] for place in places.values())
            # Where rows are hidden, or others' are among them, it would do harm.
            is_safe = not hides_rows and not _check_schemas(places) and not any(place["ties"] or place["rules"] for place in places.values())
            mend = mending(places["flow_run"]["quoted_schema"]) if layout == "flowstates" and is_safe else None
            found += await disagreeing_runs(connection, layout, mend, hides_rows=hides_rows) + await unreadable_states(connection, layout)
        # Two triggers may have one function.
        return list(dict.fromkeys(found))


async def _check_pooler(connection: AnyConnection) -> list[Mismatch]:
    # asyncpg says nowhere in public whether it keeps statements, short of preparing one under a name. Should the attribute go, it counts as yes.
    if not getattr(connection, "_stmt_cache_enabled", True) or not await has_pooler(connection):
        return []
    cure = "none behind a pooler in transaction mode: statement_cache_size=0, or create_pool(..., transaction_pooling=True)"
    return [Mismatch("statement cache", cure, "a pooler, and prepared statements that are kept")]


def _check_settings(settings: asyncpg.Record) -> list[Mismatch]:
    encoding, role = settings["server_encoding"], settings["session_replication_role"]
    found = [] if encoding == "UTF8" else [Mismatch("encoding of the database", "UTF8", encoding)]
    # On this session, by a default of its role or its database, say.
    return found if role != "replica" else [*found, Mismatch("setting session_replication_role", "origin, as else no trigger fires", role)]


async def _check_columns(connection: AnyConnection, name: str, table: Table, layout: Layout) -> list[Mismatch]:
    rows = await ask(connection, "read_columns", name)
    # What fills Prefect's columns is Prefect's to say.
    fillers = {row["name"]: f" {row['filler']}" if row["filler"] and layout != "prefect" else "" for row in rows}
    columns = {row["name"]: row["type"] + (" not null" if row["not_null"] else "") + fillers[row["name"]] for row in rows}
    found = [
        Mismatch(f"column {name}.{column}", expected, columns.get(column, "none"))
        for column, expected in table.columns.items()
        if columns.get(column) != expected
    ]
    if layout != "prefect":
        found += [
            Mismatch(f"column {name}.{row['name']}", "none, or one with a default", columns[row["name"]])
            for row in rows
            if row["name"] not in table.columns and row["not_null"] and not row["filler"]
        ]
    return found


def _check_place(name: str, place: asyncpg.Record) -> list[Mismatch]:
    found = [Mismatch(f"row level security of {name}", "off, as it hides rows", "on")] if place["has_row_security"] else []
    if place["ties"]:
        found.append(Mismatch(f"inheritance of {name}", "none, as rows of other tables would count as its own", place["ties"]))
    if place["is_unlogged"]:
        found.append(Mismatch(f"table {name}", "a logged table, which a crash does not empty", "an unlogged one"))
    return [*found, Mismatch(f"rules of {name}", "none, as they change what is written", place["rules"])] if place["rules"] else found


def _check_schemas(places: dict[str, asyncpg.Record]) -> list[Mismatch]:
    # Where flow_run_state is not there, that of the first that is.
    first = next(iter(places), "")
    return [
        Mismatch(f"schema of {name}", f"that of {first}, {places[first]['schema']}, where the triggers look", place["schema"])
        for name, place in places.items()
        if place["schema"] != places[first]["schema"]
    ]


async def _check_keys(connection: AnyConnection, name: str, table: Table, layout: Layout) -> list[Mismatch]:
    rows = await ask(connection, "read_indexes", name)
    found = []
    for index in table.indexes:
        there = [row for row in rows if row["columns"] == index.key]
        if not any(_serves(index, row, layout) for row in there):
            expected = _in_words(index.is_unique, index.included, is_ascending=True)
            words = [_in_words(row["is_unique"], row["included"], row["is_ascending"]) for row in there]
            found.append(Mismatch(f"index on {name} ({index.key})", expected, "; ".join(words) or "none"))
    checks = {row["name"]: row["definition"] for row in await ask(connection, "read_checks", name)} if table.checks else {}
    found += [
        Mismatch(f"constraint {key} of {name}", expected, checks.get(key, "none"))
        for key, expected in table.checks.items()
        if checks.get(key) != expected
    ]
    references: dict[str, list[str]] = {}
    for row in await ask(connection, "read_foreign_keys", name) if table.foreign_keys else ():
        references.setdefault(row["columns"], []).append(row["reference"] + ("" if row["is_on"] else ", switched off"))
    return found + [
        Mismatch(f"foreign key of {name}.{column}", reference, "; ".join(references.get(column, ["none"])))
        for column, reference in table.foreign_keys.items()
        if reference not in references.get(column, ())
    ]


def _serves(index: Index, row: asyncpg.Record, layout: Layout) -> bool:
    # Prefect's names and orders its own.
    is_as_made = row["is_ascending"] or layout == "prefect"
    return is_as_made and row["is_unique"] >= index.is_unique and set(filter(None, [index.included])) <= set(row["included"].split(", "))


def _in_words(is_unique: bool, included: str, is_ascending: bool) -> str:
    words = "a unique index" if is_unique else "an index"
    return words + (f" that includes {included}" if included else "") + ("" if is_ascending else ", not in ascending order")


async def _check_labels(connection: AnyConnection) -> list[Mismatch]:
    labels = [row["label"] for row in await ask(connection, "read_enum_labels", "state_type")]
    if not labels:
        return [Mismatch("type state_type", "an enum on the search path", "none")]
    return [Mismatch(f"label {type_} of state_type", "a label", "none") for type_ in StateType if type_ not in labels] + [
        Mismatch(f"label {label} of state_type", "none", "a label") for label in labels if label not in list(StateType)
    ]


async def _check_triggers(connection: AnyConnection, table: str, migrations: Sequence[tuple[str, str]]) -> list[Mismatch]:
    rows = {row["name"]: row for row in await ask(connection, "read_triggers", table)}
    functions = definitions.functions(migrations)
    ours = {name: trigger for name, trigger in definitions.triggers(migrations).items() if trigger.table == table}
    found = [
        Mismatch(f"trigger {name} of {table}", "none of others that can change or keep back what is written or deleted", row["definition"])
        for name, row in rows.items()
        if name not in ours and row["changes_rows"] and row["fires"] in ("O", "A")
    ]
    for name, trigger in ours.items():
        row = rows.get(name)
        if row is None:
            found.append(Mismatch(f"trigger {name} of {table}", "a trigger", "none"))
            continue
        if row["fires"] != "O":
            found.append(Mismatch(f"trigger {name} of {table}", "one that is on", _FIRES[row["fires"]]))
        if row["definition"] != trigger.definition:
            found.append(Mismatch(f"trigger {name} of {table}", trigger.definition, row["definition"]))
            continue
        function = functions[trigger.function]
        if row["head"] != function.head:
            found.append(Mismatch(f"function {trigger.function}", function.head, row["head"]))
        if row["body"].splitlines() != function.body.splitlines():
            found.append(Mismatch(f"function {trigger.function}", f"the body that migration {function.migration} gives it", "another"))
    return found


async def _check_migrations(connection: AnyConnection, migrations: Sequence[tuple[str, str]]) -> list[Mismatch]:
    is_there, is_readable = (await ask(connection, "read_migration_table"))[0]
    if not is_there:
        return [Mismatch("table flowstates_migration", "a table on the search path", "none")]
    if not is_readable:
        return []
    known = {name: definitions.checksum(text) for name, text in migrations}
    applied = {row["name"]: row["checksum"] for row in await ask(connection, "read_migrations")}
    return (
        [Mismatch(f"migration {name}", "an applied one", "none") for name in known if name not in applied]
        + [Mismatch(f"migration {name}", "none that this version does not know", "an applied one") for name in applied if name not in known]
        + [Mismatch(f"migration {name}", "the text of this version", "another") for name, sum in known.items() if applied.get(name, sum) != sum]
    )
