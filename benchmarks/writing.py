"""What a write costs over the same write by hand.

By hand means: raw asyncpg, the same row in one statement into the same table; its statement kept prepared by the driver, every value (id, time,
JSON text) ready before the clock starts, all eleven columns returned as a raw record. It leaves the run's row alone or, in another row of the
table, moves it by an upsert that expects and orders nothing. Our side starts from what a user calls: it makes the id, checks the values, moves the
run's row, and ends with a typed record. A delete by hand is from a table with the same
states and indexes and without triggers.

Each single write is a commit of its own that waits for the disk (fsync). That wait is the same on both sides and hides differences, so
there are rows with synchronous_commit off, and rows of the CPU time of the two server processes, which load does not change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from benchmarks import prefect_server
from benchmarks.shared import FILL_RUNS, HAS_SERVER_CLOCK, NO_SERVER_CLOCK, Contender, Row, Seconds, grown_by, server_clock, take_turns
from flowstates import FlowRunStateRepository, NewFlowRunState, create_pool, migrate
from flowstates.cli.imports import read_states
from flowstates.records import uuid7

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Values: TypeAlias = tuple[Any, ...]

COLUMNS = ("flow_run_id", "type", "id", "timestamp", "name", "message", "state_details", "data", "result_artifact_id")
INSERT = f"""
insert into flow_run_state ({", ".join(COLUMNS)}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
returning id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id
"""
INSERT_AND_MOVE = f"""
with moved as (
    insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction) values ($1, $3, $2, $5, $4, pg_current_xact_id())
        on conflict (id) do update set state_id = $3, state_type = $2, state_name = $5, state_timestamp = $4, transaction = pg_current_xact_id()
) {INSERT}"""
LOAD = """
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details)
select run, 'RUNNING', gen_random_uuid(), now() - interval '1 day' + n * interval '1 second', 'Running', 'step ' || n, '{"cache_key": "a"}'
  from unnest($1::uuid[]) as run, generate_series(1, 10) as n
"""
PLAIN = "create table plain (like flow_run_state including all)"
FILL_PLAIN = """
insert into plain (id, created, type, timestamp, name, message, state_details, flow_run_id, transaction)
select id, created, type, timestamp, name, message, state_details, flow_run_id, transaction from flow_run_state
"""
CURRENT = "select state_id from flow_run order by random() limit $1"
OLDER = "select id from flow_run_state where message = 'step 3' order by random() limit $1"
DELETE = "delete from plain where id = $1 returning id"
MESSAGE = "step 3 of 8"
DETAILS = {"cache_key": "daily/2026-11-22", "retriable": True}
BY_HAND, WITH_ROW, OURS = "by hand", "by hand, with the run's row", "flowstates"
STATES_A_RUN = 10
NO_WAIT = ", without the wait for the disk"
WARM_UP = 20


def values(run: UUID, timestamp: datetime, type_: str = "RUNNING") -> Values:
    """A state as INSERT and COPY take it."""
    return run, type_, uuid7(), timestamp, type_.title(), MESSAGE, json.dumps(DETAILS), None, None


def some_states(count: int) -> list[Values]:
    """New states, run by run as an export has them."""
    begin = datetime.now(UTC) - timedelta(days=1)
    runs = [uuid4() for _ in range(count // STATES_A_RUN)]
    return [values(run, begin + timedelta(seconds=number)) for run in runs for number in range(STATES_A_RUN)]


def as_json(state: Values) -> str:
    """The same state as a line of a file."""
    run, type_, id_, timestamp, name, message, details = state[:7]
    shown = {"id": str(id_), "flow_run_id": str(run), "type": type_, "timestamp": timestamp.isoformat(), "name": name, "message": message}
    return json.dumps(shown | {"state_details": json.loads(details), "data": None, "result_artifact_id": None})


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool) -> list[Row]:
    """The rows of this group."""
    connection = await asyncpg.connect(dsn)
    await migrate(connection)
    runs = [uuid4() for _ in range(2_000 if short else 20_000)]
    await connection.execute(LOAD, runs)
    for statement in (FILL_RUNS, PLAIN, FILL_PLAIN, "vacuum (analyze) flow_run_state, flow_run, plain"):
        await connection.execute(statement)
    settings["writing"] = {"states loaded": f"{len(runs) * STATES_A_RUN:,}", "runs": f"{len(runs):,}"}
    calls = 100 if short else 1_500
    rows = [
        *await _deletes(connection, calls),
        *await _creates(dsn, connection, runs, calls),
        await _creates_on_pools(dsn, runs, calls),
        *await _imports(connection, 10_000 if short else 100_000, 3 if short else 5),
        *await prefect_server.measure(settings, 10 if short else 60),
    ]
    await connection.close()
    if not short:
        rows.append(await _memory(dsn))
    return rows


def _row(work: str, against: str, seconds: Seconds, limit: float | None, ours: str = OURS) -> Row:
    return Row(work, against, seconds[ours], seconds[BY_HAND], limit)


@asynccontextmanager
async def connections(dsn: str, count: int) -> AsyncIterator[list[Connection]]:
    """So many bare connections."""
    opened = [await asyncpg.connect(dsn) for _ in range(count)]
    yield opened
    for connection in opened:
        await connection.close()


async def insert(hand: Any, state: Values, text: str = INSERT) -> None:
    """A create by hand, on a connection or a pool."""
    await hand.fetchrow(text, *state)


async def create(repository: FlowRunStateRepository, new: tuple[UUID, UUID | None]) -> None:
    """One by us, of a run and, if it is to be given, an id."""
    run, id_ = new
    await repository.create_flow_run_state(run, "RUNNING", id=id_, message=MESSAGE, state_details=DETAILS)


def _contenders(hand: Any, hand_with_row: Any, ours: Any, runs: Iterator[UUID], *, is_id_given: bool = False) -> list[Contender]:
    """One create by hand, one by hand that also moves the run's row, and one by us, each on a connection or pool."""

    async def state() -> Values:
        return values(next(runs), datetime.now(UTC))

    async def new() -> tuple[UUID, UUID | None]:
        return next(runs), uuid7() if is_id_given else None

    return [
        Contender(BY_HAND, partial(insert, hand), state),
        Contender(WITH_ROW, partial(insert, hand_with_row, text=INSERT_AND_MOVE), state),
        Contender(OURS, partial(create, FlowRunStateRepository(ours)), new),
    ]


async def _creates(dsn: str, connection: Connection, runs: list[UUID], calls: int) -> list[Row]:
    """A turn is one create, so that the server's process has slept before each: one that is kept busy takes half of the CPU time."""
    kinds = (("new run", iter(uuid4, None), False), ("known run", cycle(runs), False), ("known run, id given", cycle(runs), True))
    rows = []
    for commit, suffix, limit in (("on", "", 1.25), ("off", NO_WAIT, 1.4)):
        await connection.execute(f"set synchronous_commit = {commit}")
        for kind, of_kind, is_id_given in kinds:
            contenders = _contenders(connection, connection, connection, of_kind, is_id_given=is_id_given)
            seconds = await take_turns(contenders, calls, warm_up=WARM_UP)
            rows += _rows_of_creates(f"one create, {kind}{suffix}", "one connection", seconds, limit)
    await connection.execute("reset synchronous_commit")
    async with connections(dsn, 3) as three:
        for kind, of_kind, is_id_given in kinds:
            seconds = await _server_seconds(three, of_kind, calls, is_id_given=is_id_given) if HAS_SERVER_CLOCK else {}
            rows += _rows_of_creates(f"one create, {kind}, server's CPU time", "a connection each", seconds, 1.9)
    return rows


async def _server_seconds(three: list[Connection], runs: Iterator[UUID], calls: int, *, is_id_given: bool) -> Seconds:
    for each in three:
        await each.execute("set synchronous_commit = off")
    hand, hand_with_row, ours = three
    contenders = _contenders(hand, hand_with_row, ours, runs, is_id_given=is_id_given)
    clocked = [replace(contender, clock=server_clock(each)) for contender, each in zip(contenders, three, strict=True)]
    return await take_turns(clocked, calls, warm_up=WARM_UP)


def _rows_of_creates(work: str, where: str, seconds: Seconds, limit: float) -> list[Row]:
    note = "" if seconds else NO_SERVER_CLOCK
    against = {BY_HAND: "insert ... returning by hand, ", WITH_ROW: "insert ... returning by hand that also moves the run's row, "}
    ours = seconds.get(OURS, [])
    return [Row(work, text + where, ours, seconds.get(name, []), limit if name == BY_HAND else None, note) for name, text in against.items()]


async def _creates_on_pools(dsn: str, runs: list[UUID], calls: int) -> Row:
    async with asyncpg.create_pool(dsn) as plain, create_pool(dsn) as own:
        hand, _, ours = _contenders(plain, plain, own, cycle(runs))
        seconds = await take_turns([hand, ours], calls, warm_up=WARM_UP)
    return _row("one create through our pool, known run", "the same insert, asyncpg.Pool", seconds, 1.0)


async def _deletes(connection: Connection, calls: int) -> list[Row]:
    """Of runs with ten states, one of each; by hand the same states go from the table without triggers."""
    repository = FlowRunStateRepository(connection)
    rows = []
    for kind, which, limit in (("the current state", CURRENT, 1.6), ("an older state", OLDER, None)):
        for commit, suffix in (("on", ""), ("off", NO_WAIT)):
            await connection.execute(f"set synchronous_commit = {commit}")
            ids = [row[0] for row in await connection.fetch(which, calls + WARM_UP)]

            async def an_id(left: Iterator[UUID]) -> UUID:
                return next(left)

            hand = Contender(BY_HAND, partial(connection.fetchval, DELETE), partial(an_id, iter(ids)))
            ours = Contender(OURS, repository.delete_flow_run_state, partial(an_id, iter(ids)))
            seconds = await take_turns([hand, ours], calls, warm_up=WARM_UP)
            held = limit if commit == "on" else None
            rows.append(_row(f"one delete of {kind}{suffix}", "delete ... returning by hand, no triggers", seconds, held))
    await connection.execute("reset synchronous_commit")
    return rows


async def _imports(connection: Connection, count: int, turns: int) -> list[Row]:
    """Each contender gets rows of its own in each turn, right after a checkpoint; the table grows for all of them alike."""
    repository = FlowRunStateRepository(connection)
    whole, again, storing = "read from a file and stored", "the same file again", "made before, stored"
    with tempfile.TemporaryDirectory() as folder:

        async def tuples() -> list[Values]:
            await connection.execute("checkpoint")
            return some_states(count)

        async def new_file(name: str) -> Path:
            path = Path(folder) / name
            path.write_text("".join(as_json(state) + "\n" for state in await tuples()))
            return path

        async def same_file() -> Path:
            await connection.execute("checkpoint")
            return stored

        async def records() -> list[NewFlowRunState]:
            return [NewFlowRunState(**json.loads(as_json(state))) for state in await tuples()]

        async def copy(states: list[Values]) -> None:
            await connection.copy_records_to_table("flow_run_state", records=states, columns=COLUMNS)

        async def import_file(path: Path, status: str) -> None:
            with path.open("rb") as file:
                counts = await read_states(repository, file, on_tie="nudge")
            assert counts == {status: count}, counts

        async def store(states: Sequence[NewFlowRunState]) -> None:
            for start in range(0, count, 5_000):
                await repository.create_flow_run_states(states[start : start + 5_000])

        stored = await new_file("stored.jsonl")
        await import_file(stored, "created")
        contenders = [
            Contender(BY_HAND, copy, tuples),
            Contender(whole, partial(import_file, status="created"), partial(new_file, "new.jsonl")),
            Contender(again, partial(import_file, status="present"), same_file),
            Contender(storing, store, records),
        ]
        seconds = await take_turns(contenders, turns, warm_up=1)
    limits = ((whole, 3.0), (again, 3.0), (storing, None))
    against = "COPY of ready tuples of such rows"
    return [_row(f"{count:,} states imported: {name}", against, seconds, limit, name) for name, limit in limits]


async def _memory(dsn: str, count: int = 1_000_000) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.jsonl"
        with path.open("w") as file:
            for _ in range(0, count, 10_000):
                file.writelines(as_json(state) + "\n" for state in some_states(10_000))
        grown = await grown_by(_import_on_a_pool, dsn, path, count)
    return Row(f"memory while {count:,} states are imported from a file", "the start", [grown], limit=64, unit="MiB")


async def _import_on_a_pool(dsn: str, path: Path, count: int) -> None:
    async with create_pool(dsn) as pool:
        with path.open("rb") as file:
            counts = await read_states(FlowRunStateRepository(pool), file, on_tie="nudge")
    assert counts == {"created": count}, counts
