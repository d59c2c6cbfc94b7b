"""Random writers: what they ask of a repository goes into a log, and what has an id is asked again until the answer is known.

Some hold a transaction of several statements, at an isolation level of its own, and half of these are rolled back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args
from uuid import UUID, uuid4

import asyncpg
from asyncpg.exceptions import InternalClientError

from flowstates import (
    BatchedCreates,
    CreateOutcome,
    FlowRunState,
    FlowRunStateRepository,
    FlowRunStateRetention,
    FlowStatesError,
    Keep,
    NewFlowRunState,
    StateType,
)
from flowstates.engine.appending import Expected
from flowstates.engine.connections import AnyConnection
from flowstates.values import Layout
from tests.calls import Call, Create, Delete, Log, Outcome
from tests.conftest import Connection, Pool
from tests.history import check
from tests.stored import read_stored, wrong_rows
from tests.transactions import Transaction, take_in_a_transaction

Kind: TypeAlias = Literal[
    "append", "nameless", "follow", "first", "typed", "bulk", "again", "other", "delete", "delete_many", "delete_run", "prune", "transaction"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ISOLATION = ("read committed", "repeatable read", "serializable")
MIXED = "mixed"
T = TypeVar("T")
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError, OSError)
"""Whatever asyncpg raises of a server that fails or has gone; the last but one where the connection's end comes in two steps."""
OF_THE_CONNECTION = ("08", "57P")  # the classes of errors after which the server may yet have committed


class Step(NamedTuple):
    """`pick` chooses the run, and among the states that are known of it, counted from the newest."""

    kind: Kind
    pick: int


def random_steps(random: Random, steps: int) -> list[Step]:
    weights = [6, 2, 8, 2, 3, 2, 2, 1, 3, 1, 0.3, 0.6, 4]
    kinds = random.choices(KINDS, weights, k=steps)
    return [Step(kind, random.randrange(100) if kind == "transaction" else min(int(random.expovariate(0.1)), 99)) for kind in kinds]


class RolledBack(Exception):  # noqa: N818 (no error)
    """A transaction that was to be rolled back."""


def level(isolation: str) -> Any:
    """What a transaction of asyncpg's calls it."""
    return isolation.replace(" ", "_")


def defaults(isolation: str) -> dict[str, Any]:
    """Options of a pool whose connections have this default, or one after another each of the three. A deadlock is found soon."""
    settings = {"deadlock_timeout": "50ms"}
    if isolation != MIXED:
        return {"server_settings": settings | {"default_transaction_isolation": isolation}}
    levels = cycle(ISOLATION)

    async def init(connection: Connection) -> None:
        await connection.execute("select set_config('default_transaction_isolation', $1, false)", next(levels))

    return {"server_settings": settings, "init": init}


class Writers:
    """`timeout` is that of a call, `patience` how long one call is repeated, in seconds. `creates` is what appends, if not a repository."""

    def __init__(
        self,
        pool: Pool,
        runs: int,
        *,
        timeout: float = 60.0,
        patience: float = 100.0,
        pause: float = 0.01,
        creates: BatchedCreates | None = None,
        layout: Layout = "flowstates",
    ) -> None:
        self.pool = pool
        self.runs = [uuid4() for _ in range(runs)]
        self.log = Log()
        self.in_flight: set[asyncio.Task[Any]] = set()
        self.seen: set[str] = set()
        """Problems that were seen meanwhile."""
        self._states = FlowRunStateRepository(pool, layout=layout)
        self._creates = creates or self._states
        self._retention = FlowRunStateRetention(pool, layout=layout)
        self._layout: Layout = layout
        self._timeout = timeout
        self._patience = patience
        self._pause = pause
        self._known: dict[UUID, list[FlowRunState]] = {run: [] for run in self.runs}
        self._asked: list[Create] = []

    async def work(self, who: str, steps: Sequence[Step]) -> None:
        for step in steps:
            await self.take(who, step)

    async def until(self, who: str, random: Random, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.work(who, random_steps(random, 5))

    async def problems(self) -> list[str]:
        return [*self.seen, *check(self.log.calls, *await read_stored(self.pool, self.runs, self._layout))]

    async def watch(self, connection: AnyConnection) -> None:
        """Holds the rows of the runs against their states once: they must agree in every snapshot."""
        self.seen |= {f"row: {wrong}" for wrong in await wrong_rows(connection, *self.runs)}

    def written(self) -> int:
        return sum(call.outcome == "acknowledged" for call in self.log.calls)

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
                await self.bulk(who, self._batch(who, step, known[-1].timestamp if known else None))
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
            case "prune":
                await self.prune(who, None if step.pick % 4 == 0 else Keep(first=bool(step.pick % 2), newest=step.pick % 8))
            case "transaction":
                await self._transaction(who, run, chosen, step.pick)

    async def create(
        self, who: str, run: UUID, type_: StateType, *, id: UUID | str | None = "new", expected: Expected = ..., message: str | None = None
    ) -> FlowRunState | None:
        id_ = uuid4() if id == "new" else id
        assert not isinstance(id_, str)
        message = message or self.log.message(who)

        def entries() -> list[Create]:
            return [Create(who=who, run=run, message=message, type=type_, id=id_, expected=expected)]

        async def ask() -> FlowRunState:
            return await self._creates.create_flow_run_state(run, type_, id=id_, message=message, expected=expected, timeout=self._timeout)

        (call,), record = await self._until_known(entries, ask, retry=id_ is not None)
        if id_ is not None:
            self._asked.append(call)
        if record is not None:
            call.record = record
            self._known.setdefault(run, []).append(record)
        return record

    def _batch(self, who: str, step: Step, newest: datetime | None) -> list[NewFlowRunState]:
        states = []
        for number in range(1 + step.pick % 5):
            run = self.runs[(step.pick + number) % len(self.runs)]
            past = newest - timedelta(microseconds=step.pick * number) if newest and number else None
            message = self.log.message(who)
            states.append(NewFlowRunState(flow_run_id=run, type=StateType.PENDING, id=uuid4(), message=message, timestamp=past))
        return states

    async def bulk(self, who: str, states: Sequence[NewFlowRunState]) -> None:
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
        self._forget(ids, runs)

    async def prune(self, who: str, keep: Keep | None) -> None:
        """One batch of all runs that are at their end."""
        archived: set[UUID] = set()
        gone: set[UUID] = set()
        call = Delete()

        def entries() -> list[Delete]:
            nonlocal call
            call = Delete(who=who)
            archived.clear()
            gone.clear()
            return [call]

        async def archive(states: list[FlowRunState]) -> None:
            archived.clear()  # of a try that was undone
            archived.update(state.id for state in states)
            call.ids |= archived

        async def ask() -> None:
            try:
                await self._retention.prune(
                    before=datetime.now(UTC) + timedelta(days=1),
                    keep=keep,
                    batch_size=20,
                    max_batches=1,
                    archive=archive,
                    on_batch=lambda _: gone.update(archived),
                    timeout=self._timeout,
                )
            except (FlowStatesError, TimeoutError, *BROKEN):
                if not gone:  # else only what comes after the batch failed
                    raise

        await self._until_known(entries, ask)
        call.ids = call.gone = frozenset(gone)
        self._forget(gone)

    async def _transaction(self, who: str, run: UUID, chosen: FlowRunState | None, pick: int) -> None:
        """Several statements; some have their number long before they come to the run."""
        isolation, has_early_number, is_rolled_back = ISOLATION[pick % 3], pick // 3 % 2, pick // 24 % 2
        may_be_done = False
        transaction: Transaction | None = None

        async def ask() -> None:
            nonlocal may_be_done, transaction
            async with asyncio.timeout(self._timeout), self.pool.acquire() as connection:
                begun = None if isolation == "read committed" else time.monotonic()
                transaction = Transaction(self.log, who, connection, begun=begun, layout=self._layout)
                async with connection.transaction(isolation=level(isolation)):
                    if has_early_number:
                        await connection.execute("select pg_current_xact_id()")
                        await asyncio.sleep(0.001)  # others get later numbers
                    await take_in_a_transaction(transaction, run, chosen, pick)
                    if is_rolled_back:
                        raise RolledBack
                    may_be_done = True

        outcome, _, error = await self._answer(ask)
        if transaction is None:
            return
        transaction.end(outcome if may_be_done else "refused", error)
        if outcome == "acknowledged":
            self._known[run] += [call.record for call in transaction.calls if isinstance(call, Create) and call.record]
            self._forget({id_ for call in transaction.calls if isinstance(call, Delete) for id_ in call.gone})

    def _forget(self, ids: Collection[UUID], runs: Collection[UUID] = ()) -> None:
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
        self.log.calls += calls
        outcome, answer, error = await self._answer(ask)
        self.log.end(calls, time.monotonic(), outcome, error)
        return answer, error

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> tuple[Outcome, T | None, BaseException | None]:
        task = asyncio.ensure_future(ask())
        self.in_flight.add(task)
        try:
            return "acknowledged", await task, None
        except asyncio.CancelledError as cancelled:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            return "unknown", None, cancelled
        except (RolledBack, FlowStatesError, TimeoutError, *BROKEN) as failed:
            state = getattr(failed, "sqlstate", None) or "08"
            stored_nothing = isinstance(failed, FlowStatesError | RolledBack) or not state.startswith(OF_THE_CONNECTION)
            return "refused" if stored_nothing else "unknown", None, failed
        finally:
            self.in_flight.discard(task)
