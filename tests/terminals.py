"""A command in a terminal, with somebody who reads and types."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import IO, Self

from tests.test_cli import ROOT

# Its own session with the terminal as its own, so that a typed Ctrl-C is a signal.
_START = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
_SECONDS = 60
CTRL_C = "\x03"
CTRL_D = "\x04"


class Terminal:
    """The command line in a terminal of its own, of so many columns; with `stdout`, its output there."""

    def __init__(self, *arguments: object, columns: int = 80, stdout: IO[bytes] | None = None, **env: str) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        command = [sys.executable, "-c", _START, "-m", "flowstates.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", **env}
        self._process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=stdout or theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._bytes = b""

    @property
    def text(self) -> str:
        """What was printed so far, without the styles."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._bytes.decode(errors="replace")).replace("\r\n", "\n")

    def until(self, pattern: str) -> str:
        """What was printed, when it fits the pattern."""
        end = time.monotonic() + _SECONDS
        while not re.search(pattern, self.text):
            assert self._read(end), f"it ended without {pattern}: {self.text}"
        return self.text

    def type_in(self, text: str) -> None:
        """What the terminal's user types."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> int:
        """The exit code, after a Ctrl-C, or several: one that comes just before a wait for input is seen by that alone, and waits too."""
        end = time.monotonic() + _SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it goes on: {self.text}"
            self.type_in(CTRL_C)
            time.sleep(0.2)
        return self.end()

    def end(self) -> int:
        """The exit code, when it has ended."""
        end = time.monotonic() + _SECONDS
        while self._read(end):
            pass
        return self._process.wait(_SECONDS)

    def _read(self, end: float) -> bool:
        assert select.select([self._ours], [], [], max(0, end - time.monotonic()))[0], f"nothing more came: {self.text}"
        try:
            more = os.read(self._ours, 65536)
        except OSError:  # on Linux, of a terminal that nobody has open any more
            return False
        self._bytes += more
        return bool(more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
