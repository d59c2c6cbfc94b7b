"""PostgreSQL's own programs, as people run them: psql, pg_dump and pg_restore, from the package of the embedded server."""

from __future__ import annotations

import asyncio
import re
import subprocess

import asyncpg
import pytest

from flowstates.database.embedded import _BINARIES, _package


async def psql(dsn: str, text: str, *options: str) -> str:
    """What psql prints for a text that is pasted into it; an error in it fails the test."""
    return await run("psql", dsn, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", *options, text=text)


async def run(program: str, dsn: str, *options: str, text: str = "") -> str:
    """What a program prints on the database of `dsn`. It is of the server's version, or of the next one that there is."""
    connection = await asyncpg.connect(dsn)
    version = connection.get_server_version().major
    await connection.close()
    folders = {number: folder for number, folder in sorted(_BINARIES.items()) if number >= version}
    if not folders:
        pytest.skip(f"the server is PostgreSQL {version}, and the newest {program} at hand is of {max(_BINARIES)}: it refuses a newer server")
    path = _package() / next(iter(folders.values())) / "bin" / program
    command = [str(path), f"--dbname={dsn}", *options]
    done = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, encoding="utf-8", env={}, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def without_versions_of_attributes(dump: str) -> str:
    """A dump that every server takes. PostgreSQL 15.20 and others of its day note a number with a column, which older ones do not know."""
    return re.sub(r"^ALTER TABLE .* SET \(pg_attver=\d+\);$", "", dump, flags=re.MULTILINE)
