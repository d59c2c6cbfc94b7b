"""The command line `flowstates`. Nothing else of the package imports it."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from flowstates.interrupts import CODE, end_quietly

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_READER_WENT_AWAY = 141  # 128 and the number of SIGPIPE, as a shell has it of a program that this signal ends


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    sys.excepthook = end_quietly
    try:
        from flowstates.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print("error: the command line is not installed: pip install 'flowstates[cli,embedded]'", file=sys.stderr)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _standard_output(sys.stdout)
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]  # a terminal that does not know its width; rich would print nothing
    try:
        if sys.stdout is None:
            raise OSError("standard output is closed")
        app(prog_name="flowstates")
    except OSError as error:
        # Of what is printed: those of a database are lines and exit codes already.
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        _give_up_output()
        sys.exit(3)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(CODE))  # a second Ctrl-C, while Python ends


class _Output(io.FileIO):
    """Standard output. When its reader went away, as `head` does, the program ends as one that SIGPIPE ends: with 141 and without a word.

    The signal itself would also come of a connection to a database that broke.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _give_up_output()
            sys.exit(_READER_WENT_AWAY)


def _standard_output(output: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same output, where a character that the terminal's encoding lacks is shown as its escape instead of ending the program."""
    buffer = io.BufferedWriter(_Output(output.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(buffer, output.encoding, "backslashreplace", line_buffering=output.line_buffering)


def _give_up_output() -> None:
    # What could not be written is still in a buffer, and Python would try again, with a traceback, as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
