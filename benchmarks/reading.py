"""What a read costs as the table grows, and over the same statement by hand.

By hand means: the text of the same query file, its arguments ready before the clock starts, asyncpg's fetch or cursor on a bare connection,
raw records. Our side starts from what a user calls and ends with typed records.

The tables are made by `migrate` and loaded without their indexes and trigger, which are made again by their own definitions: ten states a
run, the runs' ids random, the runs begun one after the other in 31 days. The peer of occupancy is summed up on the server, so that it does
not also pay for sending a million rows.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from itertools import cycle
from typing import Any, Literal, TypeAlias
from unittest.mock import patch
from uuid import UUID

import asyncpg

from benchmarks.shared import Contender, Row, Seconds, grown_by, own_database, take_turns
from flowstates import FlowRunStateAnalytics, FlowRunStateRepository, create_pool, migrate
from flowstates.engine import cursors, queries

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Order: TypeAlias = Literal["run", "time"]

SMALL, LARGE, LARGE_IN_SHORT = 100_000, 10_000_000, 500_000
GIGABYTES = 5  # of free disk that LARGE is said to need
STATES_A_RUN = 10
RUNS = 10_000
STREAMED = 1_000_000
BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 31
UNTIL = BEGIN + timedelta(days=DAYS, hours=4)
LOAD = """
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details, sequence)
select md5(run::text)::uuid, type::state_type, gen_random_uuid(),
       $2::timestamptz + run::float8 / $1::bigint * $3::interval + n * n * interval '1 minute', initcap(type), 'step ' || n, '{}', n
  from generate_series(1, $1::bigint) as run,
       unnest('{SCHEDULED,PENDING,RUNNING,PAUSED,RUNNING,SCHEDULED,PENDING,RUNNING,CANCELLING,COMPLETED}'::text[]) with ordinality as state (type, n)
"""
DEFINITIONS = """
select format('drop trigger %I on flow_run_state', tgname) as drop, pg_get_triggerdef(oid) as make
  from pg_trigger where tgrelid = 'flow_run_state'::regclass and not tgisinternal
 union all
select format('alter table flow_run_state drop constraint %I', conname),
       format('alter table flow_run_state add constraint %I %s', conname, pg_get_constraintdef(oid))
  from pg_constraint where conrelid = 'flow_run_state'::regclass and contype in ('p', 'u')
 union all
select format('drop index %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
  from pg_index
 where indrelid = 'flow_run_state'::regclass and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u'))
"""
GROUPED = "select flow_run_id, count(*), max(timestamp) from flow_run_state group by flow_run_id"
SUMMED = f"select count(*), sum(count), max(max) from ({GROUPED}) as run"
BY_HAND = "by hand"
OURS = "flowstates"
FIRST = "first"


class Table:
    """A table of so many states in a database of its own, and a bare connection to it."""

    def __init__(self, dsn: str, connection: Connection, states: int) -> None:
        self.dsn, self.connection, self.states = dsn, connection, states
        self.repository = FlowRunStateRepository(connection)

    def some_runs(self, count: int) -> list[UUID]:
        """Some of its runs."""
        numbers = random.sample(range(1, self.states // STATES_A_RUN + 1), count)
        return [UUID(md5(str(number).encode()).hexdigest()) for number in numbers]


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool) -> list[Row]:
    """The rows of this group."""
    states = LARGE_IN_SHORT if short else LARGE
    settings["reading"] = {"states": f"{SMALL:,} and {states:,}" + (f", short form: instead of {LARGE:,}" if short else "")}
    async with _table(dsn, SMALL) as small:
        folder = await small.connection.fetchval("show data_directory")
        free = shutil.disk_usage(folder).free / 10**9
        rows = await _rows(small, short=short)
        if not short and free < GIGABYTES:
            lack = f"{free:.1f} GB of disk are free below {folder}, and {states:,} states take {GIGABYTES}"
            settings["reading"]["states"] = f"{SMALL:,} only: {lack}"
            return [*rows, Row(f"all of it with {states:,} states", "", note=lack)]
        async with _table(dsn, states) as large:
            return [await _history(small, large, 500 if short else 3_000), *rows, *await _rows(large, short=short)]


@asynccontextmanager
async def _table(dsn: str, states: int) -> AsyncIterator[Table]:
    async with own_database(dsn, f"bench_reading_{states}") as own:
        connection = await asyncpg.connect(own)
        await migrate(connection)
        definitions = await connection.fetch(DEFINITIONS)
        for definition in definitions:
            await connection.execute(definition["drop"])
        await connection.execute(LOAD, states // STATES_A_RUN, BEGIN, timedelta(days=DAYS))
        await connection.execute("set maintenance_work_mem = '256MB'")
        for definition in reversed(definitions):
            await connection.execute(definition["make"])
        await connection.execute("reset maintenance_work_mem")
        await connection.execute("vacuum (analyze) flow_run_state")
        await connection.execute("checkpoint")
        yield Table(own, connection, states)
        await connection.close()


async def _rows(table: Table, *, short: bool) -> list[Row]:
    """What is asked of both sizes. Limits that are for the large one are not held against the small."""
    is_large = table.states > SMALL
    rows = [
        *[await _pages(table, order, 200 if short else 1_000, 1.3 if is_large else None) for order in ("run", "time")],
        *await _many_runs(table, 5 if short else 25),
        await _stream(table, 1 if short else 5),
    ]
    if is_large:
        count = min(STREAMED, table.states)
        grown = await grown_by(_stream_on_a_pool, table.dsn, count)
        rows.append(Row(f"memory while {count:,} states are streamed", "the start", [grown], limit=64, unit="MiB"))
    return rows + await _occupancy(table, 3, 2.0 if is_large else None)


def _row(work: str, table: Table, against: str, seconds: Seconds, limit: float | None, peer: str = BY_HAND) -> Row:
    return Row(f"{work}, of {table.states:,} states", against, seconds[OURS], seconds[peer], limit)


async def _history(small: Table, large: Table, turns: int) -> Row:
    """On new connections, which have asked nothing else yet. The runs fit into the server's own cache, and each was read before the clock starts."""

    def contender(name: str, table: Table, connection: Connection) -> Contender:
        following = cycle(table.some_runs(200))

        async def run() -> UUID:
            return next(following)

        return Contender(name, FlowRunStateRepository(connection).read_flow_run_states, run)

    ones = [await asyncpg.connect(table.dsn) for table in (small, large)]
    seconds = await take_turns([contender(BY_HAND, small, ones[0]), contender(OURS, large, ones[1])], turns, warm_up=400)
    for connection in ones:
        await connection.close()
    return _row("one run's history, 10 states, cached", large, f"the same of {small.states:,} states", seconds, 1.3)


async def _pages(table: Table, order: Order, turns: int, limit: float | None) -> Row:
    """The forward page that ends with the last state. Its cursor has the position of the 101st from the end, and the question of the first page."""
    read = partial(table.repository.read_flow_run_state_page, order=order)
    with patch.object(cursors, "encode", wraps=cursors.encode) as encode:
        ends = await read(newest_first=True, limit=101)
        from_the_end, _ = encode.call_args.args
        await read()
        _, question = encode.call_args.args
    cursor = cursors.encode(from_the_end, question)
    page = await read(cursor=cursor)
    assert page.states == ends.states[99::-1]

    contenders = [Contender(FIRST, lambda _: read()), Contender(OURS, lambda _: read(cursor=cursor))]
    seconds = await take_turns(contenders, turns, warm_up=20)
    return _row(f"last page of 100 in the order of {order}", table, "the first page", seconds, limit, FIRST)


async def _many_runs(table: Table, turns: int) -> list[Row]:
    at = BEGIN + timedelta(days=DAYS * 0.9)  # most of them have begun

    async def runs() -> list[UUID]:
        return table.some_runs(RUNS)

    async def as_text() -> str:
        return "{" + ",".join(map(str, await runs())) + "}"

    async def row(work: str, name: str, ours: Any, *arguments: str) -> Row:
        text = queries.query(name, "flowstates")

        async def by_hand(ids: str) -> None:
            await table.connection.fetch(text, ids, *arguments)

        seconds = await take_turns([Contender(BY_HAND, by_hand, as_text), Contender(OURS, ours, runs)], turns, warm_up=2)
        return _row(work, table, "the same statement by hand", seconds, 1.5)

    current, as_of = table.repository.read_current_flow_run_states, partial(table.repository.read_flow_run_states_as_of, at=at)
    return [
        await row(f"current states of {RUNS:,} runs", "read_current_flow_run_states", current),
        await row(f"{RUNS:,} runs as of a moment", "read_flow_run_states_as_of.timestamp", as_of, at.isoformat()),
    ]


async def _stream(table: Table, turns: int) -> Row:
    count = min(STREAMED, table.states)
    text = queries.query("stream_flow_run_states", "flowstates")

    async def by_hand(_: None) -> None:
        async with table.connection.transaction(readonly=True):
            await _take(table.connection.cursor(text, prefetch=500), count)

    async def ours(_: None) -> None:
        async with table.repository.stream_flow_run_states() as stream:
            await _take(stream, count)

    seconds = await take_turns([Contender(BY_HAND, by_hand), Contender(OURS, ours)], turns, warm_up=1)
    work = f"{count:,} states streamed, at least 0.45 of the peer's rows a second"
    return _row(work, table, "a bare asyncpg cursor, 500 a trip", seconds, round(1 / 0.45, 2))


async def _take(rows: AsyncIterable[object], count: int) -> None:
    async for _ in rows:
        if not (count := count - 1):
            break
    assert not count, count


async def _stream_on_a_pool(dsn: str, count: int) -> None:
    async with create_pool(dsn) as pool, FlowRunStateRepository(pool).stream_flow_run_states() as stream:
        await _take(stream, count)


async def _occupancy(table: Table, turns: int, limit: float | None) -> list[Row]:
    count = partial(FlowRunStateAnalytics(table.connection).count_occupancy, since=UNTIL - timedelta(days=30), until=UNTIL, step=timedelta(hours=1))
    everything = await count(terminal=True)
    assert sum(everything[-1].counts.values()) == table.states // STATES_A_RUN, everything[-1]
    contenders = [
        Contender(BY_HAND, lambda _: table.connection.fetch(GROUPED)),
        Contender(SUMMED, lambda _: table.connection.fetch(SUMMED)),
        Contender(OURS, lambda _: count()),
    ]
    seconds = await take_turns(contenders, turns, warm_up=1)
    work, against = "occupancy, 30 days by the hour", "count(*), max(timestamp) ... group by flow_run_id"
    return [_row(work, table, against, seconds, limit), _row(work, table, against + ", summed up on the server", seconds, None, SUMMED)]
