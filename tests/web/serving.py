"""The router behind uvicorn, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from flowstates import FlowRunStateRepository
from flowstates.web import create_router


@asynccontextmanager
async def serving(states: FlowRunStateRepository, *, root_path: str = "", under: str = "", **options: Any) -> AsyncIterator[str]:
    """The address, with a slash at its end, under which the router answers; `under` is what a proxy takes off the path.

    With a `root_path` the server knows of it; without one nobody does.
    """
    app = FastAPI()
    app.include_router(create_router(states, **options))
    listening = socket.create_server(("127.0.0.1", 0))
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "timeout_graceful_shutdown": 5, "root_path": root_path}
    server = uvicorn.Server(uvicorn.Config(_proxy(app, under), **settings))
    task = asyncio.create_task(server.serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{under}{options.get('prefix', '')}/"
    finally:
        server.should_exit = True
        await task
        listening.close()


def _proxy(app: ASGIApp, under: str) -> ASGIApp:
    if not under:
        return app
    nothing = Starlette()

    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        within = path.startswith(f"{under}/")
        await (app if within else nothing)({**scope, "path": path.removeprefix(under), "raw_path": path.removeprefix(under).encode()}, receive, send)

    return pass_on
