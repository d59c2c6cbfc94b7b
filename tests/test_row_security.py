"""Row level security: with the policies of docs/roles.md a writer works; what it hides or refuses is said as it is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, FlowStatesError, NewFlowRunState, StateType, check, migrate
from tests.conftest import Connection
from tests.test_docs_roles import POLICIES

pytestmark = pytest.mark.server

OF_READERS = re.compile(r"^create policy reader .*;\n", re.MULTILINE)


@pytest.fixture
async def writer(connection: Connection) -> AsyncIterator[Connection]:
    """A connection as a role that owns nothing, with all grants."""
    await migrate(connection)
    role = f"writer_{uuid4().hex[:8]}"
    reader = role.replace("writer", "reader")
    await connection.execute(f"create role {reader}; grant select on flow_run, flow_run_state to {reader}; grant {reader} to current_user")
    await connection.execute(f"create role {role}; grant all on flow_run, flow_run_state, flowstates_pruned to {role}; set role {role}")
    yield connection
    await connection.execute(f"reset role; drop owned by {role}, {reader}; drop role {role}, {reader}")


async def secure(connection: Connection, policies: str) -> None:
    role = await connection.fetchval("select current_user")
    policies = policies.replace("writer", role).replace("to reader", f"to {role.replace('writer', 'reader')}")
    await connection.execute(f"reset role; {policies}; set role {role}")


async def test_with_the_policies_of_the_docs_a_writer_works(writer: Connection) -> None:
    await secure(writer, POLICIES)
    states, run = FlowRunStateRepository(writer), uuid4()
    first = await states.create_flow_run_state(run, StateType.PENDING)
    second = await states.create_flow_run_state(run, StateType.RUNNING, expected=first.id)
    assert await states.delete_flow_run_state(second.id)
    assert await states.read_current_flow_run_state(run) == first
    assert await writer.fetchval("select state_id from flow_run where id = $1", run) == first.id
    assert await states.delete_flow_run_states(flow_run_ids=[run]) == [first.id]


async def test_a_reader_without_a_policy_sees_empty_tables(writer: Connection) -> None:
    states, run = FlowRunStateRepository(writer), uuid4()
    state = await states.create_flow_run_state(run, StateType.PENDING)
    role = await writer.fetchval("select current_user")
    for policies, seen in ((OF_READERS.sub("", POLICIES), []), ("".join(OF_READERS.findall(POLICIES)), [state])):
        await secure(writer, policies)
        await writer.execute(f"reset role; set role {role.replace('writer', 'reader')}")
        assert await states.read_flow_run_states(run) == seen
        assert (await states.read_current_flow_run_state(run) is None) == (not seen)
        await writer.execute(f"reset role; set role {role}")
    assert [mismatch.where for mismatch in await check(writer)] == [f"row level security of {table}" for table in ("flow_run_state", "flow_run")]


async def test_a_writer_that_does_not_see_all_states_leaves_a_run_wrong(writer: Connection) -> None:
    states, run = FlowRunStateRepository(writer), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)
    second = await states.create_flow_run_state(run, StateType.RUNNING)
    await secure(writer, POLICIES.replace("on flow_run_state to writer using (true)", "on flow_run_state to writer using (type <> 'PENDING')"))
    assert await states.delete_flow_run_state(second.id)
    await writer.execute("reset role")
    assert f"run {run}" in [mismatch.where for mismatch in await check(writer, data=True)]


async def test_a_batch_is_refused_with_what_to_do_instead(writer: Connection) -> None:
    await secure(writer, POLICIES)
    states, run = FlowRunStateRepository(writer), uuid4()
    with pytest.raises(asyncpg.FeatureNotSupportedError) as caught:
        await states.create_flow_run_states([NewFlowRunState(flow_run_id=run, type="RUNNING")])
    assert ["one by one" in note for note in caught.value.__notes__] == [True]
    assert await states.read_flow_run_states(run) == []
    assert await writer.fetchval("select count(*) from flow_run") == 0


async def test_rows_that_security_hides_are_no_race(writer: Connection) -> None:
    states, run = FlowRunStateRepository(writer), uuid4()
    await states.create_flow_run_state(run, StateType.PENDING)
    hidden = "alter table flow_run enable row level security; create policy new on flow_run for insert to writer with check (true)"
    await secure(writer, hidden)
    with pytest.raises((FlowStatesError, asyncpg.InsufficientPrivilegeError)) as caught:
        await states.create_flow_run_state(run, StateType.RUNNING)
    assert "security" in str(caught.value)
    await writer.execute("reset role")
    assert [state.type for state in await states.read_flow_run_states(run)] == [StateType.PENDING]


async def test_a_delete_that_may_not_move_the_runs_row_is_an_error(writer: Connection) -> None:
    states, run = FlowRunStateRepository(writer), uuid4()
    first, second = [await states.create_flow_run_state(run, "RUNNING") for _ in range(2)]
    await secure(writer, "alter table flow_run enable row level security; create policy look on flow_run for select to writer using (true)")
    for id_ in (second.id, first.id):
        with pytest.raises(asyncpg.RaiseError) as caught:
            await states.delete_flow_run_states(flow_run_state_ids=[id_, second.id])
        assert "row level security" in (caught.value.hint or "")
    assert await states.read_flow_run_states(run) == [first, second]
