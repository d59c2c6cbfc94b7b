"""On a connection that is the caller's, however the caller has set it up, the answers are those of a plain one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, cast
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import uuid_utils
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import FlowRunState, FlowRunStateFeed, FlowRunStateFilter, FlowRunStateRepository, StateDetails, create_pool, migrate
from flowstates.values import Layout
from tests.conftest import Connection
from tests.feeds import told
from tests.servers import POINT_AT_NEWEST, PREFECT_TABLES

SetUp: TypeAlias = Callable[[Connection], Awaitable[None]]

INDIA = ZoneInfo("Asia/Kolkata")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
DETAILS = '{"scheduled_time": "2024-03-05T12:00:00+05:30", "from_tomorrow": {"ключ": [1, null]}}'
MOMENTS = ["0001-01-02 00:00:00Z", "1900-01-01 00:00:00.000001Z", "2024-03-05 12:00:00Z", "2024-10-27 00:30:00.1Z", "9999-12-29 23:59:59.999999Z"]


class OtherUUID(UUID):
    """A UUID of a class of the caller's own."""


class OtherDatetime(datetime):
    """A datetime of a class of the caller's own, as pendulum has one."""


def only(type_: type, encoded: Callable[[Any], Any] = str) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        if type(value) is not type_:
            raise TypeError(f"wants a {type_.__name__}, not {value!r}")
        return encoded(value)

    return encode


def from_tuple(other: type[datetime], zone: Any) -> Callable[[Any], datetime]:
    def decode(value: tuple[int]) -> datetime:
        time = (EPOCH + timedelta(microseconds=value[0])).astimezone(zone)
        return other(*time.timetuple()[:6], time.microsecond, time.tzinfo, fold=time.fold)

    return decode


def codec(*names: str, encoder: Callable[[Any], Any], decoder: Callable[[Any], Any], format: str = "text") -> SetUp:
    async def set_up(connection: Connection) -> None:
        for name in names:
            await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format=format)

    return set_up


def setting(**settings: str) -> SetUp:
    async def set_up(connection: Connection) -> None:
        for name, value in settings.items():
            await connection.execute("select set_config($1, $2, false)", name, value)

    return set_up


def both(*set_ups: SetUp) -> SetUp:
    async def set_up(connection: Connection) -> None:
        for one in set_ups:
            await one(connection)

    return set_up


def to_tuple(value: datetime) -> tuple[int]:
    return ((value - EPOCH) // timedelta(microseconds=1),)


times_as_text = codec("timestamptz", encoder=only(str), decoder=str)
SET_UPS: dict[str, SetUp] = {
    "json_decoded": codec("json", "jsonb", encoder=json.dumps, decoder=json.loads),
    "json_as_something_else": codec("json", "jsonb", encoder=only(dict, json.dumps), decoder=lambda _: object()),
    "uuid_as_text": codec("uuid", encoder=only(str), decoder=str),
    "uuid_as_hex": codec("uuid", encoder=only(str), decoder=lambda value: UUID(value).hex),
    "uuid_of_a_subclass": codec("uuid", encoder=only(OtherUUID), decoder=OtherUUID),
    "uuid_of_another_library": codec("uuid", encoder=only(uuid_utils.UUID), decoder=uuid_utils.UUID),
    "times_as_text": times_as_text,
    "times_as_text_in_india": both(setting(timezone="Asia/Kolkata"), times_as_text),
    "times_as_text_in_new_york": both(setting(timezone="America/New_York"), times_as_text),
    "times_as_german_text": both(setting(timezone="Asia/Kolkata", datestyle="German"), times_as_text),
    "times_in_india": codec("timestamptz", encoder=to_tuple, decoder=from_tuple(datetime, INDIA), format="tuple"),
    "times_of_a_subclass": codec("timestamptz", encoder=to_tuple, decoder=from_tuple(OtherDatetime, UTC), format="tuple"),
    "times_as_seconds": codec("timestamptz", encoder=to_tuple, decoder=lambda value: value[0] // 10**6 + 946684800, format="tuple"),
    "india": setting(timezone="Asia/Kolkata"),
    "new_york": setting(timezone="America/New_York"),
    "kiritimati": setting(timezone="Pacific/Kiritimati"),
    "more_than_a_day_ahead": setting(timezone="<X>-25"),
    "german": setting(datestyle="German", timezone="Europe/Berlin"),
    "day_first": setting(datestyle="SQL, DMY", intervalstyle="sql_standard"),
    "odd_texts": setting(bytea_output="escape", extra_float_digits="-15", xmloption="document", standard_conforming_strings="off"),
    "repeatable_read": setting(default_transaction_isolation="repeatable read"),
    "serializable": setting(default_transaction_isolation="serializable"),
    "generic_plans": setting(plan_cache_mode="force_generic_plan"),
}
PROBE = """select '{"a": 1}'::jsonb as a, '{"a": 1}'::json as b, gen_random_uuid() as c, clock_timestamp() as d"""


async def look(connection: Connection) -> Any:
    """What a caller could notice of a connection: its settings, what its codecs make of values, its transaction."""
    settings = await connection.fetch(r"select name::text, setting::text from pg_settings where name !~ '^(transaction_|plpgsql\.)' order by name")
    types = [type(value) for value in (await connection.fetch(PROBE))[0].values()]
    return [tuple(row) for row in settings], types, connection.is_in_transaction(), connection.is_closed()


async def fill(connection: Connection, layout: Layout, run: UUID) -> None:
    """A history as another program may have stored it."""
    artifact = None
    if layout == "prefect":
        await connection.execute("insert into flow_run (id) values ($1)", run)
        artifact = await connection.fetchval("""insert into artifact (data) values ('{"a": "x\\u0000"}') returning id""")
    for number, moment in enumerate(MOMENTS, 1):
        await connection.execute(
            "insert into flow_run_state (created, flow_run_id, type, name, timestamp, state_details, data, result_artifact_id)"
            " values ($2::text::timestamptz, $1, 'RUNNING', '☃', $2::text::timestamptz, $3::text::jsonb, $4::text::jsonb, $5)",
            run,
            moment,
            DETAILS,
            '{"a": [1.5, null]}' if number % 2 else None,
            artifact,
        )
    await connection.execute(POINT_AT_NEWEST[layout], [run])


def assert_plain(states: list[FlowRunState]) -> None:
    for state in states:
        for time in (state.created, state.updated, state.timestamp):
            assert (type(time), time.utcoffset()) == (datetime, timedelta(0))
        assert state.state_details.scheduled_time is not None
        assert state.state_details.scheduled_time.isoformat() == "2024-03-05T12:00:00+05:30"
        for id_ in (state.id, state.flow_run_id):
            assert isinstance(id_, UUID)


async def assert_same_answers(plain: Connection, borrowed: Connection, layout: Layout) -> None:
    run = uuid4()
    await fill(plain, layout, run)
    theirs, ours = FlowRunStateRepository(plain, layout=layout), FlowRunStateRepository(borrowed, layout=layout)
    before = await look(borrowed)
    expected = await theirs.read_flow_run_states(run)
    assert [state.timestamp for state in expected] == [datetime.fromisoformat(moment) for moment in MOMENTS]
    for _ in range(6):  # from the sixth on the server may use a generic plan
        assert await ours.read_flow_run_states(run) == expected
    assert [await ours.read_flow_run_state(state.id) for state in expected] == expected
    assert await ours.read_flow_run_state(run) is None
    assert_plain(await ours.read_flow_run_states(run))
    if layout == "flowstates":
        given: dict[str, Any] = {"timestamp": datetime(1, 1, 2, tzinfo=UTC), "data": {"a": "☃"}, "state_details": json.loads(DETAILS)}
        created = [await ours.create_flow_run_state(uuid4(), "PAUSED", **given), await ours.create_flow_run_state(run, "PAUSED", **given)]
        assert [await theirs.read_flow_run_state(state.id) for state in created] == created
        assert [state.timestamp for state in created] == [given["timestamp"], expected[-1].timestamp + timedelta(microseconds=1)]
        assert created[0].state_details == StateDetails.model_validate(given["state_details"])
        assert_plain(created)
        now = await ours.create_flow_run_state(uuid4(), "RUNNING")
        assert abs(now.timestamp - await plain.fetchval("select clock_timestamp()")) < timedelta(seconds=5)
        expected.append(created[1])
    assert await ours.delete_flow_run_state(expected[0].id) is True
    assert await ours.delete_flow_run_state(expected[0].id) is False
    assert await theirs.read_flow_run_states(run) == expected[1:]
    assert await look(borrowed) == before


async def assert_same_feed(plain: Connection, borrowed: Connection, layout: Layout) -> None:
    run = uuid4()
    theirs, ours = (FlowRunStateFeed(connection, layout=layout, clock_slack=0) for connection in (plain, borrowed))
    begin = await theirs.now()
    await fill(plain, layout, run)
    history = await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run)
    of_run, ids = FlowRunStateFilter(flow_run_ids=[run]), {state.id for state in history}
    before = await look(borrowed)
    expected, end = await told(theirs, begin, ids, filter=of_run)
    assert set(expected) == ids
    # Page by page, with a filter and without, from the same place to the same end.
    for filter in (of_run, None):
        found, position = await told(ours, begin, ids, filter=filter, limit=2)
        assert [id_ for id_ in found if id_ in ids] == expected
        assert (await theirs.read_page(position, filter=of_run)).states == []
    assert (await ours.read_page(end, filter=of_run)).states == []
    assert (await ours.read_page(await ours.now(), filter=of_run)).states == []
    states, after = list[FlowRunState](), begin
    while len(states) < len(history):
        page = await ours.read_page(after, filter=of_run)
        states, after = states + page.states, page.position
    assert sorted(states, key=lambda state: state.timestamp) == history
    assert_plain(states)
    if layout == "flowstates":
        async with ours.consume(f"borrowed {run}", start=begin, filter=of_run) as batch:
            assert (batch.states, batch.is_taken) == (states, False)
        (one,), (same,) = [[one for one in await feed.positions() if one.name == f"borrowed {run}"] for feed in (ours, theirs)]
        assert (one.position, one.updated, type(one.updated), one.updated.utcoffset()) == (batch.position, same.updated, datetime, timedelta(0))
        assert abs(one.updated - await plain.fetchval("select clock_timestamp()")) < timedelta(hours=1)
        assert await ours.move(one.name, begin, expected=batch.position)
        assert not await ours.move(one.name, "now", expected=batch.position)
        async with ours.consume(one.name, skip_locked=True, filter=of_run) as batch:
            assert batch.states == states
        assert await ours.forget(one.name)
    assert await look(borrowed) == before


@pytest.fixture(params=["flowstates", "prefect"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return cast("Layout", request.param)


@asynccontextmanager
async def connected(dsn: str, **options: Any) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn, **options)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("set_up", SET_UPS)
async def test_the_answers_are_those_of_a_plain_connection(layout_dsns: dict[Layout, str], layout: Layout, set_up: str) -> None:
    async with connected(layout_dsns[layout]) as plain, connected(layout_dsns[layout]) as borrowed:
        await SET_UPS[set_up](borrowed)
        await assert_same_answers(plain, borrowed, layout)


@pytest.mark.parametrize("set_up", SET_UPS)
async def test_a_feed_is_that_of_a_plain_connection(layout_dsns: dict[Layout, str], layout: Layout, set_up: str) -> None:
    async with connected(layout_dsns[layout]) as plain, connected(layout_dsns[layout]) as borrowed:
        await SET_UPS[set_up](borrowed)
        await assert_same_feed(plain, borrowed, layout)


async def test_no_statement_cache_is_needed(layout_dsns: dict[Layout, str], layout: Layout) -> None:
    async with connected(layout_dsns[layout]) as plain, connected(layout_dsns[layout], statement_cache_size=0) as borrowed:
        await assert_same_answers(plain, borrowed, layout)
        await assert_same_feed(plain, borrowed, layout)


async def test_the_first_schema_of_the_search_path_is_the_one(own_dsn: str, layout: Layout) -> None:
    async with connected(own_dsn) as connection:
        await connection.execute("create schema first; create schema later; set search_path = later")
        await connection.execute("create type state_type as enum ('OTHER'); create table artifact (id text); create table flow_run_state (id text)")
        await connection.execute("set search_path = first")
        if layout == "prefect":
            await connection.execute(PREFECT_TABLES)
        else:
            await migrate(connection)
    path = {"server_settings": {"search_path": "first, later"}}
    async with connected(own_dsn, server_settings={"search_path": "first"}) as plain, connected(own_dsn, **path) as borrowed:
        await assert_same_answers(plain, borrowed, layout)
        await assert_same_feed(plain, borrowed, layout)


@pytest.mark.parametrize("begun", [False, True])
async def test_the_connection_inside_a_session_of_sqlalchemy_serves(layout_dsns: dict[Layout, str], layout: Layout, begun: bool) -> None:
    dsn = layout_dsns[layout]
    engine = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:", 1))
    async with connected(dsn) as plain, AsyncSession(engine) as session:
        connection = (await (await session.connection()).get_raw_connection()).driver_connection
        assert isinstance(connection, asyncpg.Connection)
        if begun:
            run = uuid4()
            await fill(plain, layout, run)
            (state, *_) = history = await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run)
            await session.execute(text("select 1"))
            assert connection.is_in_transaction()
            assert await FlowRunStateRepository(connection, layout=layout).delete_flow_run_state(state.id) is True
            rest = await session.execute(text("select count(*) from flow_run_state where flow_run_id = :run"), {"run": run})
            assert rest.scalar_one() == len(history) - 1
            await session.rollback()
            assert await FlowRunStateRepository(plain, layout=layout).read_flow_run_states(run) == history
        else:
            assert not connection.is_in_transaction()
            await assert_same_answers(plain, connection, layout)
            await assert_same_feed(plain, connection, layout)
    await engine.dispose()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_writers_at_once_all_succeed_at_any_isolation_that_is_the_default(dsn: str, isolation: str) -> None:
    async with create_pool(dsn, max_size=8, init=setting(default_transaction_isolation=isolation)) as pool:
        states, run = FlowRunStateRepository(pool), uuid4()
        created = await asyncio.gather(*(states.create_flow_run_state(run, "RUNNING") for _ in range(20)))
        await asyncio.gather(*(states.create_flow_run_state(uuid4(), "RUNNING") for _ in range(20)))
        history = await states.read_flow_run_states(run)
    assert history == sorted(created, key=lambda state: state.timestamp)


async def test_a_batch_inside_a_session_of_sqlalchemy_is_undone_and_committed_with_it(own_database: str) -> None:
    engine = create_async_engine(own_database.replace("postgresql:", "postgresql+asyncpg:", 1))
    async with connected(own_database) as plain:
        await plain.execute("create table effect (state_id uuid not null)")
        feed, state = FlowRunStateFeed(plain), await FlowRunStateRepository(plain).create_flow_run_state(uuid4(), "RUNNING")
        await told(feed, None, [state.id])
        await feed.move("billing", "beginning")
        for is_undone in (True, False):
            async with AsyncSession(engine) as session:
                await session.execute(text("select 1"))
                connection = (await (await session.connection()).get_raw_connection()).driver_connection
                assert isinstance(connection, asyncpg.Connection)
                async with FlowRunStateFeed(connection).consume("billing") as batch:
                    assert [one.id for one in batch.states] == [state.id]
                    await session.execute(text("insert into effect values (:id)"), {"id": state.id})
                assert await plain.fetchval("select count(*) from effect") == 0
                await (session.rollback() if is_undone else session.commit())
        assert [row[0] for row in await plain.fetch("select state_id from effect")] == [state.id]
        assert [one.states for one in await feed.positions()] == [0]
    await engine.dispose()


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_in_a_read_only_transaction_of_the_callers_a_feed_is_read_and_no_consumer_is_moved(dsn: str, isolation: Any, deferrable: bool) -> None:
    async with connected(dsn) as plain, connected(dsn) as connection:
        state = await FlowRunStateRepository(plain).create_flow_run_state(uuid4(), "RUNNING")
        only, feed = FlowRunStateFilter(ids=[state.id]), FlowRunStateFeed(connection)
        await told(FlowRunStateFeed(plain), None, [state.id], filter=only)
        async with connection.transaction(isolation=isolation, readonly=True, deferrable=deferrable):
            found, _ = await told(feed, None, [state.id], filter=only)
            assert found == [state.id]
            await feed.read_page(await feed.now())
            await feed.positions()
            async with feed.follow(filter=only, poll=0.01) as pages:
                assert (await anext(pages)).states == [state]
            for write in (
                lambda: feed.move("nobody", "now"),
                lambda: feed.forget("nobody"),
                lambda: feed.consume("nobody", start="now").__aenter__(),
            ):
                savepoint = connection.transaction()
                await savepoint.start()
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                    await write()
                assert "read only" in caught.value.__notes__[0]
                await savepoint.rollback()
            # What was refused has left the transaction as it was.
            assert (await feed.read_page(filter=only)).states == [state]
    assert not connection.is_in_transaction()


@pytest.mark.parametrize("setting_", ["default_transaction_read_only", "default_transaction_deferrable"])
async def test_with_a_read_only_default_a_feed_is_read_and_who_consumes_is_told(dsn: str, setting_: str) -> None:
    async with connected(dsn) as plain, connected(dsn, server_settings={setting_: "on"}) as connection:
        feed, name = FlowRunStateFeed(connection), f"read only {uuid4()}"
        assert (await feed.read_page(await feed.now())).states == []
        if setting_ == "default_transaction_deferrable":
            async with feed.consume(name, start="now"):
                pass
        else:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                async with feed.consume(name, start="now"):
                    pass
            assert "read only" in caught.value.__notes__[0]
            assert not connection.is_in_transaction()
        assert await FlowRunStateFeed(plain).forget(name) is (setting_ == "default_transaction_deferrable")
