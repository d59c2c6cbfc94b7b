"""The append: one statement that adds a state to a run's history, and what to do when it stored nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from types import EllipsisType
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

from flowstates.engine.execution import Argument, Execution
from flowstates.engine.retries import retrying
from flowstates.errors import (
    ContentionError,
    FlowRunStateConflictError,
    GeneratedIdConflictError,
    InvalidInputError,
    UnexpectedStateError,
)
from flowstates.records import FlowRunState, NewFlowRunState, StateType, TypeName, to_type
from flowstates.values import kind_of, seconds, shown, to_uuid

Expected: TypeAlias = UUID | str | Sequence[StateType | TypeName] | Set[StateType | TypeName] | EllipsisType | None
"""What a run's current state must be: the one of an id, one of some types, none (None), or anything (...)."""

_Followers: TypeAlias = Iterable[StateType | TypeName]


class _Items(Protocol):
    """A mapping whose keys are all of one of the kinds: a Mapping's keys are invariant."""

    def items(self) -> Iterable[tuple[StateType | TypeName | None, _Followers]]: ...


Transitions: TypeAlias = Mapping[StateType | TypeName | None, _Followers] | _Items
"""The types that may follow each type, and under None those with which a run may begin."""

_TRIES = 5


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
                types = frozenset(to_type(type_).value for type_ in expected)
                if not types:
                    raise ValueError("is an empty set, which no state can be in")
                return cls(types=types)
            if isinstance(expected, str) and expected.upper() in StateType.__members__:
                raise ValueError(f"is a type; say {{StateType.{expected.upper()}}}, a set")
            return cls(id=to_uuid(expected))
        except ValueError as error:
            raise InvalidInputError("expected", f"{error}; it takes a state's id, None, or a set of StateType") from None

    def holds(self, current: FlowRunState | None) -> bool:
        """Whether a run's current state, None for a run without history, is what is expected."""
        if self.id is not None:
            return current is not None and current.id == self.id
        return self.types is None or ("" if current is None else current.type.value) in self.types

    def __str__(self) -> str:
        if self.id is not None:
            return f"state {self.id}"
        return " or ".join([*(type_ for type_ in StateType if type_ in (self.types or ())), *(["no state"] if "" in (self.types or ()) else ())])

    def arguments(self) -> tuple[Argument, Argument]:
        """The query's last two parameters."""
        return None if self.id is None else str(self.id), None if self.types is None else sorted(self.types)


def expectations(transitions: Transitions) -> dict[StateType, Expectation]:
    """What a state of each type expects, by the types that may follow each; None stands for a run without history."""
    before: defaultdict[StateType, set[str]] = defaultdict(set)
    try:
        if not isinstance(transitions, Mapping):
            raise ValueError(f"is {kind_of(transitions)}, not a dict")
        for type_, followers in transitions.items():
            if isinstance(followers, str | bytes) or not isinstance(followers, Iterable):
                raise ValueError(f"{shown(followers)} is {kind_of(followers)}, not a list")
            word = "" if type_ is None else to_type(type_).value
            for follower in followers:
                before[to_type(follower)].add(word)
    except ValueError as error:
        raise InvalidInputError("transitions", f"{error}; it takes, for each StateType and for None, those that may follow") from None
    return {type_: Expectation(types=frozenset(types)) for type_, types in before.items()}


def expectation_of(new: NewFlowRunState, expected: Expected, expectations: Mapping[StateType, Expectation] | None) -> Expectation:
    """The expectation of a create: what `expected` says or, where it is left out, what the transitions say."""
    if expected is not ... or expectations is None:
        return Expectation.of(expected)
    if new.type not in expectations:
        raise InvalidInputError("type", f"{new.type} follows nothing, by the transitions that were given")
    return expectations[new.type]


async def append(execution: Execution, new: NewFlowRunState, expectation: Expectation, *, is_id_given: bool, timeout: float | None) -> FlowRunState:
    """The state as stored. What another writer was first in, a run's first state or the end of a run, is tried again a few times."""
    timeout = seconds(timeout)
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    content = new.as_parameters()
    arguments = (*content, *expectation.arguments())
    answer = await execution.insert("create_flow_run_state", *arguments, timeout=timeout)
    if isinstance(answer, FlowRunState):
        return answer
    seen: set[FlowRunState | None] = set()
    async with asyncio.timeout_at(deadline):
        for _ in range(_TRIES - 1):
            # Why it stored nothing cannot be told from the statement's own snapshot.
            found = await execution.stored("create_flow_run_state.miss", *content)
            own = next((stored for stored in found if stored[0].id == new.id), None)
            current = found[0][0] if found else None
            if (state := judge(new, expectation, own, current, is_id_given=is_id_given)) is not None:
                return state
            if answer is not None and current in seen:
                raise answer  # a key that is not ours is taken
            seen.add(current)
            retrying("create_flow_run_state", answer or "nothing was stored")
            answer = await execution.insert("create_flow_run_state", *arguments, timeout=None)
            if isinstance(answer, FlowRunState):
                return answer
    if answer is not None:
        raise answer
    if len(seen) == 1:
        raise ContentionError(
            f"run {new.flow_run_id}: nothing was stored in {_TRIES} tries, and the run looked the same after each: a trigger on flow_run or "
            "flow_run_state keeps rows back, row level security hides them, or others made and deleted the run each time"
        )
    raise ContentionError(f"run {new.flow_run_id}: other writers were first {_TRIES} times; nothing was stored")


def judge(
    new: NewFlowRunState, expectation: Expectation, own: tuple[FlowRunState, bool] | None, current: FlowRunState | None, *, is_id_given: bool
) -> FlowRunState | None:
    """What is to be said of a state that was not stored, by the state under its id, with whether that agrees, and by the run's current state.

    The state that is stored already; an error; None where nothing is in its way any more.
    """
    if own is not None:
        state, agrees = own
        if not is_id_given:
            raise GeneratedIdConflictError(state)
        if agrees:
            return state
        raise FlowRunStateConflictError(state)
    if not expectation.holds(current):
        raise UnexpectedStateError(current, new.flow_run_id, str(expectation))
    return None
