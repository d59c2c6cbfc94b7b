"""What all benchmarks share: contenders that take turns, the table of ratios, the server's settings."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
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
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_wal_size")


async def _nothing() -> None:
    return None


@dataclass
class Contender:
    """One way to do the work. `prepare` makes what `run` takes; only `run` is timed."""

    name: str
    run: Callable[[Any], Awaitable[object]]
    prepare: Callable[[], Awaitable[Any]] = _nothing


async def take_turns(contenders: Sequence[Contender], turns: int, *, warm_up: int = 0) -> Seconds:
    """The seconds of each contender, by its name: A B C A B C, the first `warm_up` rounds not counted."""
    seconds: Seconds = {contender.name: [] for contender in contenders}
    gc.collect()
    for turn in range(warm_up + turns):
        for contender in contenders:
            given = await contender.prepare()
            begun = time.perf_counter()
            await contender.run(given)
            took = time.perf_counter() - begun
            del given  # what was made for one contender is not to be a burden on the next
            if turn >= warm_up:
                seconds[contender.name].append(took)
    return seconds


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

    @property
    def ratio(self) -> float | None:
        """Median to median; None if it was not measured, or if there is no peer."""
        return median(self.ours) / median(self.theirs) if self.ours and self.theirs else None

    @property
    def verdict(self) -> str:
        """Whether the figure, a ratio or ours alone, is within the limit."""
        if not self.ours:
            return "not measured"
        if self.limit is None:
            return "-"
        figure = median(self.ours) if self.ratio is None else self.ratio
        return "ok" if figure <= self.limit else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        limit = "" if self.limit is None else f"{self.limit:g}" + (f" {self.unit}" if self.unit != "s" else "")
        shown = self.work + (f" ({self.note})" if self.note else "")
        return (shown, self.against, self._shown(self.ours), self._shown(self.theirs), ratio, limit, self.verdict, str(len(self.ours)))

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
        return said | spread | {"ratio": self.ratio, "verdict": self.verdict, "turns": len(self.ours)}


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    first, middle, third = quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"first quartile": first, "median": middle, "third quartile": third}


HEADS = ("work", "against", "flowstates", "peer", "ratio", "limit", "", "turns")


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
