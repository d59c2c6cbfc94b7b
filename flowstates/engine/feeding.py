"""A page of a feed: what may be told after a position, and what holds the rest."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Generic, NamedTuple, NoReturn

from flowstates.engine import positions, queries
from flowstates.engine.execution import Argument, Execution
from flowstates.engine.positions import BEGINNING, PREFECTS_BEGINNING, AnyPosition, Position, PrefectPosition
from flowstates.engine.rows import COLUMNS, time_of, to_states
from flowstates.errors import FlowStatesError, ForeignPositionError, HistoryPrunedError, InvalidInputError
from flowstates.filters import FlowRunStateFilter
from flowstates.records import FlowRunState

if TYPE_CHECKING:
    import asyncpg

MOST_LOOKED_AT = 10_000
"""States that a page with a filter looks at, so that a rare type does not take one through the table."""


class Blocker(NamedTuple):
    """An open transaction that holds a feed: what commits after it began to write is not told before it ends.

    `pid` and `application_name` are those of its session; one that is prepared has none, but a `gid`, by which `commit prepared` and `rollback
    prepared` name it. `age` is None where the role may not see it, which takes pg_read_all_stats.
    """

    pid: int | None
    database: str | None
    application_name: str | None
    age: timedelta | None
    is_prepared: bool
    gid: str | None


class FeedPage(NamedTuple):
    """States in the order in which they are told, and the position after them.

    `is_caught_up` says that nothing more could be told when it was read. `blocked_by` has the transactions that hold the feed, the oldest first, at
    most ten, where committed states wait for them and the page is empty; it is empty too where they have ended meanwhile, and on a standby, which
    does not know them.
    """

    states: list[FlowRunState]
    position: str
    is_caught_up: bool
    blocked_by: tuple[Blocker, ...]


class Feed(ABC, Generic[AnyPosition]):
    """What pages are read from."""

    kind: type[AnyPosition]
    beginning: AnyPosition

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def start(self, after: str | None) -> AnyPosition:
        """The position of a text; InvalidInputError for another layout's."""
        if after in ("beginning", "now"):
            raise InvalidInputError("after", f"is {after!r}: that is {'None' if after == 'beginning' else 'what now() gives'} here")
        return self.beginning if after is None else positions.decode("after", after, self.kind)

    @abstractmethod
    async def read(self, after: AnyPosition, filter: FlowRunStateFilter | None, limit: int) -> tuple[FeedPage, AnyPosition, bool]:
        """The page after a position, its own position, and whether an open transaction may have held what comes after it."""

    @abstractmethod
    async def now(self) -> AnyPosition:
        """The position after all that has been told up to now."""

    def can_reconnect(self) -> bool:
        """Whether another connection may be had after one is lost: of a pool that is not closed."""
        return self._execution.is_open_pool

    async def _blockers(self, *arguments: Argument) -> tuple[Blocker, ...]:
        rows = await self._execution.rows("read_page.blocked", *arguments, timeout=None)
        return tuple(
            Blocker(
                pid=None if pid is None else int(pid),
                database=database,
                application_name=application_name or None,
                age=None if age is None else timedelta(microseconds=max(0, int(age))),
                is_prepared=gid is not None,
                gid=gid,
            )
            for pid, database, application_name, age, gid in rows
        )


class OwnFeed(Feed[Position]):
    """That of our own tables, in the order of transactions. Its first page looks at what does not change: whether the states are of this cluster."""

    kind: type[Position] = Position
    beginning: Position = BEGINNING

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self._is_known = False

    async def read(self, after: Position, filter: FlowRunStateFilter | None, limit: int) -> tuple[FeedPage, Position, bool]:
        """See Feed."""
        rows, looked = await self._rows(after, filter, limit)
        first = rows[0]
        if after.transaction == BEGINNING.transaction:
            after = after._replace(known=first["known"])  # whoever begins at the beginning begins with what is left
        elif first.get("is_pruned") == "true":
            raise HistoryPrunedError(positions.encode(after), positions.encode(after._replace(known=first["known"])))
        is_more = len(rows) > limit
        told = rows[:limit] if first["id"] is not None else []
        states = to_states([row[: len(COLUMNS)] for row in told])
        position, is_caught_up = after, not is_more
        if not is_more and filter is not None:
            # It has gone on past what the filter lets out.
            if first["reached"] is not None:
                transaction, timestamp, id_, count = json.loads(first["reached"])
                position, is_caught_up = Position(transaction, f"{timestamp}+00:00", id_, after.known), count < looked
        elif told:
            last = states[-1]
            position = Position(told[-1]["transaction"], last.timestamp.astimezone(UTC).isoformat(), str(last.id), after.known)
        # What is read on for is not held.
        is_held = is_caught_up and not states and first["is_open"] == "true"
        return FeedPage(states, positions.encode(position), is_caught_up, await self._blockers() if is_held else ()), position, is_held

    async def _rows(self, after: Position, filter: FlowRunStateFilter | None, limit: int) -> tuple[list[asyncpg.Record], int]:
        """One row more than the page has, if there is one, and how many states were looked at for them at most."""
        most = limit + 1
        if filter is None and self._is_known and after.transaction != BEGINNING.transaction:
            rows = await self._execution.rows("read_page.next", *after, str(most), timeout=None)
            if rows[0]["is_doubtful"] == "false":
                return rows, most
        looked = most if filter is None else max(most, MOST_LOOKED_AT)
        rows = await self._execution.rows("read_page", *after, str(most), str(looked), str(not self._is_known), filter=filter, timeout=None)
        if rows[0]["fault"] is not None:
            refuse(rows[0]["fault"], after)
        self._is_known = True
        return rows, looked

    def can_reconnect(self) -> bool:
        """See Feed. What the connection then leads to is looked at anew."""
        self._is_known = False
        return super().can_reconnect()

    async def now(self) -> Position:
        """See Feed."""
        return positions.before(*(await self._execution.rows("now", timeout=None))[0])


class PrefectFeed(Feed[PrefectPosition]):
    """That of Prefect's tables, in the order of `updated`, which is of the clock of who sent a state: clocks may differ by `slack`, in seconds."""

    kind: type[PrefectPosition] = PrefectPosition
    beginning: PrefectPosition = PREFECTS_BEGINNING

    def __init__(self, execution: Execution, slack: float) -> None:
        super().__init__(execution)
        self._slack, self._interval = timedelta(seconds=slack), f"{slack:f} seconds"

    async def read(self, after: PrefectPosition, filter: FlowRunStateFilter | None, limit: int) -> tuple[FeedPage, PrefectPosition, bool]:
        """See Feed. Before the first page of all it asks up to where one may be told."""
        if after == PREFECTS_BEGINNING:
            after = await self._looked(after)
        most = limit + 1
        looked = most if filter is None else max(most, MOST_LOOKED_AT)
        place = after.updated, after.id, after.bound
        is_joined = str(await self._is_joined())
        rows = await self._execution.rows("read_page", *place, str(most), str(looked), self._interval, is_joined, filter=filter, timeout=None)
        first = rows[0]
        if first["fault"] is not None:
            refuse(first["fault"], after)
        states = to_states([row[: len(COLUMNS)] for row in rows[:limit] if row["id"] is not None])
        position, is_caught_up = after.looked(positions.stored_time(first["begun"]), first["unseen"] or ""), len(rows) <= limit
        if not is_caught_up:
            position = position._replace(updated=states[-1].updated.astimezone(UTC).isoformat(), id=str(states[-1].id))
        elif first["reached"] is not None:
            updated, id_, count = json.loads(first["reached"])
            position, is_caught_up = position._replace(updated=f"{updated}+00:00", id=id_), count < looked
        blocked_by: tuple[Blocker, ...] = ()
        if is_caught_up and first["waiting"] is not None:
            # The next page tells it, or somebody holds it.
            bound = position.bound
            is_next = bound != PREFECTS_BEGINNING.bound and time_of(first["waiting"]) < datetime.fromisoformat(bound) - self._slack
            is_caught_up, blocked_by = not is_next, () if states or is_next else await self._blockers(self._interval, is_joined)
        return FeedPage(states, positions.encode(position), is_caught_up, blocked_by), position, first["waiting"] is not None

    async def now(self) -> PrefectPosition:
        """See Feed. From `slack` before the oldest transaction on that is open, as what is sent by it or later may have such a time."""
        now = await self._looked(self.beginning)
        begun = now.next_bound if now.unseen else now.bound
        return now._replace(updated=(datetime.fromisoformat(begun) - self._slack).isoformat())

    async def _is_joined(self) -> bool:
        if self._execution.is_of_pool:
            return False
        async with self._execution.connection() as connection:
            return connection.is_in_transaction()

    async def _looked(self, after: PrefectPosition) -> PrefectPosition:
        begun, unseen = (await self._execution.rows("now", timeout=None))[0]
        return after.looked(positions.stored_time(begun), unseen or "")


def refuse(fault: str, after: Position | PrefectPosition) -> NoReturn:
    """The error of what a query has found to make an answer untrue."""
    match fault:
        case "position":
            raise ForeignPositionError(
                "the position is of a transaction that this server has not come to: it is another cluster's, or from before a restore; begin at "
                "the beginning, or at now()",
                positions.encode(after),
                None,
            )
        case "states":
            raise ForeignPositionError(
                "there are states, or a consumer, of transactions that this server had not come to, as after a restore into another cluster: what is "
                "written since would be told before them, or be skipped; `mend` is the SQL that gives them a number of this cluster",
                None,
                queries.catalog("mend_transactions"),
            )
        case "standby":
            raise FlowStatesError("a feed of Prefect's tables is not read on a standby, which does not know what is open on the primary: ask that")
        case "snapshot":
            raise FlowStatesError(
                "a feed of Prefect's tables is not read in a transaction at REPEATABLE READ or above, whose snapshot does not see what was committed "
                "since it began"
            )
        case "citus":
            raise FlowStatesError("a feed needs the transactions of one server, and this database has Citus, whose nodes each count their own")
        case _:
            raise FlowStatesError(
                "flow_run_state is a subscription's copy, whose transactions are numbered by the server that it comes from: read the feed there"
            )
