"""The application: jobs over HTTP, and the pages of flowstates behind a password."""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from secrets import compare_digest
from typing import Annotated
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from flowstates import FlowRunStateRepository, FlowStatesError, check, create_pool, is_retryable
from flowstates.telemetry import observe_pool
from flowstates.web import create_router
from opentelemetry import trace
from pydantic import BaseModel, ConfigDict, Field

from service import jobs
from service.workers import workers

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
routes = APIRouter()


def pool_of(request: Request) -> asyncpg.Pool:
    pool: asyncpg.Pool = request.app.state.pool
    return pool


def states_of(request: Request) -> FlowRunStateRepository:
    return FlowRunStateRepository(pool_of(request))


def let_in(request: Request, user: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    if not compare_digest(user.password.encode(), request.app.state.password.encode()):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})


class NewJob(BaseModel):
    model_config = ConfigDict(strict=True)  # "1" and true are no numbers

    customer: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    seconds: float = Field(ge=0, le=60)


class Submitted(BaseModel):
    run_id: UUID
    page: str


class Job(BaseModel):
    customer: str
    seconds: float
    state: str


@routes.post("/jobs", status_code=201)
async def submit(new: NewJob, request: Request) -> Submitted:
    with tracer.start_as_current_span("submit"):
        run = await jobs.submit(pool_of(request), new.customer, new.seconds)
    return Submitted(run_id=run, page=f"/states/runs/{run}")


@routes.get("/jobs/{run_id}")
async def read(run_id: UUID, request: Request) -> Job:
    # The service's table is joined to that of the runs, which has the current state of each.
    row = await pool_of(request).fetchrow(
        "select customer, seconds, state_type as state from job join flow_run on id = run_id where run_id = $1", run_id
    )
    if row is None:
        raise HTTPException(404)
    return Job.model_validate(dict(row))


@routes.get("/usage")
async def read_usage(request: Request) -> dict[str, int]:
    return {row["customer"]: row["jobs"] for row in await pool_of(request).fetch("select customer, jobs from usage")}


async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    # Without what was given, as FastAPI has it: NaN and half of a surrogate pair cannot be answered.
    return JSONResponse({"detail": [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]}, 422)


async def try_later(request: Request, error: Exception) -> JSONResponse:
    if not is_retryable(error):
        raise error
    log.warning("%s %s: 503: %r", request.method, request.url.path, error)
    return JSONResponse({"detail": "try again later"}, 503, {"Retry-After": "1"})


def create_app(dsn: str, password: str) -> FastAPI:
    """The service, which does not start on a database that Alembic has not brought up to date."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with create_pool(dsn, max_size=10) as pool:
            if mismatches := await check(pool):
                raise RuntimeError("\n".join(map(str, mismatches)))
            observe_pool(pool)
            app.state.pool = pool
            async with workers(pool):
                yield

    app = FastAPI(title="jobs", lifespan=lifespan, openapi_url=None)
    app.state.password = password
    app.exception_handler(RequestValidationError)(refuse)
    for kind in (FlowStatesError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        app.add_exception_handler(kind, try_later)
    only_known = [Depends(let_in)]
    app.include_router(routes, dependencies=only_known)
    app.include_router(create_router(states_of, prefix="/states", dependencies=only_known))
    return app


def app_from_environment() -> FastAPI:
    """For uvicorn: the service on the database of DATABASE_URL, behind the password PASSWORD."""
    return create_app(os.environ["DATABASE_URL"], os.environ["PASSWORD"])
