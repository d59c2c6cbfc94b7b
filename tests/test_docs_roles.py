"""What docs/roles.md shows is run here, as it stands there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateRepository, create_pool, migrate
from tests.conftest import Connection
from tests.examples import blocks_of

pytestmark = pytest.mark.once

GRANTS, POLICIES = blocks_of("docs/roles.md", "sql")


async def test_the_grants(connection: Connection, own_dsn: str) -> None:
    roles = {role: f"{role}_{uuid4().hex[:8]}" for role in ("migrator", "reader", "writer")}
    await connection.execute("".join(f"create role {role};" for role in roles.values()))
    schema, after = GRANTS.split("-- After migrate", 1)
    after = f"-- After migrate{after}"
    for role, own in roles.items():
        schema, after = re.sub(rf"\b{role}\b", own, schema), re.sub(rf"\b{role}\b", own, after)
    await connection.execute(schema)
    pools = {role: create_pool(own_dsn, init=_as(own)) for role, own in roles.items()}
    try:
        async with pools["migrator"], pools["reader"], pools["writer"]:
            assert await migrate(pools["migrator"]) != []
            await pools["migrator"].execute(after)
            state = await FlowRunStateRepository(pools["writer"]).create_flow_run_state(uuid4(), "RUNNING")
            await FlowRunStateRepository(pools["writer"]).create_flow_run_state(state.flow_run_id, "COMPLETED")
            reader = FlowRunStateRepository(pools["reader"])
            assert await reader.read_flow_run_state(state.id) == state
            for role in ("reader", "writer"):
                assert await migrate(pools[role]) == []
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
                await reader.create_flow_run_state(uuid4(), "RUNNING")
            assert "creating insert on both" in caught.value.__notes__[0]
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.delete_flow_run_state(state.id)
            assert await FlowRunStateRepository(pools["writer"]).delete_flow_run_state(state.id)
    finally:
        await connection.execute("".join(f"drop owned by {role} cascade; drop role {role};" for role in roles.values()))


def _as(role: str) -> Callable[[Connection], Awaitable[None]]:
    async def init(connection: Connection) -> None:
        await connection.execute(f"set role {role}")

    return init
