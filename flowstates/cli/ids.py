"""Ids on the command line: whole ones, and beginnings that only one run or state has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import typer

from flowstates.cli.render import print_error_line
from flowstates.engine.connections import AnyConnection
from flowstates.engine.connections import ask as ask_catalog
from flowstates.engine.execution import Execution
from flowstates.engine.rows import time_of
from flowstates.errors import InvalidInputError
from flowstates.values import Layout, to_uuid

_DIGITS = 32
_MOST_NAMED = 5


class Id(NamedTuple):
    """An id as it was typed, and the first and the last that begin so: one and the same if it is whole."""

    text: str
    first: UUID
    last: UUID


def id_of(text: str) -> Id:
    """A UUID, or the beginning of one, with its hyphens or without any."""
    try:
        whole = to_uuid(text)
    except ValueError:
        pass
    else:
        return Id(text, whole, whole)
    digits = text.replace("-", "").lower()
    if re.fullmatch(f"[0-9a-f]{{1,{_DIGITS - 1}}}", digits):
        first, last = UUID(digits.ljust(_DIGITS, "0")), UUID(digits.ljust(_DIGITS, "f"))
        if "-" not in text or str(first).startswith(text.lower()):
            return Id(text, first, last)
    raise typer.BadParameter(f"{text!r} is not a UUID or the beginning of one")


class Lookup:
    """The ids that were meant. A whole one is not looked up; a beginning is one read of an index."""

    def __init__(self, connection: AnyConnection, layout: Layout) -> None:
        self._execution = Execution(connection, layout)

    async def run(self, id: Id, *, may_be_new: bool = False) -> UUID:
        """The run of an id, which may be one that is to be made."""
        is_to_be_made = may_be_new and self._execution.layout != "prefect"
        return await self._find("read_flow_run_ids", "run", id, "; a new run takes a whole UUID" if is_to_be_made else "")

    async def runs(self, ids: Sequence[Id] | None) -> list[UUID]:
        """The runs of ids, each once and in their order."""
        return list(dict.fromkeys([await self.run(id) for id in ids or ()]))

    async def state(self, id: Id) -> UUID:
        """The state of an id."""
        return await self._find("read_flow_run_state_ids", "state", id)

    async def states(self, ids: Sequence[Id] | None) -> list[UUID]:
        """The states of ids."""
        return [await self.state(id) for id in ids or ()]

    async def clock(self) -> datetime:
        """The server's clock."""
        async with self._execution.connection() as connection:
            (row,) = await ask_catalog(connection, "read_clock")
        return time_of(row["now"])

    async def _find(self, question: str, what: str, id: Id, cure: str = "") -> UUID:
        """Ends the command with 1 if there is none, and with 2 if there are several."""
        if id.first == id.last:
            return id.first
        async with self._execution.connection() as connection:
            rows = await ask_catalog(connection, question, str(id.first), str(id.last))
        found = list(dict.fromkeys(row["id"] for row in rows))  # on Citus two runs may have a state of one id
        if not found:
            print_error_line(f"error: no {what} begins with {id.text}{cure}")
            raise typer.Exit(1)
        if len(found) > 1:
            error = InvalidInputError(f"{what.upper()}_ID", f"{id.text} is the beginning of several")
            for candidate in [*found[:_MOST_NAMED], *(["..."] if len(found) > _MOST_NAMED else [])]:
                error.add_note(candidate)
            raise error
        return UUID(found[0])
