"""What a typed record costs, beside everyone.

The peers are in `peers`, a file each: as their documentation shows them, and with whatever made them fastest here. Limits of the short read are for
the first form, those of the long one for the fastest of all. All of them read the same table in the same process
and event loop, one after the other in turns; no uvloop; the garbage collector is on, but that ours holds it
back while it makes a hundred records or more. A pool's connection is open, its statement prepared, and the
table in the server's cache before the clock starts.

Each peer's answers are held against ours before anything is measured: every field, by its value and by its type. Drivers' raw records are not
typed: the table says what they leave out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import requires, version
from itertools import cycle, islice
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeAlias
from uuid import UUID, uuid4

import asyncpg
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import prefect_server
from benchmarks.peers import (
    HISTORY,
    RUN,
    Read,
    aiosql_typed,
    asyncpg_raw,
    asyncpg_validated,
    psqlpy_typed,
    psycopg_typed,
    sqlalchemy_core,
    sqlalchemy_orm,
)
from benchmarks.shared import FILL_RUNS, Contender, Row, Seconds, own_database, take_turns
from flowstates import FlowRunState, FlowRunStateRepository, StateDetails, StateType, create_pool, migrate
from flowstates.engine.rows import collector_paused

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Calls: TypeAlias = "dict[str, Callable[[], Awaitable[object]]]"

PACKAGES = ("psycopg", "psycopg-pool", "psqlpy", "SQLAlchemy", "aiosql")
TYPED: dict[str, tuple[Callable[[str], AbstractAsyncContextManager[Read]], float | None]] = {  # and what our read of 8 states may take of theirs
    "psycopg 3: class_row, its pool": (psycopg_typed.connect, 0.5),
    "psycopg 3, fastest: autocommit, args_row, AsyncRawCursor, getconn": (psycopg_typed.connect_fastest, None),
    "psqlpy": (psqlpy_typed.connect, 0.5),
    "aiosql on asyncpg's pool": (aiosql_typed.connect, 0.5),
    "aiosql, fastest: a pool without reset": (aiosql_typed.connect_fastest, None),
    "SQLAlchemy Core": (sqlalchemy_core.connect, 0.3),
    "SQLAlchemy Core, fastest: AUTOCOMMIT, no reset, one select": (sqlalchemy_core.connect_fastest, None),
    "SQLAlchemy ORM": (sqlalchemy_orm.connect, 0.22),
    "SQLAlchemy ORM, fastest: AUTOCOMMIT, no reset, one select": (sqlalchemy_orm.connect_fastest, None),
    "asyncpg, model_validate a row": (asyncpg_validated.connect, None),
    "asyncpg, fastest: no reset, one TypeAdapter for all rows": (asyncpg_validated.connect_fastest, None),
}
OURS = "flowstates"
DATABASE = "bench_records"
RAW = "raw records: no enum, no details, no data"
RAW_CONNECTION = f"Connection.fetch, {RAW}"
RAW_POOL = f"asyncpg.Pool.fetch, {RAW}"
RAW_POOL_WITHOUT_RESET = f"asyncpg.Pool.fetch without its reset, {RAW}"
NATIVE_ENUM = RUN.replace("type::text as type", "type")
ONE = RUN.replace("where flow_run_id = $1\n order by timestamp", "where id = $1")
EIGHT, MANY, MANY_PLAIN = (UUID(f"b9da4b8e-3c5f-4f0e-9b7a-0a4f5f0f{number}") for number in ("0008", "1000", "1001"))
OTHERS, STATES_OF_OTHERS = 450, 40
COLUMNS = ("flow_run_id", "type", "id", "timestamp", "name", "message", "state_details", "data")
BEGIN = datetime(2026, 10, 1, 12, tzinfo=UTC)
LIVE_OBJECTS = 500_000
TASKS, SIZE = 16, 4
THEIR_IMPORTS = "import asyncpg, pypika; from pydantic import BaseModel"
IMPORT = "from time import perf_counter; begun = perf_counter(); {}; print(perf_counter() - begun)"


async def measure(dsn: str, settings: dict[str, dict[str, str]], *, short: bool) -> list[Row]:
    """The rows of this group."""
    async with own_database(dsn, DATABASE) as own, AsyncExitStack() as stack:
        connection = await stack.enter_async_context(asyncpg_raw.connect(own))
        states = await _load(connection)
        settings["records"] = {"states": f"{states:,}"} | {name: version(name) for name in PACKAGES}
        pool = await stack.enter_async_context(create_pool(own))
        ours = FlowRunStateRepository(pool).read_flow_run_states
        raw = await stack.enter_async_context(asyncpg_raw.connect_pool(own))
        without_reset = await stack.enter_async_context(asyncpg_raw.connect_pool(own, reset=False))
        typed = {name: await stack.enter_async_context(connect(own)) for name, (connect, _) in TYPED.items()}
        await _hold_against_ours(connection, ours, typed)

        rows = [
            *await _of_eight(connection, ours, {RAW_POOL: raw, RAW_POOL_WITHOUT_RESET: without_reset}, typed, short=short),
            await prefect_server.measure_reads(settings, 5 if short else 100),
            *await _at_once(own, 4 if short else 60),
            *await _of_many(connection, ours, typed, short=short),
            await _one(connection, 4 if short else 100),
            *await _first(own, 10 if short else 100),
        ]
    return [*rows, await _import(2 if short else 20), _packages()]


async def _load(connection: Connection) -> int:
    """A run of 8 states, one of 1,000 with all details, one of 1,000 without, and others, so that the table is not a toy. How many states it has."""
    await migrate(connection)
    await connection.execute(f"alter database {DATABASE} set timezone = 'UTC'")  # of which psycopg gives its times
    rows = [*_states(EIGHT, 8), *_states(MANY, 1_000, _all_details), *_states(MANY_PLAIN, 1_000)]
    for _ in range(OTHERS):
        rows += _states(uuid4(), STATES_OF_OTHERS)
    await connection.copy_records_to_table("flow_run_state", records=rows, columns=COLUMNS)
    await connection.execute(FILL_RUNS)
    await connection.execute("vacuum (analyze) flow_run_state, flow_run")
    return len(rows)


def _states(run: UUID, count: int, details: Callable[[UUID, datetime], str] = lambda run, timestamp: "{}") -> Iterator[tuple[object, ...]]:
    for number, (type_, name, message) in enumerate(islice(cycle(HISTORY), count), 1):
        timestamp = BEGIN + timedelta(seconds=number, microseconds=number)
        data = '{"type": "reference", "storage_key": "results/nightly.json"}' if type_ == "COMPLETED" else None
        yield run, type_, uuid4(), timestamp, name, message, details(run, timestamp), data


def _all_details(run: UUID, timestamp: datetime) -> str:
    """All 18 keys, as Prefect stores them; no two states have the same. Times as others may write them, with an offset, unknown keys and a comma in a
    value take us 3 to 4 us a state more: such details are read by full validation.
    """
    details = StateDetails(
        flow_run_id=run,
        task_run_id=uuid4(),
        child_flow_run_id=uuid4(),
        scheduled_time=timestamp,
        cache_key=f"nightly/{uuid4()}",
        transition_id=uuid4(),
        task_parameters_id=uuid4(),
    )
    return details.model_dump_json()


async def _hold_against_ours(connection: Connection, ours: Read, typed: Mapping[str, Read]) -> None:
    """Raises if someone answers differently."""
    repository = FlowRunStateRepository(connection)
    for run, count in ((EIGHT, 8), (MANY, 1_000)):
        expected: list[FlowRunState] = list(await ours(run))
        _hold(len(expected) == count, OURS, run)
        _hold(await repository.read_flow_run_states(run) == expected, OURS, run)
        _hold(len({state.state_details for state in expected}) == (1 if run == EIGHT else count), OURS, run)
        for name, read in typed.items():
            found = await read(run)
            _hold(len(found) == count, name, run)
            for state, theirs in zip(expected, found, strict=True):
                for field in FlowRunState.model_fields:
                    value = getattr(theirs, field)
                    _hold(_same(getattr(state, field), value), name, state.id, field, value)
        raw = await connection.fetch(RUN, run)
        _hold([_raw(state) for state in expected] == [(row["id"], row["type"], row["timestamp"], row["name"]) for row in raw], "raw", run)
    state = expected[0]
    _hold(await repository.read_flow_run_state(state.id) == state, OURS, state.id)
    one = await connection.fetchrow(ONE, state.id)
    _hold(one is not None and _raw(state) == (one["id"], one["type"], one["timestamp"], one["name"]), "raw", state.id)


def _raw(state: FlowRunState) -> tuple[object, ...]:
    return state.id, state.type.value, state.timestamp, state.name


def _same(ours: object, theirs: object) -> bool:
    """Equal, of the same type, and if it is a time, in UTC. A driver may have a subclass of UUID, as asyncpg has."""
    if isinstance(theirs, datetime) and theirs.utcoffset() != timedelta(0):
        return False
    kinds = (UUID, datetime, StateType, StateDetails)
    return ours == theirs and [isinstance(ours, kind) for kind in kinds] == [isinstance(theirs, kind) for kind in kinds]


def _hold(true: bool, *what: object) -> None:
    if not true:
        raise RuntimeError(f"not the same answer: {', '.join(map(str, what))}")


async def _take_turns(calls: Calls, turns: int, *, calls_a_turn: int) -> Seconds:
    """The seconds of a call. A turn is several: the clock has little part in it then, and a full collection of garbage, which comes once in many
    calls, has its share in each turn.
    """

    async def collect() -> None:
        gc.collect()  # else what one left to the collector could fall due in the turn of the next

    def contender(name: str, call: Callable[[], Awaitable[object]]) -> Contender:
        async def run(given: None) -> None:
            for _ in range(calls_a_turn):
                await call()

        return Contender(name, run, collect)

    seconds = await take_turns([contender(name, call) for name, call in calls.items()], turns, warm_up=1)
    return {name: [turn / calls_a_turn for turn in taken] for name, taken in seconds.items()}


async def _of_eight(connection: Connection, ours: Read, raw: Mapping[str, asyncpg_raw.Pool], typed: Mapping[str, Read], *, short: bool) -> list[Row]:
    turns, calls_a_turn = (4, 20) if short else (60, 50)
    on_connection = FlowRunStateRepository(connection).read_flow_run_states
    # On one and the same connection: where the server's process happens to run is then the same for both.
    two: Calls = {OURS: partial(on_connection, EIGHT), RAW_CONNECTION: partial(connection.fetch, RUN, EIGHT)}
    bare = await _take_turns(two, turns, calls_a_turn=calls_a_turn)
    calls: Calls = {OURS: partial(ours, EIGHT)}
    calls |= {name: partial(pool.fetch, RUN, EIGHT) for name, pool in raw.items()}
    calls |= {name: partial(read, EIGHT) for name, read in typed.items()}
    seconds = await _take_turns(calls, turns, calls_a_turn=calls_a_turn)
    limits = {RAW_POOL: 0.7, RAW_POOL_WITHOUT_RESET: None} | {name: limit for name, (_, limit) in TYPED.items()}
    return [
        _row("a run of 8 states, one connection", RAW_CONNECTION, bare, 1.2),
        *[_row("a run of 8 states, our pool", against, seconds, limit) for against, limit in limits.items()],
    ]


async def _at_once(dsn: str, turns: int) -> list[Row]:
    async with (
        create_pool(dsn, min_size=SIZE, max_size=SIZE) as own,
        asyncpg_raw.connect_pool(dsn, size=SIZE) as raw,
        asyncpg_raw.connect_pool(dsn, size=SIZE, reset=False) as without_reset,
    ):
        ours = FlowRunStateRepository(own).read_flow_run_states

        async def at_once(read: Callable[[], Awaitable[object]]) -> None:
            await asyncio.gather(*[read() for _ in range(TASKS)])

        reads = {
            OURS: partial(ours, EIGHT),
            RAW_POOL: partial(raw.fetch, RUN, EIGHT),
            RAW_POOL_WITHOUT_RESET: partial(without_reset.fetch, RUN, EIGHT),
        }
        calls: Calls = {name: partial(at_once, read) for name, read in reads.items()}
        seconds = await _take_turns(calls, turns, calls_a_turn=20)
    work = f"{TASKS} tasks at once, a run of 8 states each, pools of {SIZE}"
    return [_row(work, RAW_POOL, seconds, 0.85), _row(work, RAW_POOL_WITHOUT_RESET, seconds, None)]


async def _of_many(connection: Connection, ours: Read, typed: Mapping[str, Read], *, short: bool) -> list[Row]:
    turns, calls_a_turn = (2, 5) if short else (12, 25)
    work = "a run of 1,000 states with all details"
    on_connection = FlowRunStateRepository(connection).read_flow_run_states
    plain, bare = [
        await _take_turns({OURS: partial(on_connection, run), RAW_CONNECTION: partial(connection.fetch, RUN, run)}, turns, calls_a_turn=calls_a_turn)
        for run in (MANY_PLAIN, MANY)
    ]
    calls: Calls = {OURS: partial(ours, MANY)}
    calls |= {name: partial(read, MANY) for name, read in typed.items()}
    seconds = await _take_turns(calls, turns, calls_a_turn=calls_a_turn)
    fastest = min(typed, key=lambda name: median(seconds[name]))

    async def without_collector() -> None:
        with collector_paused():
            await calls[fastest]()

    # Ours holds the collector back while it makes many records. What a peer would gain by that is for the reader.
    paused = f"{fastest}, the collector paused for it too"
    relieved = await _take_turns({OURS: calls[OURS], paused: without_collector}, turns, calls_a_turn=calls_a_turn)
    with _live_objects():
        # The more objects there are, the rarer is a full collection: after some 30 of these calls.
        crowded = await _take_turns({name: calls[name] for name in (OURS, fastest)}, 1 if short else 8, calls_a_turn=10 if short else 100)
    shown = f"the fastest peer with typed records: {fastest}"
    return [
        _row("a run of 1,000 states without details, one connection", RAW_CONNECTION, plain, None),
        _row(f"{work}, one connection", RAW_CONNECTION, bare, 2.0),
        _row(f"{work}, our pool", shown, seconds, 0.7, fastest),
        _row(f"{work}, our pool", paused, relieved, None),
        *[_row(f"{work}, our pool", name, seconds, None) for name in typed if name != fastest],
        _row(f"{work}, our pool, {LIVE_OBJECTS:,} live objects in the process", shown, crowded, 0.7, fastest),
    ]


@contextmanager
def _live_objects() -> Iterator[None]:
    """What a large process holds: objects that the garbage collector looks through."""
    live = [[number] for number in range(LIVE_OBJECTS)]
    yield
    live.clear()


async def _one(connection: Connection, turns: int) -> Row:
    ours = FlowRunStateRepository(connection).read_flow_run_state
    id_ = await connection.fetchval("select id from flow_run_state where flow_run_id = $1 limit 1", EIGHT)
    name = f"Connection.fetchrow, {RAW}"
    seconds = await _take_turns({OURS: partial(ours, id_), name: partial(connection.fetchrow, ONE, id_)}, turns, calls_a_turn=50)
    return _row("one state by its id, one connection", name, seconds, 1.15)


async def _first(dsn: str, turns: int) -> list[Row]:
    """On a connection that has asked nothing yet. That it is opened is not timed."""
    opened: list[Connection] = []

    async def connect() -> Connection:
        while opened:
            await opened.pop().close()
        opened.append(await asyncpg.connect(dsn))
        return opened[0]

    async def ours(connection: Connection) -> None:
        await FlowRunStateRepository(connection).read_flow_run_states(EIGHT)

    async def by_hand(connection: Connection) -> None:
        await connection.fetch(NATIVE_ENUM, EIGHT)

    async def by_hand_as_text(connection: Connection) -> None:
        await connection.fetch(RUN, EIGHT)

    name, as_text = "Connection.fetch of the enum as it is, and not as text", "Connection.fetch of the enum as text"
    contenders = [Contender(OURS, ours, connect), Contender(name, by_hand, connect), Contender(as_text, by_hand_as_text, connect)]
    seconds = await take_turns(contenders, turns, warm_up=2)
    for connection in opened:
        await connection.close()
    work = "the first read on a new connection, a run of 8 states"
    return [_row(work, name, seconds, 0.35), _row(work, as_text, seconds, None)]


async def _import(turns: int) -> Row:
    """Each in a new process, by its own clock; all modules are compiled before, as pip does it."""
    seconds: Seconds = {"import flowstates": [], THEIR_IMPORTS: []}
    with TemporaryDirectory() as compiled:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": compiled}
        for turn in range(turns + 1):
            for code, taken in seconds.items():
                arguments = ("-c", IMPORT.format(code))
                process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment, stdout=asyncio.subprocess.PIPE)
                output, _ = await process.communicate()
                if turn:  # the first compiles
                    taken.append(float(output))
    return _row("import flowstates", THEIR_IMPORTS, seconds, 1.4, ours="import flowstates")


def _packages() -> Row:
    """By the metadata of what is installed here, its markers for this Python; extras are left out."""
    named = ["asyncpg", "pydantic", "pypika"] + (["uuid-utils"] if sys.version_info < (3, 14) else [])
    ours, theirs = _needed(["flowstates"]) - {"flowstates"}, _needed(named)
    note = f"not the same: {', '.join(sorted(ours ^ theirs))}" if ours != theirs else ""
    return Row("pip install flowstates", f"pip install {' '.join(named)}", [len(ours)], limit=len(ours & theirs), note=note, unit="packages")


def _needed(names: Iterable[str]) -> set[str]:
    needed: set[str] = set()
    missing = [canonicalize_name(name) for name in names]
    while missing:
        name = missing.pop()
        if name not in needed:
            needed.add(name)
            found = map(Requirement, requires(name) or ())
            missing += [canonicalize_name(one.name) for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    return needed


def _row(work: str, against: str, seconds: Seconds, limit: float | None, peer: str | None = None, *, ours: str = OURS) -> Row:
    return Row(work, against, seconds[ours], seconds[peer or against], limit)
