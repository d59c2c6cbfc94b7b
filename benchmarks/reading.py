"""What a read costs as the table grows, and over the same statement by hand.

By hand means: the text of the same query file, its arguments ready before the clock starts, asyncpg's fetch or cursor on a bare connection,
raw records. Our side starts from what a user calls and ends with typed records.

The tables are those of `tables.py`: one of a hundredth of the other's size.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from functools import partial
from itertools import cycle
from typing import Any, Literal, TypeAlias
from unittest.mock import patch
from uuid import UUID

import asyncpg

from benchmarks.shared import Contender, Row, Seconds, grown_by, take_turns
from benchmarks.tables import BEGIN, DAY, Table, lack_of_disk, small_of, table_of
from flowstates import FlowRunStateRepository, create_pool
from flowstates.engine import cursors, queries

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Order: TypeAlias = Literal["run", "time"]

RUNS = 10_000
STREAMED = 1_000_000
BY_HAND, OURS, FIRST = "by hand", "flowstates", "first"


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool, states: int) -> list[Row]:
    """The rows of this group."""
    async with table_of(dsn, small_of(states), states) as small:
        settings["reading"] = {"states": f"{small.states:,} and {states:,}"}
        rows = await _rows(small, short=short, is_large=False)
        if lack := await lack_of_disk(dsn, states):
            settings["reading"]["states"] = f"{small.states:,} only: {lack}"
            return [*rows, Row(f"all of it with {states:,} states", "", note=lack)]
        async with table_of(dsn, states, states) as large:
            return [await _history(small, large, 500 if short else 3_000), *rows, *await _rows(large, short=short, is_large=True)]


async def _rows(table: Table, *, short: bool, is_large: bool) -> list[Row]:
    """What is asked of both sizes. Limits that are for the large one are not held against the small."""
    rows = [
        *[await _pages(table, order, 200 if short else 1_000, 1.3 if is_large else None) for order in ("run", "time")],
        *await _many_runs(table, 5 if short else 25),
        await _stream(table, 1 if short else 5),
    ]
    if is_large:
        count = min(STREAMED, table.states)
        grown = await grown_by(_stream_on_a_pool, table.dsn, count)
        rows.append(Row(f"memory while {count:,} states are streamed", "the start", [grown], limit=64, unit="MiB"))
    return rows


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
    at = BEGIN + 27 * DAY  # most of them have begun

    count = min(RUNS, table.runs)

    async def runs() -> list[UUID]:
        return table.some_runs(count)

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
        await row(f"current states of {count:,} runs", "read_current_flow_run_states", current),
        await row(f"{count:,} runs as of a moment", "read_flow_run_states_as_of.timestamp", as_of, at.isoformat()),
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
