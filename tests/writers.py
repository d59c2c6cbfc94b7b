"""Random writers: what they ask of a repository goes into a log, and what has an id is asked again until the answer is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args
from uuid import UUID, uuid4

import asyncpg
from asyncpg.exceptions import InternalClientError

from flowstates import CreateOutcome, FlowRunState, FlowRunStateRepository, FlowStatesError, NewFlowRunState, StateType
from flowstates.engine.appending import Expected
from tests.conftest import Pool
from tests.history import Call, Create, Delete, check, read_stored

Kind: TypeAlias = Literal["append", "nameless", "follow", "first", "typed", "bulk", "again", "other", "delete", "delete_many", "delete_run"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")
OF_THE_CONNECTION = ("08", "57P")  # the classes of errors after which the server may yet have committed


class Step(NamedTuple):
    """`pick` chooses the run, and among the states that are known of it, counted from the newest."""

    kind: Kind
    pick: int


def random_steps(random: Random, steps: int) -> list[Step]:
    weights = [6, 2, 8, 2, 3, 2, 2, 1, 3, 1, 0.3]
    return [Step(kind, min(int(random.expovariate(0.1)), 99)) for kind in random.choices(KINDS, weights, k=steps)]


class Writers:
    def __init__(self, pool: Pool, runs: int, *, timeout: float = 5.0, patience: float = 8.0, pause: float = 0.01) -> None:
        self.pool = pool
        self.runs = [uuid4() for _ in range(runs)]
        self.log: list[Call] = []
        self.in_flight: set[asyncio.Task[Any]] = set()
        self._states = FlowRunStateRepository(pool)
        self._timeout = timeout
        self._patience = patience
        self._pause = pause
        self._numbers = count(1)
        self._known: dict[UUID, list[FlowRunState]] = {run: [] for run in self.runs}
        self._asked: list[Create] = []

    async def work(self, who: str, steps: Sequence[Step]) -> None:
        for step in steps:
            await self.take(who, step)

    async def until(self, who: str, random: Random, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.work(who, random_steps(random, 5))

    async def problems(self) -> list[str]:
        return check(self.log, await read_stored(self.pool, self.runs))

    def written(self) -> int:
        return sum(call.outcome == "acknowledged" for call in self.log)

    async def take(self, who: str, step: Step) -> None:
        run = self.runs[step.pick % len(self.runs)]
        known = self._known[run]
        # A delete takes what it names from the known, so an expectation is of the newest that is left, or of one before.
        chosen = known[-1 - step.pick // 10 % len(known)] if known else None
        type_ = list(StateType)[step.pick % 9]
        match step.kind:
            case "append":
                await self.create(who, run, type_)
            case "nameless":
                await self.create(who, run, type_, id=None)
            case "follow":
                await self.create(who, run, type_, expected=chosen.id if chosen else None)
            case "first":
                await self.create(who, run, type_, expected=None)
            case "typed":
                await self.create(who, run, type_, expected={type_, StateType.RUNNING} | ({known[-1].type} if known else set()))
            case "bulk":
                await self._bulk(who, step, known[-1].timestamp if known else None)
            case "again" | "other" if self._asked:
                asked = self._asked[-1 - step.pick % len(self._asked)]
                message = asked.message if step.kind == "again" else None
                await self.create(who, asked.run, asked.type, id=asked.id, expected=asked.expected, message=message)
            case "delete" if chosen:
                await self.delete(who, ids=[chosen.id], many=False)
            case "delete_many" if known:
                await self.delete(who, ids=[state.id for state in known[-1 - step.pick % 3 :]] + [uuid4()])
            case "delete_run":
                await self.delete(who, runs=[run])

    async def create(
        self, who: str, run: UUID, type_: StateType, *, id: UUID | str | None = "new", expected: Expected = ..., message: str | None = None
    ) -> FlowRunState | None:
        id_ = uuid4() if id == "new" else id
        assert not isinstance(id_, str)
        message = message or f"{who} {next(self._numbers)}"

        def entries() -> list[Create]:
            return [Create(who=who, run=run, message=message, type=type_, id=id_, expected=expected)]

        async def ask() -> FlowRunState:
            return await self._states.create_flow_run_state(run, type_, id=id_, message=message, expected=expected, timeout=self._timeout)

        (call,), record = await self._until_known(entries, ask, retry=id_ is not None)
        if id_ is not None:
            self._asked.append(call)
        if record is not None:
            call.record = record
            self._known.setdefault(run, []).append(record)
        return record

    async def _bulk(self, who: str, step: Step, newest: datetime | None) -> None:
        states = []
        for number in range(1 + step.pick % 5):
            run = self.runs[(step.pick + number) % len(self.runs)]
            past = newest - timedelta(microseconds=step.pick * number) if newest and number else None
            message = f"{who} {next(self._numbers)}"
            states.append(NewFlowRunState(flow_run_id=run, type=StateType.PENDING, id=uuid4(), message=message, timestamp=past))
        batch = object()

        def entries() -> list[Create]:
            return [
                Create(who=who, run=s.flow_run_id, message=s.message or "", type=s.type, id=s.id, asked_timestamp=s.timestamp, batch=batch)
                for s in states
            ]

        async def ask() -> list[CreateOutcome]:
            return await self._states.create_flow_run_states(states, timeout=self._timeout)

        calls, outcomes = await self._until_known(entries, ask)
        for call, outcome in zip(calls, outcomes or (), strict=False):
            call.timestamp = outcome.timestamp
            if outcome.status == "refused":
                call.outcome, call.error = "refused", outcome.reason or ""

    async def delete(self, who: str, *, ids: Sequence[UUID] = (), runs: Sequence[UUID] = (), many: bool = True) -> None:
        def entries() -> list[Delete]:
            return [Delete(who=who, ids=frozenset(ids), runs=frozenset(runs))]

        async def ask() -> list[UUID]:
            if not many:
                return [ids[0]] if await self._states.delete_flow_run_state(ids[0], timeout=self._timeout) else []
            if runs:
                return await self._states.delete_flow_run_states(flow_run_ids=runs, timeout=self._timeout)
            return await self._states.delete_flow_run_states(flow_run_state_ids=ids, timeout=self._timeout)

        (call,), gone = await self._until_known(entries, ask)
        call.gone = frozenset(gone or ())
        for known in self._known.values():
            known[:] = [state for state in known if state.id not in ids and state.flow_run_id not in runs]

    async def _until_known(
        self, entries: Callable[[], list[Any]], ask: Callable[[], Awaitable[T]], *, retry: bool = True
    ) -> tuple[list[Any], T | None]:
        end = time.monotonic() + self._patience
        while True:
            calls = entries()
            answer, error = await self._call(calls, ask)
            if error is None or isinstance(error, FlowStatesError) or not retry:
                return calls, answer
            if time.monotonic() > end:
                raise AssertionError(f"{calls[0].who}: not answered in {self._patience} s") from error
            await asyncio.sleep(self._pause)

    async def _call(self, calls: list[Call], ask: Callable[[], Awaitable[T]]) -> tuple[T | None, BaseException | None]:
        begun = time.monotonic()
        for call in calls:
            call.begun = begun
        self.log += calls
        task = asyncio.ensure_future(ask())
        self.in_flight.add(task)
        answer: T | None = None
        error: BaseException | None = None
        outcome: Literal["acknowledged", "refused", "unknown"] = "acknowledged"
        try:
            answer = await task
        except asyncio.CancelledError as cancelled:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            outcome, error = "unknown", cancelled
        except (FlowStatesError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError, OSError, TimeoutError) as failed:
            stored_nothing = isinstance(failed, FlowStatesError) or not (getattr(failed, "sqlstate", None) or "08").startswith(OF_THE_CONNECTION)
            outcome, error = "refused" if stored_nothing else "unknown", failed
        finally:
            self.in_flight.discard(task)
        ended = time.monotonic()
        for call in calls:
            call.ended, call.outcome, call.error = ended, outcome, type(error).__name__ if error else ""
        return answer, error
