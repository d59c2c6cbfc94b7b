from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, InvalidInputError, create_pool
from tests.conftest import Connection, Pool

RUN = "0195f2a0-0000-7000-8000-000000000002"


class BehindPooler(asyncpg.Connection):
    """A connection that was told another process at its start, as a pooler tells one of its own making."""

    def get_server_pid(self) -> int:
        return super().get_server_pid() + 1


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


@pytest.mark.parametrize(("option", "is_cached"), [("ssl=prefer", True), ("prepared_statement_cache_size=0", False)])
async def test_takes_the_options_of_such_an_address(dsn: str, option: str, is_cached: bool) -> None:
    address = dsn.replace("postgresql://", "postgresql+asyncpg://") + ("&" if "?" in dsn else "?") + option
    async with create_pool(address) as pool, pool.acquire() as connection:
        assert await connection.fetchval("select 1") == 1
        assert connection._stmt_cache_enabled is is_cached  # type: ignore[attr-defined]


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^dsn: "):
        create_pool(5)  # type: ignore[arg-type]


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


async def test_a_pooler_is_refused_before_the_callers_init(dsn: str) -> None:
    seen: list[Connection] = []

    async def init(connection: Connection) -> None:
        seen.append(connection)

    with pytest.raises(InvalidInputError, match=r"^transaction_pooling: .*pass transaction_pooling=True, or statement_cache_size=100 if"):
        await create_pool(dsn, connection_class=BehindPooler, init=init)
    async with create_pool(dsn, connection_class=BehindPooler, init=init, min_size=0) as pool:
        with pytest.raises(InvalidInputError, match=r"^transaction_pooling: "):
            await pool.fetchval("select 1")
        assert pool.get_idle_size() == 0
    assert seen == []


@pytest.mark.parametrize(
    ("options", "kept"), [({"transaction_pooling": True}, False), ({"statement_cache_size": 0}, False), ({"statement_cache_size": 9}, True)]
)
async def test_a_pooler_is_taken_by_a_pool_that_was_told(dsn: str, options: dict[str, Any], kept: bool) -> None:
    async with create_pool(dsn, connection_class=BehindPooler, max_size=1, **options) as pool:
        assert await pool.fetchval("select count(*) > 0 from pg_prepared_statements") is kept  # a kept one counts itself


async def test_a_statement_cache_and_transaction_pooling_contradict_each_other(dsn: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^statement_cache_size: "):
        create_pool(dsn, transaction_pooling=True, statement_cache_size=100)
    async with create_pool(dsn, transaction_pooling=True, statement_cache_size=0) as pool:
        assert await pool.fetchval("select 1") == 1


async def test_the_callers_init_is_called_for_each_connection(dsn: str) -> None:
    seen: list[Connection] = []

    async def init(connection: Connection) -> None:
        assert await connection.fetchval("select 1") == 1
        seen.append(connection)

    async with create_pool(dsn, min_size=2, init=init):
        assert len(set(seen)) == 2
