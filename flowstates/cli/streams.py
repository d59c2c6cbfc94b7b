"""Standard input, output and error as the commands need them, whatever they are connected to."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_READER_WENT_AWAY = 141  # 128 and the number of SIGPIPE, as a shell has it of a program that this signal ends


class OutputError(OSError):
    """Standard output takes no more. Its own class for where an OSError would be taken for the database's, or a file's."""


class _Output(io.FileIO):
    """Standard output. When its reader went away, as `head` does, the program ends as one that SIGPIPE ends: with 141 and without a word.

    The signal itself would also come of a connection to a database that broke.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            with _ctrl_c_raises():
                return super().write(data)
        except KeyboardInterrupt:
            give_up_output()
            raise
        except BrokenPipeError:
            give_up_output()
            sys.exit(_READER_WENT_AWAY)
        except OSError as error:
            raise OutputError(*error.args) from None


class _Errors(io.FileIO):
    """Standard error. The work goes on where nobody can be told of it."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """A loop of asyncio cancels a task on Ctrl-C, which cannot be one that waits for a reader who does not read."""
    handler = signal.getsignal(signal.SIGINT)
    if handler in (signal.SIG_IGN, signal.default_int_handler, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def open_streams() -> None:
    """Makes the streams what the commands expect. Output that is closed stays None; input that is closed cannot be read."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    while nothing <= 2:  # or what is opened later, a connection perhaps, would have the number of a stream
        nothing = os.dup(nothing)
    os.close(nothing)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (it is open as long as the program runs)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is None or isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _text(_Errors(2, "wb", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    """The same stream, where a character that the terminal's encoding lacks is shown as its escape instead of ending the program."""
    encoding, line_buffering = (before.encoding, before.line_buffering) if before else ("utf-8", True)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=line_buffering)


def give_up_output() -> None:
    """What could not be written is still in a buffer, and Python would try again, with a traceback, as it ends: now that goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
