"""The command line `flowstates`. Nothing else of the package imports it."""

from __future__ import annotations

import io
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
    app(prog_name="flowstates")
