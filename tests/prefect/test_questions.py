"""The questions about current states and about windows, on what Prefect wrote and on what was deleted since. What differs is in test_differences."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import asyncpg
import httpx
from prefect.server import models, schemas
from prefect.server.database import PrefectDBInterface

from flowstates import FlowRunState, FlowRunStateAnalytics, FlowRunStateFilter, FlowRunStateRepository, StateType, check
from tests import model
from tests.prefect.conftest import Clone, PrefectOn
from tests.prefect.rest import all_runs, assert_shown, in_process, posted, schedule
from tests.prefect.seed import TYPES, Seed

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MIDDLES = ((), ("FAILED", "SCHEDULED", "RUNNING"), ("PAUSED", "RUNNING"), ("CANCELLING",))


@dataclass(frozen=True)
class Sides:
    """One database, seen by Prefect and by us."""

    prefect: PrefectDBInterface
    rest: httpx.AsyncClient
    pool: asyncpg.Pool[asyncpg.Record]

    @property
    def ours(self) -> FlowRunStateRepository:
        return FlowRunStateRepository(self.pool, layout="prefect")

    @property
    def analytics(self) -> FlowRunStateAnalytics:
        return FlowRunStateAnalytics(self.pool, layout="prefect")

    async def make_history(self, *states: tuple[str, datetime]) -> UUID:
        """A run that Prefect leads through states with times of their own."""
        flow = UUID((await posted(self.rest, "/flows/", {"name": "by hand"}))["id"])
        async with self.prefect.session_context(begin_transaction=True) as session:
            run = await models.flow_runs.create_flow_run(session, schemas.core.FlowRun(flow_id=flow))
            for type_, time in states:
                name = "Late" if type_ == "SCHEDULED" and time.microsecond % 2 else None
                state = schemas.states.State(type=schemas.states.StateType(type_), name=name, timestamp=time)
                result = await models.flow_runs.set_flow_run_state(session, run.id, state, force=True)
                assert result.state is not None
                assert result.state.timestamp == time
            return run.id

    async def set_state(self, run: UUID, type: str) -> None:
        answer = await posted(self.rest, f"/flow_runs/{run}/set_state", {"state": {"type": type}, "force": True})
        assert answer["status"] == "ACCEPT"

    async def delete_by_prefect(self, state: UUID) -> None:
        async with self.prefect.session_context(begin_transaction=True) as session:
            assert await models.flow_run_states.delete_flow_run_state(session, state)

    async def delete_by_ours(self, state: UUID) -> None:
        assert await self.ours.delete_flow_run_state(state)

    async def stream(self, **filter: Any) -> list[FlowRunState]:
        async with self.ours.stream_flow_run_states(FlowRunStateFilter(**filter)) as states:
            return [state async for state in states]

    async def agree(self) -> dict[UUID, FlowRunState]:
        """What our questions call the current state of each run is what Prefect's API says of it; returns them."""
        runs = await all_runs(self.rest)
        named = {UUID(run["id"]): run for run in runs if run["state_id"] is not None}
        currents = await self.ours.read_current_flow_run_states([run["id"] for run in runs])
        assert currents.keys() == named.keys()
        for run in runs:
            current = await self.ours.read_current_flow_run_state(run["id"])
            assert current == currents.get(UUID(run["id"]))
            assert (run["state"] is None) is (current is None)
            if current is not None:
                assert (run["state_id"], run["state_type"], run["state_name"]) == (str(current.id), current.type.value, current.name)
                assert_shown(current, run["state"])

        in_order = [currents[run] for run in sorted(currents)]
        by_time = sorted(in_order, key=lambda state: (state.timestamp, state.flow_run_id))
        assert await self.stream(current=True) == in_order
        assert await self._found(current=True) == (in_order, by_time)
        middle = by_time[len(by_time) // 2].timestamp if by_time else datetime.now(UTC)
        before = [state.timestamp < middle for state in by_time]
        assert (await self._found(current=True, until=middle))[1] == by_time[: sum(before)]
        assert (await self._found(current=True, since=middle))[1] == by_time[sum(before) :]
        for name in {state.name for state in in_order}:
            assert await self.stream(current=True, names=[name]) == [state for state in in_order if state.name == name]

        counts = (await self.analytics.count_current()).counts
        nameless = Counter(run["state_type"] for run in runs if run["state_id"] is None)
        for type_ in TYPES:
            found = await self._found(current=True, types=[type_])
            assert found == ([s for s in in_order if s.type == type_], [s for s in by_time if s.type == type_])
            theirs = await posted(self.rest, "/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": [type_]}}}})
            # Prefect counts runs without a current state by the type that they had: count_without_a_current_state.
            assert counts[StateType(type_)] == len(found[0]) == theirs - nameless[type_]
        return currents

    async def _found(self, **filter: Any) -> tuple[list[FlowRunState], list[FlowRunState]]:
        """The states of a filter in both orders."""
        asked = FlowRunStateFilter(**filter)
        orders: tuple[Literal["run", "time"], ...] = ("run", "time")
        by_run, by_time = [await self.ours.read_flow_run_state_page(asked, order=order, limit=1_000) for order in orders]
        assert await self.ours.count_flow_run_states(asked) == len(by_run.states) == len(by_time.states)
        return by_run.states, by_time.states


@asynccontextmanager
async def sides(dsn: str, prefect_on: PrefectOn) -> AsyncIterator[Sides]:
    async with prefect_on(dsn) as prefect, in_process() as rest, asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        yield Sides(prefect, rest, pool)


async def test_a_database_of_prefect_fits(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        assert await check(connection, layout="prefect") == []
    finally:
        await connection.close()


async def test_current_states_of_all_kinds_of_rows(seed: Seed, dsn: str, prefect_on: PrefectOn) -> None:
    # Here the current state is mostly the newest, sometimes an older one, and some runs name none.
    async with sides(dsn, prefect_on) as both:
        currents = await both.agree()
    assert {run: current.id for run, current in currents.items()} == {run: state.id for run, state in seed.current.items()}
    newest = {state.flow_run_id: state.id for state in sorted(seed.states, key=lambda state: state.timestamp)}
    assert any(newest[run] != current.id for run, current in currents.items())
    assert newest.keys() > currents.keys()


async def test_current_states_after_each_change(empty: str, clone: Clone, prefect_on: PrefectOn) -> None:
    async with sides(await clone(empty), prefect_on) as both:
        assert await both.agree() == {}

        # The scheduler gives its runs no time.
        await schedule(both.rest, "scheduled", {"cron": "30 2 * * *", "timezone": "Asia/Kolkata"}, 3)
        assert await both.pool.fetchval("select count(*) from flow_run where state_timestamp is null and state_id is not null") >= 3
        scheduled = await both.agree()
        assert len(scheduled) >= 3

        # A run without a state, and three that end in each type.
        begin = datetime.now(UTC)
        without = await both.make_history()
        runs = [await both.make_history(("RUNNING", begin), (type_, begin + (number + 1) * HOUR)) for type_ in TYPES for number in range(3)]
        late = next(iter(scheduled))
        await both.set_state(late, "PENDING")
        currents = await both.agree()
        assert currents.keys() == scheduled.keys() | set(runs)
        assert without not in currents
        assert (currents[late].type, Counter(currents[run].type for run in runs)) == ("PENDING", dict.fromkeys(StateType, 3))

        # Of each type one is deleted by Prefect and one by us; and of two that stay, a state that is not current.
        for run in runs[::3]:
            await both.delete_by_prefect(currents[run].id)
        for run in runs[1::3]:
            await both.delete_by_ours(currents[run].id)
        await both.delete_by_prefect((await both.ours.read_flow_run_states(runs[2]))[0].id)
        await both.delete_by_ours((await both.ours.read_flow_run_states(runs[5]))[0].id)
        gone = {run for number, run in enumerate(runs) if number % 3 < 2}
        assert await both.agree() == {run: state for run, state in currents.items() if run not in gone}

        # Runs go on, and two are deleted by their owner.
        for run in runs[3:8]:
            await both.set_state(run, "RUNNING")
        async with both.prefect.session_context(begin_transaction=True) as session:
            for run in (runs[0], runs[2]):
                assert await models.flow_runs.delete_flow_run(session, run)
        currents = await both.agree()
        assert {currents[run].type for run in runs[3:8]} == {"RUNNING"}
        assert runs[2] not in currents


async def test_windows(empty: str, clone: Clone, prefect_on: PrefectOn) -> None:
    now = datetime.now(UTC)
    async with sides(await clone(empty), prefect_on) as both:
        await schedule(both.rest, "scheduled", {"cron": "30 2 * * *", "timezone": "Asia/Kolkata"}, 3)
        runs = await live(both, now - 10 * DAY, now)
        # Two servers whose clocks differ: the run's row names the state that is not the newest.
        await both.make_history(("RUNNING", now - 2 * HOUR), ("COMPLETED", now - 22 * HOUR))
        for number, run in enumerate(runs[::5]):
            current = await both.ours.read_current_flow_run_state(run)
            assert current is not None
            await (both.delete_by_prefect, both.delete_by_ours)[number % 2](current.id)
        states = await both.stream()
        assert len(states) > 80

        ended = next(state.timestamp for state in states if state.type.is_terminal and state.timestamp < now - 3 * DAY)
        for since, until, step in (
            (now - 11 * DAY, now + DAY, 6 * HOUR),
            (now - 5 * DAY, now - 4 * DAY, HOUR),
            (now - 3 * HOUR, now, timedelta(minutes=7)),
            (now - HOUR, now, HOUR),
            (ended, ended + DAY, 3 * HOUR),
            (ended + timedelta(microseconds=1), ended + DAY, 3 * HOUR),
            (now + HOUR, now + 2 * HOUR, HOUR),
        ):
            window = {"since": since, "until": until}
            for terminal in (False, True):
                occupied = await both.analytics.count_occupancy(**window, step=step, terminal=terminal)
                assert occupied == model.occupancy(states, **window, step=step, terminal=terminal)
            for filter in (None, FlowRunStateFilter(types=["RUNNING", "FAILED"]), FlowRunStateFilter(names=["Late"])):
                begun = await both.analytics.count_transitions(filter, **window, step=step)
                assert begun == model.transitions(states, filter, **window, step=step)
                for by, per_run in (("type", False), ("name", False), ("type", True)):
                    asked: dict[str, Any] = {**window, "now": now, "by": by, "per_run": per_run}
                    measured = await both.analytics.measure_time_in_states(filter, **asked)
                    expected = model.time_in_states(states, filter, **asked)
                    assert {time[:2]: time for time in measured} == {time[:2]: time for time in expected}


async def live(both: Sides, begin: datetime, end: datetime) -> list[UUID]:
    """Runs that Prefect leads through states of theirs between two times; most of them end."""
    rng = random.Random(391)
    runs = []
    for _ in range(30):
        time = begin + rng.random() * (end - begin)
        states: list[tuple[str, datetime]] = []
        for type_ in ("SCHEDULED", "PENDING", "RUNNING", *rng.choice(MIDDLES)):
            states.append((type_, time))
            time += rng.choice((timedelta(microseconds=1), timedelta(minutes=5), HOUR, DAY)) * (1 + rng.random())
        if rng.random() < 0.75:
            states.append((rng.choice(("COMPLETED", "FAILED", "CRASHED", "CANCELLED")), time))
        runs.append(await both.make_history(*[state for state in states if state[1] < end]))
    return runs
