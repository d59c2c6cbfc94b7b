"""Databases for tests: cloned from templates while a test waits, and dropped while nobody does."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from flowstates.database.migrations import migrate
from flowstates.engine import queries
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.values import kind_of

Answer = TypeVar("Answer")

_FORM = "1"  # of the templates; another one where they are made in another way


@dataclass(frozen=True)
class Schema:
    """What a service has in its database, made by a function: for Alembic and its like.

    `make` is called with the address of an empty database and makes of it what the service's deployment makes, the tables of flowstates among it:
    nothing is added to that. It may be a coroutine function, and otherwise runs on a thread without an event loop. It leaves no connection open,
    since a database in use cannot be cloned.

    `files` are those whose content decides what is made: where one has changed, the template is made anew. InvalidInputError for none.
    """

    make: Callable[[str], Awaitable[object] | object]
    files: tuple[Path, ...]

    def __init__(self, make: Callable[[str], Awaitable[object] | object], *, files: Iterable[str | Path]) -> None:
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "files", tuple(sorted(map(Path, files))))
        if not self.files:
            raise InvalidInputError("files", "names none: the template would stay as it is whatever changes")

    async def __call__(self, dsn: str) -> None:
        """Makes it in the empty database of `dsn`."""
        made = await asyncio.to_thread(self.make, dsn)
        if isinstance(made, Awaitable):
            await made

    def parts(self) -> list[str]:
        """What it is known by."""
        return [part for file in self.files for part in (file.name, hashlib.sha256(file.read_bytes()).hexdigest())]


def check_schema(field: str, schema: object) -> None:
    """InvalidInputError, with that field, for what is no schema."""
    if schema is not None and not isinstance(schema, (str, Schema)):
        raise InvalidInputError(field, f"is {kind_of(schema)}, not statements of SQL (a str, as of Path.read_text()), a Schema or None")


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
    For as long as it is open it holds a lock on the server. What a killed process has left, whose lock is gone, goes when the next one begins.
    Its methods raise asyncpg's errors. FlowStatesError for a role that may not create databases.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        number = secrets.randbits(63)
        self._names = (f"flowstates_test_{number:016x}_{count}" for count in itertools.count(1))
        self._here: set[str] = set()
        self._drops: list[Future[None]] = []
        self._maker, self._dropper = _Session(server, number), _Session(server)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="flowstates.testing", daemon=True)
        self._thread.start()
        try:
            # With the first question it holds the number, before anything has that in its name.
            (role,) = self._wait(self._maker.ask("read_role"))
            if not role["may_create"]:
                raise FlowStatesError("the role may not create databases")
            self._role: str = role["name"]
        except BaseException:
            self._stop()
            raise
        self._drops.append(self._submit(self._sweep()))

    def create(self, template: str = "template0") -> str:
        """A new database, a clone of a template or an empty one; its address."""
        return self._wait(self._create(template))

    def drop(self, dsn: str) -> None:
        """Drops a database that `create` made, whoever is still connected to it. It returns at once, and `close` waits for the end of it."""
        self._drops.append(self._submit(self._drop(urlsplit(dsn).path[1:])))

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
            if schema:
                await connection.execute(schema)

        return self._template(["sql", schema or "", *migrations], lambda dsn: _connected(dsn, make))

    def prefect_template(self) -> str:
        """The name of a template with the tables of Prefect's layout, as far as states are concerned."""
        tables = queries.testing("prefect_tables")
        return self._template(["prefect", tables], lambda dsn: _connected(dsn, lambda connection: connection.execute(tables)))

    def close(self) -> None:
        """Drops what is left, and waits until all of it is gone. The first error of a drop is raised when the others are done."""
        for name in list(self._here):
            self._drops.append(self._submit(self._drop(name)))
        try:
            errors = [error for error in [drop.exception() for drop in self._drops] if error is not None]
        finally:
            self._stop()
        if errors:
            raise errors[0]

    def _template(self, parts: list[str], make: Callable[[str], Awaitable[object]]) -> str:
        # Of another role's template the clone would be ours, and the tables in it theirs.
        checksum = hashlib.sha256(json.dumps([_FORM, self._role, *parts]).encode()).hexdigest()
        name = f"flowstates_template_{checksum[:16]}"
        self._wait(self._make_template(name, make))
        return name

    def _submit(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
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
        for row in await self._dropper.ask("read_left_databases"):
            await self._dropper.run("drop_database", name=row["name"])

    async def _create(self, template: str) -> str:
        name = next(self._names)
        await self._maker.run("create_database", name=name, template=template)
        self._here.add(name)
        return urlunsplit(urlsplit(self._server)._replace(path=f"/{name}"))

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
        made = urlsplit(dsn).path[1:]
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
            statement = queries.fill(statement, slot, name)
        async with self._free:
            # As it is, without parameters: databases are not made by prepared statements that are kept.
            await (await self._connected()).execute(statement)

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._dsn)
            if self._number is not None:
                await self._connection.fetch(queries.testing("hold_number"), self._number)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
