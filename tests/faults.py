"""What goes wrong while writers run: a fault begins, lasts until its effect is seen, and is over when its function returns."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg

from flowstates import FlowRunStateRepository, StateType, batched, create_pool, embedded_postgres, migrate
from tests.conftest import Connection, Pool
from tests.proxy import Proxy
from tests.writers import BROKEN, Writers, defaults


@dataclass
class Target:
    """A database, its address without the proxy, and who writes to it."""

    dsn: str
    proxy: Proxy
    pool: Pool
    writers: Writers

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Connection]:
        """A connection that the faults leave alone."""
        settings = {"application_name": "admin", "default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "0"}
        connection = await asyncpg.connect(self.dsn, server_settings=settings)
        try:
            yield connection
        finally:
            await connection.close()

    async def terminate(self, share: float = 1.0) -> None:
        async with self.admin() as admin:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where datname = current_database() and application_name <> 'admin' and random() < {share}"
            )

    async def with_setting(self, name: str, value: str, error: str) -> None:
        """Gives the database's new connections another default, and ends the old ones so that it counts, until writers got an error of it."""
        database = f'alter database "{urlsplit(self.dsn).path[1:]}"'
        async with self.admin() as admin:
            await admin.execute(f"{database} set {name} = '{value}'")
            try:
                await self.terminate()
                await self.writers.log.more(2, error)
            finally:
                await admin.execute(f"{database} reset {name}")
                await self.terminate()


async def terminate(target: Target, random: Random) -> None:
    await target.terminate(random.choice([0.3, 1.0]))


async def cut(target: Target, random: Random) -> None:
    target.proxy.cut(lambda: random.random() < 0.5)


async def swallow(target: Target, random: Random) -> None:
    await target.proxy.swallow()


async def stall(target: Target, random: Random) -> None:
    async with target.proxy.stalled(answers_only=random.random() < 0.5):
        if random.random() < 0.5:
            await target.proxy.held_back.wait()
        else:
            await target.writers.log.more(1, "TimeoutError")


async def half_close(target: Target, random: Random) -> None:
    target.proxy.half_close(to_client=random.random() < 0.5)


async def cancel(target: Target, random: Random) -> None:
    found = False
    while not found:
        for task in list(target.writers.in_flight):
            if random.random() < 0.7:
                found |= task.cancel()
        await asyncio.sleep(0)


async def exhaust(target: Target, random: Random) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(target.pool.get_max_size()):
            await stack.enter_async_context(target.pool.acquire())
        await target.writers.log.more(1, "TimeoutError")


async def statement_timeout(target: Target, random: Random) -> None:
    async with _held_runs(target):
        await target.with_setting("statement_timeout", "5ms", "QueryCanceledError")


async def lock_timeout(target: Target, random: Random) -> None:
    async with _held_runs(target):
        await target.with_setting("lock_timeout", "5ms", "LockNotAvailableError")


async def read_only(target: Target, random: Random) -> None:
    await target.with_setting("default_transaction_read_only", "on", "ReadOnlySQLTransactionError")


async def migrations(target: Target, random: Random) -> None:
    with suppress(*BROKEN):  # of a fault that lasts on
        applied = await asyncio.gather(migrate(target.pool, timeout=30), migrate(target.pool, timeout=30))
        assert not any(applied)


@asynccontextmanager
async def _held_runs(target: Target) -> AsyncIterator[None]:
    """Appends to every run in a transaction that is open as long as the block and is then rolled back: others wait, and time out."""
    async with target.admin() as admin:
        transaction = admin.transaction(isolation="read_committed")
        await transaction.start()
        for run in sorted(target.writers.runs):
            await FlowRunStateRepository(admin).create_flow_run_state(run, StateType.PAUSED)
        yield
        await transaction.rollback()


Fault: TypeAlias = Callable[[Target, Random], Awaitable[None]]
FAULTS: tuple[Fault, ...] = (
    terminate, cut, swallow, stall, half_close, cancel, exhaust, statement_timeout, lock_timeout, read_only, migrations,
)  # fmt: skip


class OwnServer:
    """An embedded server that can crash and start again, at another address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()

    async def start(self) -> str:
        return await asyncio.to_thread(self._running.enter_context, embedded_postgres(self._folder))

    async def crash(self) -> None:
        """Stops it as `pg_ctl stop -m immediate` does."""
        (pid_file,) = self._folder.glob("*/data/postmaster.pid")
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        await self.stop()

    async def stop(self) -> None:
        await asyncio.to_thread(self._running.close)


@contextmanager
def folder_for_a_server() -> Iterator[Path]:
    """As root the server runs as another user, who must be able to get there."""
    base = Path("/var/lib/flowstates") if os.geteuid() == 0 else None
    if base is not None and not base.exists():
        base.mkdir(parents=True)
        base.chmod(0o755)
    made = Path(tempfile.mkdtemp(prefix="test-", dir=base))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@asynccontextmanager
async def target(
    dsn: str, *, isolation: str, runs: int = 3, connections: int = 6, timeout: float = 1.0, is_batched: bool = False
) -> AsyncIterator[Target]:
    """A migrated database behind a proxy, with a pool and writers that have nothing to do yet."""
    async with Proxy(dsn) as proxy:
        pool = create_pool(proxy.dsn, max_size=connections, timeout=10, **defaults(isolation))
        await pool
        try:
            async with batched(pool) as creates:
                yield Target(dsn, proxy, pool, Writers(pool, runs, timeout=timeout, creates=creates if is_batched else None))
        finally:
            try:
                await asyncio.wait_for(pool.close(), 10)
            except (TimeoutError, *BROKEN):
                pool.terminate()


@asynccontextmanager
async def writing(target: Target, random: Random, *, writers: int = 5) -> AsyncIterator[None]:
    """Random writers as long as the block runs, and one who watches. At its end all that could be asked again has been answered."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch(target, stop))
        for number in range(writers):
            group.create_task(target.writers.until(f"w{number}", Random(random.random()), stop))
        try:
            yield
        finally:
            stop.set()


async def _watch(target: Target, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(*BROKEN):  # of a crash, or before the tables are there
            async with target.admin() as admin:
                while not stop.is_set():
                    await target.writers.watch(admin)
                    await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
