"""The router as an application of its own, for `flowstates serve`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import asyncpg
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

import flowstates
from flowstates.engine.retries import is_retryable
from flowstates.repository import FlowRunStateRepository
from flowstates.web import pages
from flowstates.web.bodies import answer
from flowstates.web.router import create_router

LOOPBACK = "127.0.0.1"

_OF_THE_DATABASE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def application(states: FlowRunStateRepository, log: Callable[[str], None]) -> FastAPI:
    """The router, for who is on this machine: a browser that another site's page tells a name of its own for this address is refused.

    While the database cannot be reached it answers 503, and 500 where it refuses; it tells `log` why in a line a request.
    """

    async def failed(request: Request, error: Exception) -> Response:
        status, path = 503 if is_retryable(error) else 500, request.url.path
        said = str(error).partition("\n")[0] or type(error).__name__
        log(f"{request.method} {path}: {status}: {said}")
        message = "The database cannot be reached. Try again later." if status == 503 else f"The database refuses: {said}"
        if path == "/" or path.startswith("/runs/"):
            return pages.failed(status, message, "?" if path == "/" else "../")
        return answer({"detail": message}, status)

    app = FastAPI(title="flowstates", version=flowstates.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    app.include_router(create_router(states))
    for kind in _OF_THE_DATABASE:
        app.add_exception_handler(kind, failed)
    return app


async def serve(states: FlowRunStateRepository, listening: socket.socket, *, log: Callable[[str], None]) -> None:
    """Answers on a socket until a signal ends it. What is being answered then has five seconds."""
    # asyncpg's pool logs a traceback whenever it fails to replace a connection; who asks is told why.
    logging.getLogger("asyncpg").addHandler(logging.NullHandler())
    config = uvicorn.Config(application(states, log), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    await uvicorn.Server(config).serve([listening])
