"""A Ctrl-C while the modules of the command line load is no traceback. The package imports this before all else, and this imports nothing new."""

import os
import sys
from types import TracebackType

CODE = 130  # 128 and the number of SIGINT, as a shell has it of a program that this signal ends


def _program() -> str:
    """What was started: the module of `python -m`, which imports its package before it sets argv, or the name of the script."""
    started: list[str] = getattr(sys, "argv", None) or [""]
    if started[0] == "-m":
        return sys.orig_argv[-len(started)].removeprefix("-m").partition(".")[0]
    return os.path.basename(started[0])


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook that keeps silent of a Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        os._exit(CODE)  # nothing is open yet
    sys.__excepthook__(kind, error, trace)


if _program() == "flowstates":
    sys.excepthook = end_quietly
