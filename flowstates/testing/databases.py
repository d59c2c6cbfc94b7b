"""Databases for tests: cloned from templates while a test waits, and dropped while nobody does."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from flowstates.database.addresses import read_address
from flowstates.database.migrations import migrate
from flowstates.engine import queries
from flowstates.engine.connections import BROKEN
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.values import kind_of, shown, storable_text

Answer = TypeVar("Answer")

_FORM = "1"  # of the templates; another one where they are made in another way
_NO_STATEMENT = re.compile(r"(?:--[^\n]*|/\*.*?\*/|[\s;])*", re.DOTALL)
# What a role or a database may have set would end a session that waits for long. A word each 60 seconds keeps what lies between from forgetting it.
_PATIENT = {"idle_session_timeout": "0", "statement_timeout": "0", "lock_timeout": "0", "tcp_keepalives_idle": "60"}


@dataclass(frozen=True)
class Schema:
    """What a service has in its database, made by a function: for Alembic and its like.

    `make` is called with the address of an empty database and makes of it what the service's deployment makes, the tables of flowstates among it:
    nothing is added to that. It runs on a thread of its own, without an event loop; it may be a coroutine function. It leaves no connection open,
    since a database in use cannot be cloned. It may be a command, as click's and Typer's: a SystemExit of the status 0 or None is its end, and one
    of another status is a FlowStatesError, as KeyboardInterrupt is. Other errors pass through.

    `files` are those whose content decides what is made: where one has changed, the template is made anew, and so for a function of another module
    or name. What arguments a `functools.partial` gives is not looked at.

    InvalidInputError for `make` that cannot be called, and for `files` that are none, not there or folders.
    """

    make: Callable[[str], Awaitable[object] | object]
    files: tuple[Path, ...]

    def __init__(self, make: Callable[[str], Awaitable[object] | object], *, files: Iterable[str | Path]) -> None:
        if not callable(make):
            raise InvalidInputError("make", f"is {kind_of(make)}, not a function that takes the address of a database")
        if not isinstance(files, Iterable) or isinstance(files, (str, bytes)):
            raise InvalidInputError("files", f"is {kind_of(files)}, not a list of files")
        named = list(files)
        for place, file in enumerate(named):
            if not isinstance(file, (str, Path)):
                raise InvalidInputError("files", f"[{place}] is {kind_of(file)}, not a str or a Path")
            if "\0" in str(file) or not Path(file).is_file():
                raise InvalidInputError("files", f"[{place}] is {shown(str(file))}, which is no file")
        if not named:
            raise InvalidInputError("files", "names none: the template would stay as it is whatever changes")
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "files", tuple(sorted(map(Path, named))))

    async def __call__(self, dsn: str) -> None:
        """Makes it in the empty database of `dsn`."""
        await asyncio.to_thread(self._make, dsn)

    def _make(self, dsn: str) -> None:
        # What has a loop of its own, a coroutine too, cannot end the one that others wait for. Neither do these errors: a loop ends by the first
        # two, and a future never gets the third.
        try:
            made = self.make(dsn)
            if isinstance(made, Awaitable):
                asyncio.run(_awaited(made))
        except SystemExit as end:
            if end.code not in (None, 0):
                raise FlowStatesError(f"{self._name()}, the function of a Schema, ended by SystemExit: {end.code}") from end
        except (KeyboardInterrupt, StopIteration) as error:
            raise FlowStatesError(f"{self._name()}, the function of a Schema, ended by {type(error).__name__}") from error

    def _name(self) -> str:
        function: object = self.make
        while isinstance(function, partial):
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"

    def parts(self) -> list[str]:
        """What it is known by."""
        return [self._name(), *(part for file in self.files for part in (file.name, hashlib.sha256(file.read_bytes()).hexdigest()))]


async def _awaited(made: Awaitable[object]) -> None:
    await made


def check_schema(field: str, schema: object) -> None:
    """InvalidInputError, with that field, for what is no schema."""
    if isinstance(schema, str):
        _check_text(field, schema)
    elif schema is not None and not isinstance(schema, Schema):
        raise InvalidInputError(field, f"is {kind_of(schema)}, not statements of SQL (a str, as of Path.read_text()), a Schema or None")


def _check_text(field: str, text: str) -> None:
    try:
        storable_text(text)
    except ValueError as error:
        raise InvalidInputError(field, str(error)) from None


def check_address(field: str, address: object) -> str:
    """The address of a server, as asyncpg takes it; InvalidInputError, with that field, for what is none."""
    if not isinstance(address, str) or not address.startswith(("postgresql://", "postgres://")):
        raise InvalidInputError(field, "is no address that begins with postgresql://")
    try:
        return read_address(address)[0]
    except InvalidInputError as error:
        raise InvalidInputError(field, error.message) from None


async def _connected(dsn: str, work: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[object]]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await work(connection)
    finally:
        await connection.close()


def _number_of(name: str) -> int:
    """A number for the server's advisory locks."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


class Databases:
    """Makes, clones and drops databases on the server of an address, whose role may create databases.

    Its work is done on a thread with an event loop of its own, so it can be called from a test of any kind: also where an event loop runs.
    For as long as it is open it holds a lock on the server. What a killed process has left, whose lock is gone, goes when the next one begins,
    unless somebody is connected to it or it cannot be dropped.
    Its methods raise asyncpg's errors. FlowStatesError for a role that may not create databases and for what is called behind `close`,
    InvalidInputError for a `server` that is no address.
    """

    def __init__(self, server: str) -> None:
        self._server = server = check_address("server", server)
        number = secrets.randbits(63)
        self._names = (f"flowstates_test_{number:016x}_{count}" for count in itertools.count(1))
        self._here: set[str] = set()
        self._given: dict[str, str] = {}  # names by the addresses that `create` gave
        self._drops: list[Future[None]] = []
        self._maker, self._dropper = _Session(server, number), _Session(server)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="flowstates.testing", daemon=True)
        self._thread.start()
        try:
            # With the first question it holds the number, before anything has that in its name.
            (role,) = self._wait(self._maker.ask("read_role"))
            if not role["may_create"]:
                raise FlowStatesError(f"the role {role['name']} may not create databases")
            self._role: str = role["name"]
        except BaseException:
            self._stop()
            raise
        self._drops.append(self._submit(self._sweep()))

    def create(self, template: str = "template0") -> str:
        """A new database, a clone of a template or an empty one; its address. InvalidInputError for a `template` that is no name."""
        if not isinstance(template, str) or not template:
            raise InvalidInputError("template", f"is {shown(template)}, not the name of a database")
        _check_text("template", template)
        return self._wait(self._create(template))

    def drop(self, dsn: str) -> None:
        """Drops a database that `create` made, whoever is still connected to it. It returns at once, and `close` waits for the end of it.

        InvalidInputError for what is no address that `create` gave.
        """
        if not isinstance(dsn, str) or dsn not in self._given:
            raise InvalidInputError("dsn", "is no address that create gave" if isinstance(dsn, str) else f"is {kind_of(dsn)}, not a str")
        self._drops.append(self._submit(self._drop(self._given[dsn])))

    def template(self, schema: str | Schema | None = None) -> str:
        """The name of a template with the tables of flowstates and what a service adds to them: statements of SQL, or a Schema.

        It is named by the checksum of who makes it and of all that it is made of, and stays on the server, where later sessions find it. Of several
        processes that want it at once one makes it, and the others wait. InvalidInputError for another kind of schema.
        """
        check_schema("schema", schema)
        migrations = [part for migration in queries.migrations() for part in migration]
        if isinstance(schema, Schema):
            return self._template(["schema", *schema.parts(), *migrations], schema)

        async def make(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await migrate(connection)
            if schema and not _NO_STATEMENT.fullmatch(schema):
                await connection.execute(schema)

        return self._template(["sql", schema or "", *migrations], lambda dsn: _connected(dsn, make))

    def prefect_template(self) -> str:
        """The name of a template with the tables of Prefect's layout, as far as states are concerned."""
        tables = queries.testing("prefect_tables")
        return self._template(["prefect", tables], lambda dsn: _connected(dsn, lambda connection: connection.execute(tables)))

    def close(self) -> None:
        """Drops what is left, and waits until all of it is gone. Behind another `close` it does nothing.

        What cannot be dropped is tried once more at the end. Then the first error is raised, with a note that names all that stay.
        """
        if self._loop.is_closed():
            return
        try:
            wait(self._drops)
            drops = [self._submit(self._drop(name)) for name in sorted(self._here)]
            errors = [error for error in [drop.exception() for drop in drops] if error is not None]
        finally:
            self._stop()
        if errors:
            errors[0].add_note(f"what could not be dropped and stays on the server: {', '.join(sorted(self._here))}")
            raise errors[0]

    def _template(self, parts: list[str], make: Callable[[str], Awaitable[object]]) -> str:
        # Of another role's template the clone would be ours, and the tables in it theirs.
        checksum = hashlib.sha256(json.dumps([_FORM, self._role, *parts]).encode()).hexdigest()
        name = f"flowstates_template_{checksum[:16]}"
        self._wait(self._make_template(name, make))
        return name

    def _submit(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        if self._loop.is_closed():
            work.close()
            raise FlowStatesError("these Databases are closed: make new ones")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self._submit(work).result()

    def _stop(self) -> None:
        async def disconnect() -> None:
            await self._maker.close()
            await self._dropper.close()
            await self._loop.shutdown_default_executor()

        try:
            self._wait(disconnect())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _sweep(self) -> None:
        # What others left and cannot be dropped, or that somebody else drops at this moment, is not this session's matter.
        with suppress(*BROKEN):
            for row in await self._dropper.ask("read_left_databases"):
                with suppress(*BROKEN):
                    await self._dropper.run("drop_left_database", name=row["name"])

    async def _create(self, template: str) -> str:
        name = next(self._names)
        await self._maker.run("create_database", name=name, template=template)
        self._here.add(name)
        dsn = urlunsplit(urlsplit(self._server)._replace(path=f"/{name}"))
        self._given[dsn] = name
        return dsn

    async def _drop(self, name: str) -> None:
        await self._dropper.run("drop_database", name=name)
        self._here.discard(name)

    async def _make_template(self, name: str, make: Callable[[str], Awaitable[object]]) -> None:
        lock = _Session(self._server, _number_of(name))
        try:
            rows = await lock.ask("read_template", name)
            if not rows:
                await self._fill(name, make)
            elif not rows[0]["is_closed"]:
                raise FlowStatesError(f"the server has a database {name} that can be connected to, so it is no template: drop or rename it")
            if not rows or not rows[0]["is_template"]:
                await lock.run("seal_template", name=name)
        finally:
            await lock.close()

    async def _fill(self, name: str, make: Callable[[str], Awaitable[object]]) -> None:
        # It gets its name when it is whole. A half-made one is a leftover like any other.
        dsn = await self._create("template0")
        made = self._given.pop(dsn)
        await make(dsn)
        await self._maker.run("close_database", name=made)
        try:
            await self._maker.run("rename_database", name=made, template=name)
            self._here.discard(made)
        except asyncpg.DuplicateDatabaseError:
            pass  # made by a session whose locks are those of another of the server's databases; ours goes at the end
        except asyncpg.ObjectInUseError as error:
            error.add_note("what flowstates_schema gave has left a connection to the template open")
            raise


class _Session:
    """A connection to the server's own database, for one statement at a time, that holds a number; made anew if the server has ended it."""

    def __init__(self, dsn: str, number: int | None = None) -> None:
        self._dsn = dsn
        self._number = number
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._free = asyncio.Lock()

    async def ask(self, text: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._free:
            return await (await self._connected()).fetch(queries.testing(text), *arguments)

    async def run(self, text: str, **names: str) -> None:
        statement = queries.testing(text)
        for slot, name in names.items():
            statement = queries.fill(statement, slot, '"' + name.replace('"', '""') + '"')
        async with self._free:
            # As it is, without parameters: databases are not made by prepared statements that are kept.
            await (await self._connected()).execute(statement)

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn, server_settings=_PATIENT)
            if self._number is not None:
                await self._connection.fetch(queries.testing("hold_number"), self._number)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
