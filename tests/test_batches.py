"""Creates that go together: each is told what it would be told alone, and none waits for another's run, error, timeout or cancellation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from flowstates import (
    BatchedCreates,
    ContentionError,
    FlowRunState,
    FlowRunStateConflictError,
    FlowRunStateRepository,
    FlowStatesError,
    InvalidInputError,
    StateType,
    UnexpectedStateError,
    batched,
    create_pool,
    migrate,
)
from flowstates.engine.appending import Expected
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection, Pool
from tests.faults import target, writing
from tests.proxy import Proxy
from tests.schedules import LIMIT
from tests.statements import counting
from tests.stored import wrong_rows
from tests.test_docs_roles import POLICIES
from tests.test_faults import cancelled_at_every_wait, usable
from tests.writers import BROKEN, ISOLATION, MIXED, defaults

pytestmark = pytest.mark.server

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
PENDING, RUNNING = StateType.PENDING, StateType.RUNNING
ALONE, TOGETHER, MISS, ALONE_MISS = (f"create_flow_run_state{part}" for part in ("", ".together", ".together_miss", ".miss"))


@dataclass
class Opened:
    pool: Pool
    states: BatchedCreates
    counts: Counter[str]

    async def history(self, run: UUID) -> list[FlowRunState]:
        return await FlowRunStateRepository(self.pool).read_flow_run_states(run)


@asynccontextmanager
async def opened(dsn: str, isolation: str = "read committed", *, workers: int = 2, connections: int = 3, **options: Any) -> AsyncIterator[Opened]:
    connection_class, counts = counting()
    async with (
        asyncio.timeout(LIMIT),
        create_pool(dsn, max_size=connections, connection_class=connection_class, **defaults(isolation)) as pool,
        batched(pool, workers=workers, **options) as states,
    ):
        yield Opened(pool, states, counts)


def start(*calls: Coroutine[Any, Any, FlowRunState]) -> list[asyncio.Task[FlowRunState]]:
    """They begin in their order, at once."""
    return [asyncio.create_task(call) for call in calls]


async def answers(*calls: Coroutine[Any, Any, FlowRunState]) -> list[FlowRunState | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_lone_create_is_the_statement_of_a_repository(dsn: str) -> None:
    async with opened(dsn) as at:
        run = uuid4()
        first = await at.states.create_flow_run_state(run, "PENDING", message="m", data={"a": ['"', None]})
        with pytest.raises(UnexpectedStateError):
            await at.states.create_flow_run_state(run, RUNNING, expected=None)
        assert await at.history(run) == [first]
        assert at.counts == {ALONE: 2, ALONE_MISS: 1, "read_flow_run_states": 1}


@pytest.mark.parametrize(("workers", "statements"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_what_arrives_while_statements_are_under_way_goes_together(dsn: str, isolation: str, workers: int, statements: int) -> None:
    async with opened(dsn, isolation, workers=workers) as at:
        runs = [uuid4() for _ in range(200)]
        for expected in (None, {PENDING}, {RUNNING}, ...):
            type_ = PENDING if expected is None else RUNNING
            at.counts.clear()
            stored = await asyncio.gather(*[at.states.create_flow_run_state(run, type_, message=str(run), expected=expected) for run in runs])
            assert [(state.flow_run_id, state.message) for state in stored] == [(run, str(run)) for run in runs]
            # A create for each worker begins at once. Of 198 that wait two workers take 99, 50, 32 and 17.
            if workers == 1 or isolation == "read committed":  # above it two at once may have to be done again
                assert at.counts == {ALONE: workers, TOGETHER: statements}
            assert [(await at.history(run))[-1] for run in runs[::50]] == stored[::50]
        assert await wrong_rows(at.pool, *runs) == []


async def test_what_was_not_stored_is_told_why_by_one_statement(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        runs = [uuid4() for _ in range(6)]
        firsts = [await at.states.create_flow_run_state(run, PENDING, message="first") for run in runs]
        at.counts.clear()
        told = await answers(
            at.states.create_flow_run_state(uuid4(), RUNNING),
            at.states.create_flow_run_state(runs[0], RUNNING, expected=None),
            at.states.create_flow_run_state(runs[1], RUNNING, expected=firsts[2].id),
            at.states.create_flow_run_state(runs[2], PENDING, id=firsts[2].id, message="first", expected=None),
            at.states.create_flow_run_state(runs[3], PENDING, id=firsts[3].id, message="other"),
            at.states.create_flow_run_state(uuid4(), PENDING, id=firsts[4].id, message="first"),
            at.states.create_flow_run_state(runs[5], RUNNING, id=firsts[0].id),
            at.states.create_flow_run_state(runs[4], RUNNING, expected=firsts[4].id),
            at.states.create_flow_run_state(uuid4(), RUNNING, expected={RUNNING}),
        )
        kinds = [FlowRunState] + 2 * [UnexpectedStateError] + [FlowRunState] + 3 * [FlowRunStateConflictError] + [FlowRunState, UnexpectedStateError]
        assert [type(one) for one in told] == kinds
        assert [one.current for one in told if isinstance(one, UnexpectedStateError)] == [firsts[0], firsts[1], None]
        assert told[3] == firsts[2]
        assert [one.stored for one in told if isinstance(one, FlowRunStateConflictError)] == [firsts[3], firsts[4], firsts[0]]
        assert at.counts == {ALONE: 1, TOGETHER: 1, MISS: 1}
        assert await wrong_rows(at.pool, *runs) == []


steps = st.tuples(
    st.integers(0, 4), st.sampled_from([PENDING, RUNNING]), st.sampled_from(["any", "none", "first", "newest", "types", "again", "other"])
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(plan=st.lists(steps, min_size=2, max_size=30), workers=st.integers(1, 3), isolation=st.sampled_from(ISOLATION))
def test_each_is_told_what_it_would_be_told_alone(
    layout_dsns: dict[Layout, str], plan: list[tuple[int, StateType, str]], workers: int, isolation: str
) -> None:
    """The creates of a run go in the order in which they were begun, so all answers are those of one after another."""
    runs, ids = [uuid4() for _ in range(5)], [uuid4() for _ in plan]
    history: dict[UUID, list[FlowRunState]] = {run: [] for run in runs}
    asked: list[dict[str, Any]] = []
    meant: list[type[object] | UUID] = []
    for number, (which, type_, how) in enumerate(plan):
        run, id_ = runs[which], ids[number]
        of_run = history[run]
        expected: Expected = ...
        if how in ("again", "other") and of_run:
            type_, id_ = of_run[0].type, of_run[0].id
        if how == "none":
            expected = None
        elif how == "types":
            expected = {RUNNING}
        elif how in ("first", "newest"):
            expected = of_run[0 if how == "first" else -1].id if of_run else ids[0]
        message = "other" if how == "other" else "m"
        asked.append({"flow_run_id": run, "type": type_, "id": id_, "message": message, "expected": expected})
        if how in ("again", "other") and of_run:
            meant.append(id_ if how == "again" and of_run[0].message == "m" else FlowRunStateConflictError)
            if how == "other" and of_run[0].message == "other":
                meant[-1] = id_
            continue
        newest = of_run[-1] if of_run else None
        holds = {"none": newest is None, "types": newest is not None and newest.type == RUNNING}
        if not holds.get(how, how not in ("first", "newest") or (newest is not None and newest.id == expected)):
            meant.append(UnexpectedStateError)
            continue
        meant.append(id_)
        of_run.append(model.state(run, id_, type_, newest.timestamp if newest else NOON).model_copy(update={"message": message}))

    async def write() -> None:
        async with opened(layout_dsns["flowstates"], isolation, workers=workers) as at:
            told = await answers(*[at.states.create_flow_run_state(**one) for one in asked])
            assert [one.id if isinstance(one, FlowRunState) else type(one) for one in told] == meant
            for run in runs:
                stored = await at.history(run)
                assert [(state.id, state.type, state.message) for state in stored] == [
                    (state.id, state.type, state.message) for state in history[run]
                ]
                if stored:
                    assert model.by_run(stored)[run] == stored
            assert await wrong_rows(at.pool, *runs) == []

    asyncio.run(write())


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_run_that_is_held_holds_up_no_other(own_database: str, isolation: str) -> None:
    async with opened(own_database, isolation, workers=1) as at, create_pool(own_database, max_size=1) as another:
        held, others = uuid4(), [uuid4() for _ in range(20)]
        await at.states.create_flow_run_state(held, PENDING)
        async with another.acquire() as other, other.transaction(isolation="read_committed"):
            last = await FlowRunStateRepository(other).create_flow_run_state(held, PENDING)
            tasks = start(*[at.states.create_flow_run_state(run, RUNNING) for run in (others[0], held, *others[1:])])
            waiting = tasks.pop(1)
            await asyncio.gather(*tasks)
            # It waits in the server now, so one that comes for its run waits here, and others go.
            after = start(at.states.create_flow_run_state(held, RUNNING))[0]
            await asyncio.gather(*[at.states.create_flow_run_state(run, RUNNING) for run in others])
            assert not waiting.done()
            assert not after.done()
        stored = [last, await waiting, await after]
        assert (await at.history(held))[1:] == stored
        assert at.counts[MISS] <= 2
        assert await wrong_rows(at.pool) == []


@pytest.mark.parametrize("is_new", [False, True])
async def test_statements_that_wait_do_not_keep_others_from_beginning(own_database: str, is_new: bool) -> None:
    """As many are held as there are workers: alone, or with what waits for a run that somebody else makes."""
    async with opened(own_database, workers=1, connections=4) as at, create_pool(own_database, max_size=1) as another:
        held, beside = uuid4(), uuid4()
        if not is_new:
            await at.states.create_flow_run_state(held, PENDING)
        async with another.acquire() as other, other.transaction():
            await FlowRunStateRepository(other).create_flow_run_state(held, PENDING)
            tasks = start(*[at.states.create_flow_run_state(run, RUNNING) for run in ([uuid4(), held, beside] if is_new else [held])])
            while not await waiting_for_a_lock(at.pool):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)
            await asyncio.gather(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(20)])
            assert not tasks[-1].done()
        await asyncio.gather(*tasks)
        assert await wrong_rows(at.pool) == []


async def test_of_600_claims_of_60_runs_by_three_one_wins_each(dsn: str) -> None:
    runs = [uuid4() for _ in range(60)]
    async with opened(dsn) as one, opened(dsn) as two, opened(dsn, MIXED) as three:
        await asyncio.gather(*[one.states.create_flow_run_state(run, PENDING) for run in runs])
        claims = [
            at.states.create_flow_run_state(run, RUNNING, expected={PENDING}) for at in (one, two, three) for run in Random(1).sample(runs * 4, 200)
        ]
        told = await answers(*claims)
        won = [state.flow_run_id for state in told if isinstance(state, FlowRunState)]
        assert all(isinstance(lost, FlowRunState | UnexpectedStateError) for lost in told)
        asked = {run for run in runs if run in {*Random(1).sample(runs * 4, 200)}}
        assert sorted(won) == sorted(asked)
        assert await wrong_rows(one.pool, *runs) == []


async def test_an_id_in_two_runs_at_once_is_one_state(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        id_, runs = uuid4(), [uuid4() for _ in range(5)]
        told = await answers(*[at.states.create_flow_run_state(run, RUNNING, id=id_ if index in (2, 3) else None) for index, run in enumerate(runs)])
        assert Counter(map(type, told)) == {FlowRunState: 4, FlowRunStateConflictError: 1}
        assert await wrong_rows(at.pool, *runs) == []


REFUSES = """
create function refuse() returns trigger language plpgsql as $$
begin
    if new.message = 'refused' then
        {action};
    end if;
    return new;
end
$$;
create trigger refuse before insert on flow_run_state for each row execute function refuse();
"""


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("raise exception 'not this one'", asyncpg.RaiseError),
        ("return null", FlowStatesError),
        ("raise exception 'once more' using errcode = '40001'", asyncpg.SerializationError),
        ("perform 1 / 0", asyncpg.DivisionByZeroError),
    ],
)
async def test_what_the_server_refuses_of_one_is_that_ones_error(own_database: str, action: str, error: type[Exception]) -> None:
    async with opened(own_database, workers=1) as at:
        await at.pool.execute(REFUSES.format(action=action))
        told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, message="refused" if n == 4 else None) for n in range(10)])
        assert [type(one) for one in told] == [error if n == 4 else FlowRunState for n in range(10)]
        assert await at.pool.fetchval("select count(*) from flow_run_state") == 9
        assert await wrong_rows(at.pool) == []


async def test_what_cannot_be_read_is_its_own_creates_error(own_database: str) -> None:
    async with opened(own_database, workers=1) as at:
        await at.pool.execute(REFUSES.format(action="new.state_details := '{\"deferred\": 5}'"))
        told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, message="refused" if n == 4 else None) for n in range(10)])
        assert [n for n, one in enumerate(told) if not isinstance(one, FlowRunState)] == [4]
        assert "state_details" in str(told[4])


async def test_row_level_security_keeps_back_its_own_alone(own_database: str) -> None:
    role = f"writer_{uuid4().hex[:8]}"
    async with opened(own_database, connections=1) as owner:
        hidden = (await owner.states.create_flow_run_state(uuid4(), PENDING, name="hidden")).flow_run_id
        policies = POLICIES.replace("to writer", f"to {role}").replace("to reader", f"to {role}")
        policies = policies.replace(f"on flow_run to {role} using (true)", f"on flow_run to {role} using (state_name <> 'hidden')")
        await owner.pool.execute(f"create role {role}; grant all on flow_run, flow_run_state, flowstates_pruned to {role}; {policies}")
        try:
            async with (
                create_pool(own_database, max_size=3, server_settings={"role": role}) as pool,
                batched(pool, workers=1) as states,
            ):
                runs = [uuid4() for _ in range(5)]
                for _ in range(2):
                    told = await answers(*[states.create_flow_run_state(run, RUNNING) for run in (*runs, hidden)])
                    assert all(isinstance(state, FlowRunState) for state in told[:5])
                    assert not isinstance(told[5], FlowRunState)
        finally:
            await owner.pool.execute(f"drop owned by {role}; drop role {role}")


async def waiting_for_a_lock(pool: Pool, name: str = ALONE) -> int:
    """How many statements do, of those whose names begin so."""
    text = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and starts_with(query, $1)"
    number: int = await pool.fetchval(text, f"/* {name}")
    return number


@asynccontextmanager
async def under_way(at: Opened, dsn: str, *calls: Coroutine[Any, Any, FlowRunState]) -> AsyncIterator[list[asyncio.Task[FlowRunState]]]:
    """The creates are together in a statement that waits in the server, for as long as the block lasts."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("lock table flow_run in share mode")
            occupants = start(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(2)])
            tasks = start(*calls)
            while not await waiting_for_a_lock(at.pool, TOGETHER):  # noqa: ASYNC110 (the server tells nobody; a slow one lets the next begin)
                await asyncio.sleep(0.01)
            yield tasks
        await asyncio.gather(*occupants)
    finally:
        await connection.close()


async def test_who_is_cancelled_is_in_doubt_and_the_others_are_stored(own_database: str) -> None:
    async with opened(own_database, connections=5) as at:
        runs, ids = [uuid4() for _ in range(5)], [uuid4() for _ in range(5)]
        calls = [at.states.create_flow_run_state(run, RUNNING, id=id_, message="m") for run, id_ in zip(runs, ids, strict=True)]
        async with under_way(at, own_database, *calls) as tasks:
            behind = start(at.states.create_flow_run_state(runs[1], RUNNING))[0]  # which waits for its turn
            await asyncio.sleep(0)
            tasks[0].cancel()
            behind.cancel()
            await asyncio.wait([tasks[0], behind])
        assert [state.id for state in await asyncio.gather(*tasks[1:])] == ids[1:]
        assert tasks[0].cancelled()
        assert behind.cancelled()
        assert [state.id for state in await at.history(runs[1])] == [ids[1]]
        # It went with the others.
        assert (await at.states.create_flow_run_state(runs[0], RUNNING, id=ids[0], message="m")).id == ids[0]
        assert [state.id for state in await at.history(runs[0])] == [ids[0]]
        await usable(at.pool)


async def test_who_is_cancelled_as_its_turn_comes_is_not_stored(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        runs = [uuid4() for _ in range(6)]
        tasks = start(*[at.states.create_flow_run_state(run, RUNNING) for run in runs])
        await asyncio.sleep(0)
        at.states._batching.under_way -= 1  # as if the first had ended
        tasks[2].cancel()
        at.states._batching.begin_next()
        at.states._batching.under_way += 1
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, FlowRunState) for one in told] == [number != 2 for number in range(6)]
        assert [len(await at.history(run)) for run in runs] == [number != 2 for number in range(6)]


async def test_a_statement_for_which_nobody_waits_is_cancelled(own_database: str) -> None:
    async with opened(own_database, connections=5) as at:
        runs = [uuid4() for _ in range(4)]
        async with under_way(at, own_database, *[at.states.create_flow_run_state(run, RUNNING) for run in runs]) as tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            text = "select count(*) from pg_stat_activity where query like '/* create_flow_run_state.together */%' and state = 'active'"
            while await at.pool.fetchval(text):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)
        assert [await at.history(run) for run in runs] == [[]] * 4
        assert len(await asyncio.gather(*[at.states.create_flow_run_state(run, RUNNING) for run in runs])) == 4
        await usable(at.pool)


async def test_each_has_its_own_timeout(own_database: str) -> None:
    async with opened(own_database, connections=5) as at:
        runs = [uuid4() for _ in range(4)]
        calls = [at.states.create_flow_run_state(run, RUNNING, timeout=0.5 if run == runs[0] else 100) for run in runs]
        async with under_way(at, own_database, *calls) as tasks:
            behind = start(at.states.create_flow_run_state(runs[1], RUNNING, timeout=0.1))[0]
            for late in (tasks[0], behind):
                with pytest.raises(TimeoutError):
                    await late
            assert not any(task.done() for task in tasks[1:])
        await asyncio.gather(*tasks[1:])
        assert [len(await at.history(run)) for run in runs] == [1, 1, 1, 1]


async def test_no_time_is_no_statement(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        told = await answers(at.states.create_flow_run_state(uuid4(), RUNNING), *[at.states.create_flow_run_state(uuid4(), RUNNING, timeout=0)] * 1)
        assert [type(one) for one in told] == [FlowRunState, TimeoutError]
        assert at.counts == {ALONE: 1}


@pytest.mark.parametrize("with_result", [False, True])
@pytest.mark.parametrize("place", ["alone", "together"])
async def test_cancelled_at_every_await(dsn: str, place: str, with_result: bool) -> None:
    async with opened(dsn, workers=1) as at:
        run, id_, beside = uuid4(), uuid4(), list[asyncio.Task[FlowRunState]]()

        def attempt() -> Coroutine[Any, Any, Any]:
            nonlocal run, id_
            run, id_ = uuid4(), uuid4()
            beside[:] = start(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(5 if place == "together" else 0)])
            return at.states.create_flow_run_state(run, RUNNING, id=id_, timeout=60)

        async def after() -> None:
            await asyncio.gather(*beside)
            assert [state.id for state in await at.history(run)] in ([], [id_])
            assert (await at.states.create_flow_run_state(run, RUNNING, id=id_)).id == id_
            assert [state.id for state in await at.history(run)] == [id_]
            assert await wrong_rows(at.pool, run) == []

        assert await cancelled_at_every_wait(attempt, after, with_result=with_result) >= 1


@pytest.mark.parametrize("is_stored", [False, True])
async def test_after_a_broken_connection_what_has_an_id_is_done_again(own_database: str, is_stored: bool) -> None:
    async with Proxy(own_database) as proxy, opened(proxy.dsn, workers=1, connections=1) as at:
        runs, ids = [uuid4() for _ in range(6)], [uuid4() if number % 2 else None for number in range(6)]
        if is_stored:  # the statement is kept, and what comes next is its arguments
            await asyncio.gather(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(6)])
        proxy.hold_at(b"the cue")
        first, *tasks = start(
            at.states.create_flow_run_state(uuid4(), RUNNING),
            *[at.states.create_flow_run_state(run, RUNNING, id=id_, message="the cue") for run, id_ in zip(runs, ids, strict=True)],
        )
        await proxy.held()
        proxy.resume()
        if is_stored:
            await proxy.swallow()
        else:
            proxy.cut()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(await first, FlowRunState)
        assert [isinstance(one, FlowRunState) for one in told] == [id_ is not None for id_ in ids]
        broken = [one for one in told if not isinstance(one, FlowRunState)]
        assert all(isinstance(one, BROKEN) for one in broken)
        assert [len(await at.history(run)) for run in runs] == [1 if is_stored or id_ else 0 for id_ in ids]
        assert await wrong_rows(at.pool) == []


async def test_on_a_dead_network_all_end_by_their_timeouts(own_database: str) -> None:
    async with Proxy(own_database) as proxy, opened(proxy.dsn) as at:
        await at.states.create_flow_run_state(uuid4(), RUNNING)
        async with proxy.stalled():
            told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, timeout=1) for _ in range(30)])
            assert {type(one) for one in told} == {TimeoutError}
        assert isinstance(await at.states.create_flow_run_state(uuid4(), RUNNING), FlowRunState)
        await asyncio.gather(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(30)])
        await usable(at.pool)


async def test_leaving_the_block_waits_for_all_that_was_asked(dsn: str) -> None:
    async with create_pool(dsn, max_size=3) as pool:
        async with asyncio.timeout(LIMIT), batched(pool) as states:
            tasks = start(*[states.create_flow_run_state(uuid4(), RUNNING) for _ in range(50)])
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        await asyncio.gather(*tasks)
        for closed in (states, batched(pool)):
            with pytest.raises(FlowStatesError, match="inside of their block"):
                await closed.create_flow_run_state(uuid4(), RUNNING)


async def test_a_block_in_its_own_block_is_refused(dsn: str) -> None:
    async with opened(dsn) as at:
        with pytest.raises(FlowStatesError, match="open already"):
            async with at.states:
                pass
        await at.states.create_flow_run_state(uuid4(), RUNNING)


async def test_an_id_of_two_runs_is_stored_in_one_of_them(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        run, id_ = uuid4(), uuid4()
        stored = await at.states.create_flow_run_state(run, RUNNING, id=id_, message="m")
        told = await answers(
            at.states.create_flow_run_state(uuid4(), RUNNING),
            at.states.create_flow_run_state(run, RUNNING, id=id_, message="m"),
            at.states.create_flow_run_state(uuid4(), RUNNING, id=id_, message="m"),
            at.states.create_flow_run_state(uuid4(), StateType.FAILED, id=id_, message="other"),
        )
        assert told[1] == stored
        assert [type(one) for one in told[2:]] == [FlowRunStateConflictError] * 2
        fresh = uuid4()
        told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, id=fresh if 2 < number < 7 else None) for number in range(10)])
        assert [type(one) for one in told].count(FlowRunStateConflictError) == 3
        assert [type(one) for one in told].count(FlowRunState) == 7


async def test_those_of_a_run_go_in_their_order_however_many_wait(dsn: str) -> None:
    async with opened(dsn) as at:
        runs = [uuid4() for _ in range(40)]
        await asyncio.gather(*[at.states.create_flow_run_state(run, RUNNING, message=str(n)) for n in range(8) for run in runs])
        for run in runs:
            assert [state.message for state in await at.history(run)] == [str(n) for n in range(8)]


async def test_who_has_gone_leaves_nothing_behind(own_database: str) -> None:
    async with opened(own_database, connections=5) as at:
        run = (await at.states.create_flow_run_state(uuid4(), PENDING)).flow_run_id
        connection = await asyncpg.connect(own_database)
        async with connection.transaction():
            await connection.execute("select from flow_run where id = $1 for update", run)
            held = start(at.states.create_flow_run_state(run, RUNNING))[0]
            while not await waiting_for_a_lock(at.pool):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)
            late = [at.states.create_flow_run_state(run, RUNNING, message="x" * 1000, timeout=0.01) for _ in range(50)]
            assert {type(one) for one in await answers(*late)} == {TimeoutError}
            assert [len(waiting) for waiting in at.states._batching._runs.values()] == [0]
            # Nor do they keep back those of others.
            assert len(await asyncio.gather(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(20)])) == 20
        await held
        await connection.close()
        assert at.states._batching._runs == {}


class NotCopiedError(Exception):
    """Made by a hook of the caller's pool."""

    def __init__(self, path: str, *, status: int) -> None:
        super().__init__(path, status)


async def test_an_error_that_cannot_be_copied_is_everybodys(dsn: str) -> None:
    is_broken = False

    async def setup(connection: Connection) -> None:
        if is_broken:
            raise NotCopiedError("vault", status=403)

    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=3, setup=setup) as pool, batched(pool, workers=1) as states:
        is_broken = True
        runs = [uuid4() for _ in range(6)]
        told = await answers(*[states.create_flow_run_state(run, RUNNING) for run in runs])
        assert {type(one) for one in told} == {NotCopiedError}
        is_broken = False
        assert len(await asyncio.gather(*[states.create_flow_run_state(run, RUNNING) for run in runs])) == 6
        assert states._batching._runs == {}


async def test_who_writes_runs_in_the_order_of_their_ids_is_not_locked_out(own_database: str) -> None:
    async with opened(own_database, workers=1, connections=4) as at:
        new, known = UUID(int=1), UUID(int=2)
        await at.states.create_flow_run_state(known, PENDING)
        connection = await asyncpg.connect(own_database)
        async with connection.transaction():
            mine = FlowRunStateRepository(connection)
            await mine.create_flow_run_state(new, PENDING)
            tasks = start(*[at.states.create_flow_run_state(run, RUNNING) for run in (uuid4(), known, new)])
            while not await waiting_for_a_lock(at.pool, TOGETHER):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)
            await mine.create_flow_run_state(known, PENDING)
        await connection.close()
        assert len(await asyncio.gather(*tasks)) == 3
        assert [state.type for state in await at.history(new)] == [PENDING, RUNNING]
        assert await wrong_rows(at.pool) == []


@pytest.mark.parametrize("code", ["08006", "57P01", "P0001", "40001"])
async def test_a_triggers_error_is_its_own_creates_whatever_its_code(own_database: str, code: str) -> None:
    async with opened(own_database, workers=1) as at:
        await at.pool.execute(REFUSES.format(action=f"raise exception 'no' using errcode = '{code}'"))
        told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, message="refused" if n == 4 else None) for n in range(10)])
        assert [n for n, one in enumerate(told) if not isinstance(one, FlowRunState)] == [4]


async def test_slow_statements_take_no_more_than_the_pool_can_send(own_database: str) -> None:
    async with opened(own_database, connections=3) as at:
        connection = await asyncpg.connect(own_database)
        async with connection.transaction():
            await connection.execute("lock table flow_run in share mode")
            tasks = start(*[at.states.create_flow_run_state(uuid4(), RUNNING) for _ in range(300)])
            watching = await create_pool(own_database, max_size=1)
            while await waiting_for_a_lock(watching) < 3:  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.01)
            await watching.close()
            assert at.states._batching._begun == 3
            assert len(at.states._batching._ready) > 100
        await connection.close()
        assert len(await asyncio.gather(*tasks)) == 300


async def test_what_is_large_goes_alone(dsn: str) -> None:
    async with opened(dsn, workers=1) as at:
        large = ["x" * 2**20, "small", "x" * 2**21, "small", "small"]
        stored = await asyncio.gather(*[at.states.create_flow_run_state(uuid4(), RUNNING, message=text) for text in ("first", *large)])
        assert [state.message for state in stored] == ["first", *large]
        assert at.counts == {ALONE: 4, TOGETHER: 1}


async def test_transitions_hold(dsn: str) -> None:
    async with opened(dsn, transitions={None: [PENDING], PENDING: [RUNNING]}) as at:
        runs = [uuid4() for _ in range(10)]
        with pytest.raises(InvalidInputError, match="follows nothing"):
            await at.states.create_flow_run_state(runs[0], "FAILED")
        for type_, outcome in ((RUNNING, UnexpectedStateError), (PENDING, FlowRunState), (PENDING, UnexpectedStateError), (RUNNING, FlowRunState)):
            told = await answers(*[at.states.create_flow_run_state(run, type_) for run in runs])
            assert {type(one) for one in told} == {outcome}


async def test_what_is_no_pool_is_refused(pool: Pool) -> None:
    async with pool.acquire() as connection:
        engine = create_async_engine("postgresql+asyncpg://")
        for given_ in (connection, AsyncSession(engine), engine.connect()):
            with pytest.raises(InvalidInputError, match=r"^pool: .*not a pool: in a transaction of yours"):
                batched(given_)  # type: ignore[arg-type]
    for value in (0, True, "2", 1.5, None):
        with pytest.raises(InvalidInputError, match=r"^workers: "):
            batched(pool, workers=value)  # type: ignore[arg-type]


async def test_without_kept_statements(dsn: str) -> None:
    async with create_pool(dsn, max_size=3, transaction_pooling=True) as pool, batched(pool) as states:
        assert len(await asyncio.gather(*[states.create_flow_run_state(uuid4(), RUNNING) for _ in range(50)])) == 50


async def test_contention_is_told_to_whom_it_meets(own_database: str) -> None:
    async with opened(own_database, workers=1) as at:
        await at.pool.execute(
            "create function keep() returns trigger language plpgsql as"
            " $$ begin if new.state_name = 'kept' then return null; end if; return new; end $$;"
            " create trigger keep before insert on flow_run for each row execute function keep()"
        )
        told = await answers(*[at.states.create_flow_run_state(uuid4(), RUNNING, name="kept" if number == 3 else None) for number in range(6)])
        assert [type(one) for one in told] == [ContentionError if number == 3 else FlowRunState for number in range(6)]


async def test_kills_in_the_middle_of_batches(own_dsn: str) -> None:
    random = Random(14)
    async with asyncio.timeout(LIMIT), target(own_dsn, isolation=MIXED, runs=20, connections=3, is_batched=True) as at:
        await migrate(at.pool)
        async with writing(at, random, writers=30):
            for _ in range(5):
                await at.writers.log.more(50)
                await at.terminate(0.7)
            await at.writers.log.more(50)
        assert await at.writers.problems() == []
        await usable(at.pool)
