from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, create_pool
from tests.conftest import Pool

RUN = "0195f2a0-0000-7000-8000-000000000002"


async def test_works_with_await_and_with_async_with(dsn: str) -> None:
    pool = await create_pool(dsn)
    assert await FlowRunStateRepository(pool).read_flow_run_states(RUN) == []
    await pool.close()
    async with create_pool(dsn) as pool:
        assert await FlowRunStateRepository(pool).read_flow_run_states(RUN) == []


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg://", "postgres+asyncpg://"])
async def test_takes_an_address_of_sqlalchemy(dsn: str, scheme: str) -> None:
    async with create_pool(dsn.replace("postgresql://", scheme)) as pool:
        assert await pool.fetchval("select 1") == 1


async def test_one_connection_is_opened_until_more_are_needed(dsn: str) -> None:
    async with create_pool(dsn, max_size=5) as pool:
        assert pool.get_size() == 1
        await asyncio.gather(*[pool.fetch("select pg_sleep(0.1)") for _ in range(5)])
        assert pool.get_size() == 5


async def test_a_connection_comes_back_without_a_reset_on_the_server_and_without_a_transaction(dsn: str) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("set application_name = 'kept'")
            await connection.execute("begin")
            await connection.execute("create table never_there ()")
        assert await pool.fetchval("show application_name") == "kept"
        assert await pool.fetchval("select to_regclass('never_there')") is None


async def test_the_callers_own_settings_win(dsn: str) -> None:
    async with create_pool(dsn, min_size=3, max_size=3, reset=asyncpg.Connection.reset) as pool:
        assert pool.get_size() == 3
        await pool.execute("set application_name = 'lost'")
        assert await pool.fetchval("show application_name") != "lost"


async def test_a_password_that_is_a_callable_is_asked_for_each_connection(dsn: str) -> None:
    asked = []

    async def password() -> str:
        asked.append(1)
        return urlsplit(dsn).password or "any, to a server that trusts its clients"

    async with create_pool(dsn, password=password, min_size=2) as pool:
        assert await pool.fetchval("select 1") == 1
    assert len(asked) == 2


async def test_a_pool_of_the_callers_own_works_too(pool: Pool, dsn: str) -> None:
    state = await FlowRunStateRepository(pool).create_flow_run_state(RUN[:-1] + "3", "PENDING")
    own = await asyncpg.create_pool(dsn, min_size=1)
    assert await FlowRunStateRepository(own).read_flow_run_state(state.id) == state
    await own.close()
