"""The command that shows states in a browser."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Annotated

import typer

from flowstates.cli.database import Pool, ask_pool, exit_codes
from flowstates.cli.options import DatabaseUrl, LayoutOption, layout_of, refuse_others_tables
from flowstates.cli.render import print_error_line, print_line
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.repository import FlowRunStateRepository

_CONNECTIONS = 5


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="The port; 0 takes one that is free.")] = 8088,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
) -> None:
    """Show runs in a browser of this machine, until Ctrl-C.

    The pages, and the same as JSON, are on 127.0.0.1 alone and for whoever is on this machine: there is no login. Nothing that they do changes data.
    """
    chosen = layout_of(layout)
    with exit_codes():
        try:
            from flowstates.web import app
        except ModuleNotFoundError as error:
            if error.name != "uvicorn":
                raise
            raise InvalidInputError("serve", "the pages are not installed: pip install 'flowstates[cli,web]'") from None
        except ImportError:
            raise InvalidInputError("serve", "the pages are not installed: pip install 'flowstates[cli,web]'") from None
        try:
            listening = socket.create_server((app.LOOPBACK, port))
        except OSError as error:
            raise InvalidInputError("--port", f"{port} cannot be had: {os.strerror(error.errno or 0)}") from None

    async def work(pool: Pool) -> None:
        async with pool.acquire() as connection:
            await refuse_others_tables(connection, chosen)
        states = FlowRunStateRepository(pool, layout=chosen.value)
        # Tables that are not there or may not be read are told of now, not to who looks.
        await states.read_flow_run_state_page(FlowRunStateFilter(current=True), limit=1)
        print_line(f"http://{app.LOOPBACK}:{listening.getsockname()[1]}/")
        sys.stdout.flush()
        await app.serve(states, listening, log=print_error_line)

    # So that a server that was started for this is ended too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with listening:
            ask_pool(database_url, work, layout=chosen.value, connections=_CONNECTIONS)
    finally:
        signal.signal(signal.SIGTERM, before)
