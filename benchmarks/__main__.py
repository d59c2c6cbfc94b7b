"""The one command: a server of its own, the rows of every group, a table and the same as JSON."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import batches, currents, feed, pruning, reading, records, windows, writers, writing
from benchmarks.shared import Row, compare, settings_here, settings_of, table, write_json
from benchmarks.tables import LEAST_STATES, STATES, STATES_IN_SHORT
from flowstates.database.embedded import embedded_postgres

GROUPS: dict[str, Callable[..., Coroutine[Any, Any, list[Row]]]] = {
    "writing": writing.measure,
    "writers": writers.measure,
    "batches": batches.measure,
    "reading": reading.measure,
    "currents": currents.measure,
    "windows": windows.measure,
    "pruning": pruning.measure,
    "feed": feed.measure,
    "records": records.measure,
}
BY_SIZE = ("reading", "currents", "windows", "pruning", "feed")


async def _run(dsn: str, groups: list[str], short: bool, states: int) -> tuple[dict[str, dict[str, str]], list[Row]]:
    connection = await asyncpg.connect(dsn)
    settings = {"here": settings_here(), "server": await settings_of(connection)}
    await connection.close()
    rows: list[Row] = []
    for group in groups:
        measure = partial(GROUPS[group], states=states) if group in BY_SIZE else GROUPS[group]
        rows += await measure(dsn, settings, short=short)
    return settings, rows


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them by default")
    parser.add_argument("--short", action="store_true", help="smaller tables and fewer turns, to see that it runs: its figures are rough")
    parser.add_argument("--states", type=int, help=f"how many the large table has: {STATES}, in the short form {STATES_IN_SHORT}, by default")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the same goes as JSON (%(default)s)")
    parser.add_argument("--before", type=Path, help="the JSON of another run, of the version before, say, against whose figures these are held")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    states = given.states or (STATES_IN_SHORT if given.short else STATES)
    if states < LEAST_STATES:
        parser.error(f"--states: {LEAST_STATES} is the least")
    with embedded_postgres() as dsn:
        settings, rows = asyncio.run(_run(dsn, given.groups or list(GROUPS), given.short, states))
    if given.before:
        compare(rows, given.before)
    for place, values in settings.items():
        print(f"{place}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    print("medians of turns in one run" + (", short form: rough figures" if given.short else "") + "\n")
    print(table(rows))
    write_json(given.json, settings, rows)
    print(f"\nthe same as JSON: {given.json}")


if __name__ == "__main__":
    main()
