"""SQLAlchemy Core on asyncpg: a `select` of a Table whose columns have types, and its own rows, which have the values by name.

By https://docs.sqlalchemy.org/en/21/, pages `orm/extensions/asyncio`, `core/connections` (autocommit), `core/pooling` (reset on return) and
`core/custom_types` ("Applying SQL-level Bind/Result Processing"):

In both forms details are parsed once, by Pydantic, and data by `from_json`, which is faster than json.loads. `connect`: a `select` a call, in
`async with engine.connect()`, with the engine's defaults: BEGIN, ROLLBACK. `connect_fastest`, by what was tried:

- AUTOCOMMIT for the engine, so no BEGIN and ROLLBACK; connections come back without a reset.
- the statement is built once, its text comes from SQLAlchemy's cache. Built anew for each call, a read of 8 states takes 40 % longer.
- connections are closed by `close`: leaving `async with` makes a task for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
from pydantic_core import from_json
from sqlalchemy import Column, ColumnElement, DateTime, MetaData, Row, String, Table, Text, Uuid, bindparam, cast, select, type_coerce
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import UserDefinedType

from benchmarks.peers import Read, details_of
from flowstates import StateDetails, StateType


class Details(UserDefinedType[StateDetails]):
    """A jsonb column that is selected as text and read by StateDetails."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type in DDL."""
        return "jsonb"

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is selected."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: object, coltype: object) -> Callable[[str], StateDetails]:
        """What a value of a row goes through."""
        return details_of


STATE_TYPE = ENUM(StateType, name="state_type", create_type=False)
TABLE = Table(
    "flow_run_state",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("created", DateTime(timezone=True)),
    Column("updated", DateTime(timezone=True)),
    Column("flow_run_id", Uuid),
    Column("type", STATE_TYPE),
    Column("timestamp", DateTime(timezone=True)),
    Column("name", String),
    Column("message", String),
    Column("state_details", Details),
    Column("data", JSONB),
    Column("result_artifact_id", Uuid),
)


@asynccontextmanager
async def open_engine(dsn: str, **settings: Any) -> AsyncIterator[AsyncEngine]:
    """An engine that keeps one connection."""
    connect = partial(asyncpg.connect, dsn)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_size=1, json_deserializer=from_json, **settings)
    try:
        yield engine
    finally:
        await engine.dispose()


FASTEST = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Read]:
    """Through SQLAlchemy's pool, a connection a call."""
    async with open_engine(dsn) as engine:

        async def read(run: UUID) -> Sequence[Row[Any]]:
            async with engine.connect() as connection:
                return (await connection.execute(select(TABLE).where(TABLE.c.flow_run_id == run).order_by(TABLE.c.timestamp))).all()

        yield read


@asynccontextmanager
async def connect_fastest(dsn: str) -> AsyncIterator[Read]:
    """Through SQLAlchemy's pool, a connection a call."""
    states = select(TABLE).where(TABLE.c.flow_run_id == bindparam("run")).order_by(TABLE.c.timestamp)
    async with open_engine(dsn, **FASTEST) as engine:

        async def read(run: UUID) -> Sequence[Row[Any]]:
            connection = await engine.connect()
            try:
                return (await connection.execute(states, {"run": run})).all()
            finally:
                await connection.close()

        yield read
