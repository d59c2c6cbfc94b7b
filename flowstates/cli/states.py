"""The commands on one state."""

from __future__ import annotations

import json as json_format
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from flowstates.cli.database import exit_codes
from flowstates.cli.ids import Lookup
from flowstates.cli.options import (
    DatabaseUrl,
    Json,
    LayoutName,
    LayoutOption,
    RunId,
    StateId,
    ask_states,
    complete_types,
    end_with_nothing,
    layout_of,
    time_option,
    type_of,
)
from flowstates.cli.render import print_error_line, print_json_lines, print_line, print_states
from flowstates.cli.terminal import can_ask, confirm, interruptible
from flowstates.errors import InvalidInputError, UnreadableRowError
from flowstates.pictures.times import ago
from flowstates.records import FlowRunState, StateType
from flowstates.repository import FlowRunStateRepository

_TO_PREFECT = {
    StateType.COMPLETED: "Prefect may then run it again",
    StateType.PAUSED: "it can then no longer be resumed",
    StateType.CANCELLING: "it may then run on",
}


def create(
    run_id: RunId,
    type: Annotated[StateType, typer.Argument(parser=type_of, metavar="TYPE", help=", ".join(StateType), autocompletion=complete_types)],
    id: Annotated[UUID | None, typer.Option(metavar="STATE_ID", help="The state's id; a UUIDv7 if left out.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="The type's own if left out.")] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    timestamp: Annotated[datetime | None, time_option("As 2030-01-31T12:00:00Z; the server's clock if left out.")] = None,
    details: Annotated[str | None, typer.Option(metavar="JSON", help="An object: the state details.")] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="Any value.")] = None,
    result_artifact_id: Annotated[UUID | None, typer.Option(metavar="ARTIFACT_ID")] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Add a state to a run's history, and print it as stored. The first state makes the run known."""
    with exit_codes():
        details_value, data_value = _json_value("details", details), _json_value("data", data)

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> FlowRunState:
        return await states.create_flow_run_state(
            await lookup.run(run_id, may_be_new=True),
            type,
            id=id,
            timestamp=timestamp,
            name=name,
            message=message,
            state_details=details_value,
            data=data_value,
            result_artifact_id=result_artifact_id,
        )

    state = ask_states(database_url, layout, work)
    with exit_codes():
        print_states([state], json_lines=json)
    if timestamp is not None and state.timestamp != timestamp:
        print_error_line(f"stored with another time than --timestamp: {state.timestamp.isoformat().replace('+00:00', 'Z')}")


def show(state_id: StateId, database_url: DatabaseUrl = None, layout: LayoutOption = None, json: Json = False) -> None:
    """Print one state whole."""

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> FlowRunState | None:
        return await states.read_flow_run_state(await lookup.state(state_id))

    state = ask_states(database_url, layout, work)
    if state is None:
        end_with_nothing(f"no state {state_id.text}")
    with exit_codes():
        print_states([state], json_lines=json)


def delete(
    state_id: StateId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Also if it is its run's current state, without being asked.")] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Delete one state.

    If it is its run's current state the run changes with it, so that takes --yes or, on a terminal, an answer.
    """

    chosen = layout_of(layout)

    async def work(states: FlowRunStateRepository, lookup: Lookup) -> tuple[UUID, bool]:
        id = await lookup.state(state_id)
        if not yes and (warning := await _warning(states, id, chosen)):
            _ask_for(warning)
        return id, await states.delete_flow_run_state(id)

    id, was_there = ask_states(database_url, chosen, work)
    if json:
        print_json_lines([deletion(id, was_there)])
    elif was_there:
        print_line(f"deleted: {id}")
    if not was_there:
        end_with_nothing(f"no state {id}")


def deletion(state_id: UUID, was_there: bool) -> str:
    """What became of a delete, in JSON."""
    return json_format.dumps({"id": str(state_id), "deleted": was_there})


async def _warning(states: FlowRunStateRepository, id: UUID, layout: LayoutName) -> str | None:
    """What a delete of a run's current state does to the run; None for any other state."""
    try:
        state = await states.read_flow_run_state(id)
        if state is None:
            return None
        current = await states.read_current_flow_run_state(state.flow_run_id)
        if current is None or current.id != id:
            return None
        last = await states.read_flow_run_states_by_run([state.flow_run_id], last=2)
    except UnreadableRowError as error:
        error.add_note("it may be its run's current state; --yes deletes it all the same")
        raise
    what = f"it is the current state of run {state.flow_run_id} ({state.type}, {ago(state.timestamp, datetime.now(UTC))})"
    if layout is LayoutName.PREFECT:
        return f"{what}; {_TO_PREFECT.get(state.type, 'Prefect then knows the run without a state')}"
    before = [state for state in last[state.flow_run_id] if state.id != id]
    return f"{what}; the run is then {before[0].type} again" if before else f"{what}, and its only one; the run goes with it"


def _ask_for(warning: str) -> None:
    if not can_ask():
        raise InvalidInputError("--yes", f"is missing: {warning}")
    with interruptible():
        is_meant = confirm(f"{warning[0].upper()}{warning[1:]}. Delete it?")
    if not is_meant:
        end_with_nothing("it is not deleted")


def _json_value(field: str, text: str | None) -> Any:
    try:
        return None if text is None else json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(field, f"is not JSON that can be read: {error}") from None
