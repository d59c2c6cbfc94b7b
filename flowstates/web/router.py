"""The router."""

# Not with annotations from __future__: FastAPI reads those of functions inside of a function, whose names it could not find.
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import TypeAdapter

from flowstates.engine.pages import MOST_OF_A_PAGE
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import StateType
from flowstates.repository import FlowRunStateRepository
from flowstates.values import kind_of
from flowstates.web import pages
from flowstates.web.asking import time_of, wrong_parameters
from flowstates.web.bodies import (
    PATIENCE,
    RestInvalid,
    RestPage,
    RestState,
    not_found,
    page_answer,
    read_as_prefect,
    refuse,
    state_answer,
    states_answer,
    status_codes,
)

Dependency: TypeAlias = Callable[..., Any]
"""What FastAPI takes as a dependency: a function, perhaps async or a generator, that gives a FlowRunStateRepository."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_UUID = TypeAdapter(UUID)
_REPEATABLE = ("flow_run_id", "id", "type", "name")
_SINGLE = ("since", "until", "terminal", "current", "limit", "order", "newest_first", "cursor")
_TIME = "As 2030-01-31T12:00:00Z, or without a cursor 2h (ago), today or yesterday, which are days of UTC"


def create_router(states: FlowRunStateRepository | Dependency, **options: Any) -> APIRouter:
    """A router for `app.include_router`, which reads states and changes nothing.

    `states` is a repository on a pool, or a dependency of FastAPI that gives one: for a pool that is opened as the application starts,
    `lambda request: ...` with a `Request`, or a function that takes what it needs. `options` are those of `fastapi.APIRouter`: `prefix`,
    `dependencies=[Depends(...)]`, which is the place for authentication, `tags`. No route is open without them.

    - `GET /flow_run_states/{id}` and `GET /flow_run_states/?flow_run_id=` are Prefect's, with its bodies and status codes: its own client reads from
      here, with a prefix of `/api` if it is told no other.
    - `GET /flow_runs/states` is a page of states, by the parameters of FlowRunStateFilter and of `read_flow_run_state_page`: `flow_run_id`, `id`,
      `type` and `name` may be repeated. What is nearly the name of one, as `types`, is refused, as on the pages; other names may be those of
      dependencies.
    - `GET /flow_runs/{id}/states` has the states of one run, oldest first.
    - `GET /` is a page of HTML with the runs, and `GET /runs/{id}` one with a run. They need nothing from elsewhere, and their links are relative.

    HEAD is answered as GET. What cannot be asked for is 422 and says why. A stored row that cannot be read is 500 as JSON and is named, and the
    pages show it in its place. Where the database does not answer in 30 seconds it is 503. Other errors of the database and of the connection are
    the application's. A page takes up to three reads, one after the other, and one more where a row cannot be read.
    """
    if states is FlowRunStateRepository or (not isinstance(states, FlowRunStateRepository) and not callable(states)):
        raise InvalidInputError("states", f"is {kind_of(states)}, not a FlowRunStateRepository or a function that gives one")
    router = APIRouter(**options)
    given: Dependency = states if not isinstance(states, FlowRunStateRepository) else lambda: states

    async def repository(found: Annotated[object, Depends(given)]) -> FlowRunStateRepository:
        if not isinstance(found, FlowRunStateRepository):
            raise InvalidInputError("states", f"gave {kind_of(found)}, not a FlowRunStateRepository")
        return found

    States: TypeAlias = Annotated[FlowRunStateRepository, Depends(repository)]

    @_get(router, "/flow_run_states/{id:uuid}", response_model=RestState, responses={404: {"description": "There is no such state"}})
    async def read_flow_run_state(states: States, id: Annotated[UUID, Path(description="The state's id")]) -> Response:
        """One state by its id."""
        with status_codes():
            state = await states.read_flow_run_state(id, timeout=PATIENCE)
            return not_found() if state is None else state_answer(state)

    # Not declared to FastAPI, whose own 422 has another body than Prefect's.
    @_get(
        router,
        "/flow_run_states/",
        response_model=list[RestState],
        responses={422: {"model": RestInvalid, "description": "The run's id is not there, or is none"}},
        openapi_extra={"parameters": [{"name": "flow_run_id", "in": "query", "required": True, "schema": {"type": "string", "format": "uuid"}}]},
    )
    async def read_flow_run_states(states: States, request: Request) -> Response:
        """The states of one run, oldest first; none for an unknown run."""
        run = read_as_prefect(_UUID, request.query_params, "flow_run_id")
        if isinstance(run, Response):
            return run
        with status_codes():
            return states_answer(await states.read_flow_run_states(run, timeout=PATIENCE))

    @_get(router, "/flow_runs/{id:uuid}/states", response_model=list[RestState])
    async def read_states_of_flow_run(states: States, id: Annotated[UUID, Path(description="The run's id")]) -> Response:
        """The states of one run, oldest first; none for an unknown run."""
        with status_codes():
            return states_answer(await states.read_flow_run_states(id, timeout=PATIENCE))

    @_get(router, "/flow_runs/states", response_model=RestPage)
    async def read_flow_run_state_page(
        states: States,
        request: Request,
        flow_run_id: Annotated[list[UUID] | None, Query(description="Of these runs")] = None,
        id: Annotated[list[UUID] | None, Query(description="These states")] = None,
        type: Annotated[list[StateType] | None, Query(description="Of these types")] = None,
        name: Annotated[list[str] | None, Query(description="Of these names")] = None,
        since: Annotated[str | None, Query(description=f"From this time on. {_TIME}")] = None,
        until: Annotated[str | None, Query(description=f"Up to this time, which is not included. {_TIME}")] = None,
        terminal: Annotated[bool | None, Query(description="States that end a run, or the others")] = None,
        current: Annotated[bool, Query(description="Only the state that each run is in")] = False,
        limit: Annotated[int, Query(ge=1, le=MOST_OF_A_PAGE)] = 100,
        order: Annotated[Literal["run", "time"], Query()] = "run",
        newest_first: Annotated[bool, Query(description="The whole order turned round")] = False,
        cursor: Annotated[str | None, Query(description="The `next` or `previous` of another page of the same question")] = None,
    ) -> Response:
        """A page of states, and the cursors of the pages next to it."""
        now = datetime.now(UTC)
        with status_codes():
            refuse(wrong_parameters(request.query_params, _SINGLE, _REPEATABLE))
            for field, text in (("since", since), ("until", until)):
                if text == "":
                    raise InvalidInputError(field, "is empty")
            filter = FlowRunStateFilter(
                flow_run_ids=flow_run_id,
                ids=id,
                types=type,
                names=name,
                since=time_of("since", since, now, is_next_page=cursor is not None),
                until=time_of("until", until, now, is_next_page=cursor is not None),
                terminal=terminal,
                current=current,
            )
            page = await states.read_flow_run_state_page(filter, limit=limit, order=order, newest_first=newest_first, cursor=cursor, timeout=PATIENCE)
            return page_answer(page)

    @_get(router, "/", include_in_schema=False)
    async def show_runs(states: States, request: Request) -> Response:
        """The runs, as a page of HTML."""
        if wrong := wrong_parameters(request.query_params, ("name", "run", "since", "until", "cursor"), ("type",)):
            return pages.refused(wrong[0], back="?")
        return await pages.runs(states, request.query_params, datetime.now(UTC))

    @_get(router, "/runs/{id:uuid}", include_in_schema=False)
    async def show_run(states: States, request: Request, id: UUID) -> Response:
        """A run, as a page of HTML."""
        if wrong := wrong_parameters(request.query_params, ("last", "seen"), ()):
            return pages.refused(wrong[0], back=f"../runs/{id}")
        return await pages.run(states, id, request.query_params, datetime.now(UTC))

    return router


def _get(router: APIRouter, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
    """Adds a route for GET and HEAD, and another for the documentation alone: with both methods FastAPI would document one operation twice."""
    errors = {500: {"description": "A stored row cannot be read, and is named"}, 503: {"description": "The database took too long to answer"}}
    documented = options | {"responses": errors | options.get("responses", {})}

    def add(endpoint: Endpoint) -> Endpoint:
        router.api_route(path, methods=["GET", "HEAD"], **options | {"include_in_schema": False})(endpoint)
        router.get(path, **documented)(endpoint)
        return endpoint

    return add
