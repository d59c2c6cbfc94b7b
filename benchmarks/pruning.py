"""What pruning costs over the same deletes by hand, and by how large the table is.

By hand means: the ids are known before the clock starts, and are deleted in as large batches, each a statement and a commit of its own. Ours finds
the runs, counts their states, locks and deletes them. Each turn takes the next slice of a table; the tables are made for this group and go.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from benchmarks.shared import Contender, Row, grown_by, own_database, take_turns
from benchmarks.tables import STATES_A_RUN, UNTIL, lack_of_disk, load
from flowstates import FlowRunStateRepository, FlowRunStateRetention, Keep, create_pool

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BATCH = 5_000  # states
LEAST_STATES = 300_000  # for the slices of all turns
RUNS_A_BATCH = BATCH // STATES_A_RUN
ENDS = Keep(first=True, last=True)
TERMINAL = "('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED')"
OLDEST = f"select id from flow_run where state_type in {TERMINAL} order by state_timestamp, id limit $1"
MIDDLES = f"""
select state.id
  from (select id, state_id from flow_run where state_type in {TERMINAL} order by state_timestamp desc, id desc offset $2 limit $1) as run
 cross join lateral (select id from flow_run_state where flow_run_id = run.id order by timestamp offset 1) as state
 where state.id <> run.state_id
"""
SCAN = f"select count(state_timestamp) from flow_run where state_type in {TERMINAL} and state_timestamp < $1"
DELETE_RUNS = "delete from flow_run_state where flow_run_id = any ($1::uuid[])"
DELETE_STATES = "delete from flow_run_state where id = any ($1::uuid[])"
OURS, BY_HAND = "flowstates", "by hand"


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool, states: int) -> list[Row]:
    """The rows of this group."""
    states = max(states, LEAST_STATES)
    if lack := await lack_of_disk(dsn, 2 * states):
        return [Row(f"pruning of {states:,} states", "", note=lack)]
    turns = 2 if short else 10
    small = states // (10 if states >= 1_000_000 else 5)
    slice_ = max(BATCH, states // 100 // BATCH * BATCH)  # a turn's
    settings["pruning"] = {"states": f"{states:,}", "a turn": f"{slice_:,} states", "batch": f"{BATCH:,} states"}
    async with AsyncExitStack() as stack:
        connections = []
        for name, size in (("prune_large", states), ("prune_small", small)):
            own = await stack.enter_async_context(own_database(dsn, name))
            await load(own, size, size // STATES_A_RUN // 100)
            connection = await asyncpg.connect(own)
            stack.push_async_callback(connection.close)
            connections.append((own, connection))
        (large_dsn, large), (_, little) = connections
        rows = [
            await _nothing_old(large, turns),
            await _dry_run(large, slice_, turns),
            await _whole_runs(large, slice_, turns),
            await _one_batch(large, little, states, small, turns),
            await _reader(large_dsn, large, slice_),
            await _thinning(large, slice_, turns),
            await _thinned_before(little, turns),
        ]
    async with own_database(dsn, "prune_memory") as own:
        await load(own, small, small // STATES_A_RUN // 100)
        rows.append(await _memory(own, small))
    return rows


def _pruned(connection: Any, **policy: Any) -> Awaitable[Any]:
    return FlowRunStateRetention(connection).prune(**{"before": UNTIL, "batch_size": BATCH, **policy})


def _row(work: str, against: str, seconds: dict[str, list[float]], limit: float | None, ours: str = OURS, theirs: str = BY_HAND) -> Row:
    return Row(work, against, seconds[ours], seconds[theirs], limit)


async def _by_hand(connection: Connection, text: str, a_batch: int, ids: list[UUID]) -> None:
    for start in range(0, len(ids), a_batch):
        await connection.execute(text, ids[start : start + a_batch])


async def _nothing_old(connection: Connection, turns: int) -> Row:
    before = UNTIL - timedelta(days=60)

    async def ours(_: None) -> None:
        assert (await _pruned(connection, before=before)).runs == 0

    async def by_hand(_: None) -> None:
        await connection.fetchval(SCAN, UNTIL)

    seconds = await take_turns([Contender(OURS, ours), Contender(BY_HAND, by_hand)], turns, warm_up=1)
    return _row("a pass where no run is old", "an index scan of the runs' rows by hand", seconds, 2)


async def _whole_runs(connection: Connection, slice_: int, turns: int) -> Row:
    async def ids() -> list[UUID]:
        return [row[0] for row in await connection.fetch(OLDEST, slice_ // STATES_A_RUN)]

    async def ours(_: None) -> None:
        assert (await _pruned(connection, max_batches=slice_ // BATCH)).states == slice_

    hand = Contender(BY_HAND, partial(_by_hand, connection, DELETE_RUNS, RUNS_A_BATCH), ids)
    seconds = await take_turns([Contender(OURS, ours), hand], turns, warm_up=1)
    return _row(f"{slice_:,} states of whole runs", "the same deletes by hand, run ids known", seconds, 1.5)


async def _dry_run(connection: Connection, slice_: int, turns: int) -> Row:
    async def run(_: None, *, dry_run: bool) -> None:
        assert (await _pruned(connection, max_batches=slice_ // BATCH, dry_run=dry_run)).states == slice_

    contenders = [Contender(OURS, partial(run, dry_run=True)), Contender(BY_HAND, partial(run, dry_run=False))]
    seconds = await take_turns(contenders, turns, warm_up=1)
    return _row(f"a dry run over {slice_:,} states of whole runs", "the deletes", seconds, 0.5)


async def _one_batch(large: Connection, little: Connection, states: int, small: int, turns: int) -> Row:
    async def run(_: None, *, connection: Connection) -> None:
        assert (await _pruned(connection, max_batches=1)).batches == 1

    contenders = [Contender(OURS, partial(run, connection=large)), Contender(BY_HAND, partial(run, connection=little))]
    seconds = await take_turns(contenders, turns, warm_up=1)
    return _row(f"one batch, of {states:,} states", f"one batch, of {small:,} states", seconds, 1.2)


async def _thinning(connection: Connection, slice_: int, turns: int) -> Row:
    # Ours comes from the oldest run on, by hand from the newest.
    cursor: str | None = None
    skipped = 0
    middles = STATES_A_RUN - 2

    async def ids() -> list[UUID]:
        nonlocal skipped
        found = await connection.fetch(MIDDLES, slice_ // middles, skipped)
        skipped += slice_ // middles
        return [row[0] for row in found]

    async def ours(_: None) -> None:
        nonlocal cursor
        report = await _pruned(connection, keep=ENDS, max_batches=slice_ // BATCH, cursor=cursor)
        assert not report.is_done
        cursor = report.cursor

    hand = Contender(BY_HAND, partial(_by_hand, connection, DELETE_STATES, BATCH), ids)
    seconds = await take_turns([Contender(OURS, ours), hand], turns, warm_up=1)
    return _row(f"{slice_:,} states thinned, to first and last", "the same deletes by hand, state ids known", seconds, 2.0)


async def _thinned_before(connection: Connection, turns: int) -> Row:
    await _pruned(connection, keep=ENDS)
    await connection.execute("vacuum (analyze) flow_run_state, flow_run")
    runs = await connection.fetchval(SCAN, UNTIL)

    async def ours(_: None) -> None:
        assert (await _pruned(connection, keep=ENDS)).states == 0

    async def by_hand(_: None) -> None:
        await connection.fetchval(SCAN, UNTIL)

    seconds = await take_turns([Contender(OURS, ours), Contender(BY_HAND, by_hand)], turns, warm_up=1)
    return _row(f"a pass over {runs:,} runs that are thinned", "an index scan of their rows by hand", seconds, None)


async def _reader(dsn: str, connection: Connection, slice_: int) -> Row:
    ids = [row[0] for row in await connection.fetch("select id from flow_run order by state_timestamp desc limit 10000")]
    states = FlowRunStateRepository(connection)

    async def read(goes_on: Callable[[], bool]) -> list[float]:
        took = []
        while goes_on() or len(took) < 1_000:
            begun = perf_counter()
            await states.read_flow_run_states(random.choice(ids))
            took.append(perf_counter() - begun)
        return took

    alone = await read(lambda: False)
    # In a process of its own, so that it shares no event loop with the reader.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        pruning = asyncio.get_running_loop().run_in_executor(process, _prune_in_a_process, dsn, slice_ // BATCH)
        beside = await read(lambda: not pruning.done())
        await pruning
    p99 = [[quantiles(took, n=100)[98]] for took in (beside, alone)]
    return Row("p99 of a reader of random runs beside a pass", "without it", *p99, limit=1.5)


def _prune_in_a_process(dsn: str, batches: int) -> None:
    async def run() -> None:
        async with create_pool(dsn, max_size=1) as pool:
            await _pruned(pool, max_batches=batches)

    asyncio.run(run())


async def _memory(dsn: str, states: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        grown = await grown_by(_prune_with_an_archive, dsn, Path(folder) / "gone.jsonl")
    return Row(f"memory while {states:,} states are pruned into a file", "the start", [grown], limit=64, unit="MiB")


async def _prune_with_an_archive(dsn: str, path: Path) -> None:
    async with create_pool(dsn, max_size=1) as pool:
        await _pruned(pool, archive=path)
