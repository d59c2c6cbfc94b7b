"""What a client says to its server, message by message, noted by a proxy on loopback that stands between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.proxy import dial


@dataclass
class Said:
    """The round trips of a client since `clear`: of each the letters of its messages, as PostgreSQL's protocol has them.

    P is Parse, D Describe, B Bind, E Execute, C Close, H Flush, S Sync, Q a simple query.
    """

    trips: list[str] = field(default_factory=list)
    _server_spoke: bool = True

    def clear(self) -> None:
        self.trips.clear()
        self._server_spoke = True

    def client(self, letter: str) -> None:
        if self._server_spoke:
            self.trips.append("")
        self._server_spoke = False
        self.trips[-1] += letter

    def server(self) -> None:
        self._server_spoke = True


@asynccontextmanager
async def noted(dsn: str) -> AsyncIterator[tuple[str, Said]]:
    """An address that leads to that of `dsn`, and what is said through it."""
    said = Said()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        letter = b""  # the message that starts a connection has none
        try:
            while True:
                length = await reader.readexactly(4)
                writer.write(letter + length + await reader.readexactly(int.from_bytes(length) - 4))
                if letter:
                    said.client(letter.decode())
                letter = await reader.readexactly(1)
        except asyncio.IncompleteReadError:
            writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            said.server()
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await dial(dsn)
        await asyncio.gather(ask(reader, server_writer), answer(server_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        account = urlsplit(dsn).netloc.rpartition("@")[0] or "postgres"
        port = listener.sockets[0].getsockname()[1]
        yield f"postgresql://{account}@127.0.0.1:{port}{urlsplit(dsn).path}?sslmode=disable", said
