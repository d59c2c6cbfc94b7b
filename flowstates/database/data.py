"""Whether rows agree: those of runs with their histories, those of states with their records. In pages, so that no more is held at a time."""

from __future__ import annotations

from flowstates.database.mismatches import Mismatch
from flowstates.engine import queries
from flowstates.engine.connections import AnyConnection, ask
from flowstates.engine.rows import FIRST_ROWS, next_rows, readable_states
from flowstates.errors import UnreadableRowError
from flowstates.values import Layout

_MOST_NAMED = 100
_RUNS_A_PAGE = 1000
_STATES_A_PAGE = 500
_RUNS: dict[Layout, str] = {"flowstates": "read_disagreeing_runs", "prefect": "read_disagreeing_prefect_runs", "citus": "citus/read_disagreeing_runs"}


class _Found:
    """Mismatches, of which the first are named and the others counted."""

    def __init__(self, what: str, expected: str, mend: str | None = None) -> None:
        self._what, self._expected, self._mend = what, expected, mend
        self._named: list[Mismatch] = []
        self._more = 0

    def add(self, where: str, expected: str, found: str) -> None:
        if len(self._named) < _MOST_NAMED:
            self._named.append(Mismatch(where, expected, found, self._mend))
        else:
            self._more += 1

    def all(self) -> list[Mismatch]:
        return self._named + ([Mismatch(self._what, self._expected, f"{self._more:,} more", self._mend)] if self._more else [])


def mending(schema: str) -> str:
    """What mends the rows of `flow_run` in a schema, to be pasted into psql. The schema's name is given as SQL has it, in quotes if it needs them."""
    return queries.fill(queries.catalog("use_schema"), "schema", schema) + queries.catalog("mend_flow_runs")


async def disagreeing_runs(connection: AnyConnection, layout: Layout, mend: str | None, *, hides_rows: bool) -> list[Mismatch]:
    """The runs whose row in `flow_run` is not what their states say: the first hundred, and how many more there are."""
    found = _Found("runs", "rows in flow_run that agree with the states", mend)
    doubt = "; row level security may hide rows from this role, so nothing is offered to mend it" if hides_rows else ""
    after = None
    while rows := await ask(connection, _RUNS[layout], after, str(_RUNS_A_PAGE)):
        for row in rows:
            if row["found"] is not None:
                found.add(f"run {row['flow_run_id']}", row["expected"], row["found"] + doubt)
        after = rows[-1]["flow_run_id"]
    return found.all()


async def unreadable_states(connection: AnyConnection, layout: Layout) -> list[Mismatch]:
    """The states that do not fit their record: the first hundred, and how many more there are."""
    found = _Found("states", "rows that fit their record")

    def unreadable(error: UnreadableRowError) -> None:
        found.add(f"state {error.flow_run_state_id}", "a row that fits its record", f"{error.field}: {error.message}")

    after, count = None, min(FIRST_ROWS, _STATES_A_PAGE)
    while rows := await ask(connection, "read_stored_states", after, str(count), layout=layout):
        count = next_rows(rows, _STATES_A_PAGE)
        for _ in readable_states(rows, unreadable):
            pass
        after = rows[-1]["id"]
    return found.all()
