"""Histories that stay bounded: old runs go, or what of them nobody asks for any more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction

from flowstates.engine.archives import archiving
from flowstates.engine.connections import PoolOrConnection, ask
from flowstates.engine.distributed_pruning import DistributedPass
from flowstates.engine.execution import Execution
from flowstates.engine.policies import Keep, OldestRun, Pace, Policy, PruneReport
from flowstates.engine.pruning import Pass
from flowstates.engine.rows import time_of
from flowstates.errors import FlowStatesError, InvalidInputError, ReadOnlyLayoutError
from flowstates.records import FlowRunState, StateType, TypeName, to_type
from flowstates.values import Layout, flag, kind_of, seconds, shown, utc_time

__all__ = ["FlowRunStateRetention", "Keep", "OldestRun", "PruneReport"]

_MOST_OF_A_BATCH = 100_000
_MOST_SECONDS = 10**9


class FlowRunStateRetention:
    """Deletes old runs, or thins their histories, on a pool or a connection that stays the caller's. `layout` says whose tables they are.

    A session of SQLAlchemy's has all batches of a pass in its one transaction. Where each is to be committed by itself, it takes a pool.
    """

    def __init__(self, pool_or_connection: PoolOrConnection, *, layout: Layout = "flowstates") -> None:
        self._execution = Execution(pool_or_connection, layout)

    async def prune(
        self,
        *,
        older_than: timedelta | None = None,
        before: datetime | None = None,
        types: Iterable[StateType | TypeName] | None = None,
        keep: Keep | None = None,
        batch_size: int = 5_000,
        max_batches: int | None = None,
        pause: float = 0.0,
        archive: str | os.PathLike[str] | Callable[[list[FlowRunState]], Awaitable[object]] | None = None,
        dry_run: bool = False,
        cursor: str | None = None,
        artifacts: bool = False,
        max_lag: float | None = None,
        on_batch: Callable[[PruneReport], object] | None = None,
        timeout: float | None = None,
    ) -> PruneReport:
        """One pass over the runs whose last state is of `types`, terminal by default, and is old: `older_than` a length, by the server's clock, or
        from `before` a time.

        Such a run goes whole; with `keep` its history is thinned, and its current state and what `keep` names stay. A pass looks at a run once. It
        deletes in batches of about `batch_size` states, at least one run each, and each batch is a transaction of its own, or a savepoint of the
        caller's. So it can be broken off at any moment and begun again, and two passes at once do not hurt each other. A run that is locked, or was
        changed since the batch began, is passed by; in a transaction of the caller's at REPEATABLE READ and above one that was changed since that
        began is a SerializationError. A run stays, and is counted, that a foreign key or another constraint holds, or of which a state is unfit for
        the archive, as nobody could read it there. A key that is checked at the end of the transaction is seen where the batch has its own.

        `max_batches` ends the pass early; `cursor` goes on where a report with the same policy ended. `pause`, in seconds, is between batches. One
        that takes longer than the session's statement_timeout or lock_timeout is undone and tried with half the size, down to one run; then the
        server's error is raised.

        `archive` gets what a batch deletes before its transaction commits: an async function a list of states, a file of that name JSON Lines that
        `flowstates import` reads (compressed if it ends in .gz or, from Python 3.14 on, .zst), which are on the disk before the commit. After a break
        a batch may be there twice. The function must not wait for the connection that the pass holds; what it raises undoes the batch and ends the
        pass. An archived batch is of 8 MB of text or of one run: the first one is small, as nobody knows yet.

        `dry_run` counts by the same walk and changes nothing. `max_lag` waits, before each batch, while a standby is behind by more seconds; it takes
        the rights of pg_read_all_stats. `on_batch` gets the report so far after each batch that deleted something. `timeout` is in seconds, for all
        of it.

        On Prefect's tables `keep` is required and `types` are terminal; a run's age is that of its `end_time` or, without one, its `state_timestamp`.
        What `flow_run.state_id` names stays, and so does a state that holds a result, unless `artifacts` is true: then its result goes too, if
        nothing else names it. It reads the rows of all runs, as Prefect has no index for this. Without `keep` it raises ReadOnlyLayoutError.

        On the layout `citus` whole runs go: `keep` and `max_lag` are refused. A batch has a statement more for each of its runs.

        On our own tables a pass reads what it deletes; with `keep` also the histories of all runs that are old enough, thinned before or not.
        """
        timeout, dry_run = seconds(timeout), flag("dry_run", dry_run)
        policy = self._policy(types, keep, artifacts)
        if self._execution.layout == "citus" and max_lag is not None:
            raise InvalidInputError("max_lag", "is not for the layout citus: on Citus the standbys of the workers are not seen from the coordinator")
        pace = _pace(batch_size, max_batches, pause, max_lag)
        _check_age(older_than, before)
        if cursor is not None and not isinstance(cursor, str):
            raise InvalidInputError("cursor", f"is {kind_of(cursor)}, not a cursor")
        if not (archive is None or callable(archive) or isinstance(archive, str | os.PathLike)):
            raise InvalidInputError("archive", f"is {kind_of(archive)}, not the name of a file or an async function")
        if on_batch is not None and (not callable(on_batch) or iscoroutinefunction(on_batch)):
            raise InvalidInputError("on_batch", f"is {kind_of(on_batch)}, not a function that is not async")
        async with asyncio.timeout(timeout):
            async with self._execution.connection() as connection:
                now, statement_timeout, may_hide = (await ask(connection, "read_clock"))[0]
            if keep is None and may_hide == "true":
                raise FlowStatesError(
                    "row level security may hide states of runs that would go whole: prune as the owner of the tables, or as a role with bypassrls"
                )
            begin = _before(time_of(now), older_than, before)
            async with archiving(None if dry_run else archive) as archived:
                one = (DistributedPass if self._execution.layout == "citus" else Pass)(
                    self._execution,
                    policy,
                    pace,
                    begin,
                    cursor=cursor,
                    archive=archived,
                    dry_run=dry_run,
                    has_time_limit=statement_timeout != "0",
                )
                return await one.run(on_batch)

    def _policy(self, types: Iterable[StateType | TypeName] | None, keep: Keep | None, artifacts: bool) -> Policy:
        is_prefect = self._execution.layout == "prefect"
        if keep is not None and not isinstance(keep, Keep):
            raise InvalidInputError("keep", f"is {kind_of(keep)}, not a Keep")
        if self._execution.layout == "citus" and keep is not None:
            raise InvalidInputError(
                "keep", "is not for the layout citus: on Citus whole runs go alone, as rows are thinned by their places in one table"
            )
        if is_prefect and keep is None:
            raise ReadOnlyLayoutError(
                "whole runs are Prefect's to delete: its own vacuum does, with PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs and"
                " PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD; with `keep` histories are thinned here"
            )
        if flag("artifacts", artifacts) and not is_prefect:
            raise InvalidInputError("artifacts", "are Prefect's")
        asked = _types(types)
        if is_prefect and not all(type_.is_terminal for type_ in asked):
            raise InvalidInputError(
                "types", "are to be terminal on Prefect's tables: its rules look at the earlier states of a run that is not at its end"
            )
        # A copy, as the caller's may be changed while the pass goes on.
        return Policy(asked, None if keep is None else keep.checked().model_copy(), artifacts)


def _types(types: Iterable[StateType | TypeName] | None) -> tuple[StateType, ...]:
    if types is None:
        return tuple(type_ for type_ in StateType if type_.is_terminal)
    if isinstance(types, str | bytes) or not isinstance(types, Iterable):
        raise InvalidInputError("types", f"is {kind_of(types)}, not a list of state types")
    try:
        asked = [to_type(type_) for type_ in types]
    except ValueError as error:
        raise InvalidInputError("types", str(error)) from None
    if not asked:
        raise InvalidInputError("types", f"is {shown(types)}, not one or more state types")
    return tuple(type_ for type_ in StateType if type_ in asked)


def _pace(batch_size: int, max_batches: int | None, pause: float, max_lag: float | None) -> Pace:
    for field, count in (("batch_size", batch_size), ("max_batches", max_batches)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise InvalidInputError(field, f"is {shown(count)}, not a number of 1 or more")
    if batch_size > _MOST_OF_A_BATCH:
        raise InvalidInputError("batch_size", f"is {shown(batch_size)}; {_MOST_OF_A_BATCH:,} is the most")
    for field, length in (("pause", pause), ("max_lag", max_lag)):
        if length is not None and (not isinstance(length, int | float) or isinstance(length, bool) or not 0 <= length <= _MOST_SECONDS):
            raise InvalidInputError(field, f"is {shown(length)}, not a number of seconds")
    return Pace(batch_size, max_batches, pause, max_lag)


def _check_age(older_than: timedelta | None, before: datetime | None) -> None:
    if (older_than is None) is (before is None):
        raise InvalidInputError("older_than", "or before: exactly one of the two says which runs are old")
    if older_than is not None and (not isinstance(older_than, timedelta) or older_than < timedelta(0)):
        raise InvalidInputError("older_than", f"is {shown(older_than)}, not a timedelta of zero or more")
    if before is not None:
        utc_time("before", before)


def _before(now: datetime, older_than: timedelta | None, before: datetime | None) -> datetime:
    if before is not None:
        return utc_time("before", before)
    try:
        return now - (older_than or timedelta(0))
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)  # nothing is as old as that
