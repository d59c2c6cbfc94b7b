"""Whether tables and functions are distributed as the layout `citus` has it, or not at all as the others do."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from flowstates.database import definitions
from flowstates.database.layouts import LAYOUTS
from flowstates.database.mismatches import Mismatch
from flowstates.engine import queries
from flowstates.engine.connections import AnyConnection, ask
from flowstates.values import Layout

_BY_HAND = "none, as what writes to these tables is refused on Citus; `flowstates migrate --distributed` makes those of layout='citus'"


async def check_distribution(connection: AnyConnection, layout: Layout, names: Iterable[str], *, has_citus: bool) -> list[Mismatch]:
    """What does not fit of the tables of some names, which are there, and of the functions."""
    if not has_citus:
        return [Mismatch("extension citus", "an extension of the database", "none")] if layout == "citus" else []
    rows = {name: row for name in names for row in await ask(connection, "citus/read_distribution", name)}
    if layout != "citus":
        return [Mismatch(f"distribution of {name}", _BY_HAND, _in_words(row)) for name, row in rows.items()] if layout == "flowstates" else []
    colocation = rows["flow_run"]["colocation"] if "flow_run" in rows else None
    found = []
    for name in names:
        expected, row = f"by {LAYOUTS[layout][name].distributed_by}, with the other table, and one copy of each row", rows.get(name)
        if row is None:
            found.append(Mismatch(f"distribution of {name}", expected, "none"))
        elif (row["column"], row["colocation"], row["copies"]) != (LAYOUTS[layout][name].distributed_by, colocation, 1):
            found.append(Mismatch(f"distribution of {name}", expected, _in_words(row)))
    for name, function in definitions.functions(queries.distributed_migrations()).items():
        found += _check_function(name, function, await ask(connection, "citus/read_functions", name), colocation)
    return found


def _check_function(name: str, function: definitions.Function, rows: list[asyncpg.Record], colocation: str | None) -> list[Mismatch]:
    row = next((row for row in rows if row["arguments"] == function.arguments), None)
    if row is None:
        return [Mismatch(f"function {name}", f"a function of ({function.arguments})", "none")]
    found = []
    if row["head"] != function.head:
        found.append(Mismatch(f"function {name}", function.head, row["head"]))
    if row["body"].splitlines() != function.body.splitlines():
        found.append(Mismatch(f"function {name}", f"the body that migration {function.migration} gives it", "another"))
    if (row["argument"], row["colocation"], row["is_forced"]) != (0, colocation, True):
        words = "none" if row["colocation"] is None else "another"
        found.append(Mismatch(f"distribution of {name}", "by its first parameter, with the tables, and with force_delegation", words))
    return found


def _in_words(row: asyncpg.Record) -> str:
    by = f"by {row['column']}" if row["column"] else "by no column"
    return by if row["copies"] in (1, None) else f"{by}, {row['copies']} copies of each row"
