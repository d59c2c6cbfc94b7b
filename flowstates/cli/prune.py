"""The command that deletes old runs, or thins their histories."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowstates.cli.database import exit_codes
from flowstates.cli.options import (
    Chosen,
    DatabaseUrl,
    Json,
    LayoutOption,
    age_of,
    all_of,
    ask_retention,
    end_with_nothing,
    length_of,
    types_option,
)
from flowstates.cli.render import json_time, print_error_line, print_json_lines, print_line
from flowstates.cli.terminal import can_ask, confirm
from flowstates.engine.policies import Keep, PruneReport
from flowstates.errors import InvalidInputError
from flowstates.records import StateType
from flowstates.retention import FlowRunStateRetention
from flowstates.values import counted

MORE_TO_DO = 4  # the exit code
_FAILED = (StateType.FAILED, StateType.CRASHED)
_WHY = {
    "type": "not of a type that was asked for",
    "young": "not old enough",
    "kept": "thinned",
    "held": "held by a constraint, or unfit for the archive",
    "passed": "locked or changed while the pass came by",
    "ahead": "the pass has not come to it",
}
_NOTHING = PruneReport(0, 0, 0, 0, 0, {}, None, True, None)


def prune(
    older_than: Annotated[
        timedelta, typer.Option(parser=age_of, metavar="LENGTH", help="Runs whose last state is older than this, such as 12h, 90d or 52w.")
    ],
    keep_failed: Annotated[
        timedelta | None, typer.Option(parser=age_of, metavar="LENGTH", help="Another length for runs that ended FAILED or CRASHED.")
    ] = None,
    types: Annotated[list[Chosen] | None, types_option("Runs whose last state is of these types, terminal ones if left out")] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="What stays of a run's history beside its current state: first, last, last:N, or types, with commas between; or none."
            " Without this option runs go whole.",
        ),
    ] = None,
    keep_names: Annotated[
        list[str] | None, typer.Option("--keep-name", metavar="TEXT", help="States of these names stay too, with --keep; may be repeated.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Add what goes to this file, for `import`; .gz and .zst are compressed.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go, and change nothing.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="States of a transaction.")] = 5_000,
    max_batches: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many batches.")] = None,
    pause: Annotated[timedelta | None, typer.Option(parser=length_of, metavar="LENGTH", help="Between two batches, such as 200ms.")] = None,
    max_lag: Annotated[
        timedelta | None, typer.Option(parser=length_of, metavar="LENGTH", help="Wait while a standby is behind by more, such as 30s.")
    ] = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Of Prefect's histories also states that hold results, and the results.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database_url: DatabaseUrl = None,
    layout: LayoutOption = None,
    json: Json = False,
) -> None:
    """Delete old runs, or with --keep what of their histories is not to stay.

    Exit code 4 if there is more to do. On a terminal it first shows what would go, and asks; elsewhere say --yes. Broken off, begin again.
    """
    with exit_codes():
        policies = _policies(older_than, keep_failed, all_of(types), _keep(keep, keep_names), artifacts)
        is_asked = not (yes or dry_run)
        if is_asked and not can_ask():
            raise InvalidInputError("--yes", "is needed where nobody can be asked; --dry-run shows what would go")
    pace = {"batch_size": batch_size, "max_batches": max_batches}

    def passes(**how: Any) -> PruneReport:
        return ask_retention(database_url, layout, _Passes(policies, how).run)

    if dry_run:
        _end(passes(**pace, dry_run=True), "would go", json)
        return
    expected: PruneReport | None = None
    if is_asked:
        expected = passes(**pace, dry_run=True)
        print_error_line(_text(expected, "would go"))
        if expected.runs and not confirm("delete?"):
            end_with_nothing("nothing is deleted")
    how = pace | {"archive": archive, "pause": pause.total_seconds() if pause else 0.0, "max_lag": max_lag.total_seconds() if max_lag else None}
    with _progress(expected, quiet=json) as on_batch:
        report = passes(**how, on_batch=on_batch)
    _end(report, "deleted", json)


@dataclass
class _Passes:
    """A pass a policy, one after another, as if they were one."""

    policies: list[dict[str, Any]]
    how: dict[str, Any]

    async def run(self, retention: FlowRunStateRetention) -> PruneReport:
        total, on_batch, most = _NOTHING, self.how.get("on_batch"), self.how["max_batches"]
        for policy in self.policies:
            if total.batches == most:
                left = await retention.prune(**policy, batch_size=1, max_batches=1, dry_run=True)
                total = total._replace(is_done=total.is_done and left.is_done and not left.runs)
                continue
            limit = {"max_batches": None if most is None else most - total.batches}
            if on_batch is not None:
                limit["on_batch"] = lambda report, before=total: on_batch(_sum(before, report))
            total = _sum(total, await retention.prune(**policy, **self.how | limit))
        return total


def _sum(first: PruneReport, second: PruneReport) -> PruneReport:
    held = {name: first.held.get(name, 0) + second.held.get(name, 0) for name in {**first.held, **second.held}}
    size = None if first.bytes is None or second.bytes is None else first.bytes + second.bytes
    counts = first.runs + second.runs, first.states + second.states, size, first.batches + second.batches, first.passed + second.passed
    return PruneReport(*counts, held, None, first.is_done and second.is_done, second.oldest)


def _policies(
    older_than: timedelta, keep_failed: timedelta | None, types: list[StateType] | None, keep: Keep | None, artifacts: bool
) -> list[dict[str, Any]]:
    asked = types or [type_ for type_ in StateType if type_.is_terminal]
    ages = {older_than: asked}
    if keep_failed is not None and keep_failed != older_than:
        ages = {older_than: [type_ for type_ in asked if type_ not in _FAILED], keep_failed: [type_ for type_ in asked if type_ in _FAILED]}
    return [{"older_than": age, "types": of_age, "keep": keep, "artifacts": artifacts} for age, of_age in ages.items() if of_age]


def _keep(text: str | None, names: list[str] | None) -> Keep | None:
    if text is None:
        if names:
            raise InvalidInputError("--keep-name", "goes with --keep")
        return None
    fields: dict[str, Any] = {"types": []}
    for word in text.split(","):
        kind, _, count = word.strip().partition(":")
        if kind == "last" and count.isdecimal() and len(count) < 10:
            fields["newest"] = int(count)
        elif kind in ("first", "last") and not count:
            fields[kind] = True
        elif kind.upper() in StateType.__members__ and not count:
            fields["types"].append(kind.upper())
        elif text != "none":
            raise InvalidInputError("--keep", f"{word!r} is not first, last, last:N or a state type")
    return Keep(**fields, names=names or ())


@contextmanager
def _progress(expected: PruneReport | None, *, quiet: bool) -> Iterator[Callable[[PruneReport], None] | None]:
    """A bar on stderr if that is a terminal, else a line a batch."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield lambda report: print_error_line(f"batch {report.batches}: {_counts(report)} so far")
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=expected.states if expected else None)
            yield lambda report: progress.update(task, completed=report.states, description=_counts(report))


def _counts(report: PruneReport) -> str:
    return f"{counted(report.states, 'state')} of {counted(report.runs, 'run')}"


def _text(report: PruneReport, what: str) -> str:
    size = "" if report.bytes is None else f", {_size(report.bytes)} of rows"
    return f"{what}: {_counts(report)}{size}"


def _size(number: int) -> str:
    for unit, power in (("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{number / 2**power:,.1f} {unit}"
    return counted(number, "byte")


def _end(report: PruneReport, what: str, json: bool) -> None:
    if json:
        print_json_lines([json_format.dumps(_values(report))])
    else:
        print_line(_text(report, what))
        if report.passed:
            print_line(f"left for the next pass, as they were locked or changed meanwhile: {counted(report.passed, 'run')}")
        for name, runs in sorted(report.held.items()):
            why = "cannot be written into the archive" if name == "archive" else f"held by the constraint {name}"
            print_line(f"{why}: {counted(runs, 'run')}")
        if report.oldest is not None:
            oldest = report.oldest
            print_line(f"the oldest run: {oldest.flow_run_id}, {oldest.type} since {json_time(oldest.timestamp)}, {_WHY[oldest.why]}")
        if not report.is_done:
            print_line("there is more to do")
    if not report.is_done:
        raise typer.Exit(MORE_TO_DO)


def _values(report: PruneReport) -> dict[str, Any]:
    oldest = report.oldest
    shown = None if oldest is None else {"flow_run_id": str(oldest.flow_run_id), "type": oldest.type, "timestamp": json_time(oldest.timestamp)}
    values = {field: value for field, value in report._asdict().items() if field != "cursor"}
    return values | {"oldest": shown if oldest is None or shown is None else shown | {"why": oldest.why}}
