"""Where we do not answer as Prefect does, and do not want to. Each is observed on both sides, so that one that goes away is noticed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from prefect.server import models, schemas
from prefect.server.database import PrefectDBInterface
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SAWarning

from flowstates import (
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateFilter,
    FlowRunStateRepository,
    InvalidInputError,
    ReadOnlyLayoutError,
    StateType,
    UnreadableRowError,
)
from tests.prefect.conftest import PrefectOn
from tests.prefect.rest import in_process, posted
from tests.servers import create_database, drop_database

DIFFERENCES = {
    "stale_second_read": "A second read in one session of Prefect answers from memory; ours reads the row as it is now.",
    "scheduled_without_time": "Prefect invents a new `scheduled_time` whenever it shows a SCHEDULED state that has none; ours is None, as stored.",
    "id_that_is_no_uuid": "Prefect sends it, or warns and answers None; ours is refused before it is sent, by the parameter's name.",
    "unreadable_details": "One bad row fails Prefect's whole read without a name; our error names the row's id and the field.",
    "details_that_are_null": "Prefect reads JSON null as no details at all and then cannot show the state; ours is an unreadable row.",
    "loose_time_in_details": "Prefect reads odd forms of a time, and one without a date as today; ours is an unreadable row.",
    "offset_of_a_day": "Prefect shows an offset of 24 hours, with which Python cannot reckon; ours is an unreadable row.",
    "unknown_keys": "Prefect drops the keys of a newer Prefect; ours keeps them.",
    "deep_unknown_keys": "Prefect drops what is nested deeper than 200 levels under a key that it does not know; ours is an unreadable row.",
    "deep_data": "Prefect reads data of 256 levels and more and then cannot show the state; ours is read and shown.",
    "plain_times": "Prefect's times are of ZoneInfo or pendulum; ours are plain datetimes, in UTC or, in details, with the offset as stored.",
    "time_beyond_datetime": "Prefect takes infinity for the year 9999 and fails on the year 10000 without a name; ours names id and field.",
    "number_too_small": "A number too small for a float is 0.0 and so false to Prefect; to us it is a value that is there.",
    "lone_surrogate": "Prefect reads a lone surrogate, in a text or in a key, and then cannot show the state; ours is read and shown.",
    "artifact_that_is_not_there": "Prefect shows a state whose artifact is gone, but its row has no data to ask for; to us the data are None.",
    "count_without_a_current_state": "Prefect counts a run whose current state was deleted by the type that it had; ours counts none.",
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
        self, *, run: UUID | None = None, type: str = "RUNNING", timestamp: str = "now", created: str = "now", updated: str = "now",
        details: str = "{}", data: str | None = None, artifact: str | None = None,
    ) -> UUID:  # fmt: skip
        artifact_id = artifact and await self.pool.fetchval("insert into artifact (data) values ($1::text::json) returning id", artifact)
        state = await self.pool.fetchval(
            """
            insert into flow_run_state (flow_run_id, type, name, timestamp, created, updated, state_details, data, result_artifact_id)
            values ($1, $2::text::state_type, 'odd', $3::text::timestamptz, $4::text::timestamptz, $5::text::timestamptz,
                    $6::text::jsonb, $7::text::jsonb, $8) returning id
            """,
            run or await self.make_run(), type, timestamp, created, updated, details, data, artifact_id,
        )  # fmt: skip
        assert isinstance(state, UUID)
        return state

    async def of_prefect(self, state: UUID) -> Any:
        """Prefect's row, read in a session of its own."""
        async with self.prefect.session_context() as session:
            return await models.flow_run_states.read_flow_run_state(session, state)

    async def shown(self, state: UUID) -> Any:
        """What Prefect's REST shows."""
        answer = await self.rest.get(f"/flow_run_states/{state}")
        assert answer.status_code == 200
        return answer.json()

    async def is_not_shown(self, state: UUID) -> bool:
        return (await self.rest.get(f"/flow_run_states/{state}")).status_code >= 500

    async def record(self, state: UUID) -> FlowRunState:
        record = await self.ours.read_flow_run_state(state)
        assert record is not None
        return record

    async def unreadable(self, state: UUID, run: UUID, field: str) -> None:
        """Ours names the row, by id and in the list, and the rest of the library goes on."""
        for call in (self.ours.read_flow_run_state(state), self.ours.read_flow_run_states(run)):
            with pytest.raises(UnreadableRowError) as caught:
                await call
            assert (caught.value.flow_run_state_id, caught.value.field) == (state, field)
            assert str(state) in str(caught.value)


@pytest.fixture(scope="module")
def odd_dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A seeded database that these tests share, each with runs of its own."""
    dsn = asyncio.run(create_database(server_dsn, template=template))
    yield dsn
    asyncio.run(drop_database(server_dsn, dsn))


@pytest.fixture
async def sides(odd_dsn: str, prefect_on: PrefectOn) -> AsyncIterator[Sides]:
    async with (
        prefect_on(odd_dsn) as prefect,
        asyncpg.create_pool(odd_dsn, min_size=1, max_size=2) as pool,
        in_process(raises=False) as rest,
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
    shown = [(await sides.shown(state))["state_details"]["scheduled_time"] for _ in range(2)]
    assert None not in shown
    assert shown[0] != shown[1]
    record = await sides.record(state)
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
    assert await sides.is_not_shown(state)
    await sides.unreadable(state, run, "state_details")


@pytest.mark.parametrize("time", ["20240301T100000Z", "10:00"])
async def test_loose_time_in_details(sides: Sides, time: str) -> None:
    run = await sides.make_run()
    state = await sides.make_state(run=run, details=json.dumps({"scheduled_time": time}))
    seen = (await sides.of_prefect(state)).state_details.scheduled_time
    assert seen.utcoffset() == timedelta(0)
    assert (seen.date() == date(2024, 3, 1)) is (time != "10:00")
    await sides.unreadable(state, run, "state_details")


async def test_offset_of_a_day(sides: Sides) -> None:
    run = await sides.make_run()
    state = await sides.make_state(run=run, details='{"scheduled_time": "2024-03-01T00:00:00+24:00"}')
    with pytest.raises(ValueError, match="strictly between"):
        (await sides.of_prefect(state)).state_details.scheduled_time.utcoffset()
    assert (await sides.shown(state))["state_details"]["scheduled_time"] == "2024-03-01T00:00:00+24:00"
    await sides.unreadable(state, run, "state_details")


async def test_unknown_keys(sides: Sides) -> None:
    state = await sides.make_state(details='{"from_tomorrow": {"a": [1, null]}}')
    assert "from_tomorrow" not in (await sides.of_prefect(state)).state_details.model_dump()
    assert "from_tomorrow" not in (await sides.shown(state))["state_details"]
    record = await sides.record(state)
    assert record.state_details.model_extra == {"from_tomorrow": {"a": [1, None]}}
    assert record.to_rest()["state_details"]["from_tomorrow"] == {"a": [1, None]}


async def test_deep_unknown_keys(sides: Sides) -> None:
    # As deep as what this library itself stores, and deeper than pydantic_core reads.
    shallow = await sides.make_state(details=f'{{"from_tomorrow": {nested(190)}}}')
    assert (await sides.record(shallow)).to_rest()["state_details"]["from_tomorrow"] == json.loads(nested(190))
    run = await sides.make_run()
    state = await sides.make_state(run=run, details=f'{{"from_tomorrow": {nested(300)}}}')
    assert "from_tomorrow" not in (await sides.shown(state))["state_details"]
    await sides.unreadable(state, run, "state_details")


@pytest.mark.parametrize("place", ["data", "artifact"])
async def test_deep_data(sides: Sides, place: str) -> None:
    state = await sides.make_state(**{place: nested(255)})
    assert (await sides.shown(state))["data"] == (await sides.record(state)).to_rest()["data"] == json.loads(nested(255))
    for levels in (256, 300):
        state = await sides.make_state(**{place: nested(levels)})
        value = json.loads(nested(levels))
        assert (await sides.of_prefect(state)).data == value
        assert await sides.is_not_shown(state)
        record = await sides.record(state)
        assert record.data == record.to_rest()["data"] == value
        assert record.to_rest()["data"] is not record.data
    # What is too deep for Python's own reader as well is without a name in Prefect.
    run = await sides.make_run()
    state = await sides.make_state(run=run, **{place: nested(5_000)})
    with pytest.raises(RecursionError):
        await sides.of_prefect(state)
    await sides.unreadable(state, run, "data")


def nested(levels: int) -> str:
    return '[{"a": ' * (levels // 2) + "[]" * (levels % 2) + ("" if levels % 2 else "1") + "}]" * (levels // 2)


async def test_plain_times(sides: Sides) -> None:
    state = await sides.make_state(details='{"scheduled_time": "2024-03-01T02:30:00+05:30", "pause_timeout": "2024-03-01T00:00:00Z"}')
    row = await sides.of_prefect(state)
    assert UTC not in (row.timestamp.tzinfo, row.as_state().timestamp.tzinfo)
    record = await sides.record(state)
    details = record.state_details
    assert details.scheduled_time is not None
    assert details.pause_timeout is not None
    for time in (record.created, record.updated, record.timestamp, details.pause_timeout):
        assert type(time) is datetime
        assert time.tzinfo is UTC
    assert type(details.scheduled_time) is datetime
    assert details.scheduled_time.tzinfo == timezone(timedelta(hours=5, minutes=30))
    assert type(row.state_details.scheduled_time.tzinfo) is not timezone
    assert (await sides.shown(state))["state_details"]["scheduled_time"] == record.to_rest()["state_details"]["scheduled_time"]


async def test_time_beyond_datetime(sides: Sides) -> None:
    for field in ("timestamp", "created", "updated"):
        for stored, seen in (("infinity", datetime.max), ("-infinity", datetime.min)):
            run = await sides.make_run()
            state = await sides.make_state(run=run, **{field: stored})
            assert getattr(await sides.of_prefect(state), field) == seen.replace(tzinfo=UTC)
            assert (await sides.shown(state))["id"] == str(state)
            await sides.unreadable(state, run, field)
        for stored in ("10000-01-01T00:00:00Z", "0044-03-15 12:00:00Z BC"):
            run = await sides.make_run()
            state = await sides.make_state(run=run, **{field: stored})
            with pytest.raises(OverflowError) as caught:
                await sides.of_prefect(state)
            assert str(state) not in str(caught.value)
            assert await sides.is_not_shown(state)
            await sides.unreadable(state, run, field)


async def test_number_too_small(sides: Sides) -> None:
    state = await sides.make_state(data="1e-400", artifact='"of the artifact"')
    assert (await sides.of_prefect(state)).data == "of the artifact"
    record = await sides.record(state)
    assert record.data == 0.0


@pytest.mark.parametrize("held", [r'"\ud800"', r'{"\ud800": 1}', r'[{"a": {"\udfff": ["\ud800"]}}]'])
async def test_lone_surrogate(sides: Sides, held: str) -> None:
    state = await sides.make_state(artifact=held)
    assert (await sides.of_prefect(state)).data == json.loads(held)
    assert await sides.is_not_shown(state)
    record = await sides.record(state)
    assert record.data == record.to_rest()["data"] == json.loads(held)
    json.dumps(record.to_rest())


async def test_artifact_that_is_not_there(sides: Sides) -> None:
    # The foreign key forbids it, but not to a replica or a restore in pieces.
    for inline, value in ((None, None), ("[]", None), ('{"a": 1}', {"a": 1})):
        state = await sides.make_state(data=inline, artifact="7")
        artifact = (await sides.record(state)).result_artifact_id
        async with sides.pool.acquire() as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute("delete from artifact where id = $1", artifact)
        row = await sides.of_prefect(state)
        if value is None:
            with pytest.raises(AttributeError):
                row.data  # noqa: B018
        else:
            assert row.data == value
        record = await sides.record(state)
        assert artifact == row.result_artifact_id == record.result_artifact_id
        assert (await sides.shown(state))["data"] == record.data == value


async def test_count_without_a_current_state(sides: Sides) -> None:
    async def counts() -> tuple[int, int, int]:
        """How many runs are in RUNNING, to Prefect and to us."""
        theirs = await posted(sides.rest, "/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
        ours = await FlowRunStateAnalytics(sides.pool, layout="prefect").count_current()
        return theirs, ours.counts[StateType.RUNNING], await sides.ours.count_flow_run_states(FlowRunStateFilter(current=True, types=["RUNNING"]))

    before = await counts()
    assert len(set(before)) == 1
    run = await sides.make_run()
    async with sides.prefect.session_context(begin_transaction=True) as session:
        await models.flow_runs.set_flow_run_state(session, run, schemas.states.Pending(), force=True)
        await models.flow_runs.set_flow_run_state(session, run, schemas.states.Running(), force=True)
    assert await counts() == tuple(count + 1 for count in before)
    current = await sides.ours.read_current_flow_run_state(run)
    assert current is not None
    assert await sides.ours.delete_flow_run_state(current.id)
    assert await counts() == (before[0] + 1, before[1], before[2])
    shown = (await sides.rest.get(f"/flow_runs/{run}")).json()
    assert (shown["state_id"], shown["state"], shown["state_type"]) == (None, None, "RUNNING")
    assert await sides.ours.read_current_flow_run_state(run) is None
    assert [state.type for state in await sides.ours.read_flow_run_states(run)] == ["PENDING"]


async def test_read_only(sides: Sides) -> None:
    run = await sides.make_run()
    with pytest.raises(ReadOnlyLayoutError):
        await sides.ours.create_flow_run_state(run, StateType.RUNNING, id=uuid4())
    assert await sides.ours.read_flow_run_states(run) == []
