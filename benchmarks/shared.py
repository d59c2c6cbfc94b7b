"""What all benchmarks share: contenders that take turns, the table of ratios, the server's settings."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

Seconds = dict[str, list[float]]
FILL_RUNS = """
insert into flow_run (id, state_id, state_type, state_name, state_timestamp, transaction)
select distinct on (flow_run_id) flow_run_id, id, type, name, timestamp, transaction
  from flow_run_state
 order by flow_run_id, timestamp desc
"""
HAS_SERVER_CLOCK = Path("/proc/self/schedstat").exists()
NO_SERVER_CLOCK = "this system has no /proc/PID/schedstat"
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_wal_size")


async def _nothing() -> None:
    return None


@dataclass
class Contender:
    """One way to do the work. `prepare` makes what `run` takes; only `run` is timed, by `clock`, which says seconds."""

    name: str
    run: Callable[[Any], Awaitable[object]]
    prepare: Callable[[], Awaitable[Any]] = _nothing
    clock: Callable[[], float] = time.perf_counter


async def take_turns(contenders: Sequence[Contender], turns: int, *, warm_up: int = 0) -> Seconds:
    """The seconds of each contender, by its name. Each round has all of them in an order of chance; the first `warm_up` rounds are not counted."""
    seconds: Seconds = {contender.name: [] for contender in contenders}
    gc.collect()
    for turn in range(warm_up + turns):
        for contender in random.sample(contenders, len(contenders)):
            given = await contender.prepare()
            begun = contender.clock()
            await contender.run(given)
            took = contender.clock() - begun
            del given  # what was made for one contender is not to be a burden on the next
            if turn >= warm_up:
                seconds[contender.name].append(took)
    return seconds


def server_clock(connection: asyncpg.Connection[asyncpg.Record]) -> Callable[[], float]:
    """A clock that goes while the connection's own server process has a processor (Linux). What it does after its answer falls into the next turn."""
    spent = Path(f"/proc/{connection.get_server_pid()}/schedstat")
    return lambda: int(spent.read_text().split()[0]) / 1e9


@asynccontextmanager
async def own_database(dsn: str, name: str) -> AsyncIterator[str]:
    """The address of a database that is made for the block, so that nothing is in it but what is loaded there."""
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"create database {name} template template0")
    try:
        yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def grown_by(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> float:
    """By how many MiB `work` lets the memory of a process grow that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return await asyncio.get_running_loop().run_in_executor(process, _growth, work, *arguments)


def _growth(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> float:
    start = _kilobytes("VmRSS")
    asyncio.run(work(*arguments))
    return (_kilobytes("VmHWM") - start) / 1024


def _kilobytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0])


@dataclass
class Row:
    """One line of the table. A row that was not measured says why in `note`; one without a limit is there for the reader."""

    work: str
    against: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    limit: float | None = None
    note: str = ""
    unit: str = "s"
    of_before: float | None = None

    @property
    def ratio(self) -> float | None:
        """Median to median; None if it was not measured, or if there is no peer."""
        return median(self.ours) / median(self.theirs) if self.ours and self.theirs else None

    @property
    def figure(self) -> float | None:
        """What the limit is for: the ratio or, without a peer, ours alone."""
        return median(self.ours) if self.ours and not self.theirs else self.ratio

    @property
    def verdict(self) -> str:
        """Whether the figure is within the limit."""
        if self.figure is None:
            return "not measured"
        if self.limit is None:
            return "-"
        return "ok" if self.figure <= self.limit else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        limit = "" if self.limit is None else f"{self.limit:g}" + (f" {self.unit}" if self.unit != "s" else "")
        shown = self.work + (f" ({self.note})" if self.note else "")
        of_before = "" if self.of_before is None else f"{self.of_before:.2f}"
        return (shown, self.against, self._shown(self.ours), self._shown(self.theirs), ratio, limit, self.verdict, str(len(self.ours)), of_before)

    def _shown(self, values: list[float]) -> str:
        if not values:
            return ""
        middle = median(values)
        if self.unit != "s":
            return f"{middle:.1f} {self.unit}"
        return f"{middle * 1e6:,.0f} us" if middle < 0.1 else f"{middle:.2f} s"

    def as_json(self) -> dict[str, Any]:
        """The row with its spread: of each side the median and the two quartiles."""
        spread = {side: _spread(values) for side, values in (("flowstates", self.ours), ("peer", self.theirs))}
        said = {"work": self.work, "against": self.against, "unit": self.unit, "limit": self.limit, "note": self.note}
        return said | spread | {"ratio": self.ratio, "verdict": self.verdict, "turns": len(self.ours), "of before": self.of_before}


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    first, middle, third = quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"first quartile": first, "median": middle, "third quartile": third}


HEADS = ("work", "against", "flowstates", "peer", "ratio", "limit", "", "turns", "of before")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, aligned."""
    lines = [HEADS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


async def settings_of(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    """The server's settings on which the figures hang."""
    return {name: await connection.fetchval("select current_setting($1)", name) for name in SETTINGS}


def settings_here() -> dict[str, str]:
    """Those of this machine and process."""
    packages = {name: version(name) for name in ("asyncpg", "pydantic")}
    load = " ".join(f"{load:.2f}" for load in os.getloadavg())
    return {"when": f"{datetime.now(UTC):%F %R}Z", "cores": str(os.cpu_count()), "load": load, "python": platform.python_version()} | packages


def write_json(path: Path, settings: dict[str, dict[str, str]], rows: Sequence[Row]) -> None:
    """The same as the table, for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "rows": [row.as_json() for row in rows]}, indent=1) + "\n")


def compare(rows: Sequence[Row], path: Path) -> None:
    """Holds the figures against those of the same rows in the JSON of another run, which may be of another version."""
    before = {(row["work"], row["against"]): row for row in json.loads(path.read_text())["rows"]}
    for row in rows:
        known = before.get((row.work, row.against))
        if known and known["flowstates"] and row.figure is not None:
            row.of_before = row.figure / (known["ratio"] or known["flowstates"]["median"])
