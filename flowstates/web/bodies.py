"""What is answered: JSON, Prefect's words for what is not there or cannot be read, and errors as status codes."""

# Not with annotations from __future__: FastAPI reads the types of what is answered, for its documentation.
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

from flowstates.engine.archives import is_finite
from flowstates.engine.pages import FlowRunStatePage
from flowstates.errors import FlowStatesError, InvalidInputError, UnreadableRowError
from flowstates.records import FlowRunState

PATIENCE = 30.0  # seconds for what is asked of the database

_NOT_FOUND = "Flow run state not found"
_FIELDS = {"flow_run_ids": "flow_run_id", "ids": "id", "types": "type", "names": "name"}


class RestState(BaseModel):
    """A state as `FlowRunState.to_rest` has it, which is as Prefect shows it."""

    id: str
    type: str
    name: str
    timestamp: str
    message: str | None
    data: Any
    state_details: dict[str, Any]


class RestStateOfRun(RestState):
    """The same with the id of its run, which details need not have."""

    flow_run_id: str


class RestInvalid(BaseModel):
    """Why a request cannot be read, as Prefect says it."""

    exception_message: str
    exception_detail: list[dict[str, Any]]
    request_body: None


class RestPage(BaseModel):
    """A page of states, and the cursors of the pages next to it; null where there is none."""

    states: list[RestStateOfRun]
    next: str | None
    previous: str | None


def answer(content: object, status: int = 200) -> Response:
    """The content as JSON."""
    return _json(json.dumps(content), status)


def not_found() -> Response:
    """What Prefect answers for a state that is not there."""
    return answer({"detail": _NOT_FOUND}, 404)


def state_answer(state: FlowRunState) -> Response:
    """A state as `RestState` has it; UnreadableRowError for what others have stored and JSON has no way to say."""
    return _json(_text(state))


def states_answer(states: Iterable[FlowRunState]) -> Response:
    """The same of a list."""
    return _json(f"[{','.join(_text(state) for state in states)}]")


def page_answer(page: FlowRunStatePage) -> Response:
    """A page as `RestPage` has it."""
    states = ",".join(_text(state, flow_run_id=str(state.flow_run_id)) for state in page.states)
    return _json(f'{{"states":[{states}],"next":{json.dumps(page.next)},"previous":{json.dumps(page.previous)}}}')


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}, "application/json")


def _text(state: FlowRunState, **more: str) -> str:
    try:
        # Pydantic makes null of a number that is greater than a double.
        if not (is_finite(state.data) and is_finite(state.state_details.model_extra)):
            raise ValueError("holds a number that is greater than a double")
        # In ASCII: data may hold half of a surrogate pair, which UTF-8 has no form for.
        return json.dumps({**more, **state.to_rest()}, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise UnreadableRowError(state.id, "data", f"cannot be written as JSON: {error}") from None


def read_as_prefect(type_: TypeAdapter[Any], given: Mapping[str, str], name: str) -> Any:
    """The parameter of a query, or the answer that Prefect has where it cannot be read: 422 with three keys."""
    try:
        if name in given:
            return type_.validate_python(given[name])
        errors: list[Any] = [{"type": "missing", "loc": ["query", name], "msg": "Field required", "input": None}]
    except ValidationError as error:
        errors = [{**found, "loc": ["query", name, *found["loc"]]} for found in error.errors(include_url=False)]
        for found in errors:
            if "ctx" in found:
                found["ctx"] = {key: value if isinstance(value, str) else str(value) for key, value in found["ctx"].items()}
    return answer({"exception_message": "Invalid request received.", "exception_detail": errors, "request_body": None}, 422)


def refuse(errors: Iterable[InvalidInputError]) -> None:
    """Answers 422, as FastAPI has it, if there is one."""
    if found := [{"type": "value_error", "loc": ("query", error.field), "msg": str(error), "input": None} for error in errors]:
        raise RequestValidationError(found)


@contextmanager
def status_codes() -> Iterator[None]:
    """Errors as answers: input that cannot be asked for is 422 as FastAPI has it, a row that cannot be read 500, and what takes too long 503.

    What else the database or the network refuses is the application's to answer.
    """
    try:
        yield
    except InvalidInputError as error:
        # Of a list that has one value its place in it says nothing.
        field, message = _FIELDS.get(error.field, error.field), error.message.removeprefix("0: ")
        raise RequestValidationError([{"type": "value_error", "loc": ("query", field), "msg": f"{field}: {message}", "input": None}]) from error
    except UnreadableRowError as error:
        raise HTTPException(500, f"a stored row cannot be read: {error}") from error
    except FlowStatesError as error:  # an id that two runs have, on Citus
        raise HTTPException(409, str(error)) from error
    except TimeoutError as error:
        raise HTTPException(503, "the database took too long to answer; try again later, or ask for less") from error
