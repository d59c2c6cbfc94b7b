"""A day of runs that are made up, the same ones each time but for the day."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from uuid import UUID

from flowstates import NewFlowRunState, StateType

_S, _P, _R = StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING
_WORDS = ("nightly import", "report of the day", "clean-up", "index of documents", "invoices", "thumbnails")
_FAILURES = ("connection reset by peer", "no rows to report", "disk quota exceeded: 4.0 GiB of 4.0 GiB", "timeout after 900 s")


def run_id(number: int, begin: datetime) -> UUID:
    """A UUIDv7 of a moment."""
    return UUID(int=(int(begin.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | (number * 0x9E3779B97F4A7C15 & (2**62 - 1)))


def a_day(now: datetime, runs: int = 220) -> list[NewFlowRunState]:
    """The histories of some runs that began in the last 25 hours; a few have not ended."""
    rng = random.Random(7)
    return [state for number in range(runs) for state in _history(rng, number, now - timedelta(hours=25) * rng.random() ** 0.8, now)]


def _history(rng: random.Random, number: int, begin: datetime, now: datetime) -> list[NewFlowRunState]:
    run, what = run_id(number, begin), rng.choice(_WORDS)
    steps: list[tuple[float, StateType, str | None, str | None]] = [
        (0, _S, None, what),
        (rng.expovariate(1 / 240), _P, None, None),
        (rng.expovariate(1 / 20), _R, None, f"on worker {rng.randrange(1, 12)}"),
    ]
    if rng.random() < 0.2:
        steps += [
            (rng.expovariate(1 / 900), StateType.FAILED, None, rng.choice(_FAILURES)),
            (0.4, _S, "AwaitingRetry", "attempt 2 of 3 in 5 minutes"),
            (300, _R, "Retrying", f"on worker {rng.randrange(1, 12)}"),
        ]
    if rng.random() < 0.06:
        steps += [(rng.expovariate(1 / 600), StateType.PAUSED, "Suspended", "waits for an answer"), (rng.expovariate(1 / 7200), _R, "Resuming", None)]
    end = rng.choices(
        [
            (StateType.COMPLETED, f"{rng.randrange(2_000_000):,} rows"),
            (StateType.FAILED, rng.choice(_FAILURES)),
            (StateType.CRASHED, "worker lost: no heartbeat for 90 s"),
            (StateType.CANCELLED, "by hand"),
        ],
        [80, 10, 4, 6],
    )[0]
    if end[0] is StateType.CANCELLED:
        steps.append((rng.expovariate(1 / 900), StateType.CANCELLING, None, None))
    steps.append((rng.expovariate(1 / 2400), end[0], None, end[1]))
    found, at = [], begin
    for after, type_, name, message in steps:
        at += timedelta(seconds=after)
        if at > now:
            break
        data = {"rows": rng.randrange(10**6), "files": ["a.parquet", "b.parquet"]} if type_ is StateType.COMPLETED else None
        details = {"scheduled_time": at + timedelta(minutes=5)} if type_ is _S else {"retriable": True} if type_ is StateType.FAILED else None
        found.append(NewFlowRunState(flow_run_id=run, type=type_, name=name, timestamp=at, message=message, data=data, state_details=details))
    return found
