"""A consumer that is cut off, wherever it waits: what its block wrote and its position are there together, or neither is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg.transaction import Transaction

from flowstates import FlowRunStateFeed, FlowRunStateRepository, StateType, create_pool
from tests.conftest import Pool
from tests.feeds import told
from tests.proxy import Proxy
from tests.test_faults import cancelled_at_every_wait
from tests.writers import BROKEN, ISOLATION, level

pytestmark = pytest.mark.server

LIMIT = 200  # seconds, for what would never end


@pytest.fixture
async def own(own_database: str) -> AsyncIterator[Pool]:
    async with asyncio.timeout(LIMIT), create_pool(own_database) as pool:
        await pool.execute("create table effect (state_id uuid not null)")
        yield pool


async def create(pool: Pool) -> UUID:
    state = await FlowRunStateRepository(pool).create_flow_run_state(uuid4(), StateType.PENDING)
    await told(FlowRunStateFeed(pool), None, [state.id])
    return state.id


async def work(feed: FlowRunStateFeed, name: str = "billing", **options: Any) -> None:
    async with feed.consume(name, start="beginning", **options) as batch:
        await batch.connection.executemany("insert into effect values ($1)", [(state.id,) for state in batch.states])


async def effects(pool: Pool) -> list[UUID]:
    return [row[0] for row in await pool.fetch("select state_id from effect")]


@pytest.mark.parametrize("with_result", [False, True])
@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("on", ["pool", "connection"])
@pytest.mark.parametrize("is_known", [True, False])
async def test_cancelled_at_every_await_a_batch_is_done_or_is_not(
    own_database: str, own: Pool, isolation: str, on: str, is_known: bool, with_result: bool
) -> None:
    watching, state = FlowRunStateFeed(own), await create(own)
    settings = {"default_transaction_isolation": isolation}
    done = set()
    async with create_pool(own_database, max_size=1, server_settings=settings) as pool:
        connection = await asyncpg.connect(own_database, server_settings=settings)
        source: Any = pool if on == "pool" else connection
        feed = FlowRunStateFeed(source)

        async def begin_anew() -> None:
            await own.execute("delete from effect")
            await (watching.move("billing", "beginning") if is_known else watching.forget("billing"))

        def attempt() -> Coroutine[Any, Any, Any]:
            return work(feed, timeout=60)

        async def after() -> None:
            # A connection of the caller's is not left in a transaction, and that of the pool has come back.
            assert not connection.is_in_transaction()
            assert await source.fetchval("select 1") == 1
            assert (pool.get_idle_size(), pool.get_size()) == (1, 1)
            async with watching.consume("billing", start="beginning", skip_locked=True) as batch:
                assert not batch.is_taken
                left = [state.id for state in batch.states]
            assert (await effects(own), left) in (([state], []), ([], [state]))
            done.add(not left)
            await begin_anew()

        await begin_anew()
        await work(feed)  # what is prepared then is no wait any more, so each attempt comes further than the one before
        await begin_anew()
        assert await cancelled_at_every_wait(attempt, after, with_result=with_result) >= 5
        assert await effects(own) == [state]
        await connection.close()
    assert False in done
    assert not with_result or True in done


@pytest.mark.parametrize("with_result", [False, True])
@pytest.mark.parametrize("isolation", ISOLATION)
async def test_cancelled_at_every_await_in_a_transaction_of_the_callers_that_goes_on(
    own_database: str, own: Pool, isolation: str, with_result: bool
) -> None:
    watching, state = FlowRunStateFeed(own), await create(own)
    await watching.move("billing", "beginning")
    connection = await asyncpg.connect(own_database)
    feed = FlowRunStateFeed(connection)
    await work(feed)
    transactions: list[Transaction] = []

    async def begin_anew() -> None:
        await own.execute("delete from effect")
        await watching.move("billing", "beginning")
        transactions.append(connection.transaction(isolation=level(isolation)))
        await transactions[-1].start()
        await connection.execute("create temporary table of_the_caller () on commit drop")

    def attempt() -> Coroutine[Any, Any, Any]:
        return work(feed, timeout=60)

    async def after() -> None:
        # What the caller has done in it is there.
        assert connection.is_in_transaction()
        assert await connection.fetchval("select to_regclass('of_the_caller')") is not None
        await transactions[-1].commit()
        async with watching.consume("billing") as batch:
            left = [state.id for state in batch.states]
        assert (await effects(own), left) in (([state], []), ([], [state]))
        await begin_anew()

    await begin_anew()
    assert await cancelled_at_every_wait(attempt, after, with_result=with_result) >= 5
    await transactions[-1].commit()
    assert await effects(own) == [state]
    await connection.close()


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("on", ["pool", "connection"])
@pytest.mark.parametrize("at", ["block", "move", "commit", "answer"])
async def test_a_connection_that_is_cut_between_the_write_and_the_end_of_the_commit(
    own_database: str, own: Pool, at: str, on: str, isolation: str
) -> None:
    """Only where the answer of the commit is lost is the batch done, and nobody told; then the next one goes on behind it."""
    watching, state = FlowRunStateFeed(own), await create(own)
    settings = {"default_transaction_isolation": isolation}
    async with Proxy(own_database) as proxy, create_pool(proxy.dsn, server_settings=settings) as pool:
        connection = await asyncpg.connect(proxy.dsn, server_settings=settings)
        feed = FlowRunStateFeed(pool if on == "pool" else connection)
        cues = {"move": b"/* move.expected", "commit": b"COMMIT", "answer": b"COMMIT"}

        async def consume() -> None:
            async with feed.consume("billing") as batch:
                await batch.connection.executemany("insert into effect values ($1)", [(state.id,) for state in batch.states])
                if at == "block":
                    proxy.cut()
                else:
                    proxy.hold_at(cues[at])

        async def cut() -> None:
            await proxy.held()
            if at == "answer":
                proxy.resume()
                proxy.hold(answers_only=True)
            await proxy.held_back.wait()
            proxy.cut()
            proxy.resume()

        await watching.move("billing", "beginning")
        cutting = asyncio.create_task(asyncio.sleep(0) if at == "block" else cut())
        with pytest.raises(BROKEN):
            await consume()
        await cutting
        # What the server had not been told of is undone when it notices.
        while not (await effects(own) if at == "answer" else not await effects(own)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await work(watching)
        assert await effects(own) == [state]
        if on == "pool":
            second = await create(own)
            await work(feed)
            assert await effects(own) == [state, second]
        with suppress(*BROKEN):
            await connection.close()
