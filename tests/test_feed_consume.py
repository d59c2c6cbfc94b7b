"""Named consumers: each state takes effect once, whoever fails and whenever, and what is gone is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FeedBatch,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    FlowStatesError,
    ForeignPositionError,
    HistoryPrunedError,
    InvalidInputError,
    Keep,
    StateType,
    create_pool,
)
from tests.conftest import Pool
from tests.feeds import told
from tests.writers import ISOLATION, level

pytestmark = pytest.mark.server

PENDING, FAILED, COMPLETED = StateType.PENDING, StateType.FAILED, StateType.COMPLETED
LIMIT = 200  # seconds, for what would never end


@pytest.fixture
async def own(own_database: str) -> AsyncIterator[Pool]:
    async with asyncio.timeout(LIMIT), create_pool(own_database) as pool:
        await pool.execute("create table effect (state_id uuid not null)")
        yield pool


async def create(pool: Pool, type_: StateType = PENDING, *, run: UUID | None = None) -> UUID:
    """A state that may be told: nothing holds it any more."""
    state = await FlowRunStateRepository(pool).create_flow_run_state(run or uuid4(), type_)
    await told(FlowRunStateFeed(pool), None, [state.id])
    return state.id


async def work(batch: FeedBatch) -> None:
    await batch.connection.executemany("insert into effect values ($1)", [(state.id,) for state in batch.states])


async def effects(pool: Pool) -> list[UUID]:
    return [row[0] for row in await pool.fetch("select state_id from effect")]


async def test_each_batch_takes_effect_once_and_the_next_goes_on_behind_it(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    ids = [await create(own) for _ in range(5)]
    sizes = []
    for _ in range(4):
        async with feed.consume("billing", start="beginning", limit=2) as batch:
            await work(batch)
            sizes.append((len(batch.states), batch.is_caught_up, batch.is_taken))
    assert sizes == [(2, False, False), (2, False, False), (1, True, False), (0, True, False)]
    assert await effects(own) == ids
    ids.append(await create(own))
    async with feed.consume("billing") as batch:
        await work(batch)
    assert await effects(own) == ids


async def test_an_error_undoes_the_position_and_what_was_written(own: Pool) -> None:
    feed, state = FlowRunStateFeed(own), await create(own)
    for start in ("beginning", None):
        with pytest.raises(RuntimeError, match="no"):  # noqa: PT012
            async with feed.consume("billing", start=start) as batch:
                await work(batch)
                raise RuntimeError("no")
    assert await effects(own) == []
    async with feed.consume("billing") as batch:
        assert [state.id for state in batch.states] == [state]


async def test_a_first_block_that_fails_does_not_move_where_now_was(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    await create(own)
    with pytest.raises(RuntimeError, match="no"):  # noqa: PT012
        async with feed.consume("billing", start="now") as batch:
            assert batch.states == []
            raise RuntimeError("no")
    state = await create(own)
    async with feed.consume("billing", start="now") as batch:
        assert [state.id for state in batch.states] == [state]


async def test_a_consumer_begins_where_its_first_use_says(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    ids = [await create(own) for _ in range(3)]
    position = (await feed.read_page(limit=1)).position
    for name, start, expected in (("all", "beginning", ids), ("some", position, ids[1:]), ("none", "now", [])):
        async with feed.consume(name, start=start) as batch:
            assert [state.id for state in batch.states] == expected
    with pytest.raises(InvalidInputError, match="first use of the consumer 'other'") as caught:
        async with feed.consume("other"):
            pass
    assert caught.value.field == "start"


async def test_a_consumer_is_held_by_one_at_a_time(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    ids = [await create(own) for _ in range(2)]

    async def next_one() -> list[UUID]:
        async with feed.consume("billing", limit=1) as batch:
            return [state.id for state in batch.states]

    async with feed.consume("billing", start="beginning", limit=1) as batch:
        assert [state.id for state in batch.states] == ids[:1]
        async with feed.consume("billing", skip_locked=True) as other:
            assert (other.states, other.is_taken) == ([], True)
        async with feed.consume("mails", start="beginning", skip_locked=True) as other:
            assert ([state.id for state in other.states], other.is_taken) == (ids, False)
        waiting = asyncio.create_task(next_one())
        asked = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        while not await own.fetchval(asked):  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with feed.consume("billing", timeout=0.1):
                pass
    assert await waiting == ids[1:]
    async with feed.consume("billing", skip_locked=True) as batch:
        assert not batch.is_taken


async def test_several_at_once_share_the_work(own: Pool) -> None:
    """Also its first use, at which each of them may find that another has just made the consumer."""
    feed = FlowRunStateFeed(own)
    ids = [await create(own) for _ in range(20)]

    async def consume() -> None:
        while True:
            async with feed.consume("billing", start="beginning", limit=1) as batch:
                await work(batch)
                if not batch.states:
                    return

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(consume())
    assert await effects(own) == ids


@pytest.mark.parametrize("at", ["block", "commit"])
async def test_a_worker_that_is_killed_leaves_nothing_half(own_database: str, own: Pool, at: str) -> None:
    feed, state = FlowRunStateFeed(own), await create(own)
    await feed.move("billing", "beginning")
    connection = await asyncpg.connect(own_database)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):  # noqa: PT012
        async with FlowRunStateFeed(connection).consume("billing") as batch:
            await work(batch)
            if at == "block":
                await own.execute("select pg_terminate_backend($1)", connection.get_server_pid())
                await connection.execute("select 1")
            else:
                connection.terminate()
    assert await effects(own) == []
    async with feed.consume("billing") as batch:
        assert [state.id for state in batch.states] == [state]
        await work(batch)
    assert await effects(own) == [state]


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_in_the_callers_transaction_the_position_moves_when_that_commits(own: Pool, isolation: str) -> None:
    feed, state = FlowRunStateFeed(own), await create(own)
    await feed.move("billing", "beginning")
    for is_undone in (True, False):
        async with own.acquire() as connection:
            transaction = connection.transaction(isolation=level(isolation))
            await transaction.start()
            async with FlowRunStateFeed(connection).consume("billing") as batch:
                assert [state.id for state in batch.states] == [state]
                await work(batch)
            async with FlowRunStateFeed(connection).consume("billing") as batch:
                assert batch.states == []
            await (transaction.rollback() if is_undone else transaction.commit())
    assert await effects(own) == [state]


async def test_a_block_that_ends_the_transaction_itself_is_told(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    await create(own)
    with pytest.raises(FlowStatesError, match="ended the transaction"):
        async with feed.consume("billing", start="beginning") as batch:
            await batch.connection.execute("rollback")


async def test_what_the_block_raises_is_the_block_s_and_gets_no_note(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    for text, kind in (("select from of_theirs", asyncpg.UndefinedTableError), ("select no_column from effect", asyncpg.UndefinedColumnError)):
        with pytest.raises(kind) as caught:
            async with feed.consume("billing", start="beginning") as batch:
                await batch.connection.execute(text)
        assert not hasattr(caught.value, "__notes__")


async def test_what_is_missing_of_ours_is_said_once(own: Pool) -> None:
    await own.execute("drop table flowstates_consumer")
    feed = FlowRunStateFeed(own)
    for name in ("new", "billing"):
        with pytest.raises(asyncpg.UndefinedTableError) as caught:
            async with feed.consume(name, start="beginning"):
                pass
        assert [note.partition(":")[0] for note in caught.value.__notes__] == ["a table of flowstates is not on the search path"]


async def test_a_filter_moves_the_position_by_what_it_lets_out(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    await create(own)
    failed = await create(own, FAILED)
    await create(own)
    async with feed.consume("alerts", start="beginning", filter=FlowRunStateFilter(types=("FAILED",))) as batch:
        assert [state.id for state in batch.states] == [failed]
    assert (await feed.positions())[0].states == 0


async def test_a_name_that_is_moved_in_its_own_block_is_told(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    ids = [await create(own) for _ in range(5)]
    await told(feed, None, ids)
    await feed.move("billing", "beginning")

    async def consume_again(batch: FeedBatch) -> None:
        async with FlowRunStateFeed(batch.connection).consume("billing") as inner:
            await work(inner)

    async def move(batch: FeedBatch) -> None:
        assert await FlowRunStateFeed(batch.connection).move("billing", "now")

    for meddle in (consume_again, move):
        with pytest.raises(FlowStatesError, match="was moved or deleted in the block"):  # noqa: PT012
            async with feed.consume("billing", limit=1) as batch:
                await work(batch)
                await meddle(batch)
        assert await effects(own) == []
    async with feed.consume("billing") as batch:
        await work(batch)
    assert await effects(own) == ids


async def test_a_block_that_swallows_an_error_of_the_servers_is_told_also_where_nothing_is_moved(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    await feed.move("billing", "now")
    for _ in range(2):
        with pytest.raises(asyncpg.InFailedSQLTransactionError):  # noqa: PT012
            async with feed.consume("billing") as batch:
                with suppress(asyncpg.DivisionByZeroError):
                    await batch.connection.execute("select 1 / 0")
        await create(own)


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_deletes_of_different_runs_do_not_undo_each_other(own: Pool, isolation: str) -> None:
    runs = [uuid4() for _ in range(6)]
    for run in runs:
        await create(own, run=run)
    async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(own.acquire()) for _ in runs]
        transactions = [connection.transaction(isolation=level(isolation)) for connection in connections]
        for transaction in transactions:
            await transaction.start()
        for connection, run in zip(connections, runs, strict=True):
            await connection.execute("delete from flow_run where id = $1", run)
        for transaction in transactions:
            await transaction.commit()
    assert await own.fetchval("select count(*) from flow_run_state") == 0


async def test_positions_say_how_far_each_is_behind(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    assert await feed.positions() == []
    await create(own)
    now = await feed.now()
    await feed.move("b", now)
    await feed.move("a", "beginning")
    await create(own)
    await create(own)
    a, b = await feed.positions()
    assert [(one.name, one.states) for one in (a, b)] == [("a", 3), ("b", 2)]
    assert b.position == now
    assert a.behind > b.behind > timedelta(0)
    assert datetime.now(UTC) - a.updated < timedelta(hours=1)
    await feed.move("a", "now")
    a, _ = await feed.positions()
    assert (a.states, a.behind) == (0, timedelta(0))
    assert [await feed.forget("a"), await feed.forget("a")] == [True, False]
    assert [one.name for one in await feed.positions()] == ["b"]


async def test_a_consumer_is_moved_from_where_it_was_expected_and_not_back(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    await create(own)
    begin = await feed.now()
    assert not await feed.move("billing", "now", expected=begin)
    assert await feed.move("billing", begin)
    await create(own)
    async with feed.consume("billing") as batch:
        assert len(batch.states) == 1
    assert not await feed.move("billing", begin, expected=begin)
    assert await feed.move("billing", begin, expected=batch.position)
    assert (await feed.positions())[0].states == 1


class Pruned:
    """A run that goes, and one that stays, and what a reader has of them."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.feed, self.states = pool, FlowRunStateFeed(pool), FlowRunStateRepository(pool)
        self.run = uuid4()

    async def fill(self) -> None:
        self.first = await create(self.pool)
        self.position = (await self.feed.read_page()).position
        self.gone = [await create(self.pool, type_, run=self.run) for type_ in (PENDING, FAILED, COMPLETED)]
        self.left = await create(self.pool)

    async def error(self) -> HistoryPrunedError:
        with pytest.raises(HistoryPrunedError) as caught:
            await self.feed.read_page(self.position)
        assert caught.value.position == self.position
        return caught.value


async def delete_run(at: Pruned) -> list[UUID]:
    return await at.states.delete_flow_run_states(flow_run_ids=[at.run])


async def delete_all_its_states(at: Pruned) -> list[UUID]:
    return await at.states.delete_flow_run_states(flow_run_state_ids=at.gone)


async def delete_its_row(at: Pruned) -> list[UUID]:
    await at.pool.execute("delete from flow_run where id = $1", at.run)
    return at.gone


async def prune_whole(at: Pruned) -> list[UUID]:
    await FlowRunStateRetention(at.pool).prune(before=datetime.now(UTC) + timedelta(days=1))
    return at.gone


async def thin(at: Pruned) -> list[UUID]:
    await FlowRunStateRetention(at.pool).prune(before=datetime.now(UTC) + timedelta(days=1), keep=Keep())
    return at.gone[:-1]


@pytest.mark.parametrize("take", [delete_run, delete_all_its_states, delete_its_row, prune_whole, thin])
async def test_what_was_taken_behind_a_position_is_said_and_what_is_left_is_told(own: Pool, take: Callable[[Pruned], Any]) -> None:
    at = Pruned(own)
    await at.fill()
    await at.feed.move("billing", at.position)
    gone = set(await take(at))
    assert gone
    error = await at.error()
    left = [state for state in [*at.gone, at.left] if state not in gone]
    assert [state.id for state in (await at.feed.read_page(error.oldest)).states] == left
    # From the beginning there is no more than what is left, on every page.
    assert (await told(at.feed, None, left, limit=1))[0] == [at.first, *left]
    with pytest.raises(HistoryPrunedError) as caught:
        async with at.feed.consume("billing"):
            pass
    assert await at.feed.move("billing", caught.value.oldest, expected=caught.value.position)
    async with at.feed.consume("billing") as batch:
        assert [state.id for state in batch.states] == left
    async with at.feed.consume("new", start="beginning", limit=1) as batch:
        assert [state.id for state in batch.states] == [at.first]
    async with at.feed.consume("new", limit=1) as batch:
        assert [state.id for state in batch.states] == left[:1]
    assert (await at.feed.read_page(await at.feed.now())).states == []


async def test_what_was_told_is_no_loss(own: Pool) -> None:
    at = Pruned(own)
    await at.fill()
    position = (await at.feed.read_page()).position
    await delete_run(at)
    assert (await at.feed.read_page(position)).states == []
    middle = (await at.feed.read_page(limit=2)).position
    assert (await at.feed.read_page(middle)).states == []


async def test_another_loss_behind_the_one_that_is_known_is_said_too(own: Pool) -> None:
    at = Pruned(own)
    await at.fill()
    await delete_run(at)
    at.position = (await at.error()).oldest
    await at.feed.read_page(at.position)
    at.run = uuid4()
    await create(own, run=at.run)
    await delete_run(at)
    assert (await at.error()).oldest != at.position


async def test_a_loss_before_one_that_is_known_is_said_too(own: Pool) -> None:
    at = Pruned(own)
    await at.fill()
    newer = [await create(own, run=run) for run in (uuid4(), uuid4())]
    await at.states.delete_flow_run_states(flow_run_state_ids=newer[-1:])
    middle = (await at.feed.read_page(limit=2)).position  # it has begun with what was left then
    await at.feed.read_page(middle)
    await at.feed.move("billing", middle)
    assert not (await at.feed.positions())[0].is_pruned
    await delete_run(at)
    with pytest.raises(HistoryPrunedError) as caught:
        await at.feed.read_page(middle)
    assert (await at.feed.positions())[0].is_pruned
    assert [state.id for state in (await at.feed.read_page(caught.value.oldest)).states] == [at.left, newer[0]]


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_loss_that_commits_late_is_said_and_one_that_is_known_is_not(own: Pool, isolation: str) -> None:
    at = Pruned(own)
    await at.fill()
    other = await create(own)
    async with own.acquire() as slow, slow.transaction(isolation=level(isolation)):
        await FlowRunStateRepository(slow).delete_flow_run_states(flow_run_ids=[at.run])
        await at.states.delete_flow_run_states(flow_run_state_ids=[other])
        middle = (await at.feed.read_page(limit=1)).position
        assert [state.id for state in (await at.feed.read_page(middle)).states] == [*at.gone, at.left]  # and not of what it knows of
    with pytest.raises(HistoryPrunedError) as caught:
        await at.feed.read_page(middle)
    assert [state.id for state in (await at.feed.read_page(caught.value.oldest)).states] == [at.left]


async def test_deletes_of_single_states_are_not_in_the_feed(own: Pool) -> None:
    at = Pruned(own)
    await at.fill()
    assert await at.states.delete_flow_run_state(at.gone[-1])
    assert [state.id for state in (await at.feed.read_page(at.position)).states] == [*at.gone[:-1], at.left]
    assert await own.fetchval("select count(*) from flowstates_pruned") == 0


async def test_what_one_transaction_stores_and_deletes_is_no_loss(own: Pool) -> None:
    at = Pruned(own)
    await at.fill()
    async with own.acquire() as connection, connection.transaction():
        inside = FlowRunStateRepository(connection)
        run = uuid4()
        await inside.create_flow_run_state(run, PENDING)
        await inside.delete_flow_run_states(flow_run_ids=[run])
    await at.feed.read_page(at.position)


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_truncated_table_is_a_loss(own: Pool, isolation: str) -> None:
    at = Pruned(own)
    await at.fill()
    async with own.acquire() as connection, connection.transaction(isolation=level(isolation)):
        await connection.execute("truncate flow_run_state")
    assert (await at.feed.read_page((await at.error()).oldest)).states == []


async def test_of_losses_the_last_is_kept_and_deletes_do_not_wait_for_each_other(own: Pool) -> None:
    states = FlowRunStateRepository(own)
    runs = [uuid4() for _ in range(6)]
    for run in runs:
        await create(own, run=run)
    for run in runs[:2]:
        await states.delete_flow_run_states(flow_run_ids=[run])
    assert await own.fetchval("select count(*) from flowstates_pruned") == 1
    async with asyncio.timeout(LIMIT), own.acquire() as connection, connection.transaction():
        await FlowRunStateRepository(connection).delete_flow_run_states(flow_run_ids=[runs[5]])
        for isolation in ISOLATION:
            async with own.acquire() as other, other.transaction(isolation=level(isolation)):
                await FlowRunStateRepository(other).delete_flow_run_states(flow_run_ids=[runs.pop(2)])
    newest = await own.fetchval("select max(transaction::text::bigint) from flowstates_pruned")
    await create(own, run=runs[0])
    await states.delete_flow_run_states(flow_run_ids=[runs[0]])
    assert await own.fetchval("select count(*) from flowstates_pruned where transaction::text::bigint > $1", newest) == 1
    assert await own.fetchval("select count(*) from flowstates_pruned") == 1


async def test_after_a_restore_consumers_are_told_again_and_nothing_is_skipped(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    told_ids = [await create(own) for _ in range(2)]
    async with feed.consume("billing", start="beginning"):
        pass
    waiting = await create(own)
    for table in ("flow_run_state", "flow_run", "flowstates_consumer"):
        await own.execute(f"update {table} set transaction = (transaction::text::bigint + 1000000000)::text::xid8")
    with pytest.raises(ForeignPositionError):
        async with FlowRunStateFeed(own).consume("billing"):
            pass
    with pytest.raises(ForeignPositionError) as caught:
        await FlowRunStateFeed(own).read_page()
    assert caught.value.mend is not None
    await own.execute(caught.value.mend)
    new = await create(own)
    async with FlowRunStateFeed(own).consume("billing") as batch:
        assert [state.id for state in batch.states] == [*told_ids, waiting, new]


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_what_was_written_between_a_restore_and_its_mend_is_told_or_is_a_loss(own: Pool, is_deleted: bool) -> None:
    """It is of runs that the dump did not have, so its numbers are this cluster's, which a consumer of the dump was behind at once."""
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    old = await create(own)
    async with feed.consume("billing", start="beginning") as batch:
        assert [state.id for state in batch.states] == [old]
    for table in ("flow_run_state", "flow_run", "flowstates_consumer"):
        await own.execute(f"update {table} set transaction = (transaction::text::bigint + 1000000000)::text::xid8")
    runs = [uuid4(), uuid4()]
    gone, left = [(await states.create_flow_run_state(run, PENDING)).id for run in runs]
    if is_deleted:
        await states.delete_flow_run_states(flow_run_ids=runs[:1])
    with pytest.raises(ForeignPositionError) as caught:
        await FlowRunStateFeed(own).read_page()
    assert caught.value.mend is not None
    await own.execute(caught.value.mend)
    await told(feed, None, [left, old])
    if is_deleted:
        with pytest.raises(HistoryPrunedError) as lost:
            async with feed.consume("billing"):
                pass
        assert await feed.move("billing", lost.value.oldest, expected=lost.value.position)
    async with feed.consume("billing") as batch:
        assert [state.id for state in batch.states] == [*([] if is_deleted else [gone]), left, old]
    async with feed.consume("billing") as batch:
        assert batch.states == []


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("name", lambda feed: feed.consume("")),
        ("name", lambda feed: feed.consume(5)),
        ("name", lambda feed: feed.consume("a\x00")),
        ("start", lambda feed: feed.consume("a", start="later")),
        ("start", lambda feed: feed.consume("a", start=5)),
        ("filter", lambda feed: feed.consume("a", filter=5)),
        ("limit", lambda feed: feed.consume("a", limit=0)),
        ("skip_locked", lambda feed: feed.consume("a", skip_locked="yes")),
        ("timeout", lambda feed: feed.consume("a", timeout="1")),
    ],
)
def test_what_cannot_be_consumed_is_refused_by_name(pool: Pool, field: str, ask: Callable[[FlowRunStateFeed], Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ask(FlowRunStateFeed(pool))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("name", lambda feed: feed.move("", "now")),
        ("to", lambda feed: feed.move("a", "later")),
        ("to", lambda feed: feed.move("a", None)),
        ("expected", lambda feed: feed.move("a", "now", expected="now")),
        ("timeout", lambda feed: feed.move("a", "now", timeout="1")),
        ("name", lambda feed: feed.forget(None)),
        ("timeout", lambda feed: feed.forget("a", timeout="1")),
        ("timeout", lambda feed: feed.positions(timeout="1")),
    ],
)
async def test_what_cannot_be_done_to_a_consumer_is_refused_by_name(pool: Pool, field: str, ask: Callable[[FlowRunStateFeed], Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await ask(FlowRunStateFeed(pool))
    assert caught.value.field == field
