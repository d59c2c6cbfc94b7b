"""Where we do not answer as Prefect does, and do not want to. Each is observed on both sides, so that one that goes away is noticed."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from prefect.server import models
from prefect.server.api.server import create_api_app
from prefect.server.database import PrefectDBInterface
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SAWarning

from flowstates import FlowRunStateRepository, InvalidInputError, ReadOnlyLayoutError, StateType, UnreadableRowError
from tests.prefect.conftest import Clone, PrefectOn

DIFFERENCES = {
    "stale_second_read": "A second read in one session of Prefect answers from memory; ours reads the row as it is now.",
    "scheduled_without_time": "Prefect invents a new `scheduled_time` whenever it shows a SCHEDULED state that has none; ours is None, as stored.",
    "id_that_is_no_uuid": "Prefect sends it, or warns and answers None; ours is refused before it is sent, by the parameter's name.",
    "unreadable_details": "One bad row fails Prefect's whole read without a name; our error names the row's id and the field.",
    "details_that_are_null": "Prefect reads JSON null as no details at all and then cannot show the state; ours is an unreadable row.",
    "loose_time_in_details": "Prefect reads odd forms of a time, and one without a date as today; ours is an unreadable row.",
    "unknown_keys": "Prefect drops the keys of a newer Prefect; ours keeps them.",
    "plain_times": "Prefect's times are of ZoneInfo or pendulum, in details with the offset as stored; ours are plain datetimes in UTC.",
    "time_beyond_datetime": "Prefect shows infinity as the year 9999 and fails on the year 10000 without a name; ours names id and field.",
    "number_too_small": "A number too small for a float is 0.0 and so false to Prefect; to us it is a value that is there.",
    "lone_surrogate": "Prefect reads a lone surrogate and then cannot show the state; ours is read and shown.",
    "transaction_of_a_fresh_session": "Prefect's first call begins the session's transaction; ours on that connection begins none.",
    "read_only": "Prefect creates states in its tables; we read and delete there, and refuse to write.",
}


def test_every_difference_has_its_test() -> None:
    tests = {name.removeprefix("test_") for name in vars(sys.modules[__name__]) if name.startswith("test_")}
    assert tests - {"every_difference_has_its_test"} == DIFFERENCES.keys()


@dataclass(frozen=True)
class Sides:
    """One database, seen by Prefect and by us."""

    prefect: PrefectDBInterface
    pool: asyncpg.Pool[asyncpg.Record]
    rest: httpx.AsyncClient

    @property
    def ours(self) -> FlowRunStateRepository:
        return FlowRunStateRepository(self.pool, layout="prefect")

    async def make_run(self) -> UUID:
        statement = "insert into flow_run (name, flow_id) select 'run', id from flow limit 1 returning id"
        run = await self.pool.fetchval(statement)
        assert isinstance(run, UUID)
        return run

    async def make_state(
        self, *, run: UUID | None = None, type: str = "RUNNING", timestamp: str = "now", details: str = "{}", data: str | None = None,
        artifact: str | None = None,
    ) -> UUID:  # fmt: skip
        artifact_id = artifact and await self.pool.fetchval("insert into artifact (data) values ($1::text::json) returning id", artifact)
        state = await self.pool.fetchval(
            """
            insert into flow_run_state (flow_run_id, type, name, timestamp, state_details, data, result_artifact_id)
            values ($1, $2::text::state_type, 'odd', $3::text::timestamptz, $4::text::jsonb, $5::text::jsonb, $6) returning id
            """,
            run or await self.make_run(), type, timestamp, details, data, artifact_id,
        )  # fmt: skip
        assert isinstance(state, UUID)
        return state

    async def of_prefect(self, state: UUID) -> Any:
        """Prefect's row, read in a session of its own."""
        async with self.prefect.session_context() as session:
            return await models.flow_run_states.read_flow_run_state(session, state)

    async def unreadable(self, state: UUID, run: UUID, field: str) -> None:
        """Ours names the row, by id and in the list, and the rest of the library goes on."""
        for call in (self.ours.read_flow_run_state(state), self.ours.read_flow_run_states(run)):
            with pytest.raises(UnreadableRowError) as caught:
                await call
            assert (caught.value.flow_run_state_id, caught.value.field) == (state, field)
            assert str(state) in str(caught.value)


@pytest.fixture
async def sides(clone: Clone, prefect_on: PrefectOn) -> AsyncIterator[Sides]:
    dsn = await clone()
    transport = httpx.ASGITransport(create_api_app(), raise_app_exceptions=False)
    async with (
        prefect_on(dsn) as prefect,
        asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool,
        httpx.AsyncClient(transport=transport, base_url="http://prefect") as rest,
    ):
        yield Sides(prefect, pool, rest)


async def test_stale_second_read(sides: Sides) -> None:
    state = await sides.make_state()
    async with sides.prefect.session_context() as session:
        first = await models.flow_run_states.read_flow_run_state(session, state)
        assert first is not None
        assert first.name == "odd"
        await sides.pool.execute("update flow_run_state set name = 'new' where id = $1", state)
        second = await models.flow_run_states.read_flow_run_state(session, state)
        assert second is first
        assert second.name == "odd"
        fresh = await sides.ours.read_flow_run_state(state)
        assert fresh is not None
        assert fresh.name == "new"

        await sides.pool.execute("delete from flow_run_state where id = $1", state)
        assert await models.flow_run_states.read_flow_run_state(session, state) is first
        assert await sides.ours.read_flow_run_state(state) is None


async def test_scheduled_without_time(sides: Sides) -> None:
    state = await sides.make_state(type="SCHEDULED")
    shown = [(await sides.rest.get(f"/flow_run_states/{state}")).json()["state_details"]["scheduled_time"] for _ in range(2)]
    assert None not in shown
    assert shown[0] != shown[1]
    record = await sides.ours.read_flow_run_state(state)
    assert record is not None
    assert record.state_details.scheduled_time is None
    assert record.to_rest()["state_details"]["scheduled_time"] is None


async def test_id_that_is_no_uuid(sides: Sides) -> None:
    texts: tuple[Any, ...] = ("no uuid", "x\0y", "")
    none: Any = None
    for wrong in texts:
        async with sides.prefect.session_context() as session:
            with pytest.raises(DBAPIError):
                await models.flow_run_states.read_flow_run_states(session, wrong)
    async with sides.prefect.session_context() as session:
        with pytest.warns(SAWarning):
            assert await models.flow_run_states.read_flow_run_state(session, none) is None
    for wrong in (*texts, none):
        for call, field in (
            (sides.ours.read_flow_run_state, "flow_run_state_id"),
            (sides.ours.read_flow_run_states, "flow_run_id"),
            (sides.ours.delete_flow_run_state, "flow_run_state_id"),
        ):
            with pytest.raises(InvalidInputError) as caught:
                await call(wrong)
            assert caught.value.field == field


@pytest.mark.parametrize("details", ["[]", "5", '{"flow_run_id": "x"}', '{"untrackable_result": null}', '{"scheduled_time": "soon"}'])
async def test_unreadable_details(sides: Sides, details: str) -> None:
    run = await sides.make_run()
    good = await sides.make_state(run=run, timestamp="2024-01-01Z")
    bad = await sides.make_state(run=run, details=details)
    async with sides.prefect.session_context() as session:
        with pytest.raises(ValidationError) as caught:
            await models.flow_run_states.read_flow_run_states(session, run)
    assert str(bad) not in str(caught.value)
    answer = await sides.rest.get("/flow_run_states/", params={"flow_run_id": str(run)})
    assert answer.status_code >= 500
    assert str(bad) not in answer.text
    await sides.unreadable(bad, run, "state_details")
    assert await sides.ours.read_flow_run_state(good) is not None
    assert await sides.ours.delete_flow_run_state(bad) is True


async def test_details_that_are_null(sides: Sides) -> None:
    run = await sides.make_run()
    state = await sides.make_state(run=run, details="null")
    assert (await sides.of_prefect(state)).state_details is None
    assert (await sides.rest.get(f"/flow_run_states/{state}")).status_code >= 500
    await sides.unreadable(state, run, "state_details")


@pytest.mark.parametrize("time", ["20240301T100000Z", "10:00"])
async def test_loose_time_in_details(sides: Sides, time: str) -> None:
    run = await sides.make_run()
    state = await sides.make_state(run=run, details=json.dumps({"scheduled_time": time}))
    seen = (await sides.of_prefect(state)).state_details.scheduled_time
    assert seen.utcoffset() == timedelta(0)
    assert (seen.date() == date(2024, 3, 1)) is (time != "10:00")
    await sides.unreadable(state, run, "state_details")


async def test_unknown_keys(sides: Sides) -> None:
    state = await sides.make_state(details='{"from_tomorrow": {"a": [1, null]}}')
    assert "from_tomorrow" not in (await sides.of_prefect(state)).state_details.model_dump()
    assert "from_tomorrow" not in (await sides.rest.get(f"/flow_run_states/{state}")).json()["state_details"]
    record = await sides.ours.read_flow_run_state(state)
    assert record is not None
    assert record.state_details.model_extra == {"from_tomorrow": {"a": [1, None]}}
    assert record.to_rest()["state_details"]["from_tomorrow"] == {"a": [1, None]}


async def test_plain_times(sides: Sides) -> None:
    state = await sides.make_state(details='{"scheduled_time": "2024-03-01T10:00:00+02:00"}')
    row = await sides.of_prefect(state)
    assert row.state_details.model_dump(mode="json")["scheduled_time"] == "2024-03-01T10:00:00+02:00"
    assert UTC not in (row.timestamp.tzinfo, row.as_state().timestamp.tzinfo)
    record = await sides.ours.read_flow_run_state(state)
    assert record is not None
    assert record.state_details.scheduled_time is not None
    for time in (record.created, record.updated, record.timestamp, record.state_details.scheduled_time):
        assert type(time) is datetime
        assert time.tzinfo is UTC
    assert record.to_rest()["state_details"]["scheduled_time"] == "2024-03-01T08:00:00Z"


async def test_time_beyond_datetime(sides: Sides) -> None:
    for stored, seen in (("infinity", datetime.max), ("-infinity", datetime.min)):
        run = await sides.make_run()
        state = await sides.make_state(run=run, timestamp=stored)
        assert (await sides.of_prefect(state)).timestamp == seen.replace(tzinfo=UTC)
        await sides.unreadable(state, run, "timestamp")
    for stored in ("10000-01-01T00:00:00Z", "0044-03-15 12:00:00Z BC"):
        run = await sides.make_run()
        state = await sides.make_state(run=run, timestamp=stored)
        with pytest.raises(OverflowError) as caught:
            await sides.of_prefect(state)
        assert str(state) not in str(caught.value)
        await sides.unreadable(state, run, "timestamp")


async def test_number_too_small(sides: Sides) -> None:
    state = await sides.make_state(data="1e-400", artifact='"of the artifact"')
    assert (await sides.of_prefect(state)).data == "of the artifact"
    record = await sides.ours.read_flow_run_state(state)
    assert record is not None
    assert record.data == 0.0


async def test_lone_surrogate(sides: Sides) -> None:
    run = await sides.make_run()
    state = await sides.make_state(run=run, artifact=r'"\ud800"')
    assert (await sides.of_prefect(state)).data == "\ud800"
    assert (await sides.rest.get(f"/flow_run_states/{state}")).status_code >= 500
    record = await sides.ours.read_flow_run_state(state)
    assert record is not None
    assert record.to_rest()["data"] == "\ud800"


async def test_transaction_of_a_fresh_session(sides: Sides) -> None:
    # SQLAlchemy begins when the first statement goes through it: until then the driver's connection is in no transaction.
    ours, theirs = await sides.make_state(), await sides.make_state()
    async with sides.prefect.session_context() as session:
        raw = await (await session.connection()).get_raw_connection()
        connection = raw.driver_connection
        assert isinstance(connection, asyncpg.Connection)
        assert not connection.is_in_transaction()
        assert await FlowRunStateRepository(connection, layout="prefect").delete_flow_run_state(ours)
        await session.rollback()
    assert await sides.ours.read_flow_run_state(ours) is None
    async with sides.prefect.session_context() as session:
        assert await models.flow_run_states.delete_flow_run_state(session, theirs)
        await session.rollback()
    assert await sides.ours.read_flow_run_state(theirs) is not None


async def test_read_only(sides: Sides) -> None:
    run = await sides.make_run()
    with pytest.raises(ReadOnlyLayoutError):
        await sides.ours.create_flow_run_state(run, StateType.RUNNING, id=uuid4())
    assert await sides.ours.read_flow_run_states(run) == []
