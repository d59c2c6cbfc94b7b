"""Run in Prefect's environment: the same work by Prefect's own functions and by ours, in turns, in one process, on one server.

Prints the settings and the seconds as one line of JSON.

`moves`: runs moved by Prefect's set_flow_run_state. Each side has a database of its own. A move is three states, each in a session with
a commit of its own, as Prefect's API does it; ours are three creates through our pool, each on the condition that the one before is current.
Both make a typed state of each. Prefect does more in its call: it also updates the run's row, and applies its orchestration rules.

`reads`: a run of eight states, stored by Prefect. Prefect reads it in a session of its own, as its API does, and makes a State of each row; ours
reads the same rows through our pool, on the layout `prefect`. The two answers are held against each other before anything is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

from benchmarks.peers import HISTORY
from benchmarks.shared import Contender, Seconds, own_database, settings_of, take_turns
from flowstates import FlowRunStateRepository, create_pool, migrate

TYPES = ("PENDING", "RUNNING", "COMPLETED")
READS_A_TURN = 10


async def main(dsn: str, work: str, turns: int) -> None:
    """Makes two databases and measures."""
    suffix = uuid4().hex[:8]
    async with own_database(dsn, f"bench_prefect_{suffix}") as theirs, own_database(dsn, f"bench_flowstates_{suffix}") as ours:
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = urlunsplit(urlsplit(theirs)._replace(scheme="postgresql+asyncpg"))
        upgrade = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y", stdout=asyncio.subprocess.DEVNULL
        )
        if await upgrade.wait():
            raise RuntimeError(f"prefect server database upgrade ended with {upgrade.returncode}")
        connection = await asyncpg.connect(ours)
        settings = await settings_of(connection) | {"Prefect": version("prefect")}
        await connection.close()
        seconds = await (_reads(theirs, turns) if work == "reads" else _moves(ours, turns))
        print(json.dumps([settings, seconds]))


async def _moves(dsn: str, turns: int) -> Seconds:
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


async def _reads(dsn: str, turns: int) -> Seconds:
    # Prefect reads its settings when it is first imported.
    from prefect.server import models, schemas
    from prefect.server.database import provide_database_interface

    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        flow = await models.flows.create_flow(session, schemas.core.Flow(name="bench"))
        run = (await models.flow_runs.create_flow_run(session, schemas.core.FlowRun(flow_id=flow.id))).id
    for type_, name, message in HISTORY:
        details = {"scheduled_time": datetime.now(UTC)} if type_ == "SCHEDULED" else {}
        async with db.session_context(begin_transaction=True, with_for_update=True) as session:
            state = schemas.states.State(type=type_, name=name, message=message, state_details=details)
            await models.flow_runs.set_flow_run_state(session, run, state, force=True)

    async def read() -> list[schemas.states.State]:
        async with db.session_context() as session:
            return [state.as_state() for state in await models.flow_run_states.read_flow_run_states(session, run)]

    async with create_pool(dsn) as pool:
        repository = FlowRunStateRepository(pool, layout="prefect")
        ours = [state.to_rest() for state in await repository.read_flow_run_states(run)]
        theirs = [state.model_dump(mode="json", include=set(ours[0])) for state in await read()]
        if len(ours) != len(HISTORY) or ours != theirs:
            raise RuntimeError(f"not the same answer: {ours} and {theirs}")

        async def several(read: Callable[[], Awaitable[object]]) -> None:
            for _ in range(READS_A_TURN):
                await read()

        contenders = [
            Contender("read_flow_run_states", lambda _: several(read)),
            Contender("flowstates", lambda _: several(partial(repository.read_flow_run_states, run))),
        ]
        seconds = await take_turns(contenders, turns, warm_up=3)
    return {name: [turn / READS_A_TURN for turn in taken] for name, taken in seconds.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
