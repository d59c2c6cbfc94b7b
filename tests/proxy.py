"""A proxy on loopback between clients and a PostgreSQL server, which can fail like a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeAlias
from urllib.parse import parse_qs, urlsplit, urlunsplit

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(dsn: str) -> Streams:
    """A connection to the server of an address, at its Unix socket where the address names a folder."""
    parts = urlsplit(dsn)
    options = {key: values[0] for key, values in parse_qs(parts.query).items()}
    host, port = options.get("host", parts.hostname or "127.0.0.1"), int(options.get("port", parts.port or 5432))
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


class Proxy:
    """`async with Proxy(server_dsn) as proxy`: `proxy.dsn` is the same database through it. `server` may be changed when the server moves."""

    def __init__(self, server: str) -> None:
        self.server = server
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests, self._answers = asyncio.Event(), asyncio.Event()
        self._cue, self._held = b"", asyncio.Event()
        self.held_back = asyncio.Event()
        """Set when something came that is not passed on."""
        self.resume()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        parts = urlsplit(self.server)
        account = parts.netloc.rpartition("@")[0]
        port = self._listener.sockets[0].getsockname()[1]
        self.dsn = urlunsplit(parts._replace(netloc=f"{account}@127.0.0.1:{port}", query=""))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, chosen: Callable[[], bool] = lambda: True) -> None:
        """Resets the chosen connections on both sides."""
        for pair in [pair for pair in self._pairs if chosen()]:
            for writer in pair:
                writer.transport.abort()

    @asynccontextmanager
    async def stalled(self, *, answers_only: bool = False) -> AsyncIterator[None]:
        """Passes nothing on inside the block. With `answers_only` the server hears everything and nobody hears of it."""
        self.hold(answers_only=answers_only)
        try:
            yield
        finally:
            self.resume()

    def hold(self, *, answers_only: bool = False) -> None:
        """Passes nothing on until `resume`."""
        self.held_back.clear()
        self._held.set()
        self._answers.clear()
        if not answers_only:
            self._requests.clear()

    def hold_at(self, cue: bytes) -> None:
        """Passes nothing on from the moment on when a client says this."""
        self._cue = cue

    def resume(self) -> None:
        self._cue = b""
        self._held.clear()
        self._requests.set()
        self._answers.set()

    async def held(self) -> None:
        """Waits until nothing is passed on."""
        await self._held.wait()

    @property
    def is_held(self) -> bool:
        return self._held.is_set()

    async def swallow(self) -> None:
        """Holds the answers back, and cuts when there is one: what was done then is not known."""
        async with self.stalled(answers_only=True):
            await self.held_back.wait()
            self.cut()

    def half_close(self, *, to_client: bool) -> None:
        """Tells one side of each connection that the other will say no more, and goes on listening to it."""
        for client, server in self._pairs:
            with suppress(OSError, RuntimeError):
                (client if to_client else server).write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await dial(self.server)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            self._tasks.discard(task)
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pass(reader, server_writer, self._requests, self._hear), self._pass(server_reader, writer, self._answers))
        except (OSError, RuntimeError, asyncio.CancelledError):  # RuntimeError: written to after a half-close
            pass
        finally:
            self._pairs.discard(pair)
            for side in pair:
                side.transport.abort()
            self._tasks.discard(task)

    def _hear(self, data: bytes) -> None:
        if self._cue and self._cue in data:
            self.hold()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event, hear: Callable[[bytes], None] | None = None
    ) -> None:
        while data := await reader.read(65536):
            if hear is not None:
                hear(data)
            if not flowing.is_set():
                self.held_back.set()
                await flowing.wait()
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
