"""What a feed has told, held against what is stored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from tests.stored import Stored


class Told(NamedTuple):
    """A state that was told. With its timestamp, as an id may be stored again after a delete."""

    id: UUID
    timestamp: datetime


def check_told(told: Sequence[Told], stored: Sequence[Stored], *, backfilled: Collection[UUID] = ()) -> list[str]:
    """The problems; each begins with its kind: lost, doubled, disorder. `backfilled` are states that may come after one that follows them."""
    found = [f"doubled: {one.id} was told {times} times" for one, times in Counter(told).items() if times > 1]
    known = {Told(row.state.id, row.state.timestamp): row for row in stored}
    found += [f"lost: {one.id} of run {row.state.flow_run_id} was not told" for one, row in known.items() if one not in set(told)]
    rows = [known[one] for one in told if one in known]
    for row, next_ in pairwise(rows):
        if _key(row) > _key(next_):
            found.append(f"disorder: {row.state.id} was told before {next_.state.id}")
    of_run: defaultdict[UUID, list[Stored]] = defaultdict(list)
    for row in rows:
        if row.state.id not in backfilled:
            of_run[row.state.flow_run_id].append(row)
    for run, states in of_run.items():
        for row, next_ in pairwise(states):
            if row.state.timestamp > next_.state.timestamp:
                found.append(f"disorder: of run {run}, {row.state.id} was told before {next_.state.id}, which it follows")
    return found


def _key(row: Stored) -> tuple[int, datetime, UUID]:
    return row.transaction, row.state.timestamp, row.state.id
