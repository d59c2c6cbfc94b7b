"""The commands. Each asks the database once and prints when the database is done."""

from __future__ import annotations

import json as json_format
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar
from uuid import UUID

import typer

import flowstates
from flowstates.cli.database import ask, exit_codes
from flowstates.cli.demo import make_runs
from flowstates.cli.render import print_error_line, print_history, print_json_lines, print_line, print_states
from flowstates.cli.transfer import read_states, write_states
from flowstates.errors import InvalidInputError
from flowstates.execution import AnyConnection
from flowstates.migrations import migration_script
from flowstates.records import FlowRunState, StateType
from flowstates.repository import FlowRunStateRepository

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 nothing there, a conflict, or a database that does not fit; 2 bad input; 3 the database.",
)


class Tie(StrEnum):
    """What `on_tie` may be, as an option has it."""

    NUDGE = "nudge"
    REFUSE = "refuse"


class LayoutName(StrEnum):
    """The layouts, as an option has them."""

    FLOWSTATES = "flowstates"
    PREFECT = "prefect"


DatabaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The database, as postgresql://user@host/database; by default what the variable FLOWSTATES_DATABASE_URL says."
        " Without either, an embedded server that keeps its data for you, in the folder FLOWSTATES_DATA if that is set.",
    ),
]
LayoutOption: TypeAlias = Annotated[LayoutName, typer.Option(help="Whose tables they are.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON Lines, for other programs.")]
RunId: TypeAlias = Annotated[UUID, typer.Argument(metavar="RUN_ID")]
StateId: TypeAlias = Annotated[UUID, typer.Argument(metavar="STATE_ID")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowstates {flowstates.__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)] = False,
) -> None:
    """The state history of workflow runs, in PostgreSQL."""


@app.command()
def demo(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Show what this is: make runs, list one, delete a state.

    It uses a server that goes when the demo ends. In a database of yours it undoes all that it did.
    """

    async def work(connection: AnyConnection) -> tuple[list[str], list[list[FlowRunState]], list[bool]]:
        transaction = connection.transaction()
        await transaction.start()
        applied = await flowstates.migrate(connection)
        runs = await make_runs(connection, datetime.now(UTC) - timedelta(hours=3))
        states = FlowRunStateRepository(connection)
        gone = [await states.delete_flow_run_state(runs[1][-1].id) for _ in range(2)]
        await transaction.rollback()
        return applied, runs, gone

    applied, runs, gone = ask(database_url, work, temporary=True)
    deleted = runs[1][-1].id
    if json:
        print_states(runs[0], json_lines=True)
        print_json_lines(_deletion(deleted, was_there) for was_there in gone)
        return
    for name in applied:
        print_line(f"migrated: {name}")
    print_line(f"created: {len(runs)} runs with {sum(map(len, runs))} states; the first:")
    print_line()
    print_history(runs[0], now=datetime.now(UTC))
    print_line()
    print_line("Another run failed. Its last state is deleted, twice:")
    for was_there in gone:
        print_line(f"  delete_flow_run_state('{deleted}') -> {was_there}")
    print_line()
    print_line("Nothing of this is left. Next, a run of your own, which stays:")
    program = "flowstates" if shutil.which("flowstates") else sys.argv[0]
    print_line(f"  {program} create {runs[0][0].flow_run_id} RUNNING")
    print_line(f"  {program} list {runs[0][0].flow_run_id}")
    print_line("or on a server of yours, with --database-url or FLOWSTATES_DATABASE_URL:")
    print_line(f"  {program} migrate --database-url postgresql://user@host/database")


@app.command()
def migrate(
    database_url: DatabaseUrl = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL for an empty schema; no database is asked.")] = False,
    json: Json = False,
) -> None:
    """Make the tables, or bring them up to date."""
    if sql:
        typer.echo(migration_script(), nl=False)
        return
    applied = ask(database_url, flowstates.migrate, to_migrate=False)
    if json:
        print_json_lines(json_format.dumps({"name": name, "applied": True}) for name in applied)
        return
    for name in applied:
        print_line(f"applied: {name}")
    if not applied:
        print_line("nothing to apply: the database is current")


@app.command()
def check(database_url: DatabaseUrl = None, layout: LayoutOption = LayoutName.FLOWSTATES, json: Json = False) -> None:
    """Say whether the database fits the layout, and what does not. It reads only the server's catalog."""
    mismatches = ask(database_url, lambda connection: flowstates.check(connection, layout=layout.value), layout=layout.value)
    if json:
        print_json_lines(json_format.dumps(asdict(mismatch)) for mismatch in mismatches)
    else:
        for mismatch in mismatches:
            print_line(str(mismatch))
        if not mismatches:
            print_line(f"the database fits the layout {layout}")
    if mismatches:
        raise typer.Exit(1)


@app.command()
def create(
    run_id: RunId,
    type: Annotated[str, typer.Argument(metavar="TYPE", help=", ".join(StateType))],
    id: Annotated[UUID | None, typer.Option(metavar="UUID", help="The state's id; a UUIDv7 if left out.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="The type's own if left out.")] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    timestamp: Annotated[str | None, typer.Option(metavar="TIME", help="As 2030-01-31T12:00:00Z; the server's clock if left out.")] = None,
    details: Annotated[str | None, typer.Option(metavar="JSON", help="An object: the state details.")] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="Any value.")] = None,
    result_artifact_id: Annotated[UUID | None, typer.Option(metavar="UUID")] = None,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = LayoutName.FLOWSTATES,
    json: Json = False,
) -> None:
    """Add a state to a run's history, and print it as stored. The first state makes the run known."""
    with exit_codes():
        time = _time("timestamp", timestamp)
        details_value, data_value = _json_value("details", details), _json_value("data", data)

    def work(states: FlowRunStateRepository) -> Awaitable[FlowRunState]:
        return states.create_flow_run_state(
            run_id,
            type.upper(),
            id=id,
            timestamp=time,
            name=name,
            message=message,
            state_details=details_value,
            data=data_value,
            result_artifact_id=result_artifact_id,
        )

    print_states([_ask_states(database_url, layout, work)], json_lines=json)


@app.command("list")
def list_states(run_id: RunId, database_url: DatabaseUrl = None, layout: LayoutOption = LayoutName.FLOWSTATES, json: Json = False) -> None:
    """Print a run's history with the time spent in each state."""
    states = _ask_states(database_url, layout, lambda states: states.read_flow_run_states(run_id))
    if not states:
        _end_with_nothing(f"no states of run {run_id}")
    if json:
        print_states(states, json_lines=True)
    else:
        print_history(states, now=datetime.now(UTC))


@app.command()
def show(state_id: StateId, database_url: DatabaseUrl = None, layout: LayoutOption = LayoutName.FLOWSTATES, json: Json = False) -> None:
    """Print one state whole."""
    state = _ask_states(database_url, layout, lambda states: states.read_flow_run_state(state_id))
    if state is None:
        _end_with_nothing(f"no state {state_id}")
    print_states([state], json_lines=json)


@app.command()
def delete(state_id: StateId, database_url: DatabaseUrl = None, layout: LayoutOption = LayoutName.FLOWSTATES, json: Json = False) -> None:
    """Delete one state."""
    was_there = _ask_states(database_url, layout, lambda states: states.delete_flow_run_state(state_id))
    if json:
        print_json_lines([_deletion(state_id, was_there)])
    elif was_there:
        print_line(f"deleted: {state_id}")
    if not was_there:
        _end_with_nothing(f"no state {state_id}")


@app.command("import")
def import_states(
    file: Annotated[typer.FileBinaryRead, typer.Argument(metavar="FILE", help="JSON Lines as `export` writes them; - is standard input.")],
    on_tie: Annotated[Tie, typer.Option(help="For a timestamp that is taken in its run: the first free microsecond, or nothing.")] = Tie.NUDGE,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = LayoutName.FLOWSTATES,
    json: Json = False,
) -> None:
    """Store the states of a file, 5,000 a transaction. After a break, run it again: what is stored already stays as it is.

    Exit code 1 if a state was refused, because its id is stored with other content.
    """

    counts = _ask_states(database_url, layout, lambda states: read_states(states, file, on_tie=on_tie.value))
    if json:
        print_json_lines([json_format.dumps({status: counts[status] for status in ("created", "present", "refused")})])
    else:
        print_line(f"created {counts['created']:,}, present before {counts['present']:,}, refused {counts['refused']:,}")
    if counts["refused"]:
        raise typer.Exit(1)


@app.command("export")
def export_states(
    database_url: DatabaseUrl = None,
    layout: LayoutOption = LayoutName.FLOWSTATES,
) -> None:
    """Write all states to standard output as JSON Lines, run by run."""
    count = _ask_states(database_url, layout, lambda states: write_states(states, sys.stdout.buffer))
    print_error_line(f"exported {count:,} states")


def _deletion(state_id: UUID, was_there: bool) -> str:
    return json_format.dumps({"id": str(state_id), "deleted": was_there})


def _ask_states(url: str | None, layout: LayoutName, work: Callable[[FlowRunStateRepository], Awaitable[T]]) -> T:
    return ask(url, lambda connection: work(FlowRunStateRepository(connection, layout=layout.value)), layout=layout.value)


def _end_with_nothing(what: str) -> NoReturn:
    typer.echo(f"error: {what}", err=True)
    raise typer.Exit(1)


def _time(field: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(field, f"{text!r} is not a time such as 2030-01-31T12:00:00Z") from None


def _json_value(field: str, text: str | None) -> Any:
    try:
        return None if text is None else json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(field, f"is not JSON that can be read: {error}") from None
