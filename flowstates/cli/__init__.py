"""The command line `flowstates`. Nothing else of the package imports it."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    try:
        from flowstates.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print("error: the command line is not installed: pip install 'flowstates[cli,embedded]'", file=sys.stderr)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks is shown as its escape instead of ending the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]  # a terminal that does not know its width; rich would print nothing
    try:
        if sys.stdout is None:
            raise OSError("standard output is closed")
        app(prog_name="flowstates")
    except OSError as error:
        # Of what is printed: those of a database are lines and exit codes already, and a reader that went away is typer's and rich's matter.
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        # What could not be written is still in a buffer, and Python would try again, with a traceback, as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(3)
