"""The history that both sides read: made by a seeded generator, so that every run of the tests sees the same rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

RUNS = 240
TYPES = ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING")

# Inline values as JSON text; None is SQL null. Behind a falsy one the artifact's value counts.
FALSY = (None, "null", "0", '""', "[]", "{}", "false", "0.0", "-0")
TRUTHY = ("true", "1", "-1.5", '"x"', '" "', "[null]", '{"a": null}', '{"type": "unpersisted", "n": [1, {"b": 2.5e3}]}', "12345678901234567890123")

NO_ARTIFACT = "no artifact"
# What artifacts hold, byte for byte; None is SQL null. The column is json, so what jsonb refuses or would rewrite is here too.
ARTIFACTS = (
    None, "null", "0", '""', "[]", "{}", "false",
    "7", '"text"', "[1, 2]", '{"a": 1}', "true",
    r'"\u0000"', r'{"k\u0000": "v\u0000w"}', '{"a": 1, "a": 2}', '{"b": 1, "a": 2}', "  [ 1 ,\n 2 ]  ", r'"\ud83c\udf89 é"', "[0.1, 1e3, -0.0]",
)  # fmt: skip
DATA_TABLE = tuple((inline, artifact) for inline in FALSY + TRUTHY for artifact in (NO_ARTIFACT, *ARTIFACTS))

NAMES = (
    "Scheduled", "Late", "AwaitingRetry", "Pending", "Running", "Retrying", "Completed", "Cached", "Failed", "TimedOut", "Crashed", "Cancelled",
    "Paused", "Suspended", "", " ", "\t\r\n", "O'Brien", '"quoted"', "'; drop table flow_run_state; --", "$1 %s {name} \\", "null", "Żółć",
    "完了", "e\u0301", "\U0001f389\u200d\U0001f525", "\u202eright to left", "\u00a0", "x" * 2_500, "\U0010ffff", "line\nbreak",
)  # fmt: skip
MESSAGES = (None, "", " ", "Flow run started", "tab\tand\nline", "naïve 🎉 \\u0000", "'\"\\", "m" * 50_000)

_UUID_FIELDS = (
    "flow_run_id", "task_run_id", "child_flow_run_id", "transition_id", "task_parameters_id", "deployment_concurrency_lease_id",
)  # fmt: skip
EMPTY_DETAILS: dict[str, object] = {
    **dict.fromkeys(_UUID_FIELDS),
    **dict.fromkeys(("scheduled_time", "cache_expiration", "pause_timeout", "cache_key", "pause_key", "traceparent")),
    **dict.fromkeys(("run_input_keyset", "refresh_cache", "retriable")),
    "deferred": False,
    "untrackable_result": False,
    "pause_reschedule": False,
}
# The keys of Prefect 2.7: rows of that age lack everything that was added later.
OLD_KEYS = ("flow_run_id", "task_run_id", "child_flow_run_id", "scheduled_time", "cache_key", "cache_expiration", "untrackable_result")


@dataclass(frozen=True)
class State:
    id: UUID
    created: datetime
    updated: datetime
    flow_run_id: UUID
    type: str
    timestamp: datetime
    name: str
    message: str | None
    state_details: str
    data: str | None
    result_artifact_id: UUID | None


@dataclass(frozen=True)
class Seed:
    runs: tuple[UUID, ...]
    states: tuple[State, ...]
    artifacts: dict[UUID, str | None]
    current: dict[UUID, State]
    unknown: tuple[UUID, ...]

    def artifact_of(self, state: State) -> str | None:
        return NO_ARTIFACT if state.result_artifact_id is None else self.artifacts[state.result_artifact_id]


def make_seed() -> Seed:
    rng = random.Random(20_240_229)

    def new_id() -> UUID:
        return UUID(int=rng.getrandbits(128), version=4)

    flavours = tuple(_details(rng, new_id))
    runs = tuple(new_id() for _ in range(RUNS))
    artifacts: dict[UUID, str | None] = {}
    states: list[State] = []
    current: dict[UUID, State] = {}
    for number, run in enumerate(runs):
        # Every fortieth run has no state yet.
        length = 0 if number % 40 == 39 else rng.randint(7, 15)
        times = _times(rng, number, length)
        for timestamp in times:
            position = len(states)
            inline, artifact = DATA_TABLE[position % len(DATA_TABLE)]
            artifact_id = None
            if artifact != NO_ARTIFACT:
                artifact_id = new_id()
                artifacts[artifact_id] = artifact
            created = timestamp.replace(year=2024) + timedelta(microseconds=rng.randrange(1_000_000))
            states.append(
                State(
                    id=new_id(),
                    created=created,
                    updated=created + timedelta(seconds=rng.choice((0, 0, 3_600))),
                    flow_run_id=run,
                    type=TYPES[position % len(TYPES)],
                    timestamp=timestamp,
                    name=NAMES[position % len(NAMES)],
                    message=MESSAGES[0 if position % 3 else rng.randrange(len(MESSAGES))],
                    state_details=flavours[rng.randrange(len(flavours))] if position % 5 else flavours[position // 5 % len(flavours)],
                    data=inline,
                    result_artifact_id=artifact_id,
                )
            )
        history = states[len(states) - length :]
        # Mostly the newest is the current one, sometimes an older one, sometimes the run names none.
        if history and number % 7:
            current[run] = history[0] if number % 11 == 0 else history[-1]
    # Rows in no order, so that only `order by` can bring it about.
    rng.shuffle(states)
    unknown = (UUID(int=0), UUID(int=2**128 - 1), *(new_id() for _ in range(20)))
    return Seed(runs, tuple(states), artifacts, current, unknown)


def _times(rng: random.Random, number: int, length: int) -> list[datetime]:
    start = datetime(2024, 2, 28, tzinfo=UTC) + timedelta(seconds=rng.randrange(90 * 86_400))
    if number % 50 == 10:
        # One microsecond earlier the driver would send -infinity.
        start = datetime(1, 1, 1, microsecond=1, tzinfo=UTC)
    if number % 50 == 11:
        start = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    if number % 5 == 0 or number % 50 == 11:
        return [start + timedelta(microseconds=step) for step in range(length)]
    times = [start]
    for _ in range(length - 1):
        times.append(times[-1] + timedelta(seconds=rng.randrange(1, 7_200), microseconds=rng.choice((0, 1, 120_000, rng.randrange(1_000_000)))))
    return times[:length]


def _details(rng: random.Random, new_id: Callable[[], UUID]) -> Iterator[str]:
    full = EMPTY_DETAILS | {
        **{field: str(new_id()) for field in _UUID_FIELDS},
        "scheduled_time": "2024-02-29T12:00:00.000001Z",
        "cache_expiration": "9999-12-31T23:59:59Z",
        "pause_timeout": "0001-01-01T00:00:00Z",
        "cache_key": "key 🎉",
        "pause_key": "",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "deferred": True,
        "untrackable_result": True,
        "pause_reschedule": True,
        "refresh_cache": False,
        "retriable": True,
        "run_input_keyset": {"": "", "response": "paused-1-response", "schéma": "\\"},
    }
    plain = EMPTY_DETAILS | {"flow_run_id": str(new_id()), "transition_id": str(new_id())}
    yield "{}"
    yield json.dumps(EMPTY_DETAILS)
    yield json.dumps(full)
    yield json.dumps(plain | {"scheduled_time": "2024-03-01T08:00:00Z"})
    yield json.dumps(plain | {"deferred": None, "run_input_keyset": {}})
    yield json.dumps({key: full[key] for key in OLD_KEYS})
    yield json.dumps({key: EMPTY_DETAILS[key] for key in OLD_KEYS})
    # A writer newer than either side.
    yield json.dumps(full | {"from_tomorrow": {"a": [1, None, "ü"]}, "id": "no field"})
    yield '{"from_tomorrow": null}'
    # Prefect stores the offset that the user's time had.
    yield '{"scheduled_time": "2024-03-01T10:00:00.5+02:00", "cache_expiration": "2024-03-01T00:00:00-11:30"}'
    # Times that have a year in their own zone only.
    yield '{"scheduled_time": "9999-12-31T23:59:59.999999-05:00", "cache_expiration": "0001-01-01T00:00:00+05:30"}'
    # Prefect reads leniently, and so what it accepted once must stay readable.
    yield '{"deferred": "true", "untrackable_result": 1, "retriable": "off", "flow_run_id": "AE0C0E7E0A364ABC8BD5C2E1CBF2D7D7"}'
    # A time without an offset is in UTC.
    yield '{"scheduled_time": "2024-03-01T10:00:00", "pause_timeout": "2024-03-01", "traceparent": "00-1-2-01", "from_tomorrow": 1}'
    for field in sorted(full):
        if rng.random() < 0.5:
            yield json.dumps({field: full[field]})


async def insert_seed(connection: asyncpg.Connection[asyncpg.Record], seed: Seed) -> None:
    """Fills Prefect's own, empty tables."""
    flow = await connection.fetchval("insert into flow (name) values ('witness') returning id")
    newest = datetime(2024, 6, 1, tzinfo=UTC)
    async with connection.transaction():
        await connection.executemany(
            "insert into flow_run (id, name, flow_id, created, updated) values ($1, $2, $3, $4, $4)",
            [(run, f"run {number}", flow, newest) for number, run in enumerate(seed.runs)],
        )
        await connection.executemany("insert into artifact (id, data) values ($1, $2::text::json)", list(seed.artifacts.items()))
        await connection.executemany(
            """
            insert into flow_run_state (id, created, updated, flow_run_id, type, timestamp, name, message, state_details, data, result_artifact_id)
            values ($1, $2, $3, $4, $5::text::state_type, $6, $7, $8, $9::text::jsonb, $10::text::jsonb, $11)
            """,
            [tuple(vars(state).values()) for state in seed.states],
        )
        await connection.executemany(
            "update flow_run set state_id = $2, state_type = $3::text::state_type, state_name = $4, state_timestamp = $5 where id = $1",
            [(run, state.id, state.type, state.name, state.timestamp) for run, state in seed.current.items()],
        )
    await connection.execute("analyze")
