"""The two pages, each one document of HTML that needs nothing from elsewhere."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import QueryParams
from starlette.responses import HTMLResponse, Response

from flowstates.analytics import FlowRunStateAnalytics, StateCount
from flowstates.errors import InvalidInputError, UnreadableRowError
from flowstates.filters import FlowRunStateFilter
from flowstates.pictures.marks import LOOKS, mark_of
from flowstates.pictures.stack import highest, occupancy_svg
from flowstates.pictures.svg import TIMELINE_STYLE, strip_svg, timeline_svg
from flowstates.pictures.text import counted, escape, first_line
from flowstates.pictures.times import ago, clock, relative, spent_text, summary, times_spent
from flowstates.records import FlowRunState, StateDetails, StateType
from flowstates.repository import FlowRunStateRepository
from flowstates.web.asking import AskedRuns
from flowstates.web.bodies import PATIENCE

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
_TEMPLATES.globals |= {"style": Markup(_STYLE), "script": Markup(_SCRIPT), "mark_of": mark_of, "poll": POLL}  # noqa: S704  # our own files
_HEADERS = {
    # What is no text of ours does not run and does not style, wherever it would stand.
    "Content-Security-Policy": f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)} {_hash(TIMELINE_STYLE)}; img-src data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


async def runs(states: FlowRunStateRepository, query: QueryParams, now: datetime) -> Response:
    """The page of runs: how many are in each type, what the last day was like, and those that are asked for."""
    try:
        asked = AskedRuns.of(query, now)
        filter = asked.filter()
        page = await states.read_flow_run_state_page(
            filter, limit=RUNS_OF_A_PAGE, order="time", newest_first=True, cursor=asked.cursor, timeout=PATIENCE
        )
        analytics = _analytics(states)
        counts = (await analytics.count_current(timeout=PATIENCE)).counts
    except (InvalidInputError, UnreadableRowError, TimeoutError) as error:
        return _of_an_error(error, back="?")
    return _page(
        "runs.html",
        now=clock(now),
        chart=await _occupancy(analytics, now),
        counts=counts,
        whole=sum(counts.values()),
        asked=asked,
        since=_as_typed(query.get("since", ""), asked.since),
        until=_as_typed(query.get("until", ""), asked.until),
        rows=[_row_of_run(state, now) for state in page.states],
        next=asked.link(page.next) if page.next else None,
        previous=asked.link(page.previous) if page.previous else None,
        first=asked.link(None) if asked.cursor else None,
    )


async def run(states: FlowRunStateRepository, run_id: UUID, query: QueryParams, now: datetime) -> Response:
    """The page of a run: its history as a chart and as a table. With `seen`, the id of a state, nothing if that is the run's newest still."""
    try:
        last, seen = _number(query.get("last", "")), query.get("seen")
        if seen:
            newest = await states.read_flow_run_states_by_run([run_id], last=1, timeout=PATIENCE)
            if run_id in newest and str(newest[run_id][0].id) == seen:
                return Response(status_code=204, headers=_HEADERS)
        found = await states.read_flow_run_states_by_run([run_id], last=last, timeout=PATIENCE)
        if run_id not in found:
            return _page("error.html", 404, title="No such run", message=f"There is no state of run {run_id}.", back="../")
        history = found[run_id]
        is_whole = len(history) < last
        count = len(history) if is_whole else await states.count_flow_run_states(FlowRunStateFilter(flow_run_ids=[run_id]), timeout=PATIENCE)
    except (InvalidInputError, UnreadableRowError, TimeoutError) as error:
        return _of_an_error(error, back="../")
    newest_state, drawn = history[-1], history[-STATES_OF_A_CHART:]
    spent = times_spent(history, now)
    return _page(
        "run.html",
        now=clock(now),
        run_id=str(run_id),
        state=newest_state,
        name=escape(newest_state.name),
        message=first_line(newest_state.message),
        since=clock(newest_state.timestamp),
        since_iso=_iso(newest_state.timestamp),
        ago=relative(newest_state.timestamp, now),
        summary=summary(history, now) if count == len(history) else f"{counted(count, 'state')}; here are the newest {len(history):,}.",
        age=sum(spent, timedelta()).total_seconds(),
        chart=Markup(timeline_svg(drawn, now=now)),  # noqa: S704  # made by ElementTree, which escapes
        strip=Markup(strip_svg(drawn, now=now)),  # noqa: S704
        drawn=len(drawn),
        drawn_since=clock(drawn[0].timestamp, "minutes"),
        drawn_until=clock(newest_state.timestamp if newest_state.type.is_terminal else max(now, newest_state.timestamp), "minutes"),
        rows=[_row_of_state(state, spent_text(time, state, newest_state)) for state, time in zip(history, spent, strict=True)],
        count=count,
        more=min(count, MOST_STATES_OF_A_RUN) if count > len(history) and last < MOST_STATES_OF_A_RUN else None,
    )


def _analytics(states: FlowRunStateRepository) -> FlowRunStateAnalytics:
    execution = states._execution
    return FlowRunStateAnalytics(execution._pool_or_connection, layout=execution.layout)


async def _occupancy(analytics: FlowRunStateAnalytics, now: datetime) -> dict[str, Any]:
    """What the chart of the last day is made of; without `svg` where it cannot be had, which says `why`."""
    begin = now - _A_DAY
    begin -= timedelta(minutes=begin.minute % 15, seconds=begin.second, microseconds=begin.microsecond)
    try:
        counts = await analytics.count_occupancy(since=begin, until=now, step=_STEP, timeout=_PATIENCE_FOR_A_CHART)
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


def _row_of_run(state: FlowRunState, now: datetime) -> dict[str, Any]:
    return {
        "id": str(state.flow_run_id),
        "type": state.type,
        "name": _name(state),
        "since": clock(state.timestamp),
        "since_iso": _iso(state.timestamp),
        "ago": ago(state.timestamp, now),
        "message": first_line(state.message),
    }


def _row_of_state(state: FlowRunState, spent: str) -> dict[str, Any]:
    line = first_line(state.message)
    return {
        "id": str(state.id),
        "type": state.type,
        "name": escape(state.name),
        "began": clock(state.timestamp, "milliseconds"),
        "began_iso": _iso(state.timestamp),
        "spent": spent,
        "line": line,
        "message": None if state.message is None or state.message == line else _whole(state.message),
        "details": _whole(_details(state.state_details)),
        "data": None if state.data is None else _whole(_json(state.data)),
        "created": clock(state.created, "microseconds"),
        "artifact": state.result_artifact_id and str(state.result_artifact_id),
    }


def _name(state: FlowRunState) -> str:
    """A state's name where it says more than its type."""
    return "" if state.name.upper() == state.type else escape(state.name)


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


def _whole(text: str) -> str:
    """A text of several lines that a page can hold; a very long one is cut, and says so."""
    lines = "\n".join(map(escape, text[:_MOST_OF_A_TEXT].split("\n")))
    return lines if len(text) <= _MOST_OF_A_TEXT else f"{lines}\n... and {len(text) - _MOST_OF_A_TEXT:,} more characters"


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
            return _page("error.html", 500, title="A stored row cannot be read", message=escape(str(error)), back=back)
        case _:
            message = f"The database did not answer in {PATIENCE:.0f} seconds. Try again later, or ask for less."
            return _page("error.html", 503, title="No answer", message=message, back=back)


def _page(template: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status, _HEADERS)
