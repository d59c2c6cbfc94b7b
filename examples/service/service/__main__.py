"""`python -m service`: the whole of it on this machine alone, with a PostgreSQL that lives as long as it does."""

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe
from tempfile import TemporaryDirectory

import uvicorn
from alembic import command
from alembic.config import Config
from flowstates import create_pool, embedded_postgres

from service.app import create_app
from service.jobs import submit
from service.traces import traces

ROOT = Path(__file__).parent.parent


async def submit_some(dsn: str) -> None:
    async with create_pool(dsn) as pool:
        for customer, seconds in [("north", 0.5), ("north", 3.0), ("south", 2.0), ("south", 60.0)]:
            await submit(pool, customer, seconds)


def serve(dsn: str, spans: Path) -> None:
    os.environ["DATABASE_URL"] = dsn
    command.upgrade(Config(ROOT / "alembic.ini"), "head")
    asyncio.run(submit_some(dsn))
    password = token_urlsafe(8)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        new = """-H 'Content-Type: application/json' -d '{"customer": "east", "seconds": 4}'"""
        print(f"runs        {address}/states/  (any user, password {password})")
        print(f"a new job   curl -u any:{password} {new} {address}/jobs")
        print(f"spans       tail -f {spans}")
        print("Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            uvicorn.Server(uvicorn.Config(create_app(dsn, password), log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing stays then either
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    with TemporaryDirectory() as folder, embedded_postgres() as dsn, traces(spans := Path(folder, "spans.jsonl")):
        serve(dsn, spans)
