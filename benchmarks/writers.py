"""What writers cost each other: many runs at once, one run at once, one run while an old snapshot is open.

By hand means what it means in `writing.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.shared import HAS_SERVER_CLOCK, NO_SERVER_CLOCK, Contender, Row, own_database, server_clock, take_turns
from benchmarks.writing import Connection, Values, connections, create, insert, values
from flowstates import FlowRunStateRepository, create_pool, migrate

BY_HAND, OURS, ONE_AFTER_ANOTHER = "by hand", "flowstates", "one after another"
WRITERS, CREATES_A_WRITER = 64, 8
AT_ONCE = 200
AROUND = 5  # appends on each side of the one that is meant


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool) -> list[Row]:
    """The rows of this group."""
    async with own_database(dsn, "bench_writers") as own:
        connection = await asyncpg.connect(own)
        await migrate(connection)
        await connection.close()
        return [
            await _many_runs(own, 5 if short else 25),
            *await _one_run(own, 5 if short else 25, size=16, limit=1.5),
            *await _one_run(own, 5 if short else 25, size=WRITERS, limit=None),
            *[await _old_snapshot(own, 1 if short else 7, is_open=is_open) for is_open in (True, False)],
        ]


async def _many_runs(dsn: str, turns: int) -> Row:
    async with connections(dsn, WRITERS) as all_of_them:

        async def ready() -> list[list[Values]]:
            now = datetime.now(UTC)
            times = [now + timedelta(microseconds=number) for number in range(CREATES_A_WRITER)]
            return [[values(run, time) for time in times] for run in await new_runs()]

        async def new_runs() -> list[UUID]:
            return [uuid4() for _ in all_of_them]

        async def by_hand(states: list[list[Values]]) -> None:
            async def write(connection: Connection, mine: list[Values]) -> None:
                for state in mine:
                    await insert(connection, state)

            await asyncio.gather(*map(write, all_of_them, states))

        async def ours(runs: list[UUID]) -> None:
            async def write(connection: Connection, run: UUID) -> None:
                repository = FlowRunStateRepository(connection)
                for _ in range(CREATES_A_WRITER):
                    await create(repository, (run, None))

            await asyncio.gather(*map(write, all_of_them, runs))

        seconds = await take_turns([Contender(BY_HAND, by_hand, ready), Contender(OURS, ours, new_runs)], turns, warm_up=2)
    work = f"{WRITERS} writers, {WRITERS} runs, {CREATES_A_WRITER} creates each"
    return Row(work, "the same inserts by hand, same connections", seconds[OURS], seconds[BY_HAND], 1.4)


async def _one_run(dsn: str, turns: int, *, size: int, limit: float | None) -> list[Row]:
    async with create_pool(dsn, min_size=size, max_size=size) as pool:
        repository = FlowRunStateRepository(pool)

        async def a_run() -> UUID:
            run = uuid4()
            await create(repository, (run, None))
            return run

        async def at_once(run: UUID) -> None:
            await asyncio.gather(*[create(repository, (run, None)) for _ in range(AT_ONCE)])

        async def one_after_another(run: UUID) -> None:
            for _ in range(AT_ONCE):
                await create(repository, (run, None))

        seconds = await take_turns([Contender(OURS, at_once, a_run), Contender(ONE_AFTER_ANOTHER, one_after_another, a_run)], turns, warm_up=1)
        tries: Counter[Any] = Counter()

        def count(query: Any) -> None:
            if len(query.args) > 2:  # not what begins and ends a transaction
                tries[query.args[2]] += 1

        async with AsyncExitStack() as stack:
            run = await a_run()
            for connection in [await pool.acquire() for _ in range(size)]:
                stack.enter_context(connection.query_logger(count))
                await pool.release(connection)
            await at_once(run)
        assert len(tries) == AT_ONCE, tries
    work = f"{AT_ONCE} writers at once, one run, {size} connections"
    return [
        Row(work, f"{AT_ONCE} such creates one after another", seconds[OURS], seconds[ONE_AFTER_ANOTHER], limit),
        Row(f"{work}: the most statements that a create needs", "", [float(max(tries.values()))], limit=1, unit="statements"),
    ]


async def _old_snapshot(dsn: str, turns: int, *, is_open: bool) -> Row:
    """The server's CPU time, the mean of eleven appends. Each turn has a run and a snapshot of its own; the first is not counted."""
    work, against = f"the 1,000th append to a run, {'an old' if is_open else 'no old'} snapshot open, server's CPU time", "the 10th"
    limit = 4.0 if is_open else None
    if not HAS_SERVER_CLOCK:
        return Row(work, against, limit=limit, note=NO_SERVER_CLOCK)
    row = Row(work, against, limit=limit)
    async with connections(dsn, 2) as (connection, reader):
        clock = server_clock(connection)
        repository = FlowRunStateRepository(connection)
        await connection.execute("set synchronous_commit = off")
        for turn in range(turns + 1):
            run, spent = uuid4(), [clock()]
            async with AsyncExitStack() as stack:
                if is_open:
                    await stack.enter_async_context(reader.transaction(isolation="repeatable_read", readonly=True))
                    await reader.fetchval("select count(*) from flow_run")
                for _ in range(1_000 + AROUND):
                    await create(repository, (run, None))
                    spent.append(clock())
            if turn:
                for number, taken in ((10, row.theirs), (1_000, row.ours)):
                    taken.append((spent[number + AROUND] - spent[number - AROUND - 1]) / (2 * AROUND + 1))
    return row
