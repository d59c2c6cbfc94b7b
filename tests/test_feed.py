"""Pages of a feed: in which order states are told, what holds them, and how far a page goes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunState,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowStatesError,
    ForeignPositionError,
    InvalidInputError,
    NewFlowRunState,
    StateType,
    create_pool,
    embedded_postgres,
    migrate,
)
from flowstates.engine import positions
from flowstates.engine.positions import Position
from tests.conftest import Connection, Pool
from tests.faults import folder_for_a_server
from tests.feeds import held, told
from tests.servers import create_database, drop_database
from tests.standby import version_for_tests
from tests.statements import counting
from tests.stored import wrong_rows
from tests.test_borrowed import connected
from tests.writers import ISOLATION, level

pytestmark = pytest.mark.server

PENDING, RUNNING, COMPLETED = StateType.PENDING, StateType.RUNNING, StateType.COMPLETED
LIMIT = 200  # seconds, for what would never end


@pytest.fixture
async def own(own_database: str) -> AsyncIterator[Pool]:
    async with asyncio.timeout(LIMIT), create_pool(own_database) as pool:
        yield pool


async def transactions(pool: Pool) -> dict[UUID, int]:
    return {row["id"]: int(row["number"]) for row in await pool.fetch("select id, transaction::text as number from flow_run_state")}


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_state_that_commits_late_is_told_and_holds_those_behind_it(own: Pool, isolation: str) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    first = await states.create_flow_run_state(uuid4(), PENDING)
    _, begin = await told(feed, None, [first.id])
    async with own.acquire() as slow:
        async with slow.transaction(isolation=level(isolation)):
            late = await FlowRunStateRepository(slow).create_flow_run_state(uuid4(), PENDING)
            quick = await states.create_flow_run_state(uuid4(), PENDING)
            pid = slow.get_server_pid()
            page = await held(feed, begin, pid)
            assert page.is_caught_up
            assert page.position == begin
            (blocker,) = [blocker for blocker in page.blocked_by if blocker.pid == pid]
            assert blocker.database == await own.fetchval("select current_database()::text")
            assert not blocker.is_prepared
            assert blocker.age is not None
            assert blocker.age >= timedelta(0)
        assert (await told(feed, begin, [late.id, quick.id]))[0] == [late.id, quick.id]


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_run_is_told_in_its_own_order_by_a_writer_with_an_early_number(own: Pool, isolation: str) -> None:
    feed, states, run = FlowRunStateFeed(own), FlowRunStateRepository(own), uuid4()
    async with own.acquire() as slow, slow.transaction(isolation=level(isolation)):
        if isolation == "read committed":
            await slow.execute("select pg_current_xact_id()")
        before = [await states.create_flow_run_state(run, PENDING), await states.create_flow_run_state(run, RUNNING)]
        last = await FlowRunStateRepository(slow).create_flow_run_state(run, COMPLETED)
    expected = [*(state.id for state in before), last.id]
    assert (await told(feed, None, expected))[0] == expected


async def test_a_backfilled_state_is_told_when_it_came(own: Pool) -> None:
    feed, states, run = FlowRunStateFeed(own), FlowRunStateRepository(own), uuid4()
    last = await states.create_flow_run_state(run, RUNNING)
    ids = [last.id]
    _, position = await told(feed, None, ids)
    earlier = NewFlowRunState(flow_run_id=run, type=PENDING, id=uuid4(), timestamp=last.timestamp - timedelta(days=1))
    await states.create_flow_run_states([earlier])
    assert earlier.id is not None
    assert (await told(feed, position, [earlier.id]))[0] == [earlier.id]


async def test_what_is_rolled_back_is_not_told_and_savepoints_hold_nothing_back(own: Pool) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    async with own.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), PENDING)
        await undone.rollback()
        async with connection.transaction():
            inside = FlowRunStateRepository(connection)
            first = await inside.create_flow_run_state(uuid4(), PENDING)
            savepoint = connection.transaction()
            await savepoint.start()
            await inside.create_flow_run_state(uuid4(), PENDING)
            await savepoint.rollback()
            async with connection.transaction():
                second = await inside.create_flow_run_state(uuid4(), PENDING)
    third = await states.create_flow_run_state(uuid4(), PENDING)
    assert (await told(feed, None, [third.id]))[0] == [first.id, second.id, third.id]
    assert len(set((await transactions(own)).values())) == 2  # a savepoint is of its transaction


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10_000])
async def test_pages_tell_each_state_once_in_order(own: Pool, limit: int) -> None:
    states, run = FlowRunStateRepository(own), uuid4()
    await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type=PENDING) for _ in range(4)])
    for _ in range(3):
        await states.create_flow_run_state(uuid4(), RUNNING)
    numbers = await transactions(own)
    stored = [
        state
        for run in {row[0] for row in await own.fetch("select flow_run_id from flow_run_state")}
        for state in await states.read_flow_run_states(run)
    ]
    expected = sorted(stored, key=lambda state: (numbers[state.id], state.timestamp, state.id))
    feed = FlowRunStateFeed(own)
    await told(feed, None, numbers)  # nobody holds it any more
    found: list[FlowRunState] = []
    position, is_caught_up = None, False
    while not is_caught_up:
        page = await feed.read_page(position, limit=limit)
        assert len(page.states) <= limit
        assert page.is_caught_up or len(page.states) == limit
        found += page.states
        position, is_caught_up = page.position, page.is_caught_up
    assert found == expected
    empty = await feed.read_page(position, limit=limit)
    assert empty == ([], position, True, ())


async def test_a_position_is_good_for_any_filter_and_goes_by_what_a_filter_lets_out(own: Pool) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    made = [await states.create_flow_run_state(uuid4(), type_) for type_ in (PENDING, RUNNING, PENDING, RUNNING, PENDING)]
    await told(feed, None, [state.id for state in made])
    page = await feed.read_page(filter=FlowRunStateFilter(types=("RUNNING",)), limit=1)
    assert (page.states, page.is_caught_up) == ([made[1]], False)
    assert (await feed.read_page(page.position)).states == made[2:]
    page = await feed.read_page(page.position, filter=FlowRunStateFilter(types=("RUNNING",)), limit=1)
    assert (page.states, page.is_caught_up) == ([made[3]], True)
    page = await feed.read_page(page.position, filter=FlowRunStateFilter(types=("RUNNING",)))
    assert (page.states, page.is_caught_up) == ([], True)
    assert (await feed.read_page(page.position)).states == []


async def test_a_rare_state_is_looked_for_in_a_bounded_part_of_the_feed(own: Pool) -> None:
    insert = (
        "insert into flow_run_state (type, name, flow_run_id, timestamp)"
        " select 'PENDING', 'Pending', $1, now() + number * interval '1 s' from generate_series(1, $2) as number"
    )
    await own.execute(insert, uuid4(), 10_500)
    last = uuid4()
    await own.execute("insert into flow_run_state (id, type, name, flow_run_id) values ($1, 'FAILED', 'Failed', $2)", last, uuid4())
    feed, filter = FlowRunStateFeed(own), FlowRunStateFilter(types=("FAILED",))
    await told(feed, None, [last], limit=10_000)
    page = await feed.read_page(filter=filter)
    assert (page.states, page.is_caught_up) == ([], False)
    page = await feed.read_page(page.position, filter=filter)
    assert ([state.id for state in page.states], page.is_caught_up) == ([last], True)


async def test_now_is_after_what_was_told_and_before_what_is_open(own: Pool) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    before = await states.create_flow_run_state(uuid4(), PENDING)
    await told(feed, None, [before.id])
    async with own.acquire() as slow, slow.transaction():
        late = await FlowRunStateRepository(slow).create_flow_run_state(uuid4(), PENDING)
        now = await feed.now()
    after = await states.create_flow_run_state(uuid4(), PENDING)
    assert (await told(feed, now, [after.id]))[0] == [late.id, after.id]
    assert (await feed.read_page(await feed.now())).states == []


async def test_at_a_kept_snapshot_the_feed_stands_still_and_own_states_wait_for_the_commit(own: Pool) -> None:
    states = FlowRunStateRepository(own)
    first = await states.create_flow_run_state(uuid4(), PENDING)
    await told(FlowRunStateFeed(own), None, [first.id])
    for isolation in ISOLATION:
        async with own.acquire() as connection:
            feed = FlowRunStateFeed(connection)
            async with connection.transaction(isolation=level(isolation)):
                page = await feed.read_page()
                newer = await states.create_flow_run_state(uuid4(), PENDING)
                mine = await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), PENDING)
                if isolation != "read committed":
                    assert await feed.read_page(page.position) == ([], page.position, True, ())
                    # A newer position is no other cluster's.
                    await feed.read_page(await FlowRunStateFeed(own).now())
                assert mine.id not in [state.id for state in (await feed.read_page(page.position)).states]
            assert (await told(feed, page.position, [newer.id, mine.id]))[0] == [newer.id, mine.id]


async def test_who_only_reads_holds_nothing(own: Pool) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    async with own.acquire() as reader, reader.transaction(isolation="repeatable_read"):
        await FlowRunStateRepository(reader).count_flow_run_states()
        state = await states.create_flow_run_state(uuid4(), PENDING)
        assert (await told(feed, None, [state.id]))[0] == [state.id]


async def test_a_transaction_on_another_database_holds_and_is_named(own: Pool, server_dsn: str) -> None:
    feed, states = FlowRunStateFeed(own), FlowRunStateRepository(own)
    other = await create_database(server_dsn)
    try:
        async with connected(other) as slow, slow.transaction():
            await slow.execute("set application_name = 'nightly'; create table holding ()")
            state = await states.create_flow_run_state(uuid4(), PENDING)
            page = await held(feed, None, slow.get_server_pid())
            blocker = next(blocker for blocker in page.blocked_by if blocker.pid == slow.get_server_pid())
            assert (blocker.database, blocker.application_name) == (urlsplit(other).path[1:], "nightly")
        assert (await told(feed, None, [state.id]))[0] == [state.id]
    finally:
        await drop_database(server_dsn, other)


async def test_a_role_that_may_not_see_others_is_told_who_but_not_for_how_long(own: Pool) -> None:
    role = f"reader_{uuid4().hex[:12]}"
    await own.execute(f"create role {role}; grant select on flow_run_state, flowstates_pruned to {role}")
    async with own.acquire() as slow, own.acquire() as connection:
        await connection.execute(f"set role {role}")
        async with slow.transaction():
            await FlowRunStateRepository(slow).create_flow_run_state(uuid4(), PENDING)
            await FlowRunStateRepository(own).create_flow_run_state(uuid4(), PENDING)
            page = await held(FlowRunStateFeed(connection), None, slow.get_server_pid())
            assert [blocker.age for blocker in page.blocked_by if blocker.pid == slow.get_server_pid()] == [None]
        await connection.execute("reset role")
    await own.execute(f"drop owned by {role}; drop role {role}")


@asynccontextmanager
async def server_with_prepared_transactions() -> AsyncIterator[str]:
    with folder_for_a_server() as folder:
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            async with connected(dsn) as connection:
                await connection.execute("alter system set max_prepared_transactions = 5")
        with embedded_postgres(folder, version=version_for_tests()) as dsn:
            yield dsn


async def test_a_prepared_transaction_holds_and_is_named() -> None:
    async with asyncio.timeout(LIMIT), server_with_prepared_transactions() as dsn, create_pool(dsn) as pool:
        await migrate(pool)
        feed, states = FlowRunStateFeed(pool), FlowRunStateRepository(pool)
        async with pool.acquire() as connection:
            await connection.execute("begin")
            late = await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), PENDING)
            await connection.execute("prepare transaction 'two phases'")
        quick = await states.create_flow_run_state(uuid4(), PENDING)
        (blocker,) = (await held(feed, None, None)).blocked_by
        assert (blocker.pid, blocker.is_prepared, blocker.gid, blocker.application_name) == (None, True, "two phases", None)
        await pool.execute("commit prepared 'two phases'")
        assert (await told(feed, None, [late.id, quick.id]))[0] == [late.id, quick.id]


async def test_a_page_is_one_statement_and_what_holds_it_a_second(own_database: str) -> None:
    kind, counts = counting()
    async with create_pool(own_database, connection_class=kind) as pool:
        feed, states = FlowRunStateFeed(pool), FlowRunStateRepository(pool)
        page = await feed.read_page()
        assert (page.states, page.is_caught_up) == ([], True)
        assert counts["read_page"] == 1
        first = await states.create_flow_run_state(uuid4(), PENDING)
        _, after = await told(feed, None, [first.id])
        counts.clear()
        async with pool.acquire() as slow, slow.transaction():
            await slow.execute("select pg_current_xact_id()")
            # It holds nothing, as there is nothing to tell.
            assert (await feed.read_page(after)).blocked_by == ()
            await states.create_flow_run_state(uuid4(), PENDING)
            before = counts["read_page.blocked"]
            assert (await feed.read_page(after)).blocked_by
            assert (counts["read_page.next"], counts["read_page.blocked"], counts["read_page"]) == (2, before + 1, 0)
            # With a filter, at the beginning, and before it is known what is there, it is another statement.
            await feed.read_page(after, filter=FlowRunStateFilter(types=("FAILED",)))
            await feed.read_page()
            await FlowRunStateFeed(pool).read_page(after)
            assert counts["read_page"] == 3


async def foreign(pool: Pool, *, ahead: int) -> tuple[UUID, UUID]:
    """A run of two states, as a dump brings them from a cluster that has come further."""
    states, run = FlowRunStateRepository(pool), uuid4()
    first = await states.create_flow_run_state(run, PENDING)
    last = await states.create_flow_run_state(run, RUNNING)
    move = f"set transaction = (transaction::text::bigint + {ahead})::text::xid8"
    await pool.execute(f"update flow_run_state {move}; update flow_run {move}")
    return first.id, last.id


async def test_states_of_a_cluster_that_has_come_further_are_an_error_with_its_cure(own: Pool) -> None:
    ids = await foreign(own, ahead=10**9)
    with pytest.raises(ForeignPositionError, match="restore") as caught:
        await FlowRunStateFeed(own).read_page()
    assert caught.value.position is None
    assert caught.value.mend is not None
    await own.execute(caught.value.mend)
    assert await wrong_rows(own) == []
    assert (await told(FlowRunStateFeed(own), None, ids))[0] == list(ids)


async def test_own_states_that_are_not_committed_are_not_foreign(own: Pool) -> None:
    for isolation in ISOLATION:
        async with own.acquire() as connection, connection.transaction(isolation=level(isolation)):
            await connection.fetchval("select age('100'::xid)")  # what the server then keeps for the next number
            await FlowRunStateRepository(own).create_flow_run_state(uuid4(), PENDING)
            await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), PENDING)
            await FlowRunStateFeed(connection).read_page()


async def test_a_position_of_another_cluster_is_refused(own: Pool) -> None:
    feed = FlowRunStateFeed(own)
    number = int(await own.fetchval("select pg_current_xact_id()::text"))
    await feed.read_page(await feed.now())
    position = positions.encode(positions.before(str(number + 10**9)))
    with pytest.raises(ForeignPositionError, match="another cluster") as caught:
        await feed.read_page(position)
    assert (caught.value.position, caught.value.mend) == (position, None)


async def test_a_copy_by_logical_replication_is_refused_by_name(own: Pool) -> None:
    subscription = f"copy_{uuid4().hex[:12]}"
    await own.execute(f"create subscription {subscription} connection 'dbname=none' publication none with (connect = false, slot_name = none)")
    await FlowRunStateFeed(own).read_page()
    oid = await own.fetchval("select oid from pg_subscription where subname = $1", subscription)
    await own.execute(
        "set allow_system_table_mods = on; insert into pg_subscription_rel values ($1, 'flow_run_state'::regclass, 'r', null)".replace("$1", str(oid))
    )
    try:
        with pytest.raises(FlowStatesError, match="subscription's copy"):
            await FlowRunStateFeed(own).read_page()
    finally:
        await own.execute(f"drop subscription {subscription}")


async def test_a_database_with_citus_is_refused_by_name(own: Pool) -> None:
    insert = "insert into pg_extension select 9999, 'citus', extowner, extnamespace, false, extversion from pg_extension limit 1"
    async with own.acquire() as connection, connection.transaction():
        await connection.execute("set local allow_system_table_mods = on")
        await connection.execute(insert)
        with pytest.raises(FlowStatesError, match="Citus"):
            await FlowRunStateFeed(connection).read_page()
        await connection.execute("delete from pg_extension where extname = 'citus'")


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("after", lambda feed: feed.read_page("x")),
        ("after", lambda feed: feed.read_page("")),
        ("after", lambda feed: feed.read_page(5)),
        ("after", lambda feed: feed.read_page(b"x")),
        ("after", lambda feed: feed.read_page("W10")),
        ("limit", lambda feed: feed.read_page(limit=0)),
        ("limit", lambda feed: feed.read_page(limit=10_001)),
        ("limit", lambda feed: feed.read_page(limit=True)),
        ("limit", lambda feed: feed.read_page(limit="5")),
        ("filter", lambda feed: feed.read_page(filter="FAILED")),
        ("filter.current", lambda feed: feed.read_page(filter=FlowRunStateFilter(current=True))),
        ("timeout", lambda feed: feed.read_page(timeout="5")),
        ("timeout", lambda feed: feed.now(timeout="5")),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(pool: Pool, field: str, ask: Callable[[FlowRunStateFeed], Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await ask(FlowRunStateFeed(pool))
    assert caught.value.field == field


async def test_a_position_that_was_changed_is_refused() -> None:
    text = positions.encode(positions.before("700"))
    assert re.fullmatch(r"[\w-]+", text)
    assert positions.decode("after", text, Position) == positions.before("700")
    for place in range(len(text)):
        with pytest.raises(InvalidInputError):
            positions.decode("after", text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :], Position)


async def test_on_a_connection_whose_settings_are_its_own(own_database: str) -> None:
    settings = {"TimeZone": "Asia/Kathmandu", "DateStyle": "German", "default_transaction_isolation": "serializable"}
    connection: Connection = await asyncpg.connect(own_database, server_settings=settings)
    state = await FlowRunStateRepository(connection).create_flow_run_state(uuid4(), PENDING)
    feed = FlowRunStateFeed(connection)
    _, position = await told(feed, None, [state.id])
    assert (await feed.read_page()).states == [state]
    assert (await feed.read_page(position)).states == []
    await connection.close()
