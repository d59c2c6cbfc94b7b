"""The feed of Prefect's tables, with nothing installed: the order of a clock, and what is told of it when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

import pytest

from flowstates import (
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowStatesError,
    ForeignPositionError,
    InvalidInputError,
    ReadOnlyLayoutError,
    create_pool,
)
from flowstates.engine import positions
from flowstates.engine.connections import AnyConnection
from tests.conftest import Pool
from tests.feeds import held, told
from tests.servers import PREFECT_TABLES
from tests.statements import counting
from tests.test_borrowed import connected
from tests.test_feed import server_with_prepared_transactions
from tests.writers import ISOLATION, level

pytestmark = pytest.mark.server

LIMIT = 200  # seconds, for what would never end
SLACK = 0.2  # seconds


@pytest.fixture
async def own(own_dsn: str) -> AsyncIterator[Pool]:
    async with asyncio.timeout(LIMIT), create_pool(own_dsn) as pool:
        await pool.execute(PREFECT_TABLES)
        yield pool


def feed_of(source: Pool | AnyConnection, slack: float = 0.0) -> FlowRunStateFeed:
    return FlowRunStateFeed(source, layout="prefect", clock_slack=slack)


async def watched(feed: FlowRunStateFeed, after: str | None) -> tuple[list[UUID], str]:
    """What is told in the next pages, more of them than it takes to notice what is open."""
    found: list[UUID] = []
    for _ in range(4):
        page = await feed.read_page(after)
        found, after = found + [state.id for state in page.states], page.position
    return found, after or ""


async def create(on: Pool | AnyConnection, *, type_: str = "RUNNING", ago: float | None = None, sent: datetime | None = None) -> UUID:
    """A state as Prefect sends it: `updated` is its own clock's, which may be behind."""
    run = await on.fetchval("insert into flow_run default values returning id")
    text = (
        "insert into flow_run_state (flow_run_id, type, name, updated)"
        " values ($1, $2, 'x', coalesce($4, clock_timestamp() - $3 * interval '1 s', now())) returning id"
    )
    state: UUID = await on.fetchval(text, run, type_, ago, sent)
    return state


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("begins", ["with the state", "long before"])
async def test_a_state_that_commits_late_is_told_and_holds_those_behind_it(own: Pool, isolation: str, begins: str) -> None:
    feed = feed_of(own)
    first = await create(own)
    _, begin = await told(feed, None, [first])
    async with own.acquire() as slow:
        async with slow.transaction(isolation=level(isolation)):
            if begins == "long before":
                await slow.execute("select")  # it has no number yet, and its default for `updated` is from now
                quick = await create(own)
                _, begin = await watched(feed, begin)
            late = await create(slow)
            if begins == "with the state":
                quick = await create(own)
            page = await held(feed, begin, slow.get_server_pid())
            (blocker,) = [blocker for blocker in page.blocked_by if blocker.pid == slow.get_server_pid()]
            assert blocker.age is not None
            assert (blocker.database, blocker.is_prepared) == (await own.fetchval("select current_database()::text"), False)
        assert (await told(feed, page.position, [late, quick]))[0] == [late, quick]


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_role_that_does_not_see_others_skips_nothing(own: Pool, isolation: str) -> None:
    role = f"reader_{uuid4().hex[:12]}"
    await own.execute(f"create role {role}; grant select on flow_run_state, artifact to {role}")
    async with own.acquire() as slow, own.acquire() as connection:
        await connection.execute(f"set role {role}")
        feed = feed_of(connection)
        first = await create(own)
        _, begin = await told(feed, None, [first])
        async with slow.transaction(isolation=level(isolation)):
            await slow.execute("select")
            quick = await create(own)
            _, begin = await watched(feed, begin)
            late = await create(slow)
            page = await held(feed, begin, slow.get_server_pid())
            assert [blocker.age for blocker in page.blocked_by if blocker.pid == slow.get_server_pid()] == [None]
        assert (await told(feed, page.position, [late, quick]))[0] == [late, quick]
        await connection.execute("reset role")
    await own.execute(f"drop owned by {role}; drop role {role}")


async def test_a_prepared_transaction_holds_and_is_named() -> None:
    async with asyncio.timeout(LIMIT), server_with_prepared_transactions() as dsn, create_pool(dsn) as pool:
        await pool.execute(PREFECT_TABLES)
        feed = feed_of(pool)
        async with pool.acquire() as connection:
            await connection.execute("begin")
            late = await create(connection)
            await connection.execute("prepare transaction 'two phases'")
        quick = await create(pool)
        page = await held(feed, None, None)
        (blocker,) = page.blocked_by
        assert (blocker.pid, blocker.is_prepared, blocker.gid) == (None, True, "two phases")
        await pool.execute("commit prepared 'two phases'")
        assert (await told(feed, page.position, [late, quick]))[0] == [late, quick]


async def test_who_only_reads_and_what_is_another_databases_do_or_do_not_hold(own: Pool, pool: Pool) -> None:
    feed = feed_of(own)
    async with pool.acquire() as other, other.transaction():
        await other.execute("select pg_current_xact_id()")
        state = await create(own)
        _, position = await told(feed, None, [state])
    async with own.acquire() as reader, reader.transaction():
        await reader.execute("select")
        state = await create(own)
        page = await held(feed, position, reader.get_server_pid())
    assert (await told(feed, page.position, [state]))[0] == [state]


async def test_what_is_told_at_the_next_look_is_not_caught_up(own: Pool) -> None:
    feed = feed_of(own)
    _, position = await told(feed, None, [await create(own)])
    made = [await create(own) for _ in range(3)]
    page = await feed.read_page(position)
    while page.states == []:  # what others do on the server holds nothing here
        assert not page.is_caught_up
        page = await feed.read_page(page.position)
    assert [state.id for state in page.states] == sorted(made, key=[state.id for state in page.states].index)
    assert page.is_caught_up


async def test_a_transaction_that_is_prepared_between_two_looks_holds_for_a_role_that_does_not_see_it() -> None:
    async with asyncio.timeout(LIMIT), server_with_prepared_transactions() as dsn, create_pool(dsn) as pool:
        await pool.execute(f"{PREFECT_TABLES}; create role reader; grant select on flow_run_state, artifact to reader")
        async with pool.acquire() as slow, pool.acquire() as connection:
            await connection.execute("set role reader")
            feed = feed_of(connection)
            await slow.execute("begin")
            late = await create(slow)
            _, position = await watched(feed, None)
            await slow.execute("prepare transaction 'two phases'")
            quick = await create(pool)
            found, position = await watched(feed, position)
            assert found == []
            await pool.execute("commit prepared 'two phases'")
            assert (await told(feed, position, [late, quick]))[0] == [late, quick]
            await connection.execute("reset role")


@pytest.mark.parametrize("tracked", ["never", "from the middle of the transaction on"])
async def test_a_session_without_tracked_activities_skips_nothing(own: Pool, tracked: str) -> None:
    feed = feed_of(own)
    async with own.acquire() as slow:
        await slow.execute("set track_activities = off")
        async with slow.transaction():
            await slow.execute("select" if tracked == "never" else "set track_activities = on")
            await slow.execute("select")
            quick = await create(own)
            _, begin = await watched(feed, None)
            late = await create(slow)
            page = await held(feed, begin, slow.get_server_pid())
        assert (await told(feed, page.position, [late, quick]))[0] == [late, quick]


async def test_at_a_kept_snapshot_it_is_refused_and_at_a_default_of_it_it_works(own: Pool, own_dsn: str) -> None:
    state = await create(own)
    for isolation in ISOLATION:
        async with own.acquire() as connection:
            feed = feed_of(connection)
            _, position = await told(feed, None, [state])
            async with connection.transaction(isolation=level(isolation)):
                await connection.execute("select")
                if isolation == "read committed":
                    await feed.read_page(position)
                else:
                    with pytest.raises(FlowStatesError, match="REPEATABLE READ"):
                        await feed.read_page(position)
        async with connected(own_dsn, server_settings={"default_transaction_isolation": isolation}) as connection:
            assert (await told(feed_of(connection), None, [state]))[0] == [state]


async def test_a_page_is_one_statement_and_the_first_of_all_two(own_dsn: str) -> None:
    kind, counts = counting()
    async with create_pool(own_dsn, connection_class=kind) as pool:
        await pool.execute(PREFECT_TABLES)
        counts.clear()
        feed = feed_of(pool)
        page = await feed.read_page()
        assert counts == {"now": 1, "read_page": 1}
        page = await feed.read_page(page.position)
        assert counts == {"now": 1, "read_page": 2}
        assert (page.states, page.is_caught_up, page.blocked_by) == ([], True, ())


async def test_a_position_that_the_servers_clock_has_not_come_to_is_refused(own: Pool) -> None:
    ahead = positions.PREFECTS_BEGINNING._replace(bound="2999-01-01T00:00:00+00:00")
    with pytest.raises(ForeignPositionError):
        await feed_of(own).read_page(positions.encode(ahead))


async def write(pool: Pool, dice: Random, until: asyncio.Event, stored: list[UUID]) -> None:
    """Transactions as Prefect's and others': they begin, wait, write with their own clock's time or with the default, and commit or do not."""
    async with pool.acquire() as connection:
        while not until.is_set():
            # SERIALIZABLE ones would undo each other.
            transaction = connection.transaction(isolation=level(dice.choice(ISOLATION[:2])))
            await transaction.start()
            made = []
            for _ in range(dice.randint(1, 3)):
                await asyncio.sleep(dice.random() * dice.choice((0.01, 0.01, 0.01, 4 * SLACK)))
                sent = datetime.now(UTC) if dice.random() < 0.5 else None
                async with connection.transaction():
                    made.append(await create(connection, sent=sent))
                undone = connection.transaction()
                await undone.start()
                await create(connection)
                await undone.rollback()
            if dice.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                stored += made


@pytest.mark.parametrize("sees", [True, False])
async def test_beside_random_writers_every_state_is_told_once(own: Pool, own_dsn: str, sees: bool) -> None:
    role = f"reader_{uuid4().hex[:12]}"
    await own.execute(f"create role {role}; grant select on flow_run_state, artifact to {role}")
    stored: list[UUID] = []
    found: list[UUID] = []
    until = asyncio.Event()
    async with connected(own_dsn) as connection, create_pool(own_dsn, max_size=8) as writers:
        if not sees:
            await connection.execute(f"set role {role}")
        # It is for the moment between the begin of a transaction and its report.
        feed, position = feed_of(connection, slack=SLACK), None
        tasks = [asyncio.create_task(write(writers, Random(seed), until, stored)) for seed in range(8)]
        while not until.is_set() or set(stored) - set(found):
            page = await feed.read_page(position, limit=7)
            found += [state.id for state in page.states]
            position = page.position
            if len(found) > 200 and not until.is_set():
                until.set()
                await asyncio.gather(*tasks)
            if not page.states:
                await asyncio.sleep(0.005)
        await connection.execute("reset role")
    assert Counter(found) == Counter(stored)
    rows = await own.fetch("select id from flow_run_state order by updated, id")
    assert found == [row["id"] for row in rows]
    await own.execute(f"drop owned by {role}; drop role {role}")


async def test_pages_tell_each_state_once(own: Pool) -> None:
    feed = feed_of(own)
    made = [await create(own) for _ in range(7)]
    assert (await told(feed, None, made, limit=2))[0] == made


async def test_states_of_one_moment_are_told_once(own: Pool) -> None:
    await create(own)
    await own.execute(
        "insert into flow_run_state (flow_run_id, type, name, timestamp)"
        " select id, 'RUNNING', 'x', now() - number * interval '1 s' from flow_run, generate_series(1, 9) as number"
    )
    ids = [row[0] for row in await own.fetch("select id from flow_run_state order by updated, id")]
    assert (await told(feed_of(own), None, ids, limit=2))[0] == ids


async def test_a_clock_that_is_behind_by_less_than_the_slack_skips_nothing(own: Pool) -> None:
    feed = FlowRunStateFeed(own, layout="prefect", clock_slack=1.0)
    first = await create(own)
    _, position = await told(feed, None, [first])
    behind = await create(own, ago=0.5)
    assert (await told(feed, position, [behind]))[0] == [behind]


async def test_what_is_older_than_the_slack_is_told_at_the_first_page_or_the_next(own: Pool) -> None:
    feed = FlowRunStateFeed(own, layout="prefect")
    old, new = await create(own, ago=60), await create(own)
    found, position = await told(feed, None, [old])
    assert found == [old]
    page = await feed.read_page(position)
    assert (page.states, page.is_caught_up) == ([], True)
    assert new not in found


async def test_a_filter_goes_by_what_it_lets_out(own: Pool) -> None:
    feed = feed_of(own)
    await create(own)
    failed = await create(own, type_="FAILED")
    await create(own)
    assert (await told(feed, None, [failed], filter=FlowRunStateFilter(types=["FAILED"])))[0] == [failed]


async def test_now_is_after_what_was_sent_before(own: Pool) -> None:
    feed = feed_of(own)
    await create(own)
    async with own.acquire() as slow, slow.transaction():
        early = await create(slow)
        now = await feed.now()
        late = await create(slow)
    after = await create(own)
    found, _ = await told(feed, now, [early, late, after])
    assert found == [*sorted([early, late]), after]  # two of one moment


async def test_it_can_be_followed(own: Pool) -> None:
    made = [await create(own) for _ in range(3)]
    found: list[UUID] = []
    async with feed_of(own).follow(poll=0.01) as pages:
        async for page in pages:
            found += [state.id for state in page.states]
            if found == made:
                break


async def test_what_takes_a_table_of_ours_is_refused(own: Pool) -> None:
    feed = FlowRunStateFeed(own, layout="prefect")
    with pytest.raises(ReadOnlyLayoutError):
        feed.consume("a", start="now")
    for call in (lambda: feed.positions(), lambda: feed.move("a", "now"), lambda: feed.forget("a")):
        with pytest.raises(ReadOnlyLayoutError):
            await call()


@pytest.mark.parametrize("slack", [-1, "5", True, float("nan"), float("inf"), None])
def test_a_slack_is_a_number_of_seconds(pool: Pool, slack: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateFeed(pool, layout="prefect", clock_slack=slack)
    assert caught.value.field == "clock_slack"


async def test_a_position_of_the_other_layout_is_refused(pool: Pool, own: Pool) -> None:
    for one, other in (
        (FlowRunStateFeed(pool), FlowRunStateFeed(own, layout="prefect")),
        (FlowRunStateFeed(own, layout="prefect"), FlowRunStateFeed(pool)),
    ):
        with pytest.raises(InvalidInputError, match="of this layout's feed"):
            await other.read_page(await one.now())
