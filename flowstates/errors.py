"""The errors that this library raises itself.

    FlowStatesError
    ├── InvalidInputError (also a ValueError)   .field
    ├── UnreadableRowError                      .flow_run_state_id  .field
    ├── UnexpectedStateError                    .current  .flow_run_id  .expected
    ├── FlowRunStateConflictError               .stored
    │   └── GeneratedIdConflictError
    ├── ContentionError
    ├── HistoryPrunedError                      .position  .oldest
    ├── ForeignPositionError                    .position  .mend
    ├── ReadOnlyLayoutError
    └── MigrationError

Errors of the server and of the connection are asyncpg's own and pass through; where the cure is known, a note is added to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from flowstates.records import FlowRunState


class FlowStatesError(Exception):
    """What every error of this library is. See docs/errors.md#flowstateserror."""


class InvalidInputError(FlowStatesError, ValueError):
    """A value that cannot be stored or asked for; nothing was sent. `field` is the name of the parameter.

    See docs/errors.md#invalidinputerror.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class UnreadableRowError(FlowStatesError):
    """A stored row does not fit its record. `flow_run_state_id` is None if that is what cannot be read, or rows were counted.

    See docs/errors.md#unreadablerowerror.
    """

    def __init__(self, flow_run_state_id: UUID | None, field: str, message: str) -> None:
        super().__init__(flow_run_state_id, field, message)
        self.flow_run_state_id = flow_run_state_id
        self.field = field
        self.message = message

    def __str__(self) -> str:
        which = "a flow run state" if self.flow_run_state_id is None else f"flow run state {self.flow_run_state_id}"
        return f"{which}: {self.field}: {self.message}"


class UnexpectedStateError(FlowStatesError):
    """The run's current state is not the expected one; nothing was stored. `current` was read after the miss, None for a run without history;
    `expected` is a text.

    See docs/errors.md#unexpectedstateerror.
    """

    def __init__(self, current: FlowRunState | None, flow_run_id: UUID, expected: str) -> None:
        super().__init__(current, flow_run_id, expected)
        self.current = current
        self.flow_run_id = flow_run_id
        self.expected = expected

    def __str__(self) -> str:
        if self.current is None:
            return f"run {self.flow_run_id} has no state; expected was {self.expected}"
        return f"the current state of run {self.flow_run_id} is {self.current.id} ({self.current.type}); expected was {self.expected}"


class FlowRunStateConflictError(FlowStatesError):
    """The id is taken by a state with other content or of another run; nothing was stored. `stored` is that state.

    See docs/errors.md#flowrunstateconflicterror.
    """

    def __init__(self, stored: FlowRunState) -> None:
        super().__init__(stored)
        self.stored = stored

    def __str__(self) -> str:
        return f"{self.stored.id} is stored already, with other content ({self.stored.type} of run {self.stored.flow_run_id})"


class GeneratedIdConflictError(FlowRunStateConflictError):
    """An id that this library generated is taken; nothing was stored. Two processes generate the same ids where both go on with one random state.

    See docs/errors.md#generatedidconflicterror.
    """

    def __str__(self) -> str:
        return f"{self.stored.id} was generated here and is stored already: were processes forked with one random state?"


class ContentionError(FlowStatesError):
    """Nothing was stored in a few tries: other writers made or deleted the same run at each, or something in the database keeps rows back.

    See docs/errors.md#contentionerror.
    """


class HistoryPrunedError(FlowStatesError):
    """States are gone that a feed was to tell after `position`: a prune took them, or they went with their runs. `oldest` goes on with the oldest
    that is left: it is the same position, and knows what is missing up to now.

    See docs/errors.md#historyprunederror.
    """

    def __init__(self, position: str, oldest: str) -> None:
        super().__init__(position, oldest)
        self.position = position
        self.oldest = oldest

    def __str__(self) -> str:
        return "states after this position were pruned, or deleted with their runs, and cannot be told; `oldest` goes on with what is left"


class ForeignPositionError(FlowStatesError):
    """A feed met transactions that the server has not come to yet: those of another cluster. `position` is the one that was given, None where it is
    the stored states; then `mend` is the SQL that gives them a number of this cluster.

    See docs/errors.md#foreignpositionerror.
    """

    def __init__(self, message: str, position: str | None, mend: str | None) -> None:
        super().__init__(message, position, mend)
        self.message = message
        self.position = position
        self.mend = mend

    def __str__(self) -> str:
        return self.message


class ReadOnlyLayoutError(FlowStatesError):
    """The tables of this layout belong to another program, which alone creates states in them.

    See docs/errors.md#readonlylayouterror.
    """


class MigrationError(FlowStatesError):
    """The database holds something that the migrations did not make, or a migration that has changed since it was applied.

    See docs/errors.md#migrationerror.
    """
