"""Who calls Prefect's module of flow run states changes the import alone."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.server import models, schemas
from prefect.server.api import flow_run_states as api
from prefect.server.database import PrefectDBInterface
from prefect.server.models import flow_run_states as theirs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import FlowRunState, FlowRunStateRepository, InvalidInputError, check
from flowstates import models as ours
from tests.prefect.conftest import Clone, PrefectOn
from tests.prefect.rest import in_process, invents
from tests.prefect.seed import Seed

CALLS = ("read_flow_run_state", "read_flow_run_states", "delete_flow_run_state")


@asynccontextmanager
async def written(clone: Clone, prefect_on: PrefectOn) -> AsyncIterator[tuple[PrefectDBInterface, UUID]]:
    """A database to write to, and a run of it."""
    async with prefect_on(await clone()) as prefect:
        async with prefect.session_context() as session:
            run = (await session.execute(text("insert into flow_run (name, flow_id) select 'run', id from flow limit 1 returning id"))).scalar_one()
            await session.commit()
        yield prefect, run


async def moved(session: AsyncSession, run: UUID, state: schemas.states.State) -> schemas.states.State:
    result = await models.flow_runs.set_flow_run_state(session=session, flow_run_id=run, state=state, force=True)
    assert result.state is not None
    return result.state


@pytest.mark.parametrize("name", CALLS)
def test_the_signatures_are_prefects(name: str) -> None:
    wanted = [parameter for parameter in inspect.signature(inspect.unwrap(getattr(theirs, name))).parameters if parameter != "db"]
    assert list(inspect.signature(getattr(ours, name)).parameters) == wanted


async def test_all_states_are_those_of_prefects_own_calls(seed: Seed, dsn: str, prefect_on: PrefectOn) -> None:
    compared = 0

    def assert_same(record: FlowRunState, row: Any) -> None:
        nonlocal compared
        mine, other = record.as_state(), row.as_state()
        assert type(mine) is type(other) is schemas.states.State
        if invents(record):
            assert None not in (mine.state_details.scheduled_time, other.state_details.scheduled_time)
            mine.state_details.scheduled_time = other.state_details.scheduled_time = None
        assert mine == other
        assert mine.model_dump(mode="json") == other.model_dump(mode="json")
        compared += 1

    async with prefect_on(dsn) as prefect, prefect.session_context() as session:
        for run in seed.runs:
            rows = await theirs.read_flow_run_states(session, run)
            for record, row in zip(await ours.read_flow_run_states(session, run), rows, strict=True):
                assert_same(record, row)
        for state in seed.states[::25]:
            record = await ours.read_flow_run_state(session=session, flow_run_state_id=state.id)
            assert record is not None
            assert_same(record, await theirs.read_flow_run_state(session=session, flow_run_state_id=state.id))
        for unknown in seed.unknown:
            assert await ours.read_flow_run_state(session, unknown) is None
            assert await ours.read_flow_run_states(session, unknown) == []
    assert compared > len(seed.states) >= 2_000


async def test_what_prefect_wrote_in_the_session_is_read_and_deleted_in_it(clone: Clone, prefect_on: PrefectOn) -> None:
    async with written(clone, prefect_on) as (prefect, run):
        async with prefect.session_context(begin_transaction=True) as session:
            states = [await moved(session, run, state) for state in (schemas.states.Pending(), schemas.states.Running(message="on worker 7"))]
            found = await ours.read_flow_run_state(session=session, flow_run_state_id=states[1].id)
            assert found is not None
            assert found.as_state() == states[1]
            assert [record.as_state() for record in await ours.read_flow_run_states(session=session, flow_run_id=run)] == states
        async with prefect.session_context() as session:
            assert await ours.delete_flow_run_state(session=session, flow_run_state_id=states[1].id) is True
            assert await ours.delete_flow_run_state(session=session, flow_run_state_id=states[1].id) is False
            assert await theirs.read_flow_run_states(session, run) == [await theirs.read_flow_run_state(session, states[0].id)]
            await session.rollback()
            assert len(await ours.read_flow_run_states(session, run)) == 2
            assert await ours.delete_flow_run_state(session, states[1].id) is True
            await session.commit()
        async with prefect.session_context() as session:
            assert [row.id for row in await theirs.read_flow_run_states(session, run)] == [states[0].id]


async def test_what_was_added_to_the_session_is_read_as_prefect_reads_it(clone: Clone, prefect_on: PrefectOn) -> None:
    async with written(clone, prefect_on) as (prefect, run), prefect.session_context() as session:
        for call in (theirs.read_flow_run_states, ours.read_flow_run_states):
            row = prefect.FlowRunState(flow_run_id=run, **schemas.states.Running().orm_dict())
            session.add(row)
            assert [state.id for state in await call(session, run)] == [row.id]
            await session.rollback()


async def test_prefects_interface_answers_the_same_on_ours(seed: Seed, dsn: str, prefect_on: PrefectOn, monkeypatch: pytest.MonkeyPatch) -> None:
    invented = {state.flow_run_id for state in seed.states if state.type == "SCHEDULED"}
    runs = [run for run in seed.runs if run not in invented]
    paths = [f"/flow_run_states/?flow_run_id={run}" for run in runs]
    paths += [f"/flow_run_states/{state.id}" for state in seed.states if state.flow_run_id not in invented][::25]
    paths += [f"/flow_run_states/{uuid4()}", f"/flow_run_states/?flow_run_id={uuid4()}", "/flow_run_states/none"]
    async with prefect_on(dsn), in_process() as client:
        wanted = [await client.get(path) for path in paths]
        assert api.models is models
        monkeypatch.setattr(models, "flow_run_states", ours)
        found = [await client.get(path) for path in paths]
    assert [(answer.status_code, answer.content) for answer in found] == [(answer.status_code, answer.content) for answer in wanted]
    assert {answer.status_code for answer in found} == {200, 404}


async def test_a_session_on_sqlite_is_refused_by_name() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with AsyncSession(engine) as session:
        for call in (ours.read_flow_run_states(session, uuid4()), FlowRunStateRepository(session).read_flow_run_states(uuid4()), check(session)):
            with pytest.raises(InvalidInputError, match=r"is an AsyncSession on aiosqlite, not on asyncpg$"):
                await call
    await engine.dispose()
