"""A file that keeps what is deleted: JSON Lines, on the disk before the deletes are committed."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeAlias

from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.records import FlowRunState

if sys.platform != "win32":
    import fcntl

Archive: TypeAlias = Callable[[list[FlowRunState]], Awaitable[object]]

_BLOCK = 2**20  # bytes


def json_line(text: str) -> str:
    """JSON as one line that every reader takes for one."""
    # JSON lets these stand as they are in a string, but some readers end a line at them and some terminals obey them.
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


@contextmanager
def archive_file(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """A function that appends states to a file, which is compressed if its name ends in .gz or .zst, and returns when they are on the disk.

    What a broken writer left of a last batch is cut off first: that batch was not committed. InvalidInputError if the file cannot be had.
    """
    file = _File(os.fspath(path))
    try:
        yield file.append
    finally:
        file.close()


class _File:
    def __init__(self, path: str) -> None:
        self._path = path
        self._compress, decompressor = _compression(path)
        is_new = not os.path.exists(path)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
        except (OSError, ValueError) as error:
            raise InvalidInputError("archive", f"cannot be opened: {error}") from None
        self._is_open, self._writing = True, Lock()
        try:
            self._take()
            os.ftruncate(self._file, _end_of_lines(self._file) if decompressor is None else _end_of_members(self._file, decompressor))
            if is_new:
                _sync_folder(path)
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInputError("archive", f"{self._path} is being written by another prune") from None

    async def append(self, states: list[FlowRunState]) -> None:
        text = self._compress("".join(json_line(state.model_dump_json()) for state in states).encode())
        try:
            await asyncio.to_thread(self._write, text)
        except OSError as error:
            raise FlowStatesError(f"archive {self._path} cannot be written: {error}") from error

    def _write(self, text: bytes) -> None:
        # Whoever waits for this may be cancelled and close the file, which then waits for it.
        with self._writing:
            if not self._is_open:
                return
            begin, rest = os.fstat(self._file).st_size, memoryview(text)
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, begin)
                raise

    def close(self) -> None:
        with self._writing:
            if self._is_open:
                self._is_open = False
                os.close(self._file)


def _compression(path: str) -> tuple[Callable[[bytes], bytes], Callable[[], Any] | None]:
    """What makes a member of a file that can be read on its own, and what reads one; by the file's name."""
    if path.endswith(".gz"):
        return lambda text: gzip.compress(text, mtime=0), lambda: zlib.decompressobj(wbits=31)
    if path.endswith(".zst"):
        if sys.version_info >= (3, 14):
            from compression import zstd

            return zstd.compress, zstd.ZstdDecompressor
        raise InvalidInputError("archive", "ends in .zst, which takes Python 3.14; .gz is for all")
    return bytes, None


def _sync_folder(path: str) -> None:
    """So that the file's name is on the disk too."""
    if sys.platform == "win32":
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _blocks(file: int) -> Iterator[bytes]:
    os.lseek(file, 0, os.SEEK_SET)
    while block := os.read(file, _BLOCK):
        yield block


def _end_of_lines(file: int) -> int:
    """Where the last whole line ends."""
    begin = os.fstat(file).st_size
    while begin:
        end, begin = begin, max(0, begin - _BLOCK)
        os.lseek(file, begin, os.SEEK_SET)
        found = os.read(file, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
    return 0


def _end_of_members(file: int, decompressor: Callable[[], Any]) -> int:
    """Where the last whole member ends. It reads the file from its begin."""
    read, end, member = 0, 0, decompressor()
    for block in _blocks(file):
        read += len(block)
        rest = block
        while rest:
            try:
                member.decompress(rest)
            except (zlib.error, OSError, ValueError) as error:
                raise InvalidInputError("archive", f"is not what its name says: {error}") from None
            if not member.eof:
                break
            rest = member.unused_data
            end, member = read - len(rest), decompressor()
    return end
