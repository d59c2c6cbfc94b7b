"""The router behind uvicorn, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from flowstates import FlowRunStateRepository
from flowstates.web import create_router


@asynccontextmanager
async def serving(states: FlowRunStateRepository, *, root_path: str = "", **options: Any) -> AsyncIterator[str]:
    """The address, with a slash at its end, under which the router answers."""
    app = FastAPI(root_path=root_path)
    app.include_router(create_router(states, **options))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5))
    task = asyncio.create_task(server.serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{options.get('prefix', '')}/"
    finally:
        server.should_exit = True
        await task
        listening.close()
