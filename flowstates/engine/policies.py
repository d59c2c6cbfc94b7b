"""What a prune is asked for, and what it answers."""

# Not with annotations from __future__, which are texts: Pydantic would compile each of them at every import.
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias
from uuid import UUID

from pydantic import Field, StrictBool

from flowstates.records import InputType, StateType, TypeName
from flowstates.values import Input, InputText

Why: TypeAlias = Literal["type", "young", "kept", "held", "passed", "ahead"]


class Keep(Input):
    """What stays of a run's history beside its current state: what any of these names.

    `first` is the run's first state, `last` its last by time, `newest` a number of its last ones; `types` and `names` are of the states.
    """

    first: StrictBool = False
    last: StrictBool = False
    types: tuple[InputType, ...] = ()
    names: tuple[InputText, ...] = ()
    newest: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0

    if TYPE_CHECKING:  # a checker would else take what a field holds for all that it is made from

        def __init__(
            self,
            *,
            first: bool = False,
            last: bool = False,
            types: Iterable[StateType | TypeName] = (),
            names: Iterable[str] = (),
            newest: int = 0,
        ) -> None: ...


class OldestRun(NamedTuple):
    """The run whose last state is the oldest, that state's type and time, and why the run is there.

    `why` is `type`: the policy does not ask for it; `young`: not old enough; `kept`: only its history was thinned; `held`: a constraint forbids that
    it goes, or the archive cannot keep it; `passed`: it was locked or changed while the pass came by; `ahead`: the pass has not come to it.
    """

    flow_run_id: UUID
    type: StateType
    timestamp: datetime
    why: Why


class PruneReport(NamedTuple):
    """What a pass did, or in a dry run would do.

    `runs` went or, with `keep`, lost states; `states` went, and `bytes` is what their rows took in the table, without indexes (None in a dry run).
    `batches` are those in which something went. `passed` runs were locked or changed while the pass came by, and stay for the next one; `held` are
    those that a constraint holds, by its name, on Citus by the error's code, or under `archive` those with a state that is unfit for one. `cursor`
    goes on from here, with the same policy; None when the pass `is_done`. `oldest` is the oldest run of the table at the end (None in a dry run and
    between batches).
    """

    runs: int
    states: int
    bytes: int | None
    batches: int
    passed: int
    held: dict[str, int]
    cursor: str | None
    is_done: bool
    oldest: OldestRun | None


@dataclass(frozen=True)
class Policy:
    """Which runs, and what of them stays; `keep` None is nothing."""

    types: tuple[StateType, ...]
    keep: Keep | None
    artifacts: bool

    def question(self, layout: str) -> str:
        """What a cursor is good for. The time is not in it: that moves on."""
        kept = self.keep and (self.keep.first, self.keep.last, sorted(self.keep.types), sorted(self.keep.names), self.keep.newest)
        return f"prune {layout} {list(map(str, self.types))} {kept} {self.artifacts}"


@dataclass(frozen=True)
class Pace:
    """How fast: states a batch, batches, seconds between two, seconds that a standby may be behind."""

    batch_size: int
    max_batches: int | None
    pause: float
    max_lag: float | None
