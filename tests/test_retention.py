"""Pruning: what stays, held against a model; what else a history says then; and whatever comes between."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstates import (
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateRepository,
    FlowRunStateRetention,
    InvalidInputError,
    Keep,
    NewFlowRunState,
    PruneReport,
    ReadOnlyLayoutError,
    StateType,
    UnexpectedStateError,
    check,
    create_pool,
    migrate,
)
from flowstates.cli.imports import read_states
from flowstates.engine import connections, queries, standbys
from flowstates.engine.appending import Expected
from flowstates.engine.archives import ArchiveFile
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection, Pool
from tests.test_faults import cancelled_at_every_wait
from tests.test_questions import NAMES, World, bounded, one_of_layouts, rows_there, stored, tables, times, types, worlds
from tests.writers import BROKEN

pytestmark = pytest.mark.server

__all__ = ["tables"]  # a fixture

DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TERMINAL = tuple(type_ for type_ in StateType if type_.is_terminal)

keeps = st.builds(
    Keep,
    first=st.booleans(),
    last=st.booleans(),
    types=st.lists(types, max_size=2),
    names=st.lists(st.sampled_from(NAMES), max_size=2),
    newest=st.integers(0, 3),
)


async def make(pool: Pool | Connection, runs: int, *, states: int = 4, end: StateType = StateType.COMPLETED, at: datetime = LONG_AGO) -> list[UUID]:
    """Runs of so many states, a minute apart, the runs a day; the last state is of the type."""
    ids = [uuid4() for _ in range(runs)]
    walk = [*[StateType.PENDING, *[StateType.RUNNING] * states][: states - 1], end]
    news = [
        NewFlowRunState(flow_run_id=run, type=type_, timestamp=at + day * DAY + number * timedelta(minutes=1))
        for day, run in enumerate(ids)
        for number, type_ in enumerate(walk)
    ]
    await FlowRunStateRepository(pool).create_flow_run_states(news)
    return ids


async def lengths(pool: Pool | Connection, runs: Iterable[UUID]) -> list[int]:
    return [len(await FlowRunStateRepository(pool).read_flow_run_states(run)) for run in runs]


async def ids(connection: Connection) -> set[UUID]:
    return {row[0] for row in await connection.fetch("select id from flow_run_state")}


async def rows(connection: Connection) -> list[asyncpg.Record]:
    return await connection.fetch("select id, state_id, state_type::text, state_name, state_timestamp from flow_run order by id")


@pytest.fixture
async def own_pool(own_dsn: str) -> Any:
    async with create_pool(own_dsn, min_size=2, server_settings={"lock_timeout": "10s"}) as pool:
        await migrate(pool)
        yield pool


@one_of_layouts
@settings(bounded, max_examples=50)
@given(data=st.data(), world=worlds, before=times, batch_size=st.integers(1, 12), max_batches=st.none() | st.integers(1, 3))
async def test_what_stays_is_what_the_model_says(
    tables: Connection, layout: Layout, data: st.DataObject, world: World, before: datetime, batch_size: int, max_batches: int | None
) -> None:
    states, said, retention = world[0], rows_there(world, layout), FlowRunStateRetention(tables, layout=layout)
    asked = data.draw(st.lists(st.sampled_from(TERMINAL) if layout == "prefect" else types, min_size=1, max_size=3))
    keep = data.draw(keeps if layout == "prefect" else st.none() | keeps)
    left = model.after_pruning(states, said, asked, before, keep)
    gone = [state for state in states if state not in left]
    runs = {state.flow_run_id for state in gone}
    policy: dict[str, Any] = {"before": before, "types": asked, "keep": keep, "batch_size": batch_size}
    archived: list[FlowRunState] = []

    async def archive(states: list[FlowRunState]) -> None:
        archived.extend(states)

    async with stored(tables, layout, states, said):
        before_it = await rows(tables)
        dry = await retention.prune(**policy, dry_run=True)
        assert (dry.runs, dry.states, dry.bytes, dry.is_done, dry.oldest) == (len(runs), len(gone), None, True, None)
        assert await ids(tables) == {state.id for state in states}

        reports = [await retention.prune(**policy, max_batches=max_batches, archive=archive)]
        while not reports[-1].is_done:
            assert reports[-1].batches == max_batches
            reports.append(await retention.prune(**policy, max_batches=max_batches, archive=archive, cursor=reports[-1].cursor))
        assert (sum(report.runs for report in reports), sum(report.states for report in reports)) == (len(runs), len(gone))
        assert all((report.bytes or 0) >= 100 * report.states for report in reports)
        assert await ids(tables) == {state.id for state in left}
        assert sorted(archived, key=lambda state: state.id) == sorted(gone, key=lambda state: state.id)
        after = await rows(tables)
        assert after == before_it if layout == "prefect" else {row["id"]: model.Row(*row[1:]) for row in after} == model.rows_of(left)
        again = await retention.prune(**policy)
        assert (again.runs, again.states, again.batches, again.is_done) == (0, 0, 0, True)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("older_than", {}),
        ("older_than", {"older_than": DAY, "before": LONG_AGO}),
        ("older_than", {"older_than": -DAY}),
        ("older_than", {"older_than": 90}),
        ("before", {"before": LONG_AGO.replace(tzinfo=None)}),
        ("types", {"types": []}),
        ("types", {"types": "FAILED"}),
        ("types", {"types": ["DONE"]}),
        ("keep", {"keep": "last"}),
        ("batch_size", {"batch_size": 0}),
        ("batch_size", {"batch_size": 100_001}),
        ("max_batches", {"max_batches": 0}),
        ("pause", {"pause": -1}),
        ("max_lag", {"max_lag": float("nan")}),
        ("archive", {"archive": 7}),
        ("archive", {"archive": "/no/such/folder/states.jsonl"}),
        ("cursor", {"cursor": "x"}),
        ("cursor", {"cursor": 7}),
        ("artifacts", {"artifacts": True}),
        ("timeout", {"timeout": "1"}),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(pool: Pool, field: str, given: dict[str, Any]) -> None:
    policy = {"before": LONG_AGO - 9 * DAY} | given if field not in ("older_than", "before") else given
    with pytest.raises(InvalidInputError) as refused:
        await FlowRunStateRetention(pool).prune(**policy)
    assert refused.value.field == field


@pytest.mark.parametrize("given", [{"newest": -1}, {"newest": True}, {"types": ("DONE",)}, {"names": ("\0",)}, {"first": 1}, {"second": True}])
def test_a_keep_that_cannot_be_meant_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Keep(**given)
    assert refused.value.field == next(iter(given))


async def test_prefects_whole_runs_are_prefects(prefect_pool: Pool) -> None:
    retention = FlowRunStateRetention(prefect_pool, layout="prefect")
    with pytest.raises(ReadOnlyLayoutError, match="PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"):
        await retention.prune(older_than=DAY)
    with pytest.raises(InvalidInputError, match="types: are to be terminal"):
        await retention.prune(older_than=DAY, types=["RUNNING"], keep=Keep(last=True))


async def test_nothing_is_older_than_all_time(own_pool: Pool) -> None:
    await make(own_pool, 1)
    assert (await FlowRunStateRetention(own_pool).prune(older_than=timedelta.max)).runs == 0
    assert (await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0))).runs == 1


async def test_a_cursor_is_good_for_its_policy_alone(own_pool: Pool) -> None:
    retention = FlowRunStateRetention(own_pool)
    await make(own_pool, 3)
    first = await retention.prune(older_than=DAY, batch_size=1, max_batches=1)
    assert (first.runs, first.is_done, first.oldest and first.oldest.why) == (1, False, "ahead")
    for other in ({"keep": Keep(last=True)}, {"types": ["FAILED"]}):
        with pytest.raises(InvalidInputError, match="cursor: belongs to another policy"):
            await retention.prune(older_than=DAY, cursor=first.cursor, **other)
    # The same policy a moment later.
    rest = await retention.prune(older_than=DAY, cursor=first.cursor)
    assert (rest.runs, rest.states, rest.batches, rest.cursor, rest.is_done, rest.oldest) == (2, 8, 1, None, True, None)


async def test_progress_comes_batch_by_batch(own_pool: Pool) -> None:
    seen: list[PruneReport] = []
    await make(own_pool, 4)
    last = await FlowRunStateRetention(own_pool).prune(older_than=DAY, batch_size=4, pause=0.001, on_batch=seen.append)
    assert [(report.runs, report.states, report.batches) for report in seen] == [(1, 4, 1), (2, 8, 2), (3, 12, 3), (4, 16, 4)]
    assert seen[-1][:4] == last[:4]


async def test_the_oldest_run_says_why_it_is_there(own_pool: Pool) -> None:
    retention = FlowRunStateRetention(own_pool)
    (young,) = await make(own_pool, 1, at=LONG_AGO + 99 * DAY)
    before = LONG_AGO + 50 * DAY

    async def oldest(**policy: Any) -> tuple[UUID, str]:
        report = await retention.prune(before=before, **policy)
        assert report.oldest is not None
        return report.oldest.flow_run_id, report.oldest.why

    assert await oldest() == (young, "young")
    (old,) = await make(own_pool, 1)
    assert await oldest(types=["FAILED"]) == (old, "type")
    async with own_pool.acquire() as other, other.transaction():
        await other.execute("select from flow_run where id = $1 for update", old)
        assert await oldest() == (old, "passed")
    assert await oldest(keep=Keep(last=True)) == (old, "kept")
    assert await oldest() == (young, "young")


async def test_the_oldest_run_is_ahead_only_of_a_pass_that_has_not_come_to_it(own_pool: Pool) -> None:
    retention = FlowRunStateRetention(own_pool)
    first, second, third = await make(own_pool, 3)
    thinning: dict[str, Any] = {"older_than": DAY, "keep": Keep(first=True), "batch_size": 1, "max_batches": 1}
    report = await retention.prune(**thinning)
    assert (report.runs, report.is_done, report.oldest and report.oldest[::3]) == (1, False, (first, "kept"))
    # Of types the first that is asked for comes first.
    report = await retention.prune(types=["FAILED", "COMPLETED"], **thinning | {"max_batches": 2})
    assert report.oldest is not None
    assert report.oldest[::3] == (first, "kept")
    async with own_pool.acquire() as other, other.transaction():
        await other.execute("select from flow_run where id = $1 for update", first)
        report = await retention.prune(older_than=DAY, batch_size=1, max_batches=1)
    assert (report.runs, report.is_done, report.oldest and report.oldest[::3]) == (1, False, (first, "passed"))
    report = await retention.prune(older_than=DAY, batch_size=1, max_batches=1)
    assert (report.runs, report.oldest and report.oldest[::3]) == (1, (third, "ahead")), second


# What goes, and what comes between


async def test_a_run_that_was_changed_since_the_statement_began_is_whole(own_pool: Pool) -> None:
    """The statement is halted between its look at the runs and its locks."""
    states = FlowRunStateRepository(own_pool)
    for name, more in (("prune.runs", ()), ("prune.states", ("false", "0", [], []))):
        alive, appended, deleted, thinned, untouched = await make(own_pool, 5)
        text = queries.query(name, "flowstates")
        halted = text.replace("looked as materialized (", "gate as materialized (select pg_advisory_xact_lock_shared(7)), looked as materialized (")
        halted = halted.replace("from counted where", "from counted where (select count(*) from gate) = 1 and")
        assert halted != text
        async with own_pool.acquire() as holder, own_pool.acquire() as pruner:
            async with holder.transaction():
                await holder.execute("select pg_advisory_xact_lock(7)")
                arguments = ("COMPLETED", (LONG_AGO + 50 * DAY).isoformat(), "-infinity", str(UUID(int=0)), "100", "1000", None, *more, "true")
                running = asyncio.create_task(pruner.fetch(halted, *arguments))
                waiting = "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'advisory'"
                while not await holder.fetchval(waiting, pruner.get_server_pid()):
                    await holder.execute("select pg_stat_clear_snapshot()")
                await states.create_flow_run_state(alive, StateType.RUNNING)
                old = LONG_AGO + 6 * timedelta(hours=1)
                await states.create_flow_run_state(appended, StateType.COMPLETED, timestamp=old)
                history = await states.read_flow_run_states(deleted)
                await states.delete_flow_run_state(history[0].id)
                await states.create_flow_run_states([NewFlowRunState(flow_run_id=thinned, type=StateType.PAUSED, timestamp=LONG_AGO - DAY)])
            found = await running
        assert {UUID(row["flow_run_id"]) for row in found} == {untouched}
        assert (found[0]["runs_gone"], found[0]["runs_passed"]) == ("1", "4")
        assert await lengths(own_pool, [alive, appended, deleted, thinned]) == [5, 5, 3, 5]
        assert await lengths(own_pool, [untouched]) == [0 if name == "prune.runs" else 1]
        assert await check(own_pool, data=True) == []
        await states.delete_flow_run_states(flow_run_ids=[alive, appended, deleted, thinned, untouched])


@pytest.mark.parametrize("keep", [None, Keep(last=True)])
async def test_what_is_locked_is_passed_by_and_nobody_waits(own_pool: Pool, keep: Keep | None) -> None:
    locked, other = await make(own_pool, 2)
    async with own_pool.acquire() as holder, holder.transaction():
        await FlowRunStateRepository(holder).create_flow_run_state(locked, StateType.RUNNING)
        report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, keep=keep, timeout=5)
    assert (report.runs, report.passed, report.is_done) == (1, 1, True)
    assert await lengths(own_pool, [locked, other]) == [5, 0 if keep is None else 1]
    assert await check(own_pool, data=True) == []


async def test_an_append_that_waits_for_a_pass_is_not_lost(own_pool: Pool) -> None:
    states = FlowRunStateRepository(own_pool)
    (run,) = await make(own_pool, 1)
    last = await states.read_current_flow_run_state(run)
    assert last is not None
    waiting: list[asyncio.Task[FlowRunState]] = []

    async def archive(_: list[FlowRunState]) -> None:
        expectations: tuple[Expected, ...] = (..., last.id)
        creates = [states.create_flow_run_state(run, StateType.RUNNING, expected=expected, timeout=5) for expected in expectations]
        waiting.extend(map(asyncio.create_task, creates))
        async with own_pool.acquire() as watcher:
            while await watcher.fetchval("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()") < 2:
                await watcher.execute("select pg_stat_clear_snapshot()")

    assert (await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=archive)).runs == 1
    after = await waiting[0]
    with pytest.raises(UnexpectedStateError):
        await waiting[1]
    assert await states.read_flow_run_states(run) == [after]


async def test_writers_and_two_passes_at_once(own_dsn: str) -> None:
    """Every acknowledged append is there or was archived; what a pass took was old; each row points at its run's newest state."""
    random = Random(11)
    async with asyncio.timeout(60), create_pool(own_dsn, max_size=8) as pool:
        await migrate(pool)
        states = FlowRunStateRepository(pool)
        runs = await make(pool, 12)
        acknowledged: set[UUID] = {state.id for run in runs for state in await states.read_flow_run_states(run)}
        removed: set[UUID] = set()
        archived: list[FlowRunState] = []

        async def archive(states: list[FlowRunState]) -> None:
            await asyncio.sleep(0)
            archived.extend(states)

        async def write() -> None:
            for _ in range(60):
                run = random.choice(runs)
                if random.random() < 0.8:
                    type_ = random.choice([StateType.RUNNING, StateType.COMPLETED])
                    # An old one, so that the run may go again.
                    state = await states.create_flow_run_state(run, type_, timestamp=LONG_AGO)
                    acknowledged.add(state.id)
                else:
                    history = await states.read_flow_run_states(run)
                    if history and await states.delete_flow_run_state(id_ := random.choice(history).id):
                        removed.add(id_)

        async def prune(keep: Keep | None) -> None:
            for _ in range(15):
                await FlowRunStateRetention(pool).prune(older_than=DAY, batch_size=20, keep=keep, archive=archive)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(write())
            for keep in (None, None, Keep(first=True)):
                group.create_task(prune(keep))
        left = {row[0] for row in await pool.fetch("select id from flow_run_state")}
        gone = [state.id for state in archived]
        assert len(gone) == len(set(gone)) > 0
        assert left | set(gone) | removed == acknowledged
        assert len(left) + len(gone) + len(removed) == len(acknowledged)
        assert await check(pool, data=True) == []


# What breaks


@pytest.mark.parametrize("with_result", [False, True])
@pytest.mark.parametrize("keep", [None, Keep(first=True)])
async def test_cancelled_at_every_await(own_dsn: str, tmp_path: Any, keep: Keep | None, with_result: bool) -> None:
    path = tmp_path / "gone.jsonl"
    async with asyncio.timeout(60), create_pool(own_dsn, max_size=1) as pool:
        await migrate(pool)
        states = FlowRunStateRepository(pool)
        runs = await make(pool, 6, states=3)
        known = {state.id for run in runs for state in await states.read_flow_run_states(run)}
        retention = FlowRunStateRetention(pool)

        async def after() -> None:
            left = {state.id for run in runs for state in await states.read_flow_run_states(run)}
            assert left | archived(path) == known

        def attempt() -> Any:
            return retention.prune(older_than=DAY, keep=keep, batch_size=3, archive=path, timeout=5)

        assert await cancelled_at_every_wait(attempt, after, with_result=with_result) >= 5
        await after()
        assert await lengths(pool, runs) == [0 if keep is None else 2] * 6
        assert await check(pool, data=True) == []


def archived(path: Any) -> set[UUID]:
    return {UUID(json.loads(line)["id"]) for line in path.read_text().splitlines()} if path.exists() else set()


async def test_a_connection_that_is_ended_in_a_batch_undoes_that_batch_alone(own_pool: Pool, own_dsn: str) -> None:
    runs = await make(own_pool, 4)
    killer, batches = await asyncpg.connect(own_dsn), 0

    async def archive(_: list[FlowRunState]) -> None:
        nonlocal batches
        batches += 1
        if batches == 3:
            await killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            )

    retention = FlowRunStateRetention(own_pool)
    with pytest.raises(BROKEN):
        await retention.prune(older_than=DAY, batch_size=4, archive=archive)
    await own_pool.expire_connections()  # the idle ones were ended too
    assert await lengths(own_pool, runs) == [0, 0, 4, 4]
    assert (await retention.prune(older_than=DAY)).runs == 2
    await killer.close()


async def test_an_archive_that_fails_undoes_its_batch(own_pool: Pool) -> None:
    runs = await make(own_pool, 2)

    async def archive(states: list[FlowRunState]) -> None:
        if states[0].flow_run_id == runs[1]:
            raise LookupError("full")

    with pytest.raises(LookupError, match="full"):
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, batch_size=1, archive=archive)
    assert await lengths(own_pool, runs) == [0, 4]


async def test_an_archive_that_is_not_async_is_refused(own_pool: Pool) -> None:
    runs, taken = await make(own_pool, 1), list[object]()
    with pytest.raises(InvalidInputError, match="not async") as caught:
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=taken.append)  # type: ignore[arg-type]
    assert caught.value.field == "archive"
    assert await lengths(own_pool, runs) == [4]


async def test_in_a_transaction_of_the_callers_all_of_it_is(own_pool: Pool) -> None:
    runs = await make(own_pool, 3)
    async with own_pool.acquire() as connection:
        for isolation in ("read_committed", "serializable"):
            transaction = connection.transaction(isolation=isolation)
            await transaction.start()
            assert (await FlowRunStateRetention(connection).prune(older_than=DAY, batch_size=4)).batches == 3
            await transaction.rollback()
            assert await lengths(own_pool, runs) == [4, 4, 4]


async def test_through_a_pool_of_one_without_kept_statements_at_another_isolation_level(own_dsn: str) -> None:
    settings = {"default_transaction_isolation": "serializable"}
    async with create_pool(own_dsn, max_size=1, transaction_pooling=True) as pool:
        await migrate(pool)
    async with asyncpg.create_pool(own_dsn, min_size=1, max_size=1, statement_cache_size=0, server_settings=settings) as pool:
        runs = await make(pool, 3)
        assert (await FlowRunStateRetention(pool).prune(older_than=DAY, batch_size=4, keep=Keep(last=True), timeout=5)).states == 9
        assert await lengths(pool, runs) == [1, 1, 1]


SLOW = """
create function linger() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return old; end $$;
create trigger slow before delete on flow_run_state for each row execute function linger();
"""


async def test_a_batch_that_takes_too_long_is_made_smaller(own_pool: Pool, own_dsn: str) -> None:
    runs = await make(own_pool, 8)
    await own_pool.execute(SLOW)
    async with create_pool(own_dsn, max_size=1, server_settings={"statement_timeout": "300ms"}) as pool:
        # 32 states take 640 ms at least, four 80.
        report = await FlowRunStateRetention(pool).prune(older_than=DAY, batch_size=32)
        assert (report.runs, report.is_done) == (8, True)
        assert report.batches > 2
        (run,) = await make(pool, 1, states=40)
        with pytest.raises(asyncpg.QueryCanceledError) as error:
            await FlowRunStateRetention(pool).prune(older_than=DAY)
        assert "a batch of one run" in error.value.__notes__[0]
    assert await lengths(own_pool, [*runs, run]) == [0] * 8 + [40]


async def test_a_batch_that_somebody_cancels_ends_the_pass(own_pool: Pool, own_dsn: str) -> None:
    await make(own_pool, 1)
    await own_pool.execute(SLOW.replace("0.02", "10"))
    async with create_pool(own_dsn, max_size=1) as pool:
        running = asyncio.create_task(FlowRunStateRetention(pool).prune(older_than=DAY))
        cancel = "select pg_cancel_backend(pid) from pg_stat_activity where datname = current_database() and query like '%/* prune.runs */%'"
        while not await own_pool.fetch(f"{cancel} and wait_event = 'PgSleep'"):
            await own_pool.execute("select pg_stat_clear_snapshot()")
        with pytest.raises(asyncpg.QueryCanceledError):
            await running


# Foreign keys


@pytest.mark.parametrize("when", ["", "deferrable initially deferred", "on delete restrict"])
async def test_a_run_that_a_foreign_key_holds_stays_and_is_counted(own_pool: Pool, when: str) -> None:
    await own_pool.execute(
        f"create table invoice (flow_run_id uuid constraint invoices references flow_run (id) {when});"
        "create table report (flow_run_id uuid references flow_run (id) on delete cascade)"
    )
    runs = await make(own_pool, 9)
    held = [runs[0], runs[4], runs[8]]
    await own_pool.executemany("insert into invoice values ($1)", [(run,) for run in held])
    await own_pool.executemany("insert into report values ($1)", [(run,) for run in runs])
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY)
    assert (report.runs, report.states, report.held, report.is_done) == (6, 24, {"invoices": 3}, True)
    assert report.oldest is not None
    assert (report.oldest.flow_run_id, report.oldest.why) == (runs[0], "held")
    assert await lengths(own_pool, runs) == [4 if run in held else 0 for run in runs]
    assert await own_pool.fetchval("select count(*) from report") == 3
    # A history may be thinned all the same.
    assert (await FlowRunStateRetention(own_pool).prune(older_than=DAY, keep=Keep(last=True))).states == 9
    assert await check(own_pool, data=True) == []


# Archives


async def histories(pool: Pool, runs: list[UUID]) -> list[dict[str, Any]]:
    states = FlowRunStateRepository(pool)
    return [state.model_dump(exclude={"created", "updated"}) for run in runs for state in await states.read_flow_run_states(run)]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("keep", [None, Keep(first=True)])
async def test_an_archive_is_restored_by_an_import(own_pool: Pool, tmp_path: Any, keep: Keep | None, ending: str) -> None:
    path = tmp_path / f"gone.jsonl{ending}"
    retention, states = FlowRunStateRetention(own_pool), FlowRunStateRepository(own_pool)
    if ending == ".zst" and sys.version_info < (3, 14):
        with pytest.raises(InvalidInputError, match=r"archive: ends in \.zst"):
            await retention.prune(older_than=DAY, archive=path)
        return
    runs = await make(own_pool, 5)
    await states.create_flow_run_state(runs[0], StateType.FAILED, timestamp=LONG_AGO + DAY, message="a\u2028\x7f", data={"ü": [1.5, None]})
    before = await histories(own_pool, runs)
    report = await retention.prune(older_than=DAY, keep=keep, archive=path, batch_size=4, max_batches=2)
    # What a broken writer left is cut off, and what it wrote of a batch that was not committed is no harm.
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 3] if not ending else whole + whole[:7])
    await retention.prune(older_than=DAY, keep=keep, archive=str(path), batch_size=4, cursor=report.cursor)
    assert await histories(own_pool, runs) != before
    with path.open("rb") as file:
        counts = await read_states(states, file, on_tie="refuse")
    assert counts["refused"] == 0
    assert await histories(own_pool, runs) == before
    assert await check(own_pool, data=True) == []


async def test_an_archive_has_one_writer(pool: Pool, tmp_path: Any) -> None:
    path = tmp_path / "gone.jsonl"
    with closing(ArchiveFile(str(path))), pytest.raises(InvalidInputError, match="another prune"):
        await FlowRunStateRetention(pool).prune(before=LONG_AGO - 9 * DAY, archive=path)
    assert path.read_bytes() == b""


async def test_a_file_that_is_no_archive_is_left_alone(pool: Pool, tmp_path: Any) -> None:
    path = tmp_path / "gone.jsonl.gz"
    path.write_bytes(b"something else")
    with pytest.raises(InvalidInputError, match="is not what its name says"):
        await FlowRunStateRetention(pool).prune(before=LONG_AGO - 9 * DAY, archive=path)
    assert path.read_bytes() == b"something else"


async def test_a_dry_run_touches_no_archive(own_pool: Pool, tmp_path: Any) -> None:
    await make(own_pool, 1)
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=tmp_path / "gone.jsonl", dry_run=True)
    assert (report.states, list(tmp_path.iterdir())) == (4, [])


# Standbys


async def test_max_lag_takes_a_right_and_no_transaction(own_pool: Pool, own_dsn: str) -> None:
    await make(own_pool, 1)
    role = f"role_{uuid4().hex[:12]}"
    await own_pool.execute(
        f"create role {role}; grant select, delete on flow_run_state, flow_run to {role}; grant all on flowstates_pruned to {role}"
    )
    try:
        async with own_pool.acquire() as connection, connection.transaction():
            with pytest.raises(InvalidInputError, match="max_lag: cannot be used in a transaction"):
                await FlowRunStateRetention(connection).prune(older_than=DAY, max_lag=1)
        async with own_pool.acquire() as connection:
            await connection.execute(f"set role {role}")
            with pytest.raises(InvalidInputError, match="max_lag: takes the right to see standbys"):
                await FlowRunStateRetention(connection).prune(older_than=DAY, max_lag=1)
            await connection.execute("reset role")
    finally:
        await own_pool.execute(f"drop owned by {role}; drop role {role}")
    assert (await FlowRunStateRetention(own_pool).prune(older_than=DAY, max_lag=0.1)).runs == 1


async def test_a_pass_waits_for_a_standby_that_is_behind(own_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server says of standbys is played here: one says that it is late, then one stands still, then it has replayed all."""
    await make(own_pool, 2)
    said = [(True, "100", "50", "9.0"), (True, "100", "100", "9.0"), (True, "200", "100", "0"), (True, "300", "100", "0"), (True, "300", "250", "0")]
    clock = iter([0.0, 0.0, 10.0, 10.0, 14.0, 14.0, 14.0, 14.0])
    waits: list[float] = []
    real = connections.ask

    async def ask(connection: Any, name: str, *arguments: Any) -> Any:
        return (
            [said.pop(0)]
            if name == "read_standbys" and said
            else [(True, "400", None, "0")]
            if name == "read_standbys"
            else await real(connection, name)
        )

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(standbys, "ask", ask)
    monkeypatch.setattr(standbys, "monotonic", lambda: next(clock))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert (await FlowRunStateRetention(own_pool).prune(older_than=DAY, batch_size=4, max_lag=3)).runs == 2
    # Late by its own word; then standing still for four seconds.
    assert len(waits) == 2


# On Prefect's tables


async def test_results_stay_with_their_states_unless_they_are_asked_for(own_dsn: str) -> None:
    connection = await asyncpg.connect(own_dsn)
    await model.prepare(connection, "prefect")
    run, ids_ = uuid4(), [uuid4() for _ in range(6)]
    artifacts = [uuid4() for _ in range(6)]
    history = [
        model.state(run, id_, type_, LONG_AGO + number * timedelta(minutes=1))
        for number, (id_, type_) in enumerate(zip(ids_, [StateType.RUNNING] * 5 + [StateType.COMPLETED], strict=True))
    ]
    await model.store(connection, "prefect", history)
    await connection.executemany(
        "insert into artifact (id, key, data) values ($1, $2, '{\"a\": 1}')", [(a, f"k{n}") for n, a in enumerate(artifacts)]
    )
    # The first has none; the second's is its own; the third's is the newest of its key; the fourth's a task has too; the fifth's the current has too.
    named = [None, artifacts[1], artifacts[2], artifacts[3], artifacts[4], artifacts[4]]
    await connection.executemany("update flow_run_state set result_artifact_id = $2 where id = $1", list(zip(ids_, named, strict=True)))
    await connection.execute("insert into artifact_collection (key, latest_id) values ('k2', $1)", artifacts[2])
    await connection.execute("insert into task_run_state (result_artifact_id) values ($1)", artifacts[3])
    retention = FlowRunStateRetention(connection, layout="prefect")
    assert (await retention.prune(older_than=DAY, keep=Keep())).states == 1
    assert await ids(connection) == set(ids_[1:])
    gone: list[FlowRunState] = []

    async def archive(states: list[FlowRunState]) -> None:
        gone.extend(states)

    assert (await retention.prune(older_than=DAY, keep=Keep(), artifacts=True, dry_run=True)).states == 4
    assert (await retention.prune(older_than=DAY, keep=Keep(), artifacts=True, archive=archive)).states == 4
    assert [state.data for state in gone] == [{"a": 1}] * 4
    assert await ids(connection) == {ids_[5]}
    assert {row[0] for row in await connection.fetch("select id from artifact")} == {*artifacts} - {artifacts[1]}
    (left,) = await FlowRunStateRepository(connection, layout="prefect").read_flow_run_states(run)
    assert left.data == {"a": 1}
    await connection.close()


async def test_prefects_end_time_says_how_old_a_run_is(own_dsn: str) -> None:
    connection = await asyncpg.connect(own_dsn)
    await model.prepare(connection, "prefect")
    runs = [uuid4() for _ in range(3)]
    history = [
        model.state(run, uuid4(), type_, LONG_AGO + number * timedelta(minutes=1))
        for run in runs
        for number, type_ in enumerate([StateType.RUNNING, StateType.COMPLETED])
    ]
    await model.store(connection, "prefect", history)
    for run, end in zip(runs, [LONG_AGO - DAY, LONG_AGO + 9 * DAY, None], strict=True):
        await connection.execute("update flow_run set end_time = $2 where id = $1", run, end)
    retention = FlowRunStateRetention(connection, layout="prefect")
    for before, count in ((LONG_AGO, 1), (LONG_AGO + DAY, 1), (LONG_AGO + 10 * DAY, 1)):
        assert (await retention.prune(before=before, keep=Keep(last=True))).states == count
    await connection.close()


# What else a history says afterwards


@one_of_layouts
async def test_what_else_a_thinned_history_says(own_dsn: str, layout: Layout) -> None:
    connection = await asyncpg.connect(own_dsn)
    await model.prepare(connection, layout)
    run = uuid4()
    walk = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.RUNNING, StateType.COMPLETED]
    minute = timedelta(minutes=1)
    history = [model.state(run, uuid4(), type_, LONG_AGO + number * minute) for number, type_ in enumerate(walk)]
    await model.store(connection, layout, history)
    states, analytics = FlowRunStateRepository(connection, layout=layout), FlowRunStateAnalytics(connection, layout=layout)
    window: dict[str, Any] = {"since": LONG_AGO - DAY, "until": LONG_AGO + DAY}

    async def totals() -> dict[str, tuple[int, timedelta]]:
        return {entry.state: (entry.visits, entry.total) for entry in await analytics.measure_time_in_states(**window)}

    nothing = timedelta(0)
    assert await totals() == {"PENDING": (1, minute), "RUNNING": (2, 2 * minute), "PAUSED": (1, minute), "COMPLETED": (1, nothing)}
    assert (await FlowRunStateRetention(connection, layout=layout).prune(older_than=DAY, keep=Keep(first=True, last=True))).states == 3
    # The time of what went falls to the state before, and what went is not counted any more.
    assert await totals() == {"PENDING": (1, 4 * minute), "COMPLETED": (1, nothing)}
    (count,) = await analytics.count_transitions(**window, step=2 * DAY)
    assert {type_: number for type_, number in count.counts.items() if number} == {StateType.PENDING: 1, StateType.COMPLETED: 1}
    at = LONG_AGO + 2.5 * minute
    assert (await states.read_flow_run_states_as_of([run], at))[run].type is StateType.PENDING
    (tick,) = await analytics.count_occupancy(since=at, until=at + minute, step=minute)
    assert tick.counts[StateType.PENDING] == 1
    # What is current is what it was.
    assert (await states.read_current_flow_run_state(run)) == history[-1]
    await connection.close()
