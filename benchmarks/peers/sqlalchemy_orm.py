"""SQLAlchemy's ORM on asyncpg: a mapped class, and a session a call, as services do it.

By https://docs.sqlalchemy.org/en/21/, page `orm/extensions/asyncio`, with the type for details of sqlalchemy_core.py. `connect`: a `select` a call in
`async with session`, with the defaults. `connect_fastest`: the engine of sqlalchemy_core.py; the session does not flush by itself and is closed by
`close`, since leaving `async with` makes a task for it; the statement is built once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, bindparam, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.peers import Read
from benchmarks.peers.sqlalchemy_core import FASTEST, STATE_TYPE, Details, open_engine
from flowstates import StateDetails, StateType


class Base(DeclarativeBase):
    """What mapped classes have in common."""

    type_annotation_map = {datetime: DateTime(timezone=True), StateType: STATE_TYPE, StateDetails: Details, Any: JSONB}  # noqa: RUF012 (SQLAlchemy's)


class State(Base):
    """The eleven columns."""

    __tablename__ = "flow_run_state"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    updated: Mapped[datetime]
    flow_run_id: Mapped[UUID]
    type: Mapped[StateType]
    timestamp: Mapped[datetime]
    name: Mapped[str]
    message: Mapped[str | None]
    state_details: Mapped[StateDetails]
    data: Mapped[Any]
    result_artifact_id: Mapped[UUID | None]


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Read]:
    """Through SQLAlchemy's pool, a session a call."""
    async with open_engine(dsn) as engine:
        new_session = async_sessionmaker(engine, expire_on_commit=False)

        async def read(run: UUID) -> Sequence[State]:
            async with new_session() as session:
                return (await session.scalars(select(State).where(State.flow_run_id == run).order_by(State.timestamp))).all()

        yield read


@asynccontextmanager
async def connect_fastest(dsn: str) -> AsyncIterator[Read]:
    """Through SQLAlchemy's pool, a session a call."""
    states = select(State).where(State.flow_run_id == bindparam("run")).order_by(State.timestamp)
    async with open_engine(dsn, **FASTEST) as engine:
        new_session = async_sessionmaker(engine, autoflush=False, expire_on_commit=False)

        async def read(run: UUID) -> Sequence[State]:
            session = new_session()
            try:
                return (await session.scalars(states, {"run": run})).all()
            finally:
                await session.close()

        yield read
