"""The one command: a server of its own, the rows of every group, a table and the same as JSON."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import asyncpg

from benchmarks import reading, records, writing
from benchmarks.shared import Row, settings_here, settings_of, table, write_json
from flowstates.database.embedded import embedded_postgres

GROUPS = {"writing": writing.measure, "reading": reading.measure, "records": records.measure}


async def _run(dsn: str, groups: list[str], short: bool) -> tuple[dict[str, dict[str, str]], list[Row]]:
    connection = await asyncpg.connect(dsn)
    settings = {"here": settings_here(), "server": await settings_of(connection)}
    await connection.close()
    rows: list[Row] = []
    for group in groups:
        rows += await GROUPS[group](dsn, settings, short=short)
    return settings, rows


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them by default")
    parser.add_argument("--short", action="store_true", help="smaller tables and fewer turns, to see that it runs: its figures are rough")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the same goes as JSON (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with embedded_postgres() as dsn:
        settings, rows = asyncio.run(_run(dsn, given.groups or list(GROUPS), given.short))
    for place, values in settings.items():
        print(f"{place}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    print("medians of turns (A B A B ...) in one run" + (", short form: rough figures" if given.short else "") + "\n")
    print(table(rows))
    write_json(given.json, settings, rows)
    print(f"\nthe same as JSON: {given.json}")


if __name__ == "__main__":
    main()
