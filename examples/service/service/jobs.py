"""Jobs: submitted by a request, and done by a worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
from flowstates import (
    FlowRunState,
    FlowRunStateFilter,
    FlowRunStateRepository,
    TypeName,
    UnexpectedStateError,
    is_retryable,
    new_run_id,
)
from opentelemetry.propagate import inject

T = TypeVar("T")

LIMIT = 5.0  # seconds that a job may take
LOST = timedelta(minutes=1)  # after which a job that is RUNNING has no worker any more

log = logging.getLogger(__name__)


async def submit(pool: asyncpg.Pool, customer: str, seconds: float) -> UUID:
    """A new job that is to take so long; the id of its run, a UUIDv7."""
    run = new_run_id()
    carrier: dict[str, str] = {}
    inject(carrier)  # the request's span, of whose trace the run is then a part
    details = {"traceparent": carrier.get("traceparent")}
    # The run and the job are stored together or not at all; the run first, which the job references.
    async with pool.acquire() as connection, connection.transaction():
        states = FlowRunStateRepository(connection)
        await states.create_flow_run_state(run, "SCHEDULED", state_details=details)
        await connection.execute(
            "insert into job (run_id, customer, seconds) values ($1, $2, $3)", run, customer, seconds
        )
    return run


async def work(pool: asyncpg.Pool) -> bool:
    """Does the job that has waited longest; whether there was one. Any number of workers may do so at once."""
    states = FlowRunStateRepository(pool)
    waiting = await states.read_flow_run_state_page(
        FlowRunStateFilter(current=True, types=["SCHEDULED"]), order="time", limit=10
    )
    for scheduled in waiting.states:
        run = scheduled.flow_run_id
        try:
            # Of all workers that expect the run to be in this state, one is answered.
            running = await states.create_flow_run_state(run, "RUNNING", expected=scheduled.id)
        except UnexpectedStateError:
            continue
        type, message = await do(pool, run)
        await finish(states, running, type, message)
        return True
    return False


async def do(pool: asyncpg.Pool, run: UUID) -> tuple[TypeName, str | None]:
    """What came of it."""
    seconds: float | None = await pool.fetchval("select seconds from job where run_id = $1", run)
    if seconds is None:
        return "FAILED", "it is no job"
    try:
        async with asyncio.timeout(LIMIT):
            await asyncio.sleep(seconds)
    except TimeoutError:
        return "FAILED", f"it took longer than {LIMIT:g} s"
    return "COMPLETED", None


async def finish(states: FlowRunStateRepository, running: FlowRunState, type: TypeName, message: str | None) -> None:
    id = new_run_id()  # made once: a create that may have been stored is repeated by its id
    try:
        await patiently(
            lambda: states.create_flow_run_state(
                running.flow_run_id, type, id=id, message=message, expected=running.id, timeout=10
            )
        )
    except UnexpectedStateError as error:
        log.warning("it came too late: %s", error)


async def give_up_lost(pool: asyncpg.Pool) -> bool:
    """Jobs whose worker was killed, or lost its connection, are CRASHED."""
    states = FlowRunStateRepository(pool)
    lost = FlowRunStateFilter(current=True, types=["RUNNING"], until=datetime.now(UTC) - LOST)
    page = await states.read_flow_run_state_page(lost, order="time")
    for running in page.states:
        await finish(states, running, "CRASHED", "its worker is gone")
    return page.next is not None


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What a call gives, which is repeated a few times where it failed by what passes by itself."""
    for pause in (0.1, 0.5, 2.0):
        try:
            return await call()
        except Exception as error:
            if not is_retryable(error):
                raise
            log.warning("again in %s s: %r", pause, error)
        await asyncio.sleep(pause)
    return await call()
