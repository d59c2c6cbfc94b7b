"""On a connection of the caller's with another encoding a text is what it is on a plain one, or it is refused before anything is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    NewFlowRunState,
    check,
    create_pool,
    migrate,
)
from tests.conftest import Pool
from tests.feeds import told

CURE = "the client_encoding of the connection has no such character: set it to UTF8"


@asynccontextmanager
async def connected(dsn: str, encoding: str, how: str) -> AsyncIterator[Any]:
    settings = {"client_encoding": encoding}
    if how == "pool":
        async with create_pool(dsn, max_size=1, server_settings=settings) as pool:
            yield pool
        return
    connection = await asyncpg.connect(dsn, server_settings=settings if how == "server_settings" else None)
    if how == "set":
        await connection.execute(f"set client_encoding to '{encoding}'")
    yield connection
    await connection.close()


def with_text(text: str, run: UUID) -> dict[str, Any]:
    details = {"cache_key": text, "unknown": [text]}
    return {"flow_run_id": run, "type": "RUNNING", "id": uuid4(), "name": text, "message": text, "data": {text: text}, "state_details": details}


HOW = pytest.mark.parametrize("how", ["server_settings", "set", "pool"])


@HOW
@pytest.mark.parametrize(("encoding", "text"), [("LATIN1", "é\x80ÿ"), ("WIN1252", "é€"), ("KOI8R", "ключ"), ("GBK", "中"), ("UTF8", "é☃\U0001f600")])
async def test_a_text_that_it_has_is_the_same(pool: Pool, dsn: str, encoding: str, text: str, how: str) -> None:
    plain, run = FlowRunStateRepository(pool), uuid4()
    async with connected(dsn, encoding, how) as source:
        states = FlowRunStateRepository(source)
        one, other = with_text(text, run), with_text(text, run)
        created = await states.create_flow_run_state(**one)
        assert await states.create_flow_run_state(**one) == created
        for status in ("created", "present"):
            (outcome,) = await states.create_flow_run_states([NewFlowRunState(**other)])
            assert outcome.status == status
        stored = await plain.read_flow_run_states(run)
        assert [(state.name, state.message, state.data, state.state_details.cache_key) for state in stored] == [(text, text, {text: text}, text)] * 2
        assert await states.read_flow_run_states(run) == stored
        assert await states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[run], names=[text])) == 2
        async with states.stream_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])) as stream:
            assert [state async for state in stream] == stored
        # A consumer of that name, with a filter that has it.
        feed, named = FlowRunStateFeed(source), FlowRunStateFilter(flow_run_ids=[run], names=[text])
        await told(feed, None, [state.id for state in stored], filter=named)
        name = f"{text} {run}"
        async with feed.consume(name, start="beginning", filter=named) as batch:
            assert batch.states == stored
        assert name in [one.name for one in await FlowRunStateFeed(pool).positions()]
        assert await feed.move(name, "now", expected=batch.position)
        assert await feed.forget(name)


@HOW
async def test_a_text_that_it_has_not_is_refused_and_nothing_is_stored(pool: Pool, dsn: str, how: str) -> None:
    plain, run = FlowRunStateRepository(pool), uuid4()
    async with connected(dsn, "LATIN1", how) as source:
        states = FlowRunStateRepository(source)
        with pytest.raises(asyncpg.DataError, match="codec can't encode") as caught:
            await states.create_flow_run_state(**with_text("☃", run))
        assert caught.value.__notes__ == [CURE]
        assert await plain.read_flow_run_states(run) == []
        # In a batch it is copied as it is; what asks about it is refused, and the batch with it.
        (outcome,) = await states.create_flow_run_states([new := NewFlowRunState(**with_text("☃", run))])
        assert outcome.status == "created"
        stored = await plain.read_flow_run_states(run)
        assert [state.message for state in stored] == ["☃"]
        more = NewFlowRunState(**with_text("é", run))
        with pytest.raises(asyncpg.DataError, match="codec can't encode") as caught:
            await states.create_flow_run_states([more, new])
        assert caught.value.__notes__ == [CURE]
        assert await plain.read_flow_run_states(run) == stored
        with pytest.raises(asyncpg.UntranslatableCharacterError) as refused:
            await states.read_flow_run_states(run)
        assert refused.value.__notes__ == [CURE]
        assert await states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[run])) == 1


@HOW
async def test_a_state_or_a_name_that_it_has_not_is_refused_and_no_consumer_is_moved(pool: Pool, dsn: str, how: str) -> None:
    run, name = uuid4(), f"encodings {uuid4()}"
    plain, of_run = FlowRunStateFeed(pool), FlowRunStateFilter(flow_run_ids=[run])
    begin = await plain.now()
    state = await FlowRunStateRepository(pool).create_flow_run_state(**with_text("☃", run))
    await told(plain, begin, [state.id], filter=of_run)
    async with connected(dsn, "LATIN1", how) as source:
        feed = FlowRunStateFeed(source)
        await feed.move(name, begin)
        with pytest.raises(asyncpg.UntranslatableCharacterError) as refused:
            await feed.read_page(begin, filter=of_run)
        assert refused.value.__notes__ == [CURE]
        with pytest.raises(asyncpg.UntranslatableCharacterError) as refused:
            async with feed.follow(begin, filter=of_run) as pages:
                await anext(pages)
        assert refused.value.__notes__ == [CURE]
        with pytest.raises(asyncpg.UntranslatableCharacterError) as refused:
            async with feed.consume(name, filter=of_run):
                pass
        assert refused.value.__notes__ == [CURE]
        for ask in (lambda: feed.move("☃", "now"), lambda: feed.forget("☃"), lambda: feed.consume("☃", start="now").__aenter__()):
            with pytest.raises(asyncpg.DataError, match="codec can't encode") as caught:
                await ask()
            assert caught.value.__notes__ == [CURE]
        assert await source.fetchval("select 1") == 1
        async with feed.consume(name, filter=FlowRunStateFilter(flow_run_ids=[uuid4()])) as batch:
            assert batch.states == []
        assert await feed.move(name, begin)
    async with plain.consume(name, filter=of_run) as batch:
        assert batch.states == [state]
    assert await plain.forget(name)


@HOW
@pytest.mark.parametrize("encoding", ["SJIS", "SHIFT_JIS_2004", "EUC_JP", "EUC_JIS_2004", "EUC_KR", "BIG5", "SQL_ASCII"])
async def test_an_encoding_in_which_a_text_becomes_another_is_refused(dsn: str, encoding: str, how: str) -> None:
    async with connected(dsn, encoding, how) as source:
        states, feed = FlowRunStateRepository(source), FlowRunStateFeed(source)
        pages = await feed.follow().__aenter__()
        for call in (
            states.read_flow_run_states(uuid4()),
            states.create_flow_run_state(uuid4(), "RUNNING"),
            states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="RUNNING")]),
            states.stream_flow_run_states().__aenter__(),
            check(source),
            migrate(source),
            feed.read_page(),
            feed.now(),
            feed.positions(),
            feed.move("encodings", "now"),
            feed.forget("encodings"),
            feed.consume("encodings", start="now").__aenter__(),
            anext(pages),
        ):
            with pytest.raises(InvalidInputError, match=rf"^pool_or_connection: .*client_encoding.* {encoding}"):
                await call
        assert await source.fetchval("select 1") == 1
