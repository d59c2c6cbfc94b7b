"""Creates that go together: what arrives while statements are under way waits, and goes in the next one."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import TypeAlias
from uuid import UUID

import asyncpg

from flowstates.engine.appending import Expectation, append, judge
from flowstates.engine.execution import Execution
from flowstates.engine.retries import retrying
from flowstates.engine.rows import readable_states
from flowstates.errors import FlowStatesError, UnreadableRowError
from flowstates.records import FlowRunState, NewFlowRunState
from flowstates.values import seconds

_NAME = "create_flow_run_state"
_MOST_STATES = 500  # of a statement
_FEW = 32  # of a statement, which costs as much as some ten states of it: as many are not shared
_MOST_CHARACTERS = 2**20  # of a statement, more or less; a state that has more goes alone
_SLOW = 0.5  # seconds, after which a statement waits for something, and another may begin
_OF_THE_CONNECTION = ("08", "57P")  # the classes of errors after which the server may yet have committed

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode  # json.dumps makes an encoder each time

_Answer: TypeAlias = FlowRunState | BaseException | str
"""What became of a create that waited. A text: it is to go alone, now; if the text is not empty, it says why it is done again."""


class _Place(Enum):
    WAITING = auto()
    TOGETHER = auto()
    ALONE = auto()
    NOWHERE = auto()


class _Create:
    """A create that waits, or is under way."""

    __slots__ = ("answer", "batch", "expectation", "is_id_given", "new", "place", "run", "slot", "text", "traceback")

    def __init__(self, new: NewFlowRunState, expectation: Expectation, run: str, *, is_id_given: bool) -> None:
        self.new = new
        self.expectation = expectation
        self.is_id_given = is_id_given
        self.run = run
        self.text = _encode([*new.as_parameters(), *expectation.arguments()])
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self.place = _Place.WAITING
        self.slot: _Slot | None = None
        self.batch: _Batch | None = None
        self.traceback: TracebackType | None = None
        """That of an error of a whole statement: its creates share the error, and each raises it anew."""

    def settle(self, answer: _Answer) -> None:
        """Hands the caller the answer, if that still waits."""
        if not self.answer.done():
            self.answer.set_result(answer)


class _Batch:
    """Creates whose statement is under way. A caller who leaves does not disturb it, but for the last one who waits."""

    __slots__ = ("callers", "task")

    def __init__(self, callers: int) -> None:
        self.callers = callers
        self.task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """A caller no longer waits."""
        self.callers -= 1
        if self.callers == 0 and self.task is not None:
            self.task.cancel()


class _Slot:
    """The place of a statement among those that may be under way. One that is slow gives it up.

    So what waits for a lock, or for a connection, does not hold up what does not.
    """

    __slots__ = ("_batching", "_watch")

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._watch: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(_SLOW, self.free)
        batching.begin()

    def end(self) -> None:
        """The statement has ended."""
        self.free()
        self._batching.end()

    def free(self) -> None:
        """Lets another begin. More than once is once."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
            self._batching.under_way -= 1
            self._batching.begin_next()


class Batching:
    """Appends, of which at most `workers` statements are under way, as long as they are not slow, and at most `most` in all.

    A run has one create under way; those that come meanwhile follow it in their order. So a statement moves the row of a run once.
    """

    def __init__(self, execution: Execution, workers: int, most: int) -> None:
        self.under_way: int = 0
        self._begun = 0
        self._execution = execution
        self._workers = workers
        self._most = most
        self._runs: dict[str, deque[_Create]] = {}
        """Those that wait, by run. A run is here as long as a create of it waits or is under way."""
        self._ready: deque[str] = deque()
        """The runs of which none is under way and one waits, or did."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def append(self, new: NewFlowRunState, expectation: Expectation, *, is_id_given: bool, timeout: float | None) -> FlowRunState:
        """The state as stored, see `appending.append`."""
        timeout = seconds(timeout)
        self._calls += 1
        self._idle.clear()
        try:
            run = new.flow_run_id.hex
            if run in self._runs or self._ready or not self._has_place():
                return await self._append_later(new, expectation, run, is_id_given, timeout)
            self._runs[run] = deque()
            slot = _Slot(self)
            try:
                return await append(self._execution, new, expectation, is_id_given=is_id_given, timeout=timeout)
            finally:
                self._leave_run(run)
                slot.end()
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def drained(self) -> None:
        """Waits until no call is under way, and no statement."""
        await self._idle.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _append_later(self, new: NewFlowRunState, expectation: Expectation, run: str, is_id_given: bool, timeout: float | None) -> FlowRunState:
        create = _Create(new, expectation, run, is_id_given=is_id_given)
        loop = asyncio.get_running_loop()
        # Not asyncio.timeout, which takes longer.
        expiry = None if timeout is None else loop.call_later(timeout, create.settle, TimeoutError())
        if run in self._runs:
            self._runs[run].append(create)
        else:
            self._runs[run] = deque([create])
            self._ready.append(run)
        try:
            self.begin_next()
            answer = await create.answer
            if isinstance(answer, BaseException):
                raise answer.with_traceback(create.traceback or answer.__traceback__)
            if isinstance(answer, FlowRunState):
                return answer
            if answer:
                retrying(_NAME, answer)
            left = None if expiry is None else max(0.0, expiry.when() - loop.time())
            return await append(self._execution, new, expectation, is_id_given=is_id_given, timeout=left)
        finally:
            if expiry is not None:
                expiry.cancel()
            self._leave(create)

    def _has_place(self) -> bool:
        return self.under_way < self._workers and self._begun < self._most

    def begin(self) -> None:
        """A statement more."""
        self.under_way += 1
        self._begun += 1

    def end(self) -> None:
        """A statement less, though perhaps no longer among those under way."""
        self._begun -= 1
        self.begin_next()

    def begin_next(self) -> None:
        """Lets what waits go, together, as long as another statement may begin."""
        while self._has_place() and (creates := self._take()):
            slot = _Slot(self)
            if len(creates) == 1:
                (create,) = creates
                create.place, create.slot = _Place.ALONE, slot
                create.settle("")
                continue
            batch = _Batch(len(creates))
            for create in creates:
                create.place, create.batch = _Place.TOGETHER, batch
            # In nobody's context, so that no caller's tracing is told of it as of a call of their own.
            batch.task = asyncio.get_running_loop().create_task(self._store(creates, batch), context=Context())
            self._tasks.add(batch.task)
            batch.task.add_done_callback(partial(self._end, creates, slot))

    def _take(self) -> list[_Create]:
        """What goes in the next statement: a create of each run, of those that came first."""
        # A worker's share, so that the server has the others' to do while this process reads the answers of one.
        most = min(_MOST_STATES, max(_FEW, -(-len(self._ready) // self._workers)))
        taken: list[_Create] = []
        passed: list[str] = []
        ids: set[UUID] = set()
        size = 0
        while self._ready and len(taken) < most:
            waiting = self._runs[self._ready[0]]
            while waiting and waiting[0].answer.done():
                waiting.popleft().place = _Place.NOWHERE  # its caller is about to go
            if not waiting:
                del self._runs[self._ready.popleft()]
                continue
            if waiting[0].new.id in ids:  # of another run: which of the two is stored is told by the statement of one of them
                passed.append(self._ready.popleft())
                continue
            size += len(waiting[0].text)
            if taken and size > _MOST_CHARACTERS:
                break
            self._ready.popleft()
            ids.add(waiting[0].new.id)
            taken.append(waiting.popleft())
        self._ready.extendleft(reversed(passed))
        return taken

    async def _store(self, creates: list[_Create], batch: _Batch) -> None:
        """Settles what was stored, and what is not to be. What it leaves is to go alone."""
        unreadable: list[UnreadableRowError] = []
        rows = await self._execution.rows(f"{_NAME}.together", _texts(creates), timeout=None)
        answers: dict[UUID | None, FlowRunState | UnreadableRowError] = {state.id: state for state in readable_states(rows, unreadable.append)}
        answers |= {error.flow_run_state_id: error for error in unreadable}
        missed = []
        for create in creates:
            if (answer := answers.get(create.new.id)) is None:
                missed.append(create)
            else:
                self._settle(create, answer)
        if not missed or not batch.callers:
            return
        self.begin_next()
        own: dict[UUID, tuple[FlowRunState, bool]] = {}
        newest: dict[UUID, FlowRunState] = {}
        for state, agrees in await self._execution.stored(f"{_NAME}.together_miss", _texts(missed)):
            # The state of one's id may be there as the current one of another's run too.
            own[state.id] = state, agrees or (state.id in own and own[state.id][1])
            if state.flow_run_id not in newest or newest[state.flow_run_id].timestamp < state.timestamp:
                newest[state.flow_run_id] = state
        for create in missed:
            new = create.new
            try:
                stored = judge(new, create.expectation, own.get(new.id), newest.get(new.flow_run_id), is_id_given=create.is_id_given)
            except FlowStatesError as error:
                self._settle(create, error)
            else:
                if stored is not None:
                    self._settle(create, stored)

    def _settle(self, create: _Create, answer: _Answer) -> None:
        if create.batch is not None:
            create.batch.callers -= 1  # also where the caller was cancelled, and has yet to go
        create.settle(answer)
        create.place = _Place.NOWHERE
        self._leave_run(create.run)

    def _end(self, creates: list[_Create], slot: _Slot, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        for create in creates:
            if create.place is not _Place.TOGETHER:
                continue
            if task.cancelled():
                create.answer.cancel()
            elif error is not None and not create.is_id_given and _may_be_stored(error):
                create.traceback = error.__traceback__
                create.settle(error)
            elif not create.answer.done():
                create.place = _Place.ALONE
                create.settle(str(error) or type(error).__name__ if error is not None else "another writer had the run, or nothing was stored")
                continue
            create.place = _Place.NOWHERE
            self._leave_run(create.run)
        slot.end()

    def _leave(self, create: _Create) -> None:
        """Its caller waits no longer."""
        match create.place:
            case _Place.WAITING:
                create.place = _Place.NOWHERE
                self._runs[create.run].remove(create)
            case _Place.TOGETHER if create.batch is not None:
                batch, create.batch = create.batch, None
                batch.leave()
            case _Place.ALONE:
                create.place = _Place.NOWHERE
                self._leave_run(create.run)
                if create.slot is not None:
                    create.slot.end()
                self.begin_next()

    def _leave_run(self, run: str) -> None:
        """No create of the run is under way any more."""
        if self._runs[run]:
            self._ready.append(run)
        else:
            del self._runs[run]


def _texts(creates: Sequence[_Create]) -> str:
    return f"[{','.join(create.text for create in creates)}]"


def _may_be_stored(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        # What ends the connection has another severity, or none where asyncpg says it.
        return getattr(error, "severity_en", None) != "ERROR" and (error.sqlstate or "08").startswith(_OF_THE_CONNECTION)
    return not isinstance(error, FlowStatesError)
