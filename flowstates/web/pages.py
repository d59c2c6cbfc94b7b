"""The two pages, each one document of HTML that needs nothing from elsewhere."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse, Response

from flowstates.analytics import FlowRunStateAnalytics, StateCount
from flowstates.engine.rows import UnreadableRow
from flowstates.errors import InvalidInputError, UnreadableRowError
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures.marks import LOOKS, mark_of
from flowstates.pictures.stack import highest, occupancy_svg
from flowstates.pictures.svg import TIMELINE_STYLE, strip_svg, timeline_svg
from flowstates.pictures.text import cut, escape, first_line
from flowstates.pictures.times import ago, clock, relative, spent_text, summary, times_spent
from flowstates.records import FlowRunState, StateDetails, StateType
from flowstates.repository import FlowRunStateRepository
from flowstates.values import counted
from flowstates.web.asking import AskedRuns
from flowstates.web.bodies import PATIENCE
from flowstates.web.reading import Items, id_of, read_history, read_runs

RUNS_OF_A_PAGE = 50
STATES_OF_A_RUN = 100
MOST_STATES_OF_A_RUN = 1_000
STATES_OF_A_CHART = 50
POLL = 2  # seconds between two looks at a run that has not ended

_A_DAY = timedelta(days=1)
_STEP = timedelta(minutes=15)
_QUARTERS = 4  # of the chart, each with its time
_PATIENCE_FOR_A_CHART = 10.0  # seconds; the page comes without it then
_MOST_OF_A_TEXT = 20_000  # characters, of a message or of data
_MOST_OF_ALL_TEXTS = 2_000_000  # characters; a page of many states cuts each shorter

_FOLDER = Path(__file__).parent / "templates"
_TEMPLATES = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _style() -> str:
    light = "".join(f".{type_} {{ --type: {look.light}; }}\n" for type_, look in LOOKS.items())
    dark = "".join(f".{type_} {{ --type: {look.dark}; }}\n" for type_, look in LOOKS.items())
    return f"{(_FOLDER / 'style.css').read_text()}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_STYLE = _style()
_SCRIPT = (_FOLDER / "live.js").read_text()
_TEMPLATES.globals |= {"style": Markup(_STYLE), "script": Markup(_SCRIPT), "mark_of": mark_of, "types": tuple(StateType), "poll": POLL}  # noqa: S704  # our own files
_HEADERS = {
    # What is no text of ours does not run and does not style, wherever it would stand.
    "Content-Security-Policy": f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)} {_hash(TIMELINE_STYLE)}; img-src data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


async def runs(states: FlowRunStateRepository, query: QueryParams, now: datetime) -> Response:
    """The page of runs: how many are in each type, what the last day was like, and those that are asked for.

    What cannot be asked for stays in the form, with what is wrong beside it.
    """
    page, wrong = Items([], None, None), None
    try:
        try:
            asked = AskedRuns.of(query, now)
            page = await read_runs(states, asked.filter(), asked.cursor, limit=RUNS_OF_A_PAGE)
        except InvalidInputError as error:
            asked, wrong = AskedRuns.as_typed(query), error
        analytics = _analytics(states)
        counts, why = await _counts(analytics)
    except (UnreadableRowError, TimeoutError) as error:
        return _of_an_error(error, back="?")
    return _page(
        "runs.html",
        200 if wrong is None else 422,
        now=clock(now),
        chart=await _occupancy(analytics, now),
        counts=counts,
        no_counts=why,
        asked=asked,
        wrong=None if wrong is None else {"field": wrong.field, "message": escape(wrong.message)},
        since=_as_typed(query.get("since", ""), asked.since),
        until=_as_typed(query.get("until", ""), asked.until),
        rows=[_row_of_run(item, now) for item in page.items],
        has_unreadable=any(isinstance(item, UnreadableRow) for item in page.items),
        next=asked.link(page.next) if page.next else None,
        previous=asked.link(page.previous) if page.previous else None,
        first=asked.link(None) if asked.cursor else None,
    )


async def run(states: FlowRunStateRepository, run_id: UUID, query: QueryParams, now: datetime) -> Response:
    """The page of a run: its history as a chart and as a table. With `seen`, the id of a state, nothing if that is the run's newest still."""
    try:
        last, seen = _number(query.get("last", "")), query.get("seen")
        if seen:
            newest = await read_history(states, run_id, last=1)
            if newest and id_of(newest[0]) == seen:
                return Response(status_code=204, headers=_HEADERS)
        items = await read_history(states, run_id, last=last)
        if not items:
            return _page("error.html", 404, title="No such run", message=f"There is no state of run {run_id}.", back="../")
        is_whole = len(items) < last
        count = len(items) if is_whole else await states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[run_id]), timeout=PATIENCE)
    except (InvalidInputError, UnreadableRowError, TimeoutError) as error:
        return _of_an_error(error, back="../")
    history = [item for item in items if isinstance(item, FlowRunState)]
    return _page(
        "run.html",
        now=clock(now),
        run_id=str(run_id),
        state=_state_now(items[-1], now),
        summary=_summary(history, count, len(items), now),
        chart=_chart(history, now),
        rows=_rows_of_states(items, history, now),
        has_unreadable=len(history) < len(items),
        count=count,
        more=min(count, MOST_STATES_OF_A_RUN) if count > len(items) and last < MOST_STATES_OF_A_RUN else None,
    )


def refused(error: InvalidInputError, back: str) -> Response:
    """The page that says that something cannot be asked for."""
    return _of_an_error(error, back=back)


def failed(status: int, message: str, back: str) -> Response:
    """The page that says that the database did not answer the question."""
    return _page("error.html", status, title="No answer", message=escape(message), back=back)


def _state_now(item: FlowRunState | UnreadableRow, now: datetime) -> dict[str, Any]:
    """What the head of a run's page says of its newest state."""
    type_ = _type(item)
    shown = {"id": id_of(item), "type": type_, "is_open": type_ is None or not type_.is_terminal, "since": _time(item, "seconds")}
    if isinstance(item, UnreadableRow):
        return shown | {"name": "", "message": _unreadable(item), "since_iso": "", "ago": ""}
    return shown | {
        "name": cut(_name(item)),
        "message": first_line(item.message),
        "since_iso": _iso(item.timestamp),
        "ago": relative(item.timestamp, now),
    }


def _summary(history: list[FlowRunState], count: int, shown: int, now: datetime) -> str:
    if len(history) == count:
        return summary(history, now)
    unreadable = f", of which {shown - len(history):,} cannot be read" if len(history) < shown else ""
    return f"{counted(count, 'state')}{f'; here are the newest {shown:,}' if shown < count else ''}{unreadable}."


def _chart(history: list[FlowRunState], now: datetime) -> dict[str, Any] | None:
    """What the chart of a run is made of; None where nothing of it can be read."""
    if not history:
        return None
    drawn, newest = history[-STATES_OF_A_CHART:], history[-1]
    return {
        "wide": Markup(timeline_svg(drawn, now=now)),  # noqa: S704  # made by ElementTree, which escapes
        "narrow": Markup(strip_svg(drawn, now=now)),  # noqa: S704
        "states": len(drawn),
        "is_whole": len(drawn) == len(history),
        "since": clock(drawn[0].timestamp, "minutes"),
        "until": clock(newest.timestamp if newest.type.is_terminal else max(now, newest.timestamp), "minutes"),
        "age": max(timedelta(), now - newest.timestamp).total_seconds(),
    }


def _rows_of_states(items: list[FlowRunState | UnreadableRow], history: list[FlowRunState], now: datetime) -> list[dict[str, Any]]:
    times = iter(times_spent(history, now) if history else [])
    most = min(_MOST_OF_A_TEXT, _MOST_OF_ALL_TEXTS // (3 * len(items)))
    rows: list[dict[str, Any]] = []
    for item, after in zip(items, [*items[1:], None], strict=True):
        if isinstance(item, UnreadableRow):
            rows.append({"id": id_of(item), "type": _type(item), "began": _time(item, "milliseconds"), "unreadable": _unreadable(item)})
            continue
        time = next(times)
        # How long it took is not known where what came next has no time.
        rows.append(_row_of_state(item, "" if isinstance(after, UnreadableRow) else spent_text(time, item, history[-1]), most))
    return rows


async def _counts(analytics: FlowRunStateAnalytics) -> tuple[dict[StateType, int] | None, str]:
    """How many runs are in each type; None where that cannot be counted, and why."""
    try:
        return (await analytics.count_current(timeout=PATIENCE)).counts, ""
    except UnreadableRowError as error:
        return None, f"They cannot be counted: {escape(str(error))}"


def _analytics(states: FlowRunStateRepository) -> FlowRunStateAnalytics:
    execution = states._execution
    return FlowRunStateAnalytics(execution._pool_or_connection, layout=execution.layout)


async def _occupancy(analytics: FlowRunStateAnalytics, now: datetime) -> dict[str, Any]:
    """What the chart of the last day is made of; without `svg` where it cannot be had, which says `why`."""
    # Not at whole quarters: the last look is now, so that a first run shows at once.
    begin, end = now - _A_DAY, now + timedelta(microseconds=1)
    try:
        counts = await analytics.count_occupancy(since=begin, until=end, step=_STEP, timeout=_PATIENCE_FOR_A_CHART)
    except TimeoutError:
        return {"svg": None, "why": f"The chart is left out: the database took more than {_PATIENCE_FOR_A_CHART:.0f} seconds for it."}
    except UnreadableRowError as error:
        return {"svg": None, "why": f"The chart is left out: {error}"}
    quarters = [begin + number * _A_DAY / _QUARTERS for number in range(_QUARTERS)]
    return {
        "svg": Markup(occupancy_svg(counts)),  # noqa: S704  # made by ElementTree, which escapes
        "most": highest(counts),
        "is_empty": not any(any(count.counts.values()) for count in counts),
        "times": [clock(time, "minutes")[11:] for time in quarters],
        "types": [type_ for type_ in StateType if any(count.counts.get(type_) for count in counts)],
        "hours": [_hour(count) for count in counts[:: timedelta(hours=1) // _STEP]],
    }


def _hour(count: StateCount) -> tuple[str, dict[StateType, int]]:
    return clock(count.at, "minutes"), count.counts


def _row_of_run(item: FlowRunState | UnreadableRow, now: datetime) -> dict[str, Any]:
    if isinstance(item, UnreadableRow):
        return {
            "id": item.flow_run_id,
            "type": _type(item),
            "since": _time(item, "seconds"),
            "state_id": id_of(item),
            "unreadable": _unreadable(item),
        }
    return {
        "id": str(item.flow_run_id),
        "type": item.type,
        "name": cut(_name(item)),
        "since": clock(item.timestamp),
        "since_iso": _iso(item.timestamp),
        "ago": ago(item.timestamp, now),
        "message": first_line(item.message),
    }


def _type(item: FlowRunState | UnreadableRow) -> StateType | None:
    """The type; None for one that this version does not know."""
    return StateType(item.type) if item.type in list(StateType) else None


def _time(item: FlowRunState | UnreadableRow, precision: Literal["seconds", "milliseconds"]) -> str:
    """When a state began; of one that cannot be read what is stored, where a datetime cannot hold it."""
    if isinstance(item, FlowRunState):
        return clock(item.timestamp, precision)
    try:
        return clock(datetime.fromisoformat(f"{item.timestamp}Z"), precision)
    except ValueError:
        return escape(item.timestamp)


def _unreadable(row: UnreadableRow) -> str:
    return f"cannot be read: {row.error.field}: {first_line(row.error.message)}"


def _row_of_state(state: FlowRunState, spent: str, most: int) -> dict[str, Any]:
    line, name = first_line(state.message), cut(state.name)
    return {
        "id": str(state.id),
        "type": state.type,
        "name": name,
        "whole_name": None if name == escape(state.name) else _whole(state.name, most),
        "began": clock(state.timestamp, "milliseconds"),
        "began_iso": _iso(state.timestamp),
        "spent": spent,
        "line": line,
        "message": None if state.message is None or state.message == line else _whole(state.message, most),
        "details": _whole(_details(state.state_details), most),
        "data": None if state.data is None else _whole(_json(state.data), most),
        "created": clock(state.created, "microseconds"),
        "artifact": state.result_artifact_id and str(state.result_artifact_id),
    }


def _name(state: FlowRunState) -> str:
    """A state's name where it says more than its type."""
    return "" if state.name.upper() == state.type else state.name


def _details(details: StateDetails) -> str:
    """Details that differ from their defaults, as JSON; nothing for none."""
    unknown = details.model_extra or {}
    # What is under unknown keys is as it was stored, also what Pydantic would not write.
    given = details.model_dump(mode="json", exclude_defaults=True, exclude=set(unknown)) | unknown
    return _json(given) if given else ""


def _json(value: object) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to be shown)"


def _whole(text: str, most: int) -> str:
    """A text of several lines that a page can hold; a very long one is cut, and says so."""
    lines = "\n".join(map(escape, text[:most].split("\n")))
    return lines if len(text) <= most else f"{lines}\n... and {len(text) - most:,} more characters"


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _as_typed(text: str, time: datetime | None) -> str:
    """What a field of the form holds: the words that were typed, or the time to the second."""
    return text if time is None or len(text) < len("2030-01-31T12:00:00Z") else _iso(time)


def _number(text: str) -> int:
    if not text:
        return STATES_OF_A_RUN
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST_STATES_OF_A_RUN):
        raise InvalidInputError("last", f"is {text[:80]!r}, not a number from 1 to {MOST_STATES_OF_A_RUN:,}")
    return int(text)


def _of_an_error(error: InvalidInputError | UnreadableRowError | TimeoutError, *, back: str) -> Response:
    match error:
        case InvalidInputError():
            return _page("error.html", 422, title="That cannot be asked for", message=escape(str(error)), back=back)
        case UnreadableRowError():
            return _page(
                "error.html",
                500,
                title="A stored row cannot be read",
                message=f"{escape(str(error))}. `flowstates check --data` names all of them.",
                back=back,
            )
        case _:
            message = f"The database did not answer in {PATIENCE:.0f} seconds. Try again later, or ask for less."
            return _page("error.html", 503, title="No answer", message=message, back=back)


def _page(template: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status, _HEADERS)
