"""What was asked and what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from math import inf
from typing import Literal, TypeAlias
from uuid import UUID

from flowstates import FlowRunState, StateType
from flowstates.engine.appending import Expected

Outcome: TypeAlias = Literal["acknowledged", "refused", "unknown"]


@dataclass(kw_only=True, eq=False)
class Call:
    """`unknown` is what a timeout, a cancellation and a lost connection leave: it may have been done, may never be, or may be done later.

    What is asked in a transaction is answered when that ends; `place` counts what one transaction asks.
    """

    who: str = ""
    begun: float = 0.0
    ended: float = 0.0
    outcome: Outcome = "unknown"
    error: str = ""
    transaction: object = None
    place: int = 0

    @property
    def latest(self) -> float:
        """When it was done at the latest."""
        return inf if self.outcome == "unknown" else self.ended

    def precedes(self, other: Call) -> bool:
        """Whether it was done, for sure, before the other was begun."""
        if self.transaction is not None and self.transaction is other.transaction:
            return self.outcome != "refused" and self.place < other.place
        return self.outcome == "acknowledged" and self.ended < other.begun

    def may_precede(self, other: Call) -> bool:
        """Whether it may have been done before the other was."""
        if self.transaction is not None and self.transaction is other.transaction:
            return self.outcome != "refused" and self.place < other.place
        return self.outcome != "refused" and self.begun <= other.latest


@dataclass(kw_only=True, eq=False)
class Create(Call):
    """One try at one state. `batch` is the call that it was a part of, None if it was not of a bulk."""

    run: UUID
    message: str
    type: StateType = StateType.RUNNING
    id: UUID | None = None
    asked_timestamp: datetime | None = None
    expected: Expected = ...
    batch: object = None
    record: FlowRunState | None = None
    timestamp: datetime | None = None


@dataclass(kw_only=True, eq=False)
class Delete(Call):
    ids: frozenset[UUID] = frozenset()
    runs: frozenset[UUID] = frozenset()
    gone: frozenset[UUID] = frozenset()


class Log:
    """All calls of some writers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.ends: Counter[str] = Counter()
        """How many calls have ended in each way: acknowledged, or the name of an error."""
        self._ended = asyncio.Event()
        self._numbers = count(1)

    def message(self, who: str) -> str:
        """One that no other write has."""
        return f"{who} {next(self._numbers)}"

    def end(self, calls: Sequence[Call], ended: float, outcome: Outcome, error: BaseException | None) -> None:
        for call in calls:
            call.ended, call.outcome, call.error = ended, outcome, type(error).__name__ if error else ""
            self.ends[call.error or outcome] += 1
        self._ended.set()

    async def more(self, number: int, end: str = "acknowledged") -> None:
        """Until that many more calls have ended in this way."""
        wanted = self.ends[end] + number
        while self.ends[end] < wanted:
            self._ended.clear()
            await self._ended.wait()
