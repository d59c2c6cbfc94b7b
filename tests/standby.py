"""A primary and a standby that follows it by streaming: real servers, on Unix sockets alone, for as long as a with block lasts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from flowstates.database import embedded
from flowstates.database.embedded import embedded_postgres
from tests.faults import folder_for_a_server

_SECONDS = 60.0  # for what takes a second or two


def version_for_tests() -> int:
    """That of the embedded server which the tests use, else the newest."""
    kind, _, version = os.environ.get("FLOWSTATES_TEST_POSTGRES", "").partition(":")
    return int(version) if kind == "embedded" and version else max(embedded._BINARIES)


@dataclass
class Pair:
    """Addresses of the two databases `postgres`, for a superuser. Either server may be stopped before the block ends."""

    primary: str
    standby: str
    _folder: Path
    _running: dict[str, ExitStack] = field(default_factory=dict)

    def stop(self, dsn: str) -> None:
        """Stops one of the servers, and lets it end what it does: a transaction is undone, and a standby gets what was committed."""
        self._running.pop(dsn, ExitStack()).close()

    @contextmanager
    def standby_of_the_standby(self) -> Iterator[str]:
        """The address of a third server, which follows the standby, also when that is promoted."""
        with _standby(self._folder, "third", self.standby, version_for_tests()) as dsn:
            yield dsn

    async def cut_off(self) -> None:
        """The standby receives nothing more."""
        connection = await asyncpg.connect(self.standby)
        try:
            await connection.execute("alter system set primary_conninfo = ''")
            await connection.execute("select pg_reload_conf()")
            while await connection.fetchval("select exists (select from pg_stat_wal_receiver) from pg_sleep(0.01)"):
                pass
        finally:
            await connection.close()

    async def promote(self) -> None:
        """Makes the standby a server of its own, which takes writes. The primary goes on too, unless it was stopped."""
        connection = await asyncpg.connect(self.standby)
        try:
            assert await connection.fetchval("select pg_promote(wait => true, wait_seconds => $1)", int(_SECONDS))
        finally:
            await connection.close()

    async def caught_up(self) -> None:
        """Waits until the standby shows all that is committed on the primary."""
        primary, standby = await asyncpg.connect(self.primary), await asyncpg.connect(self.standby)

        async def is_there(position: str) -> bool:
            with suppress(asyncpg.SerializationError):  # what is replayed may cancel the question
                return bool(await standby.fetchval("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position))
            return False

        try:
            position = await primary.fetchval("select pg_current_wal_insert_lsn()::text")
            end = time.monotonic() + _SECONDS
            while not await is_there(position):
                assert time.monotonic() < end, f"the standby does not come to {position}"
                await asyncio.sleep(0.01)
        finally:
            await primary.close()
            await standby.close()


@contextmanager
def primary_and_standby(**settings: str) -> Iterator[Pair]:
    """Two embedded servers, the second begun from a base backup of the first. Each ends with the block, and with this process.

    The settings are the standby's, and the primary's after a restart or a reload.
    """
    version = version_for_tests()
    with folder_for_a_server() as folder, ExitStack() as stack:
        primaries, standbys = stack.enter_context(ExitStack()), stack.enter_context(ExitStack())
        primary = primaries.enter_context(embedded_postgres(folder / "primary", version=version))
        if settings:
            asyncio.run(_alter(primary, settings))
        standby = standbys.enter_context(_standby(folder, "standby", primary, version))
        yield Pair(primary, standby, folder, {primary: primaries, standby: standbys})


async def _alter(dsn: str, settings: dict[str, str]) -> None:
    connection = await asyncpg.connect(dsn)
    for name, value in settings.items():
        await connection.execute(f"alter system set {name} = '{value}'")
    await connection.close()


@contextmanager
def _standby(folder: Path, name: str, upstream: str, version: int) -> Iterator[str]:
    """The address of a server that is begun from a base backup of another one and follows it."""
    (data,) = (folder / "primary").glob("*/data")
    home = folder / name / data.parent.name
    home.mkdir(parents=True)
    program = embedded._package() / embedded._BINARIES[version] / "bin" / "pg_basebackup"
    # --write-recovery-conf makes it a standby of the address. The checkpoint would else be spread over minutes.
    options = ["--pgdata", str(home / data.name), "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", upstream]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    subprocess.run([program, *options], check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, env=environment)
    owner = data.stat()
    for path in (home, *home.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    with embedded_postgres(folder / name, version=version) as dsn:
        yield dsn
