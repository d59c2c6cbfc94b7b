"""The command line `flowstates`. Nothing else of the package imports it."""

from __future__ import annotations

import os
import signal
import sys

from flowstates.cli.streams import OutputError, give_up_output, open_streams
from flowstates.interrupts import CODE, end_quietly


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    sys.excepthook = end_quietly
    open_streams()
    try:
        from flowstates.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print("error: the command line is not installed: pip install 'flowstates[cli,embedded]'", file=sys.stderr)
        sys.exit(2)
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]  # a terminal that does not know its width; rich would print nothing
    try:
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        try:
            app(prog_name="flowstates")
        finally:
            sys.stdout.flush()
    except OutputError as error:
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        give_up_output()
        sys.exit(3)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(CODE))  # a second Ctrl-C, while Python ends
