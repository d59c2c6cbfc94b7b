"""A connection for a call: waited for, watched, given back; and what is done again on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from random import uniform
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

import asyncpg
from asyncpg.cursor import Cursor
from asyncpg.pool import PoolAcquireContext, PoolConnectionProxy

from flowstates.engine import queries
from flowstates.engine.retries import UNDONE, retrying
from flowstates.engine.sessions import Joined, SessionOrConnection, is_of_sqlalchemy, join, leave
from flowstates.errors import InvalidInputError
from flowstates.values import Layout, kind_of

AnyConnection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
PoolOrConnection: TypeAlias = asyncpg.Pool | AnyConnection | SessionOrConnection
Isolation: TypeAlias = Literal["read_committed", "repeatable_read"]
T = TypeVar("T")

_GRACE = 0.25  # seconds that a call may last after its timeout, for what it has asked the server to cancel
_TRIES = 5
_FIRST_PAUSE = 0.01  # seconds, before the second try; then twice as long each time
CUT = (asyncio.CancelledError, TimeoutError)
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises of a server, a connection or a network."""
_ENCODING = "the client_encoding of the connection has no such character: set it to UTF8"
CURES: dict[type[asyncpg.PostgresError], str] = {
    asyncpg.ReadOnlySQLTransactionError: "the server or the session is read only; after a failover: target_session_attrs='read-write' in the "
    "address, and pool.expire_connections()",
    asyncpg.UntranslatableCharacterError: _ENCODING,
    asyncpg.DataError: _ENCODING,  # asyncpg's own; those of the server are of its subclasses
}
_INEXACT = frozenset({"BIG5", "EUC_JIS_2004", "EUC_JP", "EUC_KR", "SHIFT_JIS_2004", "SJIS", "SQL_ASCII"})
"""Encodings of which Python and the server have different tables, by which a text would be stored as another, or that have none."""


def add_cure(error: asyncpg.PostgresError, cures: Mapping[type[asyncpg.PostgresError], str]) -> None:
    """Says with an error what cures it, where that is known and no note says it better."""
    if (cure := cures.get(type(error))) and not hasattr(error, "__notes__"):
        error.add_note(cure)


def is_pool(pool_or_connection: object) -> bool:
    """Whether it is a pool, or a connection; InvalidInputError for anything else. They are known by their methods, as they may be wrapped."""
    if hasattr(pool_or_connection, "acquire"):
        return True
    if hasattr(pool_or_connection, "fetch") or is_of_sqlalchemy(pool_or_connection):
        return False
    kinds = "an asyncpg pool or connection, nor an AsyncSession or AsyncConnection of SQLAlchemy"
    raise InvalidInputError("pool_or_connection", f"is {kind_of(pool_or_connection)}, not {kinds}")


class Acquired:
    """A context manager: a connection of the pool, given back afterwards, or the caller's own, left as it is, or that of a session.

    A connection of the pool whose block ended by a cancellation or a timeout gets a moment, and is dropped if it is still busy then, since the
    server or the network does not answer. With `timeout`, in seconds, it is dropped a moment after that too, if the block has not ended.
    A class, as a generator takes longer.
    """

    __slots__ = ("_acquiring", "_connection", "_cures", "_pool", "_timeout", "_was_dropped", "_watch", "joined")

    def __init__(
        self,
        pool_or_connection: Any,
        timeout: float | None = None,
        *,
        cures: Mapping[type[asyncpg.PostgresError], str] | None = None,
    ) -> None:
        self._pool = pool_or_connection if is_pool(pool_or_connection) else None
        self._connection = pool_or_connection
        self.joined: Joined | None = None  # of a session, once it is entered
        self._timeout = timeout
        self._cures = CURES if cures is None else cures
        self._watch: asyncio.TimerHandle | None = None
        self._was_dropped = False

    async def __aenter__(self) -> AnyConnection:
        if self._pool is not None:
            loop = asyncio.get_running_loop()
            end = None if self._timeout is None else loop.time() + self._timeout + _GRACE
            self._acquiring = self._pool.acquire()
            self._connection = await self._acquiring.__aenter__()
            if end is not None:
                self._watch = loop.call_at(end, self._drop)
        elif not hasattr(self._connection, "fetch"):
            self.joined = await join(self._connection, "pool_or_connection")
            self._connection = self.joined.connection
        if self._connection.get_settings().client_encoding in _INEXACT:
            await self._refuse_encoding()
        return self._connection  # type: ignore[no-any-return]

    async def _refuse_encoding(self) -> None:
        encoding = self._connection.get_settings().client_encoding
        error = InvalidInputError("pool_or_connection", f"has the client_encoding {encoding}, in which a text may become another: set it to UTF8")
        await self.__aexit__(type(error), error, None)
        raise error

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.PostgresError):
            add_cure(error, self._cures)
        if self.joined is not None:
            await leave(self.joined, error)
        if self._pool is None:
            if self.joined is None and isinstance(error, CUT):
                with suppress(*BROKEN):
                    await _end_statement(self._connection)
            return
        if was_cut := isinstance(error, CUT):
            # Who is cancelled once more does not wait for it, and it is given back all the same.
            await asyncio.shield(self._give_back_soon(kind, error, trace))
        else:
            try:
                await self._acquiring.__aexit__(kind, error, trace)
            except asyncio.CancelledError:
                self._drop_in_a_moment()  # it is being given back all the same
                raise
            except BROKEN:
                if error is None and not self._was_dropped:
                    raise
        if self._watch is not None:
            self._watch.cancel()
        if self._was_dropped and not was_cut and isinstance(error, BROKEN):
            raise TimeoutError from error

    async def _give_back_soon(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # The server was asked to cancel what it does. It gets a moment to answer.
        try:
            await _end_statement(self._connection)
        except BROKEN:
            drop(self._connection)
        try:
            async with asyncio.timeout(2 * _GRACE):
                if isinstance(self._acquiring, PoolAcquireContext):
                    # asyncpg's own timeout comes first, since its older versions wait on where a connection is dropped from outside.
                    await self._acquiring.pool.release(self._connection, timeout=_GRACE)
                else:
                    await self._acquiring.__aexit__(kind, error, trace)
        except BROKEN:
            drop(self._connection)

    def _drop_in_a_moment(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().call_later(_GRACE, self._drop)

    def _drop(self) -> None:
        self._was_dropped = True
        drop(self._connection)


async def _end_statement(connection: AnyConnection) -> None:
    """Ends the transaction that the server began to prepare a statement, if the call was cut before it ran.

    asyncpg prepares without a Sync. It sends one where it is cut before the server's answer is there, and none where it is cut after that.
    TimeoutError if the server does not answer in a moment.
    """
    protocol = getattr(connection, "_protocol", None)
    # What the server is asked to cancel ends by itself.
    if protocol is None or protocol._is_cancelling() or connection.is_in_transaction():
        return
    async with asyncio.timeout(_GRACE):
        await connection.execute(queries.catalog("ping"))


class Transaction:
    """A transaction of our own, undone when its block raises.

    On a connection of the pool its end is bounded: after a cancellation or a timeout it gets a moment, else `timeout` seconds, and a connection on
    which it takes longer is dropped. On the caller's own connection begin and end are waited for, for as long as the server and the network take:
    a begin that is cut off may come to the server all the same, and what is asked afterwards would be lost with it.

    One that is `readonly` has nothing to lose, so its end does not fail with the connection.
    """

    __slots__ = ("_connection", "_is_of_pool", "_own", "_readonly", "_timeout")

    def __init__(
        self, connection: AnyConnection, isolation: Isolation | None, *, readonly: bool = False, is_of_pool: bool, timeout: float | None = None
    ) -> None:
        self._connection = connection
        self._own = connection.transaction(isolation=isolation, readonly=readonly)
        self._readonly = readonly
        self._is_of_pool = is_of_pool
        self._timeout = timeout

    async def __aenter__(self) -> None:
        if self._is_of_pool:
            await self._own.__aenter__()
            return
        begin = asyncio.ensure_future(self._own.__aenter__())
        try:
            await until_done(begin)
        except asyncio.CancelledError as error:
            if begin.exception() is None:
                await _whole(self._own.__aexit__(type(error), error, None))
            raise
        begin.result()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        is_owed = error is None and not self._readonly
        try:
            if self._is_of_pool:
                async with asyncio.timeout(_GRACE if isinstance(error, CUT) else self._timeout):
                    await self._own.__aexit__(kind, error, trace)
            else:
                await _whole(self._own.__aexit__(kind, error, trace))
        except TimeoutError:
            if not self._is_of_pool:
                raise
            drop(self._connection)
            if is_owed:
                raise
        except BROKEN:
            if is_owed or not is_lost(self._connection):
                raise


async def _whole(work: Coroutine[Any, Any, object]) -> None:
    """Waits for the end of it, also when that is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await until_done(task)
    except asyncio.CancelledError:
        task.exception()  # else asyncio would miss somebody who looks at it
        raise
    task.result()


async def until_done(task: asyncio.Future[Any]) -> None:
    """Waits until it is done, however often that is cancelled, and is cancelled then."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def is_lost(connection: AnyConnection) -> bool:
    """Whether the server or the network has ended it."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # asyncpg has taken it back from us, as it does then
        return True


def drop(connection: AnyConnection) -> None:
    """Ends it at once, whatever it does; the pool makes another."""
    with suppress(asyncpg.InterfaceError):  # it was given back meanwhile
        connection.terminate()


async def fetched(connection: AnyConnection, text: str, arguments: Sequence[Any], *, is_of_pool: bool) -> list[asyncpg.Record]:
    """The rows of a statement. What the server undid for another transaction's sake is done again, but not in a transaction of the caller's."""
    tries = 1
    try:
        return await connection.fetch(text, *arguments)
    except asyncpg.FeatureNotSupportedError:
        # A standby whose default isolation is serializable, which it cannot be.
        tries = 0
        if connection.is_in_transaction():
            raise
    except UNDONE as error:
        if is_lost(connection) or connection.is_in_transaction():
            raise  # the caller's transaction is lost, and with it more than this statement
        retrying(queries.name_of(text), error)
    return await repeated(connection, queries.name_of(text), lambda: connection.fetch(text, *arguments), tries=tries, is_of_pool=is_of_pool)


async def repeated(connection: AnyConnection, name: str, work: Callable[[], Awaitable[T]], *, tries: int = 0, is_of_pool: bool) -> T:
    """What `work`, which is told by its name, returns in a transaction of its own, in which one waits where one at a higher level would be undone.

    What the server undoes for another transaction's sake is done again, until it was tried five times, `tries` before this call among them.
    Then the server's error is raised, with a note.
    """
    while True:
        try:
            if tries:
                await asyncio.sleep(_FIRST_PAUSE * 2 ** (tries - 1) * uniform(0.5, 1))  # noqa: S311 (no secret)
            tries += 1
            async with Transaction(connection, "read_committed", is_of_pool=is_of_pool):
                return await work()
        except UNDONE as error:
            if tries == _TRIES or is_lost(connection):
                error.add_note(f"undone by the server {tries} times, for the sake of other transactions or by a trigger that says so")
                raise
            retrying(name, error)


async def close_cursor(connection: AnyConnection, cursor: Cursor[asyncpg.Record]) -> None:
    """Frees what the server keeps for a cursor, which in the caller's transaction would stay until that ends."""
    # asyncpg does so for its own iterators only. Should the method go, the cursor ends with the transaction.
    close = getattr(cursor, "_close_portal", None)
    if close is None or is_lost(connection) or not connection.is_in_transaction():
        return
    try:
        await close(None)
    except asyncpg.NoActiveSQLTransactionError:
        pass  # the transaction has ended, and the cursor with it
    except BROKEN:
        if not is_lost(connection):
            raise


async def ask(connection: AnyConnection, name: str, *arguments: str | None, layout: Layout | None = None) -> list[asyncpg.Record]:
    """The rows of `sql/catalog/<name>.sql`, prepared without a name: behind a pooler a name could be another process's statement.

    asyncpg ends the preparation with Flush and not with Sync, so the pooler keeps the server connection until the rows are there.
    """
    text = queries.catalog(name, layout)
    try:
        return await (await connection.prepare(text, name="")).fetch(*arguments)
    except asyncpg.FeatureNotSupportedError:
        # A standby whose default isolation is serializable, which it cannot be.
        if connection.is_in_transaction():
            raise
    async with Transaction(connection, "read_committed", readonly=True, is_of_pool=False):
        return await (await connection.prepare(text, name="")).fetch(*arguments)
