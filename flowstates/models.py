"""The three calls of the field with the field's own signatures, on a session of SQLAlchemy.

Who calls `prefect.server.models.flow_run_states` changes the import alone: `from flowstates import models as flow_run_states`. The session is an
AsyncSession, or an AsyncConnection, on asyncpg, and a call joins its transaction as FlowRunStateRepository says. What comes back are its records, and
not objects of the session: they show the row as it is now. `as_state()` makes Prefect's State of one.

The tables are Prefect's or our own. Which they are is asked once a connection, in a round trip more. Who changes the search path of a connection from
the one to the other takes FlowRunStateRepository, which is told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

from flowstates.engine.connections import BROKEN, ask
from flowstates.engine.sessions import SessionOrConnection, is_of_sqlalchemy, join, leave
from flowstates.errors import InvalidInputError
from flowstates.records import FlowRunState
from flowstates.repository import FlowRunStateRepository
from flowstates.values import Layout, kind_of, to_uuid

_LAYOUT = "flowstates.layout"


async def read_flow_run_state(session: SessionOrConnection, flow_run_state_id: UUID | str) -> FlowRunState | None:
    """One state by its id; None for an unknown id."""
    id = _id("flow_run_state_id", flow_run_state_id)
    async with _states(session) as states:
        return await states.read_flow_run_state(id)


async def read_flow_run_states(session: SessionOrConnection, flow_run_id: UUID | str) -> list[FlowRunState]:
    """The states of one run, oldest first; empty for an unknown run."""
    id = _id("flow_run_id", flow_run_id)
    async with _states(session) as states:
        return await states.read_flow_run_states(id)


async def delete_flow_run_state(session: SessionOrConnection, flow_run_state_id: UUID | str) -> bool:
    """Deletes one state by its id; whether there was one."""
    id = _id("flow_run_state_id", flow_run_state_id)
    async with _states(session) as states:
        return await states.delete_flow_run_state(id)


def _id(field: str, value: object) -> UUID:
    # Before the session is joined, which sends what was added to it.
    try:
        return to_uuid(value)
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


@asynccontextmanager
async def _states(session: SessionOrConnection) -> AsyncGenerator[FlowRunStateRepository, None]:
    if not is_of_sqlalchemy(session):
        raise InvalidInputError("session", f"is {kind_of(session)}, not an AsyncSession or AsyncConnection of SQLAlchemy")
    joined = await join(session, "session")
    try:
        layout: Layout | None = joined.info.get(_LAYOUT)
        if layout is None:
            layout = joined.info[_LAYOUT] = (await ask(joined.connection, "read_layout"))[0]["layout"]
        # Where there is no table, the statement says so, and the note of our own layout how it is made.
        yield FlowRunStateRepository(joined.connection, layout=layout or "flowstates")
    except BROKEN as error:
        await leave(joined, error)
        raise
