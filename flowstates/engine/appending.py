"""The append: one statement that adds a state to a run's history, and what to do when it stored nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import count
from types import EllipsisType
from typing import NamedTuple, TypeAlias
from uuid import UUID

from flowstates.engine.execution import Argument, Execution
from flowstates.errors import ContentionError, FlowRunStateConflictError, InvalidInputError, UnexpectedStateError
from flowstates.records import FlowRunState, NewFlowRunState, StateType
from flowstates.values import to_uuid

Expected: TypeAlias = UUID | str | Collection[StateType] | EllipsisType | None

_TRIES_BEFORE_THE_QUEUE = 2


class Expectation(NamedTuple):
    """What the run's current state must be: the one of an id, one of some types (the empty text is no state at all), or anything."""

    id: UUID | None = None
    types: frozenset[str] | None = None

    @classmethod
    def of(cls, expected: Expected) -> Expectation:
        """The expectation that a caller's `expected` says."""
        if expected is ...:
            return cls()
        if expected is None:
            return cls(types=frozenset({""}))
        try:
            if isinstance(expected, Collection) and not isinstance(expected, str | bytes):
                types = frozenset(StateType(type_).value for type_ in expected)
                if not types:
                    raise ValueError("is an empty set, which no state can be in")
                return cls(types=types)
            if isinstance(expected, StateType):
                raise ValueError(f"is a type; say {{StateType.{expected}}}, a set")
            return cls(id=to_uuid(expected))
        except ValueError as error:
            raise InvalidInputError("expected", f"{error}; it takes a state's id, None, or a set of StateType") from None

    def holds(self, current: FlowRunState | None) -> bool:
        """Whether a run's current state, None for a run without history, is what is expected."""
        if self.id is not None:
            return current is not None and current.id == self.id
        return self.types is None or ("" if current is None else current.type.value) in self.types

    def arguments(self) -> tuple[Argument, Argument]:
        """The query's last two parameters."""
        return None if self.id is None else str(self.id), None if self.types is None else sorted(self.types)


async def append(execution: Execution, new: NewFlowRunState, expectation: Expectation, *, timeout: float | None) -> FlowRunState:
    """The state as stored. A lost race that leaves the expectation true is run again until `timeout`, in seconds."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    deadline = None if timeout is None else begun + timeout
    content = new.as_parameters()
    arguments = (*content, *expectation.arguments())
    stored = await execution.insert("create_flow_run_state", *arguments, timeout=timeout)
    if stored is not None:
        return stored
    longest = clock() - begun
    async with asyncio.timeout_at(deadline):
        for tries in count(2):
            # Why it stored nothing cannot be told from the statement's own snapshot.
            found = await execution.stored("create_flow_run_state.miss", *content)
            for state, agrees in found:
                if state.id == new.id:
                    if agrees:
                        return state
                    raise FlowRunStateConflictError(state)
            current = max((state for state, _ in found), key=lambda state: state.timestamp, default=None)
            if not expectation.holds(current):
                raise UnexpectedStateError(current)
            # A try that the timeout cut off might store its state unseen. So no try is begun that is not likely to end in time.
            if deadline is not None and deadline - clock() < 2 * longest:
                break
            begun = clock()
            queue = str(new.flow_run_id) if tries > _TRIES_BEFORE_THE_QUEUE else None
            stored = await execution.insert("create_flow_run_state", *arguments, queue=queue)
            if stored is not None:
                return stored
            longest = max(longest, clock() - begun)
    raise ContentionError(f"run {new.flow_run_id}: other writers were first for {timeout} s; nothing was stored")
