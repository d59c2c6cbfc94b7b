"""The command that stores states of JSON Lines, in batches."""

from __future__ import annotations

import asyncio
import codecs
import gzip
import json as json_format
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, Annotated, Any, TypeAlias

import asyncpg
import typer
from pydantic_core import from_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowstates.cli.options import DatabaseUrl, Json, LayoutOption, ask_states
from flowstates.cli.render import print_error_line, print_json_lines, print_line
from flowstates.cli.terminal import interruptible
from flowstates.engine.rows import collector_paused
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.records import NewFlowRunState
from flowstates.repository import FlowRunStateRepository
from flowstates.values import counted

_MOST_STATES = 5_000  # of one transaction; some 10 MB of memory with details of ordinary size
_MOST_BYTES = 16 * 1024 * 1024  # of a transaction's lines, which take several times as much memory; a longer line is a transaction of its own
_MOST_NAMED = 10
_OF_THE_DATABASE = ("created", "updated")  # what an export says and an import leaves to the database
_OF_A_STATE = (InvalidInputError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_ANY = (FlowStatesError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

_Batch: TypeAlias = list[tuple[int, NewFlowRunState]]
"""States with the numbers of their lines."""


class Tie(StrEnum):
    """What `on_tie` may be, as an option has it."""

    NUDGE = "nudge"
    REFUSE = "refuse"


def import_states(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="JSON Lines as `export` and `prune --archive` write them; - is standard input.")
    ],
    on_tie: Annotated[Tie, typer.Option(help="For a timestamp that is taken in its run: the first free microsecond, or nothing.")] = Tie.NUDGE,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out what cannot be stored, name it on stderr, and go on.")] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Store the states of a file, 5,000 or 16 MB of lines a transaction. After a break, run it again: what is stored already stays as it is.

    It ends at the first line that cannot be stored, and says how far it came; with --skip such lines count as refused. Exit code 1 if a state was
    refused: so is one whose id is stored with other content. Ten of them are named. The file's created and updated are passed over: they are the
    database's own, the time of the import.
    """
    counts = ask_states(database_url, layout, lambda states, _: read_states(states, file, on_tie=on_tie.value, skip=skip))
    if json:
        print_json_lines([json_format.dumps({status: counts[status] for status in ("created", "present", "refused")})])
    else:
        print_line(_tally(counts))
    if counts["refused"]:
        raise typer.Exit(1)


async def read_states(states: FlowRunStateRepository, file: IO[bytes], *, on_tie: Any, skip: bool = False) -> Counter[str]:
    """Stores the states of the file's lines; how many were created, present and refused. Ten of the refused are named on stderr."""
    work = _Import(states, on_tie, skip)
    try:
        await work.run(file)
    except _ANY as error:
        error.add_note(f"stored before that, {work.progress()}; {'mend the line and ' if isinstance(error, InvalidInputError) else ''}run it again")
        raise
    except (KeyboardInterrupt, asyncio.CancelledError):
        print_error_line(f"broken off; stored until now, {work.progress()}")
        raise
    finally:
        if (more := work.counts["refused"] - _MOST_NAMED) > 0:
            print_error_line(f"and {more:,} more {'is' if more == 1 else 'are'} refused")
    return work.counts


def _tally(counts: Counter[str]) -> str:
    """What an import did, for people."""
    return f"created {counts['created']:,}, present before {counts['present']:,}, refused {counts['refused']:,}"


class _Import:
    """An import on its way."""

    def __init__(self, states: FlowRunStateRepository, on_tie: Any, skip: bool) -> None:
        self._states = states
        self._on_tie = on_tie
        self._skip = skip
        self._line = 0  # the last of what is stored
        self.counts: Counter[str] = Counter()

    async def run(self, file: IO[bytes]) -> None:
        """Stores all that the file holds."""
        # A fifth of the time of an import.
        with collector_paused(), _progress(file) as advance, _unpacked(file) as lines:
            batches = self._batches(lines)
            while batch := self._next(batches):
                await self._store(batch)
                self._line = batch[-1][0]
                advance(self.counts.total())

    def progress(self) -> str:
        """How far it came."""
        return f"up to line {self._line:,}: {_tally(self.counts)}"

    def _next(self, batches: Iterator[_Batch]) -> _Batch | None:
        try:
            with interruptible():
                return next(batches, None)
        except (OSError, EOFError, zlib.error) as error:  # not the database's; the others are of compressed files
            raise InvalidInputError("FILE", f"cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _batches(self, lines: Iterable[bytes]) -> Iterator[_Batch]:
        batch: _Batch = []
        size = 0
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            if batch and (len(batch) == _MOST_STATES or size + len(line) > _MOST_BYTES):
                yield batch
                batch, size = [], 0
            try:
                batch.append((number, _state_of(number, line)))
                size += len(line)
            except InvalidInputError as error:
                if not self._skip:
                    raise
                self._refuse(number, error.message)
        if batch:
            yield batch

    async def _store(self, batch: _Batch) -> None:
        try:
            outcomes = await self._states.create_flow_run_states([state for _, state in batch], on_tie=self._on_tie)
        except _OF_A_STATE as error:
            # Nothing of it is stored. Which state it was is found by halves: the server's error does not name it.
            if not self._skip:
                error.add_note(f"in the lines from {batch[0][0]:,} to {batch[-1][0]:,}, which are one transaction")
                raise
            if len(batch) == 1:
                self._refuse(batch[0][0], str(error))
            else:
                await self._store(batch[: len(batch) // 2])
                await self._store(batch[len(batch) // 2 :])
            return
        for (number, _), outcome in zip(batch, outcomes, strict=True):
            if outcome.status == "refused":
                self._refuse(number, f"{outcome.id} is refused: {outcome.reason}")
            else:
                self.counts[outcome.status] += 1

    def _refuse(self, line: int, why: str) -> None:
        self.counts["refused"] += 1
        if self.counts["refused"] <= _MOST_NAMED:
            print_error_line(f"line {line}: {why}")


@contextmanager
def _unpacked(file: IO[bytes]) -> Iterator[Iterable[bytes]]:
    """The file's content, if its name ends in .gz or .zst unpacked."""
    name = str(getattr(file, "name", ""))
    if name.endswith(".gz"):
        with gzip.open(file) as content:
            yield content
    elif name.endswith(".zst"):
        if sys.version_info >= (3, 14):
            from compression import zstd

            with zstd.open(file) as content:
                yield content
        else:
            raise InvalidInputError("FILE", "ends in .zst, which takes Python 3.14")
    else:
        yield file


def _state_of(number: int, line: bytes) -> NewFlowRunState:
    try:
        values = from_json(line)
    except ValueError as error:
        where = str(error).replace(" at line 1 column ", " at column ")  # the line is the whole text to the parser
        raise InvalidInputError(f"line {number}", f"is not JSON that can be read: {where}") from None
    if not isinstance(values, dict):
        raise InvalidInputError(f"line {number}", "is not an object")
    if values.get("id") is None:
        raise InvalidInputError(f"line {number}", "id: is missing, so the file could not be imported again after a break")
    try:
        return NewFlowRunState(**{key: value for key, value in values.items() if key not in _OF_THE_DATABASE})
    except InvalidInputError as error:
        raise InvalidInputError(f"line {number}", str(error)) from None


@contextmanager
def _progress(file: IO[bytes]) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal, by the bytes that were read of a file whose size is known."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    size = os.fstat(file.fileno()).st_size if file.seekable() else None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.update(task, completed=file.tell() if size else None, description=counted(count, "state"))
