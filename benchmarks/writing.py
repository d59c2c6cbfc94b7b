"""What a write costs over the same write by hand.

By hand means: raw asyncpg on the same table with the same indexes, its statement kept prepared by the driver, every value (id, time, number
in the run's history, JSON text) ready before the clock starts, all eleven columns returned as a raw record. Our side starts from what a
user calls: it makes the id, checks the values, finds the number, and ends with a typed record.

Each single write is a commit of its own that waits for the disk (fsync). That wait is the same on both sides and hides differences, so
the rows without a limit show the same work with synchronous_commit off.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from benchmarks import prefect_server
from benchmarks.shared import Contender, Row, Seconds, grown_by, take_turns
from flowstates import FlowRunStateRepository, NewFlowRunState, create_pool, migrate
from flowstates.cli.transfer import read_states
from flowstates.records import uuid7

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Values: TypeAlias = tuple[Any, ...]

COLUMNS = ("flow_run_id", "type", "id", "timestamp", "name", "message", "state_details", "data", "result_artifact_id", "sequence")
INSERT = f"""
insert into flow_run_state ({", ".join(COLUMNS)}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
returning id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id
"""
DELETE = "delete from flow_run_state where id = $1 returning id"
LOAD = """
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details, sequence)
select run, 'RUNNING', gen_random_uuid(), now() - interval '1 day' + n * interval '1 second', 'Running', 'step ' || n, '{"cache_key": "a"}', n
  from unnest($1::uuid[]) as run, generate_series(1, 10) as n
"""
MESSAGE = "step 3 of 8"
DETAILS = {"cache_key": "daily/2026-11-22", "retriable": True}
BY_HAND = "by hand"
OURS = "flowstates"
STATES_A_RUN = 10
WRITERS = 64
CREATES_A_WRITER = 8


def values(run: UUID, sequence: int, timestamp: datetime, type_: str = "RUNNING") -> Values:
    """A state as INSERT and COPY take it."""
    return run, type_, uuid7(), timestamp, type_.title(), MESSAGE, json.dumps(DETAILS), None, None, sequence


def some_states(count: int) -> list[Values]:
    """New states, run by run as an export has them."""
    begin = datetime.now(UTC) - timedelta(days=1)
    runs = [uuid4() for _ in range(count // STATES_A_RUN)]
    return [values(run, number, begin + timedelta(seconds=number)) for run in runs for number in range(1, STATES_A_RUN + 1)]


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
    await connection.execute("vacuum (analyze) flow_run_state")
    settings["writing"] = {"states loaded": f"{len(runs) * 10:,}", "runs": f"{len(runs):,}"}
    random.shuffle(runs)
    calls = 200 if short else 1_500
    rows = [
        *await _creates(connection, runs, calls),
        await _creates_on_pools(dsn, runs, calls),
        await _deletes(connection, runs, calls),
        *await _imports(connection, 20_000 if short else 100_000, 3 if short else 5),
        await _writers(dsn, 5 if short else 25),
        *await prefect_server.measure(settings, 10 if short else 60),
    ]
    await connection.close()
    if not short:
        rows.append(await _memory(dsn))
    return rows


def _row(work: str, against: str, seconds: Seconds, limit: float | None, ours: str = OURS) -> Row:
    return Row(work, against, seconds[ours], seconds[BY_HAND], limit)


async def _insert(connection: Any, state: Values) -> None:
    await connection.fetchrow(INSERT, *state)


async def _create(repository: FlowRunStateRepository, run: UUID) -> None:
    await repository.create_flow_run_state(run, "RUNNING", message=MESSAGE, state_details=DETAILS)


def _pair(hand: Any, ours: Any, next_run: Callable[[], UUID], sequence: int) -> list[Contender]:
    """One create by hand, where `hand` is a connection or pool, and one by us; `sequence` is the number that the run has reached."""

    async def state() -> Values:
        return values(next_run(), sequence, datetime.now(UTC))

    async def run() -> UUID:
        return next_run()

    return [Contender(BY_HAND, partial(_insert, hand), state), Contender(OURS, partial(_create, FlowRunStateRepository(ours)), run)]


async def _creates(connection: Connection, runs: list[UUID], calls: int) -> list[Row]:
    rows = []
    hand = "insert ... returning by hand, one connection"
    new, known = partial(uuid4), runs.pop
    for commit, limit in (("on", 1.35), ("off", None)):
        await connection.execute(f"set synchronous_commit = {commit}")
        suffix = "" if commit == "on" else ", without the wait for the disk"
        rows.append(_row("one create, new run" + suffix, hand, await take_turns(_pair(connection, connection, new, 1), calls, warm_up=20), limit))
        seconds = await take_turns(_pair(connection, connection, known, STATES_A_RUN + 1), min(calls, len(runs) // 8), warm_up=20)
        rows.append(_row("one create, known run" + suffix, hand, seconds, limit))
    await connection.execute("reset synchronous_commit")
    return rows


async def _creates_on_pools(dsn: str, runs: list[UUID], calls: int) -> Row:
    async with asyncpg.create_pool(dsn) as plain, create_pool(dsn) as own:
        seconds = await take_turns(_pair(plain, own, runs.pop, STATES_A_RUN + 1), min(calls, len(runs) // 4), warm_up=20)
    return _row("one create through our pool, known run", "the same insert, asyncpg.Pool", seconds, 1.0)


async def _deletes(connection: Connection, runs: list[UUID], calls: int) -> Row:
    ids = await connection.fetch("select id from flow_run_state where flow_run_id = any ($1::uuid[])", runs[: calls // 2])
    random.shuffle(ids)
    repository = FlowRunStateRepository(connection)

    async def an_id() -> UUID:
        return ids.pop()["id"]

    hand = Contender(BY_HAND, partial(connection.fetchval, DELETE), an_id)
    seconds = await take_turns([hand, Contender(OURS, repository.delete_flow_run_state, an_id)], calls, warm_up=20)
    return _row("one delete", "delete ... returning by hand", seconds, 1.15)


async def _imports(connection: Connection, count: int, turns: int) -> list[Row]:
    """Each contender gets rows of its own in each turn, right after a checkpoint; the table grows for all of them alike."""
    repository = FlowRunStateRepository(connection)
    whole, again, storing = "read from a file and stored", "the same file again", "made before, stored"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.jsonl"

        async def tuples() -> list[Values]:
            await connection.execute("checkpoint")
            return some_states(count)

        async def new_file() -> None:
            path.write_text("".join(as_json(state) + "\n" for state in await tuples()))

        async def same_file() -> None:
            await connection.execute("checkpoint")

        async def records() -> list[NewFlowRunState]:
            return [NewFlowRunState(**json.loads(as_json(state))) for state in await tuples()]

        async def copy(states: list[Values]) -> None:
            await connection.copy_records_to_table("flow_run_state", records=states, columns=COLUMNS)

        async def import_file(_: None, status: str) -> None:
            with path.open("rb") as file:
                counts = await read_states(repository, file, on_tie="nudge")
            assert counts == {status: count}, counts

        async def store(states: Sequence[NewFlowRunState]) -> None:
            for start in range(0, count, 5_000):
                await repository.create_flow_run_states(states[start : start + 5_000])

        contenders = [
            Contender(BY_HAND, copy, tuples),
            Contender(whole, partial(import_file, status="created"), new_file),
            Contender(again, partial(import_file, status="present"), same_file),
            Contender(storing, store, records),
        ]
        seconds = await take_turns(contenders, turns, warm_up=1)
    limits = ((whole, 3.0), (again, 3.0), (storing, None))
    against = "COPY of ready tuples of such rows"
    return [_row(f"{count:,} states imported: {name}", against, seconds, limit, name) for name, limit in limits]


async def _writers(dsn: str, turns: int) -> Row:
    async with _connections(dsn, WRITERS) as connections:

        async def ready() -> list[list[Values]]:
            now = datetime.now(UTC)
            numbers = range(1, CREATES_A_WRITER + 1)
            return [[values(run, number, now + timedelta(microseconds=number)) for number in numbers] for run in await new_runs()]

        async def new_runs() -> list[UUID]:
            return [uuid4() for _ in connections]

        async def by_hand(states: list[list[Values]]) -> None:
            async def write(connection: Connection, mine: list[Values]) -> None:
                for state in mine:
                    await _insert(connection, state)

            await asyncio.gather(*map(write, connections, states))

        async def ours(runs: list[UUID]) -> None:
            async def write(connection: Connection, run: UUID) -> None:
                repository = FlowRunStateRepository(connection)
                for _ in range(CREATES_A_WRITER):
                    await _create(repository, run)

            await asyncio.gather(*map(write, connections, runs))

        seconds = await take_turns([Contender(BY_HAND, by_hand, ready), Contender(OURS, ours, new_runs)], turns, warm_up=2)
    work = f"{WRITERS} writers, {WRITERS} runs, {CREATES_A_WRITER} creates each"
    return _row(work, "the same inserts by hand, same connections", seconds, 1.4)


@asynccontextmanager
async def _connections(dsn: str, count: int) -> AsyncIterator[list[Connection]]:
    connections = [await asyncpg.connect(dsn) for _ in range(count)]
    yield connections
    for connection in connections:
        await connection.close()


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
