"""The arguments and options that commands share, and what becomes of them."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

import typer

from flowstates.analytics import FlowRunStateAnalytics
from flowstates.cli.database import ask, exit_codes
from flowstates.cli.ids import Id, Lookup, id_of
from flowstates.cli.render import print_error_line
from flowstates.engine.connections import AnyConnection
from flowstates.engine.connections import ask as ask_catalog
from flowstates.engine.pages import MOST_OF_A_PAGE
from flowstates.errors import InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import FlowRunState, StateType
from flowstates.repository import FlowRunStateRepository
from flowstates.retention import FlowRunStateRetention
from flowstates.values import iso_time

T = TypeVar("T")

_A_DAY = timedelta(days=1)
_LENGTH = re.compile(r"([0-9]{1,6})(ms|[smhdw])")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class LayoutName(StrEnum):
    """The layouts, as an option has them."""

    FLOWSTATES = "flowstates"
    PREFECT = "prefect"


def _time(text: str, others: str = "") -> datetime:
    try:
        time = iso_time(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2030-01-31T12:00:00Z{others}") from None
    if time.utcoffset() is None:
        raise typer.BadParameter(f"{text!r} has no time zone: write {time.isoformat()}Z or {time.isoformat()}+01:00")
    return time


def length_of(text: str) -> timedelta:
    """A length of time above zero, from a number and a unit."""
    found = _LENGTH.fullmatch(text)
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if not length:
        raise typer.BadParameter(f"{text!r} is not a length such as 30s, 15m, 1h, 1d or 1w")
    return length


def moment_of(text: str) -> datetime:
    """A time, also one that is said from now."""
    now = datetime.now(UTC)
    if text.lower() in ("today", "yesterday"):
        return now.replace(hour=0, minute=0, second=0, microsecond=0) - (_A_DAY if text.lower() == "yesterday" else timedelta())
    if not _LENGTH.fullmatch(text):
        return _time(text, ", 2h (ago), today or yesterday")
    try:
        return now - length_of(text)
    except OverflowError:
        raise typer.BadParameter(f"{text} ago is before the year 1") from None


def time_option(help: str) -> Any:
    """An option that is a time; its annotation is `datetime | None`."""
    return typer.Option(parser=_time, metavar="TIME", help=help)


def moment_option(help: str) -> Any:
    """An option that is a time, which may be said from now; its annotation is `datetime | None`."""
    return typer.Option(parser=moment_of, metavar="TIME", help=help)


def limit_option(help: str) -> Any:
    """An option that is the most of a page; its annotation is `int`, or `int | None`."""
    return typer.Option("--limit", "-n", min=1, max=MOST_OF_A_PAGE, metavar="N", help=help)


DatabaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The database, as postgresql://user@host/database, or embedded:FOLDER for a server that is started for the command and keeps its data"
        " there; embedded: alone has a folder of yours, FLOWSTATES_DATA if that is set. By default what the variable FLOWSTATES_DATABASE_URL says.",
    ),
]
LayoutOption: TypeAlias = Annotated[
    LayoutName | None, typer.Option(help="Whose tables they are; by default what the variable FLOWSTATES_LAYOUT says, or flowstates.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON Lines, for other programs.")]

RunId: TypeAlias = Annotated[Id, typer.Argument(parser=id_of, metavar="RUN_ID", help="A run's id, or a beginning that no other has.")]
RunIds: TypeAlias = Annotated[
    list[Id] | None,
    typer.Argument(parser=id_of, metavar="RUN_ID", help="These runs only, by their ids or a beginning that no other has; all runs without one."),
]
StateId: TypeAlias = Annotated[Id, typer.Argument(parser=id_of, metavar="STATE_ID", help="A state's id, or a beginning that no other has.")]

Ids: TypeAlias = Annotated[
    list[Id] | None,
    typer.Option("--id", parser=id_of, metavar="STATE_ID", help="The states of these ids, or beginnings that no other has; may be repeated."),
]
Types: TypeAlias = Annotated[
    list[StateType] | None, typer.Option("--type", metavar="TYPE", case_sensitive=False, help="States of these types; may be repeated.")
]
Names: TypeAlias = Annotated[list[str] | None, typer.Option("--name", metavar="TEXT", help="States of these names; may be repeated.")]
Since: TypeAlias = Annotated[
    datetime | None, moment_option("From this time on: 2030-01-31T12:00:00Z, 2h (ago; also s, m, d, w), today or yesterday (a day of UTC).")
]
Until: TypeAlias = Annotated[datetime | None, moment_option("Up to this time, which is not included.")]
Terminal: TypeAlias = Annotated[
    bool | None, typer.Option("--terminal/--open", help="States that end a run, COMPLETED, FAILED, CANCELLED and CRASHED, or the others.")
]
Step: TypeAlias = Annotated[timedelta | None, typer.Option(parser=length_of, metavar="STEP", help="Such as 30s, 15m, 1d or 1w; 1h if left out.")]


def filter_of(**fields: Any) -> FlowRunStateFilter:
    """The filter of the options; one that was not given, or given no value, is not in it."""
    with exit_codes():
        return FlowRunStateFilter(**{field: value for field, value in fields.items() if value not in (None, [])})


async def with_ids(filter: FlowRunStateFilter, lookup: Lookup, run_ids: Sequence[Id] | None, ids: Sequence[Id] | None = None) -> FlowRunStateFilter:
    """The filter with the runs and states that were meant; where none were given, with all."""
    found = {"flow_run_ids": tuple(await lookup.runs(run_ids)), "ids": tuple(await lookup.states(ids))}
    return filter.model_copy(update={field: ids for field, ids in found.items() if ids})


def window_of(since: datetime | None, until: datetime | None, length: timedelta, *, step: timedelta | None = None) -> tuple[datetime, datetime]:
    """A window that ends now and is `length` long, where the options do not say otherwise; with `step` it begins on a whole one."""
    with exit_codes():
        try:
            # In UTC, as all that is printed.
            end = datetime.now(UTC) if until is None else until.astimezone(UTC)
            if since is not None:
                return since.astimezone(UTC), end
            begin = end - length
            # From a Monday on, so that a step of a week begins with one.
            return begin - (begin - datetime.min.replace(tzinfo=UTC)) % step if step else begin, end
        except OverflowError:
            raise InvalidInputError("until" if since is None else "since", "makes a time that is outside the years 1 to 9999 in UTC") from None


def layout_of(option: LayoutName | None) -> LayoutName:
    """The layout of the option, else of the variable."""
    text = os.environ.get("FLOWSTATES_LAYOUT") or LayoutName.FLOWSTATES if option is None else option
    with exit_codes():
        if text not in list(LayoutName):
            raise InvalidInputError("FLOWSTATES_LAYOUT", f"is {text!r}, not one of {', '.join(LayoutName)}")
    return LayoutName(text)


def ask_states(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateRepository, Lookup], Awaitable[T]]) -> T:
    """What `work` returns for the states of a database, and its ids."""
    layout = layout_of(option)

    async def run(connection: AnyConnection) -> T:
        await _refuse_prefects_table(connection, layout)
        return await work(FlowRunStateRepository(connection, layout=layout.value), Lookup(connection, layout.value))

    return ask(url, run, layout=layout.value)


def ask_analytics(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateAnalytics, Lookup], Awaitable[T]]) -> T:
    """What `work` returns for the times and counts of a database, and its ids."""
    layout = layout_of(option)

    async def run(connection: AnyConnection) -> T:
        await _refuse_prefects_table(connection, layout)
        return await work(FlowRunStateAnalytics(connection, layout=layout.value), Lookup(connection, layout.value))

    return ask(url, run, layout=layout.value)


def ask_retention(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateRetention], Awaitable[T]]) -> T:
    """What `work` returns for what prunes a database."""
    layout = layout_of(option)

    async def run(connection: AnyConnection) -> T:
        await _refuse_prefects_table(connection, layout)
        return await work(FlowRunStateRetention(connection, layout=layout.value))

    return ask(url, run, layout=layout.value)


async def _refuse_prefects_table(connection: AnyConnection, layout: LayoutName) -> None:
    """Our layout's statements would read Prefect's table without an error, and without the data that Prefect keeps elsewhere."""
    if layout is LayoutName.FLOWSTATES:
        columns = {row["name"] for row in await ask_catalog(connection, "read_columns", "flow_run_state")}
        if columns >= set(FlowRunState.model_fields) and "transaction" not in columns:
            raise InvalidInputError("layout", "this is Prefect's table: say --layout prefect")


def end_with_nothing(what: str) -> NoReturn:
    """Ends the command with the exit code of what is not there."""
    print_error_line(f"error: {what}")
    raise typer.Exit(1)
