"""Standard input and output as a person has them, or a pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_WIDTH_OF_A_FILE = 1_000
_ANSWERS = {b"y": True, b"yes": True, b"n": False, b"no": False, b"": False}


def output(*, of_a_picture: bool = False) -> Console:
    """Standard output, as wide as the terminal is. A pipe or a file has room for all; there a picture keeps to COLUMNS, if that is set."""
    return Console(width=None if sys.stdout.isatty() or (of_a_picture and os.environ.get("COLUMNS")) else _WIDTH_OF_A_FILE)


def is_file(console: Console) -> bool:
    """Whether it is a pipe or a file, which has room for all."""
    return console.width >= _WIDTH_OF_A_FILE


def can_ask() -> bool:
    """Whether somebody is there who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """The answer, no by default. A Ctrl-C, or a Ctrl-D, ends the command."""
    while True:
        # Not by typer, which would say "Aborted!" and end with 1, and has `input` write to standard output.
        print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            raise KeyboardInterrupt
        if (answer := line.strip().lower()) in _ANSWERS:
            return _ANSWERS[answer]


@contextmanager
def interruptible() -> Iterator[None]:
    """A Ctrl-C ends a wait for input in the block, which is in a coroutine. asyncio would only note it, and the wait would go on."""
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if (task := asyncio.current_task()) and task.cancelling():
            raise KeyboardInterrupt  # it has been noted already
        yield
    finally:
        signal.signal(signal.SIGINT, before)
