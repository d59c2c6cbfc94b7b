"""The feed: pages that are there, empty ones, what it costs an append, and how soon a state is told. By hand means on the same bare connection."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from uuid import UUID, uuid4

import asyncpg
from pydantic import TypeAdapter

from benchmarks.peers.asyncpg_validated import State
from benchmarks.shared import HAS_SERVER_CLOCK, NO_SERVER_CLOCK, Contender, Row, own_database, server_clock, take_turns
from benchmarks.tables import Connection, Table, lack_of_disk, small_of, table_of
from flowstates import FlowRunStateFeed, FlowRunStateRepository, StateType, create_pool, migrate
from flowstates.engine import positions, queries
from flowstates.engine.positions import Position

BY_KEY = """
select id, created, updated, flow_run_id, type::text as type, timestamp, name, message, state_details::text as state_details, data::text as data,
       result_artifact_id
  from flow_run_state
 where id > $1
 order by id
 limit 500
"""
MIDDLE = """
select transaction::text, timestamp, id
  from flow_run_state
 where timestamp >= (select min(timestamp) + (max(timestamp) - min(timestamp)) / 2 from flow_run_state)
 order by timestamp, id
 limit 1
"""
# What an append says of the feed's column.
ASSIGNED = re.compile(r",\s*--[^\n]*\n\s*transaction = greatest\(pg_current_xact_id\(\), flow_run\.transaction\)")
LISTED = re.compile(r", (?:(?:flow_run|at|state)\.)?transaction\b|, pg_current_xact_id\(\)")
OURS, SMALL, AS_RECORDS = "flowstates", "small", "by hand, records"
LIMIT = 500

_states = TypeAdapter(list[State])


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool, states: int) -> list[Row]:
    """The rows of this group."""
    rows = [await _empty(dsn, 200 if short else 2_000), await _append(dsn, 300 if short else 3_000), await _delay(dsn, 20 if short else 200)]
    if lack := await lack_of_disk(dsn, states):
        return [Row(f"a page of a feed, of {states:,} states", "", note=lack), *rows]
    async with table_of(dsn, small_of(states), states) as small, table_of(dsn, states, states) as large:
        settings["feed"] = {"states": f"{small.states:,} and {large.states:,}"}
        return [*await _pages(small, large, 50 if short else 500), *rows]


async def _pages(small: Table, large: Table, turns: int) -> list[Row]:
    async def middle(table: Table) -> str:
        transaction, timestamp, id_ = await table.connection.fetchrow(MIDDLE)  # type: ignore[misc]
        return positions.encode(Position(transaction, timestamp.isoformat(), str(id_)))

    async def validated(after: UUID) -> list[State]:
        return _states.validate_python([dict(row) for row in await large.connection.fetch(BY_KEY, after)])

    contenders = [Contender(AS_RECORDS, validated, prepare=_random_id)]
    for name, table in ((OURS, large), (SMALL, small)):
        read = partial(FlowRunStateFeed(table.connection).read_page, await middle(table), limit=LIMIT)
        assert len((await read()).states) == LIMIT
        contenders.append(Contender(name, lambda _, read=read: read()))  # type: ignore[misc]
    seconds = await take_turns(contenders, turns, warm_up=20)
    work = f"a page of {LIMIT} of a feed, from the middle of {large.states:,} states"
    return [
        Row(work, "the range of a primary key by hand, as records", seconds[OURS], seconds[AS_RECORDS], 1.3),
        Row(work, f"the same of {small.states:,}", seconds[OURS], seconds[SMALL], 1.2),
    ]


async def _random_id() -> UUID:
    return uuid4()


async def _empty(dsn: str, turns: int) -> Row:
    work, against = "an empty page of a feed, server's CPU time", "select 1 by hand"
    if not HAS_SERVER_CLOCK:
        return Row(work, against, note=NO_SERVER_CLOCK)
    async with own_database(dsn, "bench_feed_empty") as own:
        ours, theirs = await asyncpg.connect(own), await asyncpg.connect(own)
        await migrate(ours)
        await FlowRunStateRepository(ours).create_flow_run_state(uuid4(), StateType.PENDING)
        feed = FlowRunStateFeed(ours)
        after = (await feed.read_page()).position
        contenders = [
            Contender(OURS, lambda _: feed.read_page(after), clock=server_clock(ours)),
            Contender(AS_RECORDS, lambda _: theirs.fetch("select 1"), clock=server_clock(theirs)),
        ]
        seconds = await take_turns(contenders, turns, warm_up=50)
        await ours.close()
        await theirs.close()
    return Row(work, against, seconds[OURS], seconds[AS_RECORDS], 3)


async def _append(dsn: str, turns: int) -> Row:
    work, against = "an append, server's CPU time", "the same without the column of the feed and its index"
    if not HAS_SERVER_CLOCK:
        return Row(work, against, note=NO_SERVER_CLOCK)
    text = queries.query("create_flow_run_state", "flowstates")
    without_it = LISTED.sub("", ASSIGNED.sub("", text))
    assert "transaction" not in without_it
    contenders = []
    async with own_database(dsn, "bench_feed_with") as with_, own_database(dsn, "bench_feed_without") as without:
        connections = [await asyncpg.connect(with_), await asyncpg.connect(without)]
        for name, connection, sent in zip((OURS, AS_RECORDS), connections, (text, without_it), strict=True):
            await migrate(connection)
            if name == AS_RECORDS:
                await connection.execute("alter table flow_run_state drop column transaction; alter table flow_run drop column transaction")
            run = str(uuid4())

            async def append(id_: UUID, run: str = run, sent: str = sent, connection: Connection = connection) -> None:
                assert await connection.fetch(sent, run, "RUNNING", str(id_), None, "Running", None, "{}", None, None, None, None)

            contenders.append(Contender(name, append, prepare=_random_id, clock=server_clock(connection)))
        seconds = await take_turns(contenders, turns, warm_up=50)
        for connection in connections:
            await connection.close()
    return Row(work, against, seconds[OURS], seconds[AS_RECORDS], 1.1)


async def _delay(dsn: str, turns: int) -> Row:
    async with own_database(dsn, "bench_feed_delay") as own, create_pool(own) as pool:
        await migrate(pool)
        states, told = FlowRunStateRepository(pool), asyncio.Queue[tuple[UUID, float]]()

        async def follow() -> None:
            async with FlowRunStateFeed(pool).follow(poll=0.1) as pages:
                async for page in pages:
                    for state in page.states:
                        told.put_nowait((state.id, time.perf_counter()))

        following = asyncio.create_task(follow())
        seconds = []
        for turn in range(turns):
            await asyncio.sleep(0.1 * (turn % 7) / 7)  # at any moment between two polls
            state = await states.create_flow_run_state(uuid4(), StateType.PENDING)
            committed = time.perf_counter()
            id_, at = await told.get()
            assert id_ == state.id
            seconds.append(at - committed)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return Row("from a commit until it is told, poll of 0.1 s", "", seconds, limit=0.15)
