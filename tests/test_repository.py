from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import (
    FlowRunState,
    FlowRunStateConflictError,
    FlowRunStateRepository,
    InvalidInputError,
    ReadOnlyLayoutError,
    StateDetails,
    StateType,
    UnreadableRowError,
    create_pool,
    migrate,
)
from flowstates.values import Layout
from tests.conftest import Connection, Pool
from tests.servers import PREFECT_TABLES

MICROSECOND = timedelta(microseconds=1)
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)


async def insert(
    to: Pool | Connection, layout: Layout, run: UUID, *, second: int = 0, data: str | None = None, artifact: UUID | None = None, **odd: Any
) -> UUID:
    """Stores a state as another program may; `odd` are columns as texts."""
    if layout == "prefect":
        await to.execute("insert into flow_run (id) values ($1) on conflict do nothing", run)
    values = {"created": "2024-03-05Z", "type": "RUNNING", "timestamp": str(NOON + timedelta(seconds=second)), "state_details": "{}"} | odd
    types = ("timestamptz", "state_type", "timestamptz", "jsonb")
    places = ", ".join(f"${number}::text::{type_}" for number, type_ in enumerate(types, 4))
    sql = f"insert into flow_run_state (flow_run_id, name, data, result_artifact_id, {', '.join(list(values)[:4])})"
    sql += f" values ($1, 'odd', $2::text::jsonb, $3, {places}) returning id"
    state = await to.fetchval(sql, run, data, artifact, *list(values.values())[:4])
    assert isinstance(state, UUID)
    if "updated" in odd:
        await to.execute("update flow_run_state set updated = $2::text::timestamptz where id = $1", state, odd["updated"])
    return state


@dataclass(frozen=True)
class Case:
    layout: Layout
    pool: Pool

    def on(self, pool_or_connection: Any) -> FlowRunStateRepository:
        return FlowRunStateRepository(pool_or_connection, layout=self.layout)

    @property
    def states(self) -> FlowRunStateRepository:
        return self.on(self.pool)

    async def insert(self, run: UUID, **values: Any) -> UUID:
        return await insert(self.pool, self.layout, run, **values)


@pytest.fixture(params=["flowstates", "prefect"])
def case(request: pytest.FixtureRequest, pool: Pool, prefect_pool: Pool) -> Case:
    return Case(request.param, pool if request.param == "flowstates" else prefect_pool)


@pytest.fixture
def states(pool: Pool) -> FlowRunStateRepository:
    return FlowRunStateRepository(pool)


async def test_a_state_is_read_by_its_id_and_an_unknown_one_is_none(case: Case) -> None:
    run = uuid4()
    state = await case.insert(run, data='{"a": [1, null]}')
    read = await case.states.read_flow_run_state(state)
    assert read is not None
    assert (read.id, read.flow_run_id, read.type, read.name) == (state, run, StateType.RUNNING, "odd")
    assert (read.timestamp, read.state_details, read.data) == (NOON, StateDetails(), {"a": [1, None]})
    assert await case.states.read_flow_run_state(run) is None


async def test_a_history_is_read_oldest_first_and_an_unknown_one_is_empty(case: Case) -> None:
    run = uuid4()
    ids = {second: await case.insert(run, second=second) for second in (5, -3, 0, 86400, 1)}
    await case.insert(uuid4())
    history = await case.states.read_flow_run_states(run)
    assert [state.id for state in history] == [ids[second] for second in sorted(ids)]
    assert await case.states.read_flow_run_states(uuid4()) == []


async def test_the_second_delete_finds_nothing_and_the_rest_of_the_history_stays(case: Case) -> None:
    run = uuid4()
    first, second = await case.insert(run), await case.insert(run, second=1)
    assert await case.states.delete_flow_run_state(second) is True
    assert await case.states.delete_flow_run_state(second) is False
    assert await case.states.delete_flow_run_state(run) is False
    assert [state.id for state in await case.states.read_flow_run_states(run)] == [first]


async def test_a_delete_belongs_to_the_callers_transaction_and_its_savepoints(case: Case) -> None:
    run = uuid4()
    kept, gone = await case.insert(run), await case.insert(run, second=1)
    async with case.pool.acquire() as connection:
        outer = connection.transaction()
        await outer.start()
        assert await case.on(connection).delete_flow_run_state(gone) is True
        inner = connection.transaction()
        await inner.start()
        assert await case.on(connection).delete_flow_run_state(kept) is True
        assert await case.on(connection).read_flow_run_states(run) == []
        await inner.rollback()
        assert [state.id for state in await case.on(connection).read_flow_run_states(run)] == [kept]
        assert len(await case.states.read_flow_run_states(run)) == 2
        await outer.rollback()
    assert [state.id for state in await case.states.read_flow_run_states(run)] == [kept, gone]


async def test_deleting_the_current_state_of_a_prefect_run_leaves_the_run(prefect_pool: Pool) -> None:
    run = uuid4()
    state = await insert(prefect_pool, "prefect", run)
    await prefect_pool.execute("update flow_run set state_id = $2, state_name = 'Running' where id = $1", run, state)
    assert await FlowRunStateRepository(prefect_pool, layout="prefect").delete_flow_run_state(state) is True
    assert tuple(await prefect_pool.fetchrow("select state_id, state_name from flow_run where id = $1", run) or ()) == (None, "Running")


async def test_an_id_may_be_given_as_any_text_of_a_uuid(case: Case) -> None:
    run = uuid4()
    state = await case.insert(run)
    for text in (str, lambda id_: str(id_).upper(), lambda id_: f"{{{id_}}}", lambda id_: id_.hex):
        read = await case.states.read_flow_run_state(text(state))
        assert await case.states.read_flow_run_states(text(run)) == [read]
    assert await case.states.delete_flow_run_state(f"{{{state}}}".upper()) is True


class Silent:
    """A connection that nothing may be sent to."""

    async def fetch(self, *_: Any) -> Any:
        raise AssertionError("something was sent")

    fetchval = fetchrow = execute = fetch


@pytest.mark.parametrize("wrong", ["", "no uuid", "\0", "\ud800", 5, None, b"0" * 16])
async def test_an_id_that_is_no_uuid_is_refused_before_anything_is_sent(wrong: Any) -> None:
    for layout in ("flowstates", "prefect"):
        silent: Any = Silent()
        states = FlowRunStateRepository(silent, layout=layout)
        calls = [(states.read_flow_run_state, "flow_run_state_id"), (states.read_flow_run_states, "flow_run_id")]
        for call, field in [*calls, (states.delete_flow_run_state, "flow_run_state_id")]:
            with pytest.raises(InvalidInputError) as caught:
                await call(wrong)
            assert caught.value.field == field


async def test_nothing_is_sent_for_a_create_that_is_refused() -> None:
    silent: Any = Silent()
    with pytest.raises(ReadOnlyLayoutError):
        await FlowRunStateRepository(silent, layout="prefect").create_flow_run_state(uuid4(), "RUNNING")
    for field, wrong in {"flow_run_id": "x", "type": "x", "id": "x", "timestamp": datetime.max, "name": "", "data": "\0"}.items():
        given: Any = {"flow_run_id": uuid4(), "type": "RUNNING"} | {field: wrong}
        with pytest.raises(InvalidInputError) as caught:
            await FlowRunStateRepository(silent).create_flow_run_state(**given)
        assert caught.value.field == field


@pytest.mark.parametrize(("argument", "field"), [({"pool_or_connection": None}, "pool_or_connection"), ({"layout": "other"}, "layout")])
def test_a_repository_of_nothing_we_know_is_refused(argument: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FlowRunStateRepository(**{"pool_or_connection": Silent()} | argument)
    assert caught.value.field == field


@pytest.mark.parametrize("type_", StateType)
async def test_a_created_state_has_the_name_of_its_type(states: FlowRunStateRepository, type_: StateType) -> None:
    state = await states.create_flow_run_state(str(uuid4()).upper(), type_.value)
    assert (state.type, state.name) == (type_, type_.capitalize())
    assert (state.message, state.state_details, state.data, state.result_artifact_id) == (None, StateDetails(), None, None)
    assert await states.read_flow_run_state(state.id) == state


async def test_a_created_state_has_all_that_was_given(states: FlowRunStateRepository) -> None:
    given: dict[str, Any] = {
        "id": uuid4(), "timestamp": NOON, "name": "Läuft ☃", "message": "", "data": {"a": [1, None]}, "result_artifact_id": uuid4(),
        "state_details": StateDetails.model_validate({"deferred": None, "scheduled_time": NOON, "from_tomorrow": {"a": []}}),
    }  # fmt: skip
    run = uuid4()
    state = await states.create_flow_run_state(run, StateType.PAUSED, **given)
    assert state == FlowRunState(flow_run_id=run, type=StateType.PAUSED, created=state.created, updated=state.created, **given)
    assert await states.read_flow_run_states(run) == [state]


async def test_without_a_timestamp_the_servers_clock_counts_not_the_clients(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Off(datetime, metaclass=Clock):
        @classmethod
        def now(cls, tz: Any = None) -> Off:
            return cls(2001, 1, 1, tzinfo=tz)

        utcnow = now

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "flowstates" and hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Off)
    monkeypatch.setattr(time, "time", lambda: 978307200.0)
    monkeypatch.setattr(time, "time_ns", lambda: 978307200 * 10**9)
    before = await pool.fetchval("select clock_timestamp()")
    async with pool.acquire() as connection, connection.transaction():
        states = FlowRunStateRepository(connection)
        begun = await connection.fetchval("select current_timestamp")
        created = [await states.create_flow_run_state(uuid4(), "RUNNING") for _ in range(2)]
    after = await pool.fetchval("select clock_timestamp()")
    assert before < begun < created[0].timestamp < created[1].timestamp < after
    assert {time for state in created for time in (state.created, state.updated)} == {begun}


async def test_a_timestamp_is_the_later_of_the_given_one_and_one_microsecond_after_the_current(states: FlowRunStateRepository) -> None:
    run = uuid4()
    expected: list[datetime] = []
    day = timedelta(days=1)
    for given in (NOON, NOON + day, NOON, NOON + day, NOON + day + MICROSECOND, NOON + day + 4 * MICROSECOND, NOON + day + 4 * MICROSECOND):
        expected.append(max(given, expected[-1] + MICROSECOND) if expected else given)
        assert (await states.create_flow_run_state(run, "RUNNING", timestamp=given)).timestamp == expected[-1]
    future = datetime(9999, 12, 29, 23, 59, 59, 999999, tzinfo=UTC)
    expected += [(await states.create_flow_run_state(run, "RUNNING", timestamp=time)).timestamp for time in (future, None, None)]
    assert expected[-3:] == [future, future + MICROSECOND, future + 2 * MICROSECOND]
    assert [state.timestamp for state in await states.read_flow_run_states(run)] == expected


@pytest.mark.parametrize("given", [None, NOON])
async def test_writers_at_once_make_one_history(pool: Pool, given: datetime | None) -> None:
    run = uuid4()
    states = FlowRunStateRepository(pool)
    created = await asyncio.gather(*(states.create_flow_run_state(run, "RUNNING", timestamp=given, data=number) for number in range(50)))
    history = await states.read_flow_run_states(run)
    assert sorted(created, key=lambda state: state.timestamp) == history
    assert len({state.timestamp for state in history}) == 50
    rows = await pool.fetch("select created = updated as same from flow_run_state where flow_run_id = $1", run)
    assert [row["same"] for row in rows] == [True] * 50
    assert await pool.fetchval("select state_id from flow_run where id = $1", run) == history[-1].id


async def test_a_create_that_is_rolled_back_was_never_there(pool: Pool) -> None:
    run = uuid4()
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        state = await FlowRunStateRepository(connection).create_flow_run_state(run, "RUNNING")
        assert await FlowRunStateRepository(connection).read_flow_run_states(run) == [state]
        assert await FlowRunStateRepository(pool).read_flow_run_states(run) == []
        await transaction.rollback()
    assert await FlowRunStateRepository(pool).read_flow_run_state(state.id) is None
    again = await FlowRunStateRepository(pool).create_flow_run_state(run, "RUNNING", id=state.id)
    assert await FlowRunStateRepository(pool).read_flow_run_states(run) == [again]


async def test_a_taken_id_is_a_conflict_that_holds_what_is_stored(pool: Pool, states: FlowRunStateRepository) -> None:
    state = await states.create_flow_run_state(uuid4(), "RUNNING", data=1)
    for run in (state.flow_run_id, uuid4()):
        async with pool.acquire() as connection, connection.transaction():
            with pytest.raises(FlowRunStateConflictError) as caught:
                await FlowRunStateRepository(connection).create_flow_run_state(run, "FAILED", id=state.id)
            assert caught.value.stored == state
            assert await FlowRunStateRepository(connection).read_flow_run_state(state.id) == state
        assert len(await states.read_flow_run_states(run)) == (run == state.flow_run_id)


async def test_a_create_waits_for_an_open_transaction_of_the_same_run_alone_and_no_longer_than_its_timeout(pool: Pool) -> None:
    run, states = uuid4(), FlowRunStateRepository(pool)
    async with pool.acquire() as connection, connection.transaction():
        first = await FlowRunStateRepository(connection).create_flow_run_state(run, "PENDING")
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await states.create_flow_run_state(run, "RUNNING", timeout=0.2)
        assert 0.15 < time.monotonic() - start < 1.5
        await states.create_flow_run_state(uuid4(), "RUNNING", timeout=5)
        waiting = asyncio.create_task(states.create_flow_run_state(run, "RUNNING", timeout=5))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    second = await waiting
    assert await states.read_flow_run_states(run) == [first, second]


ARTIFACTS: list[tuple[str | None, Any]] = [
    (None, None), ("null", None), ("0", 0), ('""', ""), ("[]", []), ("{}", {}), ("false", False), ("1.50", 1.5), ('"x"', "x"),
    (r'"a\u0000b"', "a\0b"), ('{"b": 1, "a": 2, "b": 3}', {"b": 3, "a": 2}), ('{"k": [{"n": null}]}', {"k": [{"n": None}]}),
]  # fmt: skip
FALSY = [None, "null", "0", "0.0", "-0", '""', "[]", "{}", "false"]
TRUTHY = [("true", True), ("1", 1), ("-0.5", -0.5), ('" "', " "), ('"0"', "0"), ("[null]", [None]), ("[[]]", [[]]), ('{"": null}', {"": None})]


async def test_data_of_a_prefect_state_are_inline_if_true_else_the_artifacts(prefect_pool: Pool) -> None:
    run = uuid4()
    expected: dict[UUID, Any] = {}
    for text, value in ARTIFACTS:
        artifact = await prefect_pool.fetchval("insert into artifact (data) values ($1::text::json) returning id", text)
        for inline, seen in [(falsy, value) for falsy in FALSY] + TRUTHY:
            state = await insert(prefect_pool, "prefect", run, second=len(expected), data=inline, artifact=artifact)
            expected[state] = seen
    for inline, seen in [*((falsy, None) for falsy in FALSY), *TRUTHY]:
        expected[await insert(prefect_pool, "prefect", run, second=len(expected), data=inline)] = seen
    states = FlowRunStateRepository(prefect_pool, layout="prefect")
    history = await states.read_flow_run_states(run)
    assert [(state.id, repr(state.data)) for state in history] == [(id_, repr(value)) for id_, value in expected.items()]
    for read in history:
        assert await states.read_flow_run_state(read.id) == read


async def test_data_go_with_the_artifact(prefect_pool: Pool) -> None:
    artifact = await prefect_pool.fetchval("insert into artifact (data) values ('[1]') returning id")
    state = await insert(prefect_pool, "prefect", uuid4(), artifact=artifact)
    states = FlowRunStateRepository(prefect_pool, layout="prefect")
    read = await states.read_flow_run_state(state)
    assert read is not None
    assert (read.data, read.result_artifact_id) == ([1], artifact)
    await prefect_pool.execute("delete from artifact where id = $1", artifact)
    read = await states.read_flow_run_state(state)
    assert read is not None
    assert (read.data, read.result_artifact_id) == (None, None)


async def test_what_only_others_store_is_read(case: Case) -> None:
    deep = "[" * 202 + "]" * 202
    details = '{"scheduled_time": "2024-03-05T12:00:00", "cache_expiration": "2024-03-05T17:30:00+05:30", "from_tomorrow": 1}'
    state = await case.states.read_flow_run_state(await case.insert(uuid4(), data=deep, state_details=details))
    assert state is not None
    assert state.state_details == StateDetails.model_validate({"scheduled_time": NOON, "cache_expiration": NOON, "from_tomorrow": 1})
    assert json.dumps(state.data) == deep


async def test_a_timeout_counts_the_wait_for_a_connection_and_leaves_the_pool_usable(dsn: str) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        states = FlowRunStateRepository(pool)
        async with pool.acquire():
            create = partial(states.create_flow_run_state, type="RUNNING")
            for call in (states.read_flow_run_states, states.read_flow_run_state, states.delete_flow_run_state, create):
                start = time.monotonic()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5):  # so that a wait for ever fails too
                        await call(uuid4(), timeout=0.2)
                assert 0.15 < time.monotonic() - start < 1.5
        state = await states.create_flow_run_state(uuid4(), "RUNNING", timeout=5)
        assert await states.read_flow_run_states(state.flow_run_id, timeout=5) == [state]


@pytest.fixture
async def closed(dsn: str) -> AsyncIterator[list[Any]]:
    """A closed pool, a closed connection, and one that was given back to its pool."""
    connection, pool = await asyncpg.connect(dsn), await create_pool(dsn)
    async with create_pool(dsn) as other:
        async with other.acquire() as given_back:
            pass
        await connection.close()
        await pool.close()
        yield [pool, connection, given_back]


async def test_what_is_closed_raises_asyncpgs_own_error(closed: list[Any]) -> None:
    for pool_or_connection in closed:
        states = FlowRunStateRepository(pool_or_connection)
        for call in (states.read_flow_run_states, states.read_flow_run_state, states.delete_flow_run_state):
            with pytest.raises(asyncpg.InterfaceError):
                await call(uuid4())
        with pytest.raises(asyncpg.InterfaceError):
            await states.create_flow_run_state(uuid4(), "RUNNING")


@pytest.mark.parametrize(("layout", "cure"), [("flowstates", "migrate"), ("prefect", "Prefect's database")])
async def test_a_database_without_the_table_says_what_helps(connection: Connection, layout: Layout, cure: str) -> None:
    states = FlowRunStateRepository(connection, layout=layout)
    calls: list[Any] = [states.read_flow_run_state, states.read_flow_run_states, states.delete_flow_run_state]
    if layout == "flowstates":
        calls.append(partial(states.create_flow_run_state, type="RUNNING"))
    for call in calls:
        with pytest.raises(asyncpg.UndefinedTableError) as caught:
            await call(uuid4())
        assert [cure in note for note in caught.value.__notes__] == [True]


BEYOND = ["20000-01-01Z", "0044-03-15 12:00:00Z BC", "0001-12-31 23:59:59Z BC", "10000-01-01Z", "infinity", "-infinity"]
WRONG_DETAILS = [
    "[]", "5", "null", '"{}"', '{"deferred": []}', '{"untrackable_result": null}', '{"scheduled_time": "soon"}', '{"flow_run_id": 5}',
    '{"scheduled_time": "2024-01-01T00:00:00", "deferred": []}', '{"run_input_keyset": {"a": 1}}', '{"x": ' + "[" * 202 + "]" * 202 + "}",
]  # fmt: skip
UNREADABLE: list[tuple[str, Any]] = (
    [("state_details", text) for text in WRONG_DETAILS]
    + [("data", "1" + "0" * 4300), ("type", "SUSPENDED")]
    + [(field, text) for field in ("created", "updated", "timestamp") for text in BEYOND]
)
LOOSENED = """
alter table flow_run_state drop constraint ck_flow_run_state__name, drop constraint ck_flow_run_state__state_details,
    drop constraint ck_flow_run_state__timestamp, alter updated drop expression, alter updated set default current_timestamp
"""


async def fault(call: Awaitable[object]) -> tuple[UUID | None, str] | None:
    try:
        await call
    except UnreadableRowError as error:
        return error.flow_run_state_id, error.field
    return None


@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_a_row_that_cannot_be_read_is_named_and_only_its_calls_fail(connection: Connection, layout: Layout) -> None:
    if layout == "prefect":
        await connection.execute(PREFECT_TABLES)
    else:
        await migrate(connection)
        await connection.execute(LOOSENED)
    await connection.execute("alter type state_type add value 'SUSPENDED'")
    states = FlowRunStateRepository(connection, layout=layout)
    for field, text in UNREADABLE:
        run, odd = uuid4(), {field: text}
        good = await states.read_flow_run_state(await insert(connection, layout, run, second=-1))
        bad = await insert(connection, layout, run, **odd)
        async with connection.transaction():
            assert await fault(states.read_flow_run_state(bad)) == (bad, field), text
            assert await fault(states.read_flow_run_states(run)) == (bad, field), text
            assert good is not None
            assert await states.read_flow_run_state(good.id) == good
            assert await states.delete_flow_run_state(bad) is True
        assert await states.read_flow_run_states(run) == [good]
