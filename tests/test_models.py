"""The three calls on a session: what is asked of which tables, and in which transaction."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from flowstates import FlowRunState, FlowRunStateRepository, InvalidInputError, migrate, models
from flowstates.engine.connections import AnyConnection, ask
from flowstates.values import Layout
from tests.conftest import Pool
from tests.test_borrowed import connected, fill
from tests.test_sqlalchemy import engine_on

pytestmark = pytest.mark.versions


@pytest.fixture(params=["flowstates", "prefect"])
async def on(request: pytest.FixtureRequest, layout_dsns: dict[Layout, str]) -> AsyncIterator[tuple[AsyncEngine, Layout, str]]:
    engine = engine_on(layout_dsns[request.param])
    yield engine, request.param, layout_dsns[request.param]
    await engine.dispose()


async def test_the_three_calls_on_either_layout(on: tuple[AsyncEngine, Layout, str]) -> None:
    engine, layout, dsn = on
    run = uuid4()
    async with connected(dsn) as plain, AsyncSession(engine) as session:
        await fill(plain, layout, run)
        expected = await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run)
        assert await models.read_flow_run_states(session=session, flow_run_id=run) == expected
        assert await models.read_flow_run_states(session, uuid4()) == []
        assert await models.read_flow_run_state(session=session, flow_run_state_id=expected[1].id) == expected[1]
        assert await models.read_flow_run_state(session, str(expected[1].id)) == expected[1]
        assert await models.read_flow_run_state(session, run) is None
        for _ in range(2):
            assert await models.delete_flow_run_state(session=session, flow_run_state_id=expected[1].id) is True
            assert await models.delete_flow_run_state(session, expected[1].id) is False
            assert await models.read_flow_run_states(session, run) == [expected[0], *expected[2:]]
            await session.rollback()
        assert await models.read_flow_run_states(session, run) == expected
        await session.rollback()
        async with engine.begin() as connection:
            assert await models.delete_flow_run_state(connection, expected[1].id) is True
        assert await models.read_flow_run_states(session, run) == [expected[0], *expected[2:]]


async def test_whose_tables_they_are_is_asked_once_a_connection(on: tuple[AsyncEngine, Layout, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, _ = on
    asked: list[str] = []

    async def counted(connection: AnyConnection, name: str) -> list[asyncpg.Record]:
        asked.append(name)
        return await ask(connection, name)

    monkeypatch.setattr(models, "ask", counted)
    for connections in (1, 2):
        for _ in range(2):
            async with AsyncSession(engine) as session:
                await models.read_flow_run_states(session, uuid4())
                await session.commit()
                await models.read_flow_run_state(session, uuid4())
                assert asked == ["read_layout"] * connections
        await engine.dispose()  # the next connection is a new one


async def test_without_tables_the_error_says_so_and_they_may_be_made_later(own_dsn: str) -> None:
    engine = create_async_engine(own_dsn.replace("postgresql:", "postgresql+asyncpg:", 1))
    async with AsyncSession(engine) as session:
        with pytest.raises(asyncpg.UndefinedTableError) as caught:
            await models.read_flow_run_states(session, uuid4())
        assert "flowstates migrate" in "".join(caught.value.__notes__)
        await session.rollback()
        await migrate(session)
        assert await models.read_flow_run_states(session, uuid4()) == []
        await session.rollback()
    await engine.dispose()


async def test_what_is_no_session_is_refused_by_name(dsn: str, pool: Pool) -> None:
    blocking = create_engine(dsn.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
    psycopg, maker = engine_on(dsn, "postgresql+psycopg", poolclass=NullPool), async_sessionmaker(engine_on(dsn))
    async with AsyncSession(psycopg) as other:
        hint = "not an AsyncSession or AsyncConnection of SQLAlchemy"
        wrong: list[tuple[Any, str]] = [
            (pool, f"is a Pool, {hint}"),
            (Session(blocking), f"is a Session, {hint}"),
            (maker, f"is an async_sessionmaker, {hint}"),
            (None, f"is None, {hint}"),
            (other, "is an AsyncSession on psycopg, not on asyncpg"),
        ]
        for session, message in wrong:
            for call in (models.read_flow_run_state, models.read_flow_run_states, models.delete_flow_run_state):
                with pytest.raises(InvalidInputError) as caught:
                    await call(session, uuid4())
                assert str(caught.value) == f"session: {message}"


async def test_an_id_is_looked_at_before_anything_is_sent(dsn: str) -> None:
    async with AsyncSession(engine_on(dsn)) as session:
        for call, field in (
            (models.read_flow_run_state, "flow_run_state_id"),
            (models.read_flow_run_states, "flow_run_id"),
            (models.delete_flow_run_state, "flow_run_state_id"),
        ):
            with pytest.raises(InvalidInputError, match=f"^{field}: "):
                await call(session, "nope")
            assert not session.in_transaction()


@pytest.mark.once
async def test_a_state_of_prefects_takes_prefect(pool: Pool) -> None:
    state = await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), "RUNNING")
    assert isinstance(state, FlowRunState)
    assert "prefect" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="prefect"):
        state.as_state()
