"""The arguments and options that commands share, and what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import asyncpg
import typer

from flowstates.analytics import FlowRunStateAnalytics
from flowstates.cli.database import ask, ask_pool, exit_codes
from flowstates.cli.ids import Id, Lookup, id_of
from flowstates.cli.render import print_error_line
from flowstates.engine.connections import AnyConnection
from flowstates.engine.connections import ask as ask_catalog
from flowstates.engine.pages import MOST_OF_A_PAGE
from flowstates.errors import InvalidInputError
from flowstates.feed import FlowRunStateFeed
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures import moments
from flowstates.pictures.moments import Moment
from flowstates.records import FlowRunState, StateType
from flowstates.repository import FlowRunStateRepository
from flowstates.retention import FlowRunStateRetention

T = TypeVar("T")


class LayoutName(StrEnum):
    """The layouts, as an option has them."""

    FLOWSTATES = "flowstates"
    PREFECT = "prefect"
    CITUS = "citus"


def _parser(read: Callable[[str], T]) -> Callable[[str], T]:
    """What typer takes as a parser, and whose complaint it prints, from what raises ValueError."""

    def parse(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


_time = _parser(moments.to_time)
age_of: Callable[[str], timedelta] = _parser(moments.to_length)
length_of: Callable[[str], timedelta] = _parser(moments.to_length_above_zero)
moment_of: Callable[[str], Moment] = _parser(moments.to_moment)


class Chosen(NamedTuple):
    """The types of an option, of which there may be several."""

    types: tuple[StateType, ...]


def type_of(text: str) -> StateType:
    """A type, in upper or lower case."""
    if text.upper() not in StateType.__members__:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(StateType)}")
    return StateType[text.upper()]


def types_of(text: str) -> Chosen:
    """Types with commas between."""
    return Chosen(tuple(type_of(word.strip()) for word in text.split(",")))


def complete_types(incomplete: str) -> list[str]:
    """What a shell may make of the last of some types, in the case that it was begun in."""
    before, comma, word = incomplete.rpartition(",")
    return [f"{before}{comma}{type_.lower() if word.islower() else type_}" for type_ in StateType if type_.startswith(word.upper())]


def all_of(chosen: Sequence[Chosen] | None) -> list[StateType] | None:
    """The types of all these options; None without any."""
    return [type_ for option in chosen for type_ in option.types] if chosen else None


def types_option(help: str) -> Any:
    """An option that is types; its annotation is `list[Chosen] | None`."""
    return typer.Option(
        "--type", parser=types_of, metavar="TYPE", help=f"{help}; may be repeated, or several with commas.", autocompletion=complete_types
    )


def time_option(help: str) -> Any:
    """An option that is a time; its annotation is `datetime | None`."""
    return typer.Option(parser=_time, metavar="TIME", help=help)


def moment_option(help: str) -> Any:
    """An option that is a time, which may be said from now; its annotation is `Moment | None`."""
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
Types: TypeAlias = Annotated[list[Chosen] | None, types_option("States of these types")]
Names: TypeAlias = Annotated[list[str] | None, typer.Option("--name", metavar="TEXT", help="States of these names; may be repeated.")]
Since: TypeAlias = Annotated[
    Moment | None, moment_option("From this time on: 2030-01-31T12:00:00Z, 2h (ago; also s, m, d, w), today or yesterday (a day of UTC).")
]
Until: TypeAlias = Annotated[Moment | None, moment_option("Up to this time, which is not included.")]
Terminal: TypeAlias = Annotated[
    bool | None, typer.Option("--terminal/--open", help="States that end a run, COMPLETED, FAILED, CANCELLED and CRASHED, or the others.")
]
Step: TypeAlias = Annotated[
    timedelta | None, typer.Option(parser=length_of, metavar="STEP", help="Such as 30s, 15m, 1h30m, 1d or 1w; 1h if left out.")
]


def filter_of(**fields: Any) -> FlowRunStateFilter:
    """The filter of the options; one that was not given, or given no value, is not in it."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {field: value.at(now) if isinstance(value, Moment) else value for field, value in fields.items()}
    with exit_codes():
        return FlowRunStateFilter(**{field: value for field, value in values.items() if value not in (None, [])})


async def with_ids(filter: FlowRunStateFilter, lookup: Lookup, run_ids: Sequence[Id] | None, ids: Sequence[Id] | None = None) -> FlowRunStateFilter:
    """The filter with the runs and states that were meant; where none were given, with all."""
    found = {"flow_run_ids": tuple(await lookup.runs(run_ids)), "ids": tuple(await lookup.states(ids))}
    return filter.model_copy(update={field: ids for field, ids in found.items() if ids})


def window_of(since: Moment | None, until: Moment | None, length: timedelta, *, step: timedelta | None = None) -> tuple[datetime, datetime]:
    """A window that ends now and is `length` long, where the options do not say otherwise.

    With `step` it begins on a whole one, if no time was given for that: also where it is so long ago that it begins, and now that it ends.
    """
    now = datetime.now(UTC)
    with exit_codes():
        try:
            # In UTC, as all that is printed.
            end = now if until is None else until.at(now).astimezone(UTC)
            begin = end - length if since is None else since.at(now).astimezone(UTC)
            if step and (since is None or (since.time is None and until is None)):
                # From a Monday on, so that a step of a week begins with one.
                begin -= (begin - datetime.min.replace(tzinfo=UTC)) % step
            return begin, end
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
        await refuse_others_tables(connection, layout)
        return await work(FlowRunStateRepository(connection, layout=layout.value), Lookup(connection, layout.value))

    return ask(url, run, layout=layout.value)


def ask_analytics(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateAnalytics, Lookup], Awaitable[T]]) -> T:
    """What `work` returns for the times and counts of a database, and its ids."""
    layout = layout_of(option)

    async def run(connection: AnyConnection) -> T:
        await refuse_others_tables(connection, layout)
        return await work(FlowRunStateAnalytics(connection, layout=layout.value), Lookup(connection, layout.value))

    return ask(url, run, layout=layout.value)


def ask_retention(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateRetention], Awaitable[T]]) -> T:
    """What `work` returns for what prunes a database."""
    layout = layout_of(option)

    async def run(connection: AnyConnection) -> T:
        await refuse_others_tables(connection, layout)
        return await work(FlowRunStateRetention(connection, layout=layout.value))

    return ask(url, run, layout=layout.value)


def ask_feed(url: str | None, option: LayoutName | None, work: Callable[[FlowRunStateFeed], Awaitable[T]]) -> T:
    """What `work` returns for the feed of a database."""
    layout = layout_of(option)

    async def run(pool: asyncpg.Pool) -> T:
        async with pool.acquire() as connection:
            await refuse_others_tables(connection, layout)
        return await work(FlowRunStateFeed(pool, layout=layout.value))

    return ask_pool(url, run, layout=layout.value)


async def refuse_others_tables(connection: AnyConnection, layout: LayoutName) -> None:
    """Our layout's statements would read Prefect's table without an error, and without the data that Prefect keeps elsewhere; and most of them one on
    Citus."""
    if layout is LayoutName.PREFECT:
        return
    columns = {row["name"]: row["filler"] for row in await ask_catalog(connection, "read_columns", "flow_run_state")}
    if not columns.keys() >= set(FlowRunState.model_fields) or "transaction" in columns:
        return
    if (columns["updated"] or "").startswith("generated"):
        if layout is LayoutName.FLOWSTATES:
            raise InvalidInputError("layout", "these tables are on Citus: say --layout citus")
    else:
        raise InvalidInputError("layout", "this is Prefect's table: say --layout prefect")


def end_with_nothing(what: str) -> NoReturn:
    """Ends the command with the exit code of what is not there."""
    print_error_line(f"error: {what}")
    raise typer.Exit(1)
