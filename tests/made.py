"""Histories that are made by hand, for the checker."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from flowstates import FlowRunState, StateDetails, StateType
from tests.calls import Call, Create, Delete
from tests.history import check
from tests.stored import Stored, StoredRun

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
RUNNING = StateType.RUNNING


class Made:
    """A history by hand: creates and deletes, one after another, a second each, all acknowledged and stored."""

    def __init__(self) -> None:
        self.run = uuid4()
        self.log: list[Call] = []
        self.rows: list[Stored] = []
        self._second = 0

    def create(self, *, stored: bool = True, **values: Any) -> Create:
        self._second += 1
        at, id_ = NOON + timedelta(seconds=self._second), uuid4()
        state = FlowRunState(
            id=id_, created=at, updated=at, flow_run_id=self.run, type=RUNNING, timestamp=at, name="Running", message=f"m{self._second}",
            state_details=StateDetails(), data=None, result_artifact_id=None,
        )  # fmt: skip
        times = {"begun": float(self._second), "ended": self._second + 0.5}
        call = Create(**times | {"run": self.run, "message": state.message, "id": id_, "outcome": "acknowledged", "record": state} | values)
        self.log.append(call)
        if stored:
            self.rows.append(Stored(state, self._second))
        return call

    def delete(self, *creates: Create, **values: Any) -> Delete:
        self._second += 1
        ids = frozenset(create.id for create in creates if create.id)
        times = {"begun": float(self._second), "ended": self._second + 0.5}
        call = Delete(**times | {"ids": ids, "gone": ids, "outcome": "acknowledged"} | values)
        self.log.append(call)
        self.rows = [row for row in self.rows if row.state.id not in ids]
        return call

    def in_a_transaction(self, *calls: Call) -> None:
        """Makes one transaction of them, which ends with the last of them."""
        for place, call in enumerate(calls):
            call.transaction, call.place, call.ended = calls, place, calls[-1].ended

    def run_rows(self) -> list[StoredRun]:
        """The row that the run is to have."""
        if not self.rows:
            return []
        newest = max((row.state for row in self.rows), key=lambda state: state.timestamp)
        most = max(row.transaction for row in self.rows)
        return [StoredRun(self.run, (newest.id, newest.type, newest.name, newest.timestamp), most)]

    def kinds(self, runs: list[StoredRun] | None = None) -> set[str]:
        return {problem.partition(":")[0] for problem in check(self.log, self.rows, self.run_rows() if runs is None else runs)}

    def move(self, index: int, **values: Any) -> None:
        """Changes a stored row, and what was acknowledged of it."""
        row = self.rows[index]
        state = row.state.model_copy(update=values)
        self.rows[index] = replace(row, state=state)
        for call in self.log:
            if isinstance(call, Create) and call.record == row.state:
                call.record = state
