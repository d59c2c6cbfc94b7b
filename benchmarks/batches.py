"""Creates of many tasks that go together, beside the same creates through a pool; claims by three processes; reads on a standby."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.shared import HAS_SERVER_CLOCK, NO_SERVER_CLOCK, Contender, Row, own_database, take_turns
from flowstates import BatchedCreates, FlowRunStateRepository, UnexpectedStateError, batched, create_pool, has_reached, migrate, position
from flowstates.records import uuid7
from tests.standby import primary_and_standby

TASKS, CONNECTIONS, OF_A_POOL = 256, 3, 16
CLAIMS, CLAIMED, PROCESSES = 600, 60, 3
READS = 1_000
POOL, BATCHED = "pool", "batched"
Creates = FlowRunStateRepository | BatchedCreates
Source = tuple[str, Creates, asyncpg.Pool]
Sources = list[Source]


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool) -> list[Row]:
    """The rows of this group."""
    async with own_database(dsn, "bench_batches") as own:
        connection = await asyncpg.connect(own)
        await migrate(connection)
        await connection.close()
        async with _sources(own) as sources:
            rows = [*await _many_tasks(sources, 2 if short else 11, creates=2 if short else 8), await _alone(sources[1], 50 if short else 500)]
        rows.append(await _claims(own))
    rows.append(await _stale_reads(100 if short else READS))
    return rows


@asynccontextmanager
async def _sources(dsn: str) -> AsyncIterator[Sources]:
    async with (
        create_pool(dsn, min_size=OF_A_POOL, max_size=OF_A_POOL) as pool,
        create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as few,
        batched(few) as states,
    ):
        yield [(POOL, FlowRunStateRepository(pool), pool), (BATCHED, states, few)]


async def _server_clock(pool: asyncpg.Pool) -> Callable[[], float]:
    """The processor's time of all the server processes of a pool (Linux)."""
    connections = [await pool.acquire() for _ in range(pool.get_size())]
    spent = [Path(f"/proc/{connection.get_server_pid()}/schedstat") for connection in connections]
    for connection in connections:
        await pool.release(connection)
    return lambda: sum(int(path.read_text().split()[0]) for path in spent) / 1e9


async def _many_tasks(sources: Sources, turns: int, *, creates: int) -> list[Row]:
    """New runs. Each turn gives a time for the wall, one for the processors, and the 99th percentile of its creates."""
    latest: dict[str, list[float]] = {name: [] for name, *_ in sources}
    cpu: dict[str, list[float]] = {name: [] for name, *_ in sources}

    def runner(name: str, states: Creates, server: Callable[[], float] | None) -> Callable[[None], Awaitable[None]]:
        async def run(_: None) -> None:
            taken: list[float] = []

            async def work() -> None:
                for _ in range(creates):
                    begun = time.perf_counter()
                    await states.create_flow_run_state(uuid7(), "RUNNING")
                    taken.append(time.perf_counter() - begun)

            begun = time.process_time() + (server() if server else 0)
            await asyncio.gather(*[work() for _ in range(TASKS)])
            cpu[name].append(time.process_time() + (server() if server else 0) - begun)
            latest[name].append(quantiles(taken, n=100)[98])

        return run

    contenders = []
    for name, states, pool in sources:
        server = await _server_clock(pool) if HAS_SERVER_CLOCK else None
        contenders.append(Contender(name, runner(name, states, server)))
    seconds = await take_turns(contenders, turns, warm_up=1)
    work, against = f"{TASKS} tasks creating, new runs, batched, {CONNECTIONS} connections", f"the same through a pool of {OF_A_POOL}"
    of_cpu = Row(f"{work}: processors' time, client and server", against, cpu[BATCHED][1:], cpu[POOL][1:], 0.25)
    if not HAS_SERVER_CLOCK:
        of_cpu = Row(of_cpu.work, against, limit=0.25, note=NO_SERVER_CLOCK)
    return [
        Row(work, against, seconds[BATCHED], seconds[POOL], 0.25),
        Row(f"{work}: 99th percentile of a create", against, latest[BATCHED][1:], latest[POOL][1:], 0.25),
        of_cpu,
    ]


async def _alone(source: Source, turns: int) -> Row:
    """Through one pool, so that both have the same connection."""
    _, states, pool = source

    def runner(states: Creates) -> Callable[[Any], Awaitable[None]]:
        async def run(_: Any) -> None:
            await states.create_flow_run_state(uuid7(), "RUNNING")

        return run

    contenders = [Contender(BATCHED, runner(states)), Contender(POOL, runner(FlowRunStateRepository(pool)))]
    seconds = await take_turns(contenders, turns, warm_up=20)
    return Row("a lone create, batched", "a lone create", seconds[BATCHED], seconds[POOL], 1.3)


def _claim(dsn: str, runs: list[UUID], seed: int) -> list[UUID]:
    async def claim_all() -> list[UUID]:
        won: list[UUID] = []
        async with create_pool(dsn, max_size=CONNECTIONS) as pool, batched(pool) as states:

            async def claim(run: UUID) -> None:
                try:
                    won.append((await states.create_flow_run_state(run, "RUNNING", expected={"PENDING"})).flow_run_id)
                except UnexpectedStateError:
                    return

            await asyncio.gather(*map(claim, Random(seed).sample(runs * 4, CLAIMS // PROCESSES)))
        return won

    return asyncio.run(claim_all())


async def _claims(dsn: str) -> Row:
    runs = [uuid4() for _ in range(CLAIMED)]
    async with create_pool(dsn, max_size=CONNECTIONS) as pool, batched(pool) as states:
        await asyncio.gather(*[states.create_flow_run_state(run, "PENDING") for run in runs])
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        loop = asyncio.get_running_loop()
        won = await asyncio.gather(*[loop.run_in_executor(processes, _claim, dsn, runs, seed) for seed in range(PROCESSES)])
    winners = Counter(run for of_one in won for run in of_one)
    work = f"{CLAIMS} claims of {CLAIMED} runs, expected={{PENDING}}, {PROCESSES} processes: the most winners of a run"
    return Row(work, "", [float(max(winners.values()))], limit=1, unit="winners")


async def _stale_reads(reads: int) -> Row:
    with primary_and_standby() as pair:
        async with create_pool(pair.primary) as primary, create_pool(pair.standby) as standby:
            await migrate(primary)
            await pair.caught_up()
            writes, theirs = FlowRunStateRepository(primary), FlowRunStateRepository(standby)
            stale = 0
            for _ in range(reads):
                state = await writes.create_flow_run_state(uuid7(), "RUNNING")
                if not await has_reached(standby, await position(primary), timeout=60):
                    raise AssertionError("the standby does not follow")
                stale += await theirs.read_flow_run_state(state.id) is None
    return Row(f"stale reads of {reads:,} right after a create, with a position, on a standby", "", [float(stale)], limit=0, unit="reads")
