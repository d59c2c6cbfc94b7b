"""The commands. Each asks the database once and prints when the database is done."""

from __future__ import annotations

import json as json_format
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

import flowstates
from flowstates.cli.database import EMBEDDED, ask, exit_codes
from flowstates.cli.demo import play
from flowstates.cli.exports import export_states
from flowstates.cli.imports import import_states
from flowstates.cli.lists import list_states
from flowstates.cli.options import DatabaseUrl, Json, LayoutName, LayoutOption, layout_of
from flowstates.cli.prune import prune
from flowstates.cli.questions import counts, durations
from flowstates.cli.render import print_error_line, print_history, print_json_lines, print_line, print_slow_questions, print_states
from flowstates.cli.runs import runs
from flowstates.cli.serve import serve
from flowstates.cli.states import create, delete, deletion, show
from flowstates.cli.tail import consumers, tail
from flowstates.cli.timeline import timeline
from flowstates.database.migrations import migration_script, unknown_migrations
from flowstates.database.mismatches import Mismatch
from flowstates.engine import connections
from flowstates.engine.connections import AnyConnection
from flowstates.errors import InvalidInputError, ReadOnlyLayoutError

if TYPE_CHECKING:
    from flowstates.database.plans import SlowQuestion

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 nothing there, a conflict, or a database that does not fit; 2 bad input;"
    " 3 the database, or output that cannot be written; 4 more to prune; 130 Ctrl-C; 141 a reader of its output that went away, as head does.",
)


class _Command(TyperCommand):
    """A command whose help names arguments by what they are. typer puts the names of Python's types behind them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write: Callable[..., None] = formatter.write_dl

        def write_plain(rows: Sequence[tuple[str, str]], *more: Any, **options: Any) -> None:
            write([(name if name.startswith("-") else re.sub(r" <.*>$", "", name), help) for name, help in rows], *more, **options)

        formatter.write_dl = write_plain
        super().format_options(ctx, formatter)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowstates {flowstates.__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)] = False,
) -> None:
    """The state history of workflow runs, in PostgreSQL."""


@app.command(cls=_Command)
def demo(
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The database, as postgresql://user@host/database, embedded: or embedded:FOLDER; by default what the variable"
            " FLOWSTATES_DATABASE_URL says. Without either, a temporary server.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what this is: make runs, list one, delete a state.

    Without a URL it uses a temporary server, which goes when the demo ends. In a database of yours it undoes all that it did.
    """
    applied, runs, gone = ask(database_url, play, temporary=True)
    deleted = runs[1][-1].id
    if json:
        print_states(runs[0], json_lines=True)
        print_json_lines(deletion(deleted, was_there) for was_there in gone)
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
    if program.endswith("__main__.py"):
        program = f"{sys.executable} -m flowstates"
    is_theirs = database_url is not None or bool(os.environ.get("FLOWSTATES_DATABASE_URL"))
    url = "" if is_theirs else f" --database-url {EMBEDDED}"
    if database_url is not None:
        may_hold_a_password = "password" in database_url or re.search("//.*:.*@", database_url)
        url = f" --database-url {'URL' if may_hold_a_password else shlex.quote(database_url)}"
    if is_theirs:
        print_line(f"  {program} migrate{url}")
    print_line(f"  {program} create {runs[0][0].flow_run_id} RUNNING{url}")
    print_line(f"  {program} list {runs[0][0].flow_run_id}{url}")
    if not is_theirs:
        print_line("or on a server of yours, with --database-url or FLOWSTATES_DATABASE_URL:")
        print_line(f"  {program} migrate --database-url postgresql://user@host/database")


def _migration_option(name: str, help: str) -> Any:
    return typer.Option(name, metavar="NAME", help=help)


@app.command(cls=_Command)
def migrate(
    database_url: DatabaseUrl = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL for an empty schema; no database is asked.")] = False,
    since: Annotated[str | None, _migration_option("--from", "With --sql: only what comes after this migration.")] = None,
    until: Annotated[str | None, _migration_option("--to", "With --sql: nothing after this migration.")] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Tables that Citus distributes, of the layout citus; so too where FLOWSTATES_LAYOUT is citus.")
    ] = False,
    json: Json = False,
) -> None:
    """Make the tables, or bring them up to date."""
    with exit_codes():
        if sql and json:
            raise InvalidInputError("--sql", "prints SQL and no JSON: leave out --json")
        if not sql and (since, until) != (None, None):
            raise InvalidInputError("--from, --to", "say what --sql prints: add --sql")
        layout = layout_of(None)
        if layout is LayoutName.PREFECT:
            raise ReadOnlyLayoutError("Prefect alone makes its tables: for those of flowstates, unset FLOWSTATES_LAYOUT")
        distributed = distributed or layout is LayoutName.CITUS
        try:
            script = migration_script(since=since, until=until, distributed=distributed)
        except InvalidInputError as error:
            raise InvalidInputError({"since": "--from", "until": "--to"}[error.field], error.message) from None
    if sql:
        typer.echo(script, nl=False)
        return

    async def work(connection: AnyConnection) -> tuple[list[str], list[str]]:
        return await flowstates.migrate(connection, distributed=distributed), await unknown_migrations(connection, distributed=distributed)

    applied, unknown = ask(database_url, work, layout="citus" if distributed else "flowstates", to_migrate=False)
    if json:
        print_json_lines(json_format.dumps({"name": name, "applied": True}) for name in applied)
    else:
        for name in applied:
            print_line(f"applied: {name}")
        if not applied:
            print_line("nothing to apply" if unknown else "nothing to apply: the database is current")
    for name in unknown:
        print_error_line(f"applied by a newer version, and not known to this one: {name}")


@app.command(cls=_Command)
def check(
    plans: Annotated[
        bool, typer.Option("--plans", help="Ask too how the server would answer each question, and name those that would be slow.")
    ] = False,
    data: Annotated[
        bool, typer.Option("--data", help="Read all rows too, and name those that do not agree; print a statement that mends what can be mended.")
    ] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Say whether the database fits the layout, and what does not.

    It reads only the server's catalog, and with --data all rows too. With --plans it also has the server plan each question, and runs none. Of
    Prefect's tables it prints what their owner may set, so that autovacuum keeps up with deletes.
    """
    chosen = layout_of(layout)
    settings: list[str] = []

    async def work(connection: AnyConnection) -> tuple[list[Mismatch], list[SlowQuestion]]:
        if chosen is LayoutName.PREFECT:
            settings.extend(row["statement"] for row in await connections.ask(connection, "read_autovacuum"))
        mismatches = await flowstates.check(connection, layout=chosen.value, data=data)
        if not plans or mismatches:
            return mismatches, []
        from flowstates.database.plans import check_plans

        return mismatches, await check_plans(connection, layout=chosen.value)

    mismatches, slow = ask(database_url, work, layout=chosen.value)
    if json:
        print_json_lines(
            json_format.dumps({field: value for field, value in asdict(mismatch).items() if value is not None}) for mismatch in mismatches
        )
        print_json_lines(json_format.dumps({field: getattr(question, field) for field in ("question", "plan", "index", "rows")}) for question in slow)
    else:
        for mismatch in mismatches:
            print_line(str(mismatch))
        for mend in dict.fromkeys(mismatch.mend for mismatch in mismatches if mismatch.mend):
            print_line()
            print_line("This mends rows in flow_run; paste it into psql:")
            typer.echo(mend, nl=False)
        if not mismatches:
            print_line(f"the database fits the layout {chosen}")
            if plans:
                print_slow_questions(slow)
            if settings and not slow:
                print_line()
                print_line("If histories are pruned here, the tables' owner may let autovacuum come after 2 percent of the rows, not after 20:")
                typer.echo("\n".join(settings))
    if chosen is LayoutName.FLOWSTATES and any("distributed" in str(mismatch) for mismatch in mismatches):
        print_error_line("these tables are on Citus: say --layout citus")
    elif chosen is not LayoutName.PREFECT and _is_to_migrate(mismatches):
        migrate_it = "flowstates migrate" + (" --distributed" if chosen is LayoutName.CITUS else "")
        print_error_line(f"{migrate_it} makes the tables, or brings them up to date")
    if mismatches or slow:
        raise typer.Exit(1)


def _is_to_migrate(mismatches: Sequence[Mismatch]) -> bool:
    """Whether none of the tables is there, or a migration is not applied yet."""
    lacking = {mismatch.where for mismatch in mismatches if mismatch.found == "none"}
    return lacking >= {f"table {name}" for name in flowstates.TABLES} or any(where.startswith("migration ") for where in lacking)


_COMMANDS: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_states,
    "runs": runs,
    "timeline": timeline,
    "durations": durations,
    "prune": prune,
    "counts": counts,
    "show": show,
    "serve": serve,
    "delete": delete,
    "import": import_states,
    "export": export_states,
    "tail": tail,
    "consumers": consumers,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=_Command)(_function)
