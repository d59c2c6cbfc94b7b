"""What the service does beside its requests. All of it may run in several processes at once."""

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta

import asyncpg
from flowstates import FlowRunStateFeed, FlowRunStateRetention, is_retryable

from service import jobs, usage

KEPT = timedelta(days=30)
DAY = timedelta(days=1)

log = logging.getLogger(__name__)


def end_process() -> None:
    """As a supervisor ends it: what is being answered is answered first. A supervisor then starts it again."""
    signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def workers(pool: asyncpg.Pool, *, give_up: Callable[[], object] = end_process) -> AsyncGenerator[None]:
    """Runs them for as long as the block. Where one ends by an error it calls `give_up`: no service is to take jobs
    that nobody does."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("the worker %r has ended", task.get_name(), exc_info=task.exception())
            give_up()

    feed = FlowRunStateFeed(pool)
    tasks = [
        asyncio.create_task(again_and_again(step, pause), name=name)
        for name, step, pause in [
            ("work", lambda: jobs.work(pool), lambda: 0.5),
            ("give up lost", lambda: jobs.give_up_lost(pool), lambda: 10.0),
            ("count", lambda: usage.count(feed), lambda: 0.5),
            ("prune", lambda: prune(pool), lambda: seconds_until(time(3, tzinfo=UTC), datetime.now(UTC))),
        ]
    ]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def again_and_again(step: Callable[[], Awaitable[bool]], pause: Callable[[], float]) -> None:
    """Does a step, and the next one at once if it says that there is more to do, or else after a pause in seconds."""
    while True:
        try:
            has_more = await step()
        except Exception as error:
            if not is_retryable(error):
                raise
            log.warning("a worker goes on after a pause: %r", error)
            has_more = False
        if not has_more:
            await asyncio.sleep(pause())


async def prune(pool: asyncpg.Pool) -> bool:
    """Deletes old runs, in short transactions, and their jobs with them; at the start, and each night at three."""
    report = await FlowRunStateRetention(pool).prune(older_than=KEPT, pause=0.1)
    log.info("pruned %s runs", report.runs)
    return False


def seconds_until(at: time, now: datetime) -> float:
    """From now to the next time that it is so late, more than 0 and a day at most."""
    return (DAY - (now - datetime.combine(now, at)) % DAY).total_seconds()
