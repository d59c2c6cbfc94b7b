"""What Prefect's own functions answer, in process, is what ours answer. What differs on purpose is in test_differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from prefect.server import models, schemas
from prefect.server.database.orm_models import FlowRunState as PrefectRow
from sqlalchemy.ext.asyncio import AsyncSession

from flowstates import FlowRunState, FlowRunStateRepository
from tests.prefect.conftest import Clone, PrefectOn
from tests.prefect.rest import all_runs, assert_shown, in_process, invents, known, schedule
from tests.prefect.seed import DATA_TABLE, EMPTY_DETAILS, NAMES, NO_ARTIFACT, TYPES, Seed

COLUMNS = (
    "id", "created", "updated", "flow_run_id", "type", "timestamp", "name", "message", "state_details", "data", "result_artifact_id",
)  # fmt: skip


def of_prefect(row: PrefectRow) -> dict[str, Any]:
    fields = {column: getattr(row, column) for column in COLUMNS}
    # Text tells 1, 1.0 and True apart, and one order of keys from another.
    return fields | {"type": row.type.value, "state_details": row.state_details.model_dump(mode="json"), "data": repr(row.data)}


def of_ours(state: FlowRunState) -> dict[str, Any]:
    fields = {column: getattr(state, column) for column in COLUMNS}
    details = state.state_details.model_dump(mode="json")
    return fields | {"type": state.type.value, "state_details": known(details), "data": repr(state.data)}


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        yield pool


@pytest.fixture
def ours(pool: asyncpg.Pool[asyncpg.Record]) -> FlowRunStateRepository:
    return FlowRunStateRepository(pool, layout="prefect")


async def test_the_seed_is_what_it_is_meant_to_be(seed: Seed, pool: asyncpg.Pool[asyncpg.Record]) -> None:
    stored = await pool.fetch("select flow_run_id, type::text as type, name, timestamp, data::text as data, result_artifact_id from flow_run_state")
    assert len(stored) == len(seed.states) >= 2_000
    assert len({row["flow_run_id"] for row in stored}) >= 200
    assert await pool.fetchval("select count(*) from flow_run") == len(seed.runs)
    assert len(seed.runs) > len({state.flow_run_id for state in seed.states})
    assert {row["type"] for row in stored} == set(TYPES)
    assert {row["name"] for row in stored} == set(NAMES)
    assert {(state.data, seed.artifact_of(state)) for state in seed.states} == set(DATA_TABLE)
    assert Counter(row["data"] is None for row in stored)[True] >= 100
    assert Counter(row["result_artifact_id"] is None for row in stored)[True] >= 100
    ties = await pool.fetchval(
        """
        select count(*)
          from (select timestamp - lag(timestamp) over (partition by flow_run_id order by timestamp) as step from flow_run_state) as steps
         where step = interval '1 microsecond'
        """
    )
    assert ties >= 300
    flavours = {state.state_details for state in seed.states}
    assert len(flavours) >= 15
    assert {frozenset(json.loads(text)) for text in flavours} >= {frozenset(), frozenset(EMPTY_DETAILS)}
    current = await pool.fetchval("select count(*) from flow_run join flow_run_state on flow_run_state.id = flow_run.state_id")
    assert current == len(seed.current) >= 150


async def test_one_state_by_its_id(seed: Seed, ours: FlowRunStateRepository, dsn: str, prefect_on: PrefectOn) -> None:
    compared = 0
    async with prefect_on(dsn) as prefect, prefect.session_context() as session:
        for state in seed.states:
            row = await models.flow_run_states.read_flow_run_state(session, state.id)
            record = await ours.read_flow_run_state(state.id)
            assert row is not None
            assert record is not None
            assert of_ours(record) == of_prefect(row)
            compared += 1
        for unknown in (*seed.unknown, *seed.runs):
            assert await models.flow_run_states.read_flow_run_state(session, unknown) is None
            assert await ours.read_flow_run_state(unknown) is None
    assert compared >= 2_000


async def test_the_states_of_a_run_in_order(seed: Seed, ours: FlowRunStateRepository, dsn: str, prefect_on: PrefectOn) -> None:
    compared = 0
    empty = 0
    async with prefect_on(dsn) as prefect:
        for run in seed.runs:
            async with prefect.session_context() as session:
                rows = await models.flow_run_states.read_flow_run_states(session, run)
            records = await ours.read_flow_run_states(run)
            assert [of_ours(record) for record in records] == [of_prefect(row) for row in rows]
            assert [record.timestamp for record in records] == sorted(record.timestamp for record in records)
            compared += len(records)
            empty += not records
        async with prefect.session_context() as session:
            for unknown in (*seed.unknown, *(state.id for state in seed.states[:50])):
                assert list(await models.flow_run_states.read_flow_run_states(session, unknown)) == []
                assert await ours.read_flow_run_states(unknown) == []
    assert compared == len(seed.states)
    assert 0 < empty < 40


async def test_every_row_of_the_data_table(seed: Seed, ours: FlowRunStateRepository, dsn: str, prefect_on: PrefectOn) -> None:
    # The rule itself, so that both sides cannot be wrong together.
    cases = {(state.data, seed.artifact_of(state)): state for state in seed.states}
    assert cases.keys() == set(DATA_TABLE)
    async with prefect_on(dsn) as prefect, prefect.session_context() as session:
        for (inline, artifact), state in cases.items():
            inline_value = None if inline is None else json.loads(inline)
            held = None if artifact in (None, NO_ARTIFACT) else json.loads(artifact)
            row = await models.flow_run_states.read_flow_run_state(session, state.id)
            record = await ours.read_flow_run_state(state.id)
            assert row is not None
            assert record is not None
            assert record.data == row.data == row.as_state().data == (inline_value or held), (inline, artifact)


async def test_rest(seed: Seed, ours: FlowRunStateRepository, dsn: str, prefect_on: PrefectOn) -> None:
    compared: list[FlowRunState] = []
    async with prefect_on(dsn), in_process() as client:
        for run in seed.runs:
            answer = await client.get("/flow_run_states/", params={"flow_run_id": str(run)})
            assert answer.status_code == 200
            for record, shown in zip(await ours.read_flow_run_states(run), answer.json(), strict=True):
                assert_shown(record, shown)
                compared.append(record)
        for state in seed.states[::25]:
            one = await ours.read_flow_run_state(state.id)
            assert one is not None
            assert_shown(one, (await client.get(f"/flow_run_states/{state.id}")).json())
            compared.append(one)
        for unknown in seed.unknown:
            assert (await client.get(f"/flow_run_states/{unknown}")).status_code == 404
    assert len(compared) >= len(seed.states) + 80
    assert 0 < sum(map(invents, compared)) < len(compared) / 10
    offsets = {time.utcoffset() for record in compared if (time := record.state_details.scheduled_time) is not None}
    assert len(offsets) > 2


async def test_times_of_a_schedule_with_a_time_zone(empty: str, clone: Clone, prefect_on: PrefectOn) -> None:
    dsn = await clone(empty)
    async with prefect_on(dsn), in_process() as client, asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        ours = FlowRunStateRepository(pool, layout="prefect")
        for zone in ("Asia/Kolkata", "America/St_Johns", "UTC"):
            await schedule(client, zone.replace("/", " "), {"cron": "30 2 * * *", "timezone": zone}, 3)
        times = []
        for run in await all_runs(client):
            answer = await client.get("/flow_run_states/", params={"flow_run_id": run["id"]})
            records = await ours.read_flow_run_states(run["id"])
            assert answer.text == json.dumps([record.to_rest() for record in records], ensure_ascii=False, separators=(",", ":"))
            times += [record.to_rest()["state_details"]["scheduled_time"] for record in records]
    assert len(times) >= 9
    assert {time[11:] for time in times} >= {"02:30:00+05:30", "02:30:00Z"}
    assert {time[11:] for time in times} & {"02:30:00-03:30", "02:30:00-02:30"}


async def test_deletes_leave_the_same_rows(seed: Seed, clone: Clone, prefect_on: PrefectOn) -> None:
    ours_dsn, prefect_dsn = await clone(), await clone()
    before = await rows_of(ours_dsn)
    assert await rows_of(prefect_dsn) == before
    current = [state.id for state in seed.current.values()]
    others = [state.id for state in seed.states[::4]]
    victims = [*current, *others, *seed.unknown, *seed.runs[:5]]

    pool = await asyncpg.create_pool(ours_dsn, min_size=1, max_size=1)
    async with pool:
        repository = FlowRunStateRepository(pool, layout="prefect")
        ours = [(await repository.delete_flow_run_state(victim), await repository.delete_flow_run_state(victim)) for victim in victims]

    theirs = []
    async with prefect_on(prefect_dsn) as prefect:
        for victim in victims:
            async with prefect.session_context(begin_transaction=True) as session:
                first = await models.flow_run_states.delete_flow_run_state(session, victim)
                theirs.append((first, await models.flow_run_states.delete_flow_run_state(session, victim)))

    assert ours == theirs
    assert {type(answer) for pair in ours for answer in pair} == {bool}
    assert ours[: len(current)] == [(True, False)] * len(current)
    assert ours[len(current) + len(others) :] == [(False, False)] * (len(seed.unknown) + 5)
    after = await rows_of(ours_dsn)
    assert after == await rows_of(prefect_dsn)
    gone = {*current, *others}
    assert len(gone) >= 600
    assert len(before["flow_run_state"]) - len(after["flow_run_state"]) == len(gone)
    assert len(before["flow_run"]) == len(after["flow_run"])


async def test_deleting_the_current_state_only_empties_state_id(seed: Seed, clone: Clone) -> None:
    dsn = await clone()
    run, state = next(iter(seed.current.items()))
    connection = await asyncpg.connect(dsn)
    try:
        before = dict(await connection.fetchrow("select * from flow_run where id = $1", run) or {})
        assert before["state_id"] == state.id
        assert await FlowRunStateRepository(connection, layout="prefect").delete_flow_run_state(state.id) is True
        after = dict(await connection.fetchrow("select * from flow_run where id = $1", run) or {})
    finally:
        await connection.close()
    assert after == before | {"state_id": None}
    assert (after["state_type"], after["state_name"], after["state_timestamp"]) == (state.type, state.name, state.timestamp)


async def test_a_delete_rolled_back_leaves_everything(seed: Seed, clone: Clone) -> None:
    dsn = await clone()
    before = await rows_of(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        repository = FlowRunStateRepository(connection, layout="prefect")
        transaction = connection.transaction()
        await transaction.start()
        for state in (*seed.current.values(), *seed.states[::10]):
            await repository.delete_flow_run_state(state.id)
            assert await repository.read_flow_run_state(state.id) is None
        await transaction.rollback()
    finally:
        await connection.close()
    assert await rows_of(dsn) == before


async def rows_of(dsn: str) -> dict[str, dict[UUID, str]]:
    """Whole rows, every column of them."""
    connection = await asyncpg.connect(dsn)
    try:
        return {
            table: {row["id"]: row["whole"] for row in await connection.fetch(f"select id, row(t.*)::text as whole from {table} as t")}
            for table in ("flow_run_state", "flow_run")
        }
    finally:
        await connection.close()


async def in_session(session: AsyncSession) -> FlowRunStateRepository:
    """Our three calls on the very connection that the session uses."""
    await session.flush()
    raw = await (await session.connection()).get_raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, asyncpg.Connection)
    return FlowRunStateRepository(connection, layout="prefect")


async def make_run(session: AsyncSession, names: Iterable[str]) -> tuple[UUID, list[UUID]]:
    flow = await models.flows.create_flow(session, schemas.core.Flow(name=f"in session {uuid4()}"))
    run = await models.flow_runs.create_flow_run(session, schemas.core.FlowRun(flow_id=flow.id))
    made = []
    for name in names:
        state = schemas.states.Running(name=name, message="ü")
        result = await models.flow_runs.set_flow_run_state(session, run.id, state, force=True)
        assert result.state is not None
        made.append(result.state.id)
    return run.id, made


async def test_inside_a_session_of_prefect(seed: Seed, clone: Clone, prefect_on: PrefectOn) -> None:
    dsn = await clone()
    before = await rows_of(dsn)
    async with prefect_on(dsn) as prefect, asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        outside = FlowRunStateRepository(pool, layout="prefect")
        async with prefect.session_context() as session:
            run, made = await make_run(session, ["one", "two", "three"])
            ours = await in_session(session)

            # What is not committed yet is seen inside, and only there.
            records = await ours.read_flow_run_states(run)
            rows = await models.flow_run_states.read_flow_run_states(session, run)
            assert [record.id for record in records] == made
            assert [of_ours(record) for record in records] == [of_prefect(row) for row in rows]
            assert await outside.read_flow_run_states(run) == []

            # The codecs of the session's connection change nothing.
            for state in seed.states[::20]:
                assert await ours.read_flow_run_state(state.id) == await outside.read_flow_run_state(state.id)

            assert await ours.delete_flow_run_state(made[2]) is True
            assert await ours.delete_flow_run_state(made[2]) is False
            assert await ours.delete_flow_run_state(uuid4()) is False
            victim = next(iter(seed.current.values())).id
            assert await ours.delete_flow_run_state(victim) is True
            session.expire_all()
            assert await models.flow_run_states.read_flow_run_state(session, made[2]) is None
            assert await models.flow_run_states.read_flow_run_state(session, victim) is None
            assert await outside.read_flow_run_state(victim) is not None
            await session.rollback()
        assert await rows_of(dsn) == before

        async with prefect.session_context(begin_transaction=True) as session:
            run, made = await make_run(session, ["one", "two"])
            assert await (await in_session(session)).delete_flow_run_state(made[0]) is True
        assert [record.id for record in await outside.read_flow_run_states(run)] == made[1:]


@pytest.mark.parametrize("ours_deletes", [True, False])
async def test_a_session_goes_on_after_our_calls(ours_deletes: bool, clone: Clone, prefect_on: PrefectOn) -> None:
    async with prefect_on(await clone()) as prefect:
        async with prefect.session_context(begin_transaction=True) as session:
            run, made = await make_run(session, ["one", "two"])
            if ours_deletes:
                assert await (await in_session(session)).delete_flow_run_state(made[0])
            else:
                assert await models.flow_run_states.delete_flow_run_state(session, made[0])
            await models.flow_runs.set_flow_run_state(session, run, schemas.states.Completed(), force=True)
        async with prefect.session_context() as session:
            states = [row.name for row in await models.flow_run_states.read_flow_run_states(session, run)]
    assert states == ["two", "Completed"]
