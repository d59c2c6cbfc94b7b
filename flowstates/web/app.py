"""The router as an application of its own, for `flowstates serve`."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

import flowstates
from flowstates.repository import FlowRunStateRepository
from flowstates.web.router import create_router

LOOPBACK = "127.0.0.1"


def application(states: FlowRunStateRepository) -> FastAPI:
    """The router, for who is on this machine: a browser that another site's page tells a name of its own for this address is refused."""
    app = FastAPI(title="flowstates", version=flowstates.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    app.include_router(create_router(states))
    return app


async def serve(states: FlowRunStateRepository, listening: socket.socket) -> None:
    """Answers on a socket until a signal ends it. What is being answered then has five seconds."""
    config = uvicorn.Config(application(states), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    await uvicorn.Server(config).serve([listening])
