"""The commands that write states out to JSON Lines, and store them again in batches."""

from __future__ import annotations

import gzip
import json as json_format
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from typing import IO, Annotated, Any

import typer
from pydantic_core import from_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowstates.cli.options import (
    DatabaseUrl,
    Ids,
    Json,
    LayoutOption,
    Names,
    RunIds,
    Since,
    Terminal,
    Types,
    Until,
    ask_states,
    filter_of,
)
from flowstates.cli.render import OutputError, print_error_line, print_json_lines, print_line
from flowstates.engine.rows import collector_paused
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import NewFlowRunState
from flowstates.repository import FlowRunStateRepository

_BATCH = 5_000  # states of one transaction; some 10 MB of memory with details of ordinary size
_OF_THE_DATABASE = ("created", "updated")  # what an export says and an import leaves to the database


class Tie(StrEnum):
    """What `on_tie` may be, as an option has it."""

    NUDGE = "nudge"
    REFUSE = "refuse"


def import_states(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="JSON Lines as `export` and `prune --archive` write them; - is standard input.")
    ],
    on_tie: Annotated[Tie, typer.Option(help="For a timestamp that is taken in its run: the first free microsecond, or nothing.")] = Tie.NUDGE,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Store the states of a file, 5,000 a transaction. After a break, run it again: what is stored already stays as it is.

    Exit code 1 if a state was refused, because its id is stored with other content. The file's created and updated are passed over: they are
    the database's own, the time of the import.
    """
    counts = ask_states(database_url, layout, lambda states: read_states(states, file, on_tie=on_tie.value))
    if json:
        print_json_lines([json_format.dumps({status: counts[status] for status in ("created", "present", "refused")})])
    else:
        print_line(_tally(counts))
    if counts["refused"]:
        raise typer.Exit(1)


def export_states(
    run_ids: RunIds = None,
    ids: Ids = None,
    types: Types = None,
    names: Names = None,
    since: Since = None,
    until: Until = None,
    terminal: Terminal = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
) -> None:
    """Write states to standard output as JSON Lines, run by run.

    All of them, or those that the filters let through.
    """
    filter = filter_of(flow_run_ids=run_ids, ids=ids, types=types, names=names, since=since, until=until, terminal=terminal)
    count = ask_states(database_url, layout, lambda states: _write_states(states, filter, sys.stdout.buffer))
    print_error_line("exported 1 state" if count == 1 else f"exported {count:,} states")


async def _write_states(states: FlowRunStateRepository, filter: FlowRunStateFilter, file: IO[bytes]) -> int:
    """Writes the states of the filter to the file, one a line; how many."""
    count = 0
    async with states.stream_flow_run_states(filter) as stream:
        async for state in stream:
            try:
                print_json_lines([state.model_dump_json()], file)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(*error.args) from None  # not the database's
            count += 1
    return count


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


async def read_states(states: FlowRunStateRepository, file: IO[bytes], *, on_tie: Any) -> Counter[str]:
    """Stores the states of the file's lines; how many were created, present and refused. Each refused one is said on stderr."""
    counts: Counter[str] = Counter()
    try:
        await _store(states, file, counts, on_tie)
    except InvalidInputError as error:
        error.add_note(f"stored before that: {_tally(counts)}; mend the line and run it again")
        raise
    return counts


def _tally(counts: Counter[str]) -> str:
    """What an import did, for people."""
    return f"created {counts['created']:,}, present before {counts['present']:,}, refused {counts['refused']:,}"


async def _store(states: FlowRunStateRepository, file: IO[bytes], counts: Counter[str], on_tie: Any) -> None:
    # A fifth of the time of an import.
    with collector_paused(), _progress(file) as advance, _unpacked(file) as content:
        lines = enumerate(content, 1)
        while batch := list(islice(_parsed(lines), _BATCH)):
            outcomes = await states.create_flow_run_states([state for _, state in batch], on_tie=on_tie)
            for (number, _), outcome in zip(batch, outcomes, strict=True):
                counts[outcome.status] += 1
                if outcome.status == "refused":
                    print_error_line(f"line {number}: {outcome.id} is refused: {outcome.reason}")
            advance(counts.total())


def _parsed(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, NewFlowRunState]]:
    for number, line in lines:
        if line.isspace():
            continue
        try:
            values = from_json(line)
        except ValueError as error:
            raise InvalidInputError(f"line {number}", f"is not JSON that can be read: {error}") from None
        if not isinstance(values, dict):
            raise InvalidInputError(f"line {number}", "is not an object")
        if values.get("id") is None:
            raise InvalidInputError(f"line {number}", "id: is missing, so the file could not be imported again after a break")
        try:
            yield number, NewFlowRunState(**{key: value for key, value in values.items() if key not in _OF_THE_DATABASE})
        except InvalidInputError as error:
            raise InvalidInputError(f"line {number}", str(error)) from None


@contextmanager
def _progress(file: IO[bytes]) -> Iterator[Any]:
    """A bar on stderr if that is a terminal, by the bytes that were read of a file whose size is known."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    size = os.fstat(file.fileno()).st_size if file.seekable() else None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.update(task, completed=file.tell() if size else None, description=f"{count:,} states")
