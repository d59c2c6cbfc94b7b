"""Run in Prefect's environment: moves runs by Prefect's set_flow_run_state and by ours, in turns, in one process, on one server.

Prints the settings and the seconds as one line of JSON. Each side has a database of its own. A move is three states, each in a session with
a commit of its own, as Prefect's API does it; ours are three creates through our pool, each on the condition that the one before is current.
Both make a typed state of each. Prefect does more in its call: it also updates the run's row, and applies its orchestration rules.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

from benchmarks.shared import Contender, settings_of, take_turns
from flowstates import FlowRunStateRepository, create_pool, migrate

TYPES = ("PENDING", "RUNNING", "COMPLETED")


async def main(dsn: str, turns: int) -> None:
    """Makes two databases and measures."""
    names = {side: f"bench_{side}_{uuid4().hex[:8]}" for side in ("prefect", "flowstates")}
    admin = await asyncpg.connect(dsn)
    for name in names.values():
        await admin.execute(f"create database {name} template template0")
    theirs, ours = (urlunsplit(urlsplit(dsn)._replace(path=f"/{names[side]}")) for side in ("prefect", "flowstates"))
    os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = urlunsplit(urlsplit(theirs)._replace(scheme="postgresql+asyncpg"))
    try:
        upgrade = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y", stdout=asyncio.subprocess.DEVNULL
        )
        if await upgrade.wait():
            raise RuntimeError(f"prefect server database upgrade ended with {upgrade.returncode}")
        settings = await settings_of(admin) | {"Prefect": version("prefect")}
        seconds = await _measure(ours, turns)
        print(json.dumps([settings, seconds]))
    finally:
        for name in names.values():
            await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def _measure(dsn: str, turns: int) -> dict[str, list[float]]:
    # Prefect reads its settings when it is first imported.
    from prefect.server import models, schemas
    from prefect.server.database import provide_database_interface
    from prefect.server.orchestration.core_policy import CoreFlowPolicy

    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        flow = (await models.flows.create_flow(session, schemas.core.Flow(name="bench"))).id

    async def a_run() -> UUID:
        async with db.session_context(begin_transaction=True) as session:
            return (await models.flow_runs.create_flow_run(session, schemas.core.FlowRun(flow_id=flow))).id

    async def set_states(run: UUID, policy: type | None) -> None:
        for type_ in TYPES:
            async with db.session_context(begin_transaction=True, with_for_update=True) as session:
                state = schemas.states.State(type=type_)
                done = await models.flow_runs.set_flow_run_state(session, run, state, flow_policy=policy)
            if done.status != schemas.responses.SetStateStatus.ACCEPT:
                raise RuntimeError(f"Prefect did not take the state: {done}")

    async with create_pool(dsn) as pool:
        await migrate(pool)
        repository = FlowRunStateRepository(pool)

        async def create_states(run: UUID) -> None:
            current = None
            for type_ in TYPES:
                current = (await repository.create_flow_run_state(run, type_, expected=current)).id

        async def a_new_id() -> UUID:
            return uuid4()

        contenders = [
            Contender("set_flow_run_state", partial(set_states, policy=None), a_run),
            Contender("set_flow_run_state, policy of the API", partial(set_states, policy=CoreFlowPolicy), a_run),
            Contender("flowstates", create_states, a_new_id),
        ]
        return await take_turns(contenders, turns, warm_up=3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
