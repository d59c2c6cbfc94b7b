"""Several calls in one transaction, and what becomes of them."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

from flowstates import FlowRunState, FlowRunStateRepository
from flowstates.engine.appending import Expected
from flowstates.engine.connections import AnyConnection
from flowstates.values import Layout
from tests.calls import Call, Create, Delete, Log, Outcome


class Transaction:
    """What is asked in one transaction, noted in the log of the writers. What becomes of it is known when that ends."""

    def __init__(self, log: Log, who: str, connection: AnyConnection, *, begun: float | None = None, layout: Layout = "flowstates") -> None:
        """`begun` is when its snapshot was taken at the earliest, if it keeps one: what was done after it is not seen."""
        self.calls: list[Call] = []
        self.states = FlowRunStateRepository(connection, layout=layout)
        self._connection = connection
        self._log = log
        self._who = who
        self._begun = begun

    async def create(self, run: UUID, expected: Expected) -> FlowRunState:
        call = Create(who=self._who, run=run, message=self._log.message(self._who), id=uuid4(), expected=expected)
        self._note(call)
        call.record = await self.states.create_flow_run_state(run, call.type, id=call.id, message=call.message, expected=expected)
        return call.record

    async def delete(self, *ids: UUID) -> None:
        call = Delete(who=self._who, ids=frozenset(ids))
        self._note(call)
        call.gone = frozenset(await self.states.delete_flow_run_states(flow_run_state_ids=ids))

    async def end_run(self, run: UUID) -> None:
        call = Delete(who=self._who, runs=frozenset([run]))
        self._note(call)
        call.gone = frozenset(await self.states.delete_flow_run_states(flow_run_ids=[run]))

    async def undone(self, run: UUID, followed: FlowRunState | None) -> None:
        """Appends and deletes in a savepoint, and goes back to where that began."""
        done = len(self.calls)
        savepoint = self._connection.transaction()
        await savepoint.start()
        state = await self.create(run, followed.id if followed else None)
        await self.delete(*[one.id for one in (followed, state) if one])
        await savepoint.rollback()
        self._log.end(self.calls[done:], time.monotonic(), "refused", None)
        del self.calls[done:]

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        self._log.end(self.calls, time.monotonic(), outcome, error)

    def _note(self, call: Call) -> None:
        call.begun = time.monotonic() if self._begun is None else self._begun
        call.transaction, call.place = self, len(self.calls)
        self.calls.append(call)
        self._log.calls.append(call)


async def take_in_a_transaction(transaction: Transaction, run: UUID, chosen: FlowRunState | None, pick: int) -> None:
    """Append, append, delete the first, or all that is new and what it followed, or the run; or delete what comes before the current state.

    Some do something in a savepoint first, and undo that.
    """
    if pick // 6 % 4 == 3:
        newest = (await transaction.states.read_flow_run_states_by_run([run], last=2)).get(run, [])
        await transaction.delete(*[state.id for state in newest[:1]])
        await asyncio.sleep(0.001)  # for others to come and wait
        return
    followed = await transaction.states.read_current_flow_run_state(run) if pick % 4 else chosen
    if pick % 5 == 0:
        await transaction.undone(run, followed)
    first = await transaction.create(run, followed.id if followed else None)
    second = await transaction.create(run, first.id)
    match pick // 6 % 4:
        case 0:
            await transaction.delete(first.id)
        case 1:
            await transaction.delete(first.id, second.id, *([followed.id] if followed else []))
        case _:
            await transaction.end_run(run)
