"""A file that keeps what is deleted: JSON Lines, on the disk before the deletes are committed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import MAXYEAR
from inspect import isawaitable
from math import isfinite
from threading import Event, Lock
from typing import Any, TypeAlias

from pydantic_core import from_json

from flowstates.engine.connections import until_done
from flowstates.errors import FlowStatesError, InvalidInputError, UnreadableRowError
from flowstates.records import FlowRunState, NewFlowRunState

if sys.platform != "win32":
    import fcntl

Archive: TypeAlias = Callable[[list[FlowRunState]], Awaitable[object]]

_BLOCK = 2**20  # bytes
_BEGIN = b'{"id":"'  # of each line
_DEEP = 100  # levels, at most, that every reader takes
_LONG = re.compile(r"\d{300}")  # may be a number that a reader refuses


def json_of(state: FlowRunState) -> str:
    """A state as JSON; UnreadableRowError for what others have stored and JSON has no way to say in UTF-8, or `import` would refuse."""
    try:
        for field, value in (("data", state.data), ("state_details", state.state_details.model_extra)):
            if not is_finite(value):
                raise UnreadableRowError(state.id, field, "cannot be written as JSON: holds a number that is greater than a double")
        text = state.model_dump_json()
        if text.count("[") + text.count("{") > _DEEP or _LONG.search(text) or state.timestamp.year == MAXYEAR:
            NewFlowRunState(**{field: value for field, value in from_json(text).items() if field in NewFlowRunState.model_fields})
    except (ValueError, RecursionError) as error:  # Pydantic's PydanticSerializationError too
        reason = str(error).removeprefix("Error serializing to JSON: ")
        raise UnreadableRowError(state.id, "data", f"cannot be written as JSON: {reason}") from None
    return text


def is_finite(value: object) -> bool:
    """Whether no number in it is greater than a double, of which Pydantic would make null."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return True


def json_line(text: str) -> str:
    """JSON as one line that every reader takes for one."""
    # JSON lets these stand as they are in a string, but some readers end a line at them and some terminals obey them.
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


class _CallersError(Exception):
    """What the caller's function raised, whatever that is: it says nothing of the batch."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@asynccontextmanager
async def archiving(archive: str | os.PathLike[str] | Archive | None) -> AsyncIterator[Archive | None]:
    """What takes the states of a batch."""
    if archive is None:
        yield None
    elif isinstance(archive, str | os.PathLike):
        file = await _opened(os.fspath(archive))
        try:
            yield file.append
        finally:
            file.close()
    else:
        callers = archive

        async def take(states: list[FlowRunState]) -> None:
            try:
                taken = callers(states)
                if isawaitable(taken):
                    await taken
                    return
            except Exception as error:  # the caller's, of any kind, which is raised to the caller below
                raise _CallersError(error) from None
            raise InvalidInputError("archive", "is a function that is not async: what it returned cannot be awaited")

        try:
            yield take
        except _CallersError as failed:
            raise failed.error from None


async def _opened(path: str) -> ArchiveFile:
    # In a thread, as a compressed file is read whole.
    stop = Event()
    opening = asyncio.ensure_future(asyncio.to_thread(ArchiveFile, path, stop))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        stop.set()
        try:
            await until_done(opening)
        finally:
            if opening.exception() is None:
                opening.result().close()
        raise


class ArchiveFile:
    """A file to which states are appended, compressed if its name ends in .gz or .zst. It reads a compressed file once from its begin.

    What a broken writer left of a last batch is cut off first: that batch was not committed. InvalidInputError if the file cannot be had, or is
    none of states; then it is left as it is.
    """

    def __init__(self, path: str, stop: Event | None = None) -> None:
        self._path = path
        self._compress, decompressor = _compression(path)
        is_new = not os.path.exists(path)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
        except (OSError, ValueError) as error:
            raise InvalidInputError("archive", f"cannot be opened: {error}") from None
        self._is_open, self._writing = True, Lock()
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise InvalidInputError("archive", f"{path} is no regular file")
            self._take()
            end, is_line = _end_of_lines(self._file) if decompressor is None else _end_of_members(self._file, decompressor, stop)
            self._first = b"" if is_line else b"\n"
            os.ftruncate(self._file, end)
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
        """Returns when they are on the disk. UnreadableRowError for a state that JSON cannot say; then nothing is written."""
        try:
            await asyncio.to_thread(self._append, states)
        except OSError as error:
            raise FlowStatesError(f"archive {self._path} cannot be written: {error}") from error

    def _append(self, states: list[FlowRunState]) -> None:
        text = self._compress(self._first + "".join(json_line(json_of(state)) for state in states).encode())
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
            self._first = b""

    def close(self) -> None:
        """Waits for what is being written."""
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


def _check_begin(begin: bytes) -> None:
    if not b"{".startswith(begin[:1]):
        raise InvalidInputError("archive", "is not empty and no JSON Lines: it is no archive")


def _end_of_lines(file: int) -> tuple[int, bool]:
    """Where the last line ends that is whole, and whether a line's end is there."""
    begin = size = os.fstat(file).st_size
    _check_begin(_read(file, 0, 1))
    last, found = b"", -1
    while begin and found < 0:
        end, begin = begin, max(0, begin - _BLOCK)
        block = _read(file, begin, end)
        found = block.rfind(b"\n")
        last = block[found + 1 :] + last
    if not last:
        return size, True
    try:
        json.loads(last)
    except ValueError:
        if last[: len(_BEGIN)] != _BEGIN[: len(last)]:
            raise InvalidInputError("archive", "ends in what is no line of JSON and no begin of one: it is no archive") from None
        return size - len(last), True
    return size, False


def _end_of_members(file: int, decompressor: Callable[[], Any], stop: Event | None) -> tuple[int, bool]:
    """Where the last member ends that is whole, and whether a line's end is there."""
    read, end, member = 0, 0, decompressor()
    newest, last = b"", b"\n"  # bytes of what was read, and of what whole members hold
    os.lseek(file, 0, os.SEEK_SET)
    while block := os.read(file, _BLOCK):
        read += len(block)
        rest: bytes | None = block
        while rest is not None:
            if stop is not None and stop.is_set():
                raise FlowStatesError("the archive was not read to its end, as nobody waits for it")
            try:
                text = member.decompress(rest, _BLOCK)
            except (zlib.error, OSError, ValueError) as error:
                raise InvalidInputError("archive", f"is not what its name says: {error}") from None
            if end == 0 and not newest:
                _check_begin(text[:1])
            newest = text[-1:] or newest
            if member.eof:
                rest = member.unused_data or None
                end, last, member = read - len(rest or b""), newest or last, decompressor()
            elif (tail := getattr(member, "unconsumed_tail", None)) is not None:
                rest = tail or None
            else:  # zstd's keeps it to itself
                rest = None if member.needs_input else b""
    return end, last == b"\n"


def _read(file: int, begin: int, end: int) -> bytes:
    os.lseek(file, begin, os.SEEK_SET)
    return os.read(file, end - begin)
