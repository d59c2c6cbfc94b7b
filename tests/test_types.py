"""What people pass and what they cannot: the same at run time, for mypy and for pyright.

`make check` gives this file to both, to mypy with Pydantic's plugin and without. What is wrong is marked as that for each of them, and a mark that
is not needed is an error.
"""

from __future__ import annotations

import ast
import asyncio
import threading
from asyncio import current_task
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from inspect import getmembers, getsource, isawaitable, isfunction
from typing import assert_type, get_args, get_type_hints
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from flowstates import (
    Blocker,
    ConsumerPosition,
    Expected,
    FeedBatch,
    FeedPage,
    FlowRunState,
    FlowRunStateAnalytics,
    FlowRunStateFeed,
    FlowRunStateFilter,
    FlowRunStateRepository,
    FlowRunStateRetention,
    InvalidInputError,
    Layout,
    NewFlowRunState,
    PoolOrConnection,
    StateDetails,
    StateType,
    TypeName,
    UnexpectedStateError,
    check,
    check_plans,
    create_pool,
    migrate,
    migration_sql,
)

pytestmark = pytest.mark.versions

ENGINE = create_async_engine("postgresql+asyncpg://")
RUN, OTHER = UUID(int=1), UUID(int=2)
TEXT = str(RUN)
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
PENDING, RUNNING, FAILED = StateType.PENDING, StateType.RUNNING, StateType.FAILED


def test_a_filter_takes_any_collection_of_ids_types_and_names() -> None:
    runs: dict[UUID, str] = {RUN: "a run"}
    for of_ids in (
        FlowRunStateFilter(flow_run_ids=[RUN], ids=[TEXT]),
        FlowRunStateFilter(flow_run_ids=(TEXT,), ids=(RUN,)),
        FlowRunStateFilter(flow_run_ids={RUN}, ids={TEXT}),
        FlowRunStateFilter(flow_run_ids=runs.keys(), ids=frozenset({RUN})),
        FlowRunStateFilter(flow_run_ids=(run for run in runs), ids=map(str, runs)),
    ):
        assert assert_type(of_ids.flow_run_ids, tuple[UUID, ...] | None) == assert_type(of_ids.ids, tuple[UUID, ...] | None) == (RUN,)
    words: list[TypeName] = ["RUNNING"]
    for of_types in (
        FlowRunStateFilter(types=["RUNNING"], names=["Running"]),
        FlowRunStateFilter(types=("RUNNING",), names=("Running",)),
        FlowRunStateFilter(types={"RUNNING"}, names={"Running"}),
        FlowRunStateFilter(types=[RUNNING], names=frozenset({"Running"})),
        FlowRunStateFilter(types={RUNNING}, names={"Running": 1}.keys()),
        FlowRunStateFilter(types=words, names=iter(["Running"])),
    ):
        assert assert_type(of_types.types, tuple[StateType, ...] | None) == (RUNNING,)
        assert assert_type(of_types.names, tuple[str, ...] | None) == ("Running",)
    mixed = FlowRunStateFilter(flow_run_ids={RUN, str(OTHER)}, ids=None, types={"RUNNING", FAILED}, since=NOON, until=NOON.isoformat(), terminal=None)
    assert set(mixed.flow_run_ids or ()) == {RUN, OTHER}
    assert set(mixed.types or ()) == {RUNNING, FAILED}
    assert assert_type(mixed.since, datetime | None) == assert_type(mixed.until, datetime | None) == NOON


def test_a_new_state_takes_texts_and_dicts() -> None:
    texts = NewFlowRunState(
        flow_run_id=TEXT,
        type="RUNNING",
        id=TEXT,
        timestamp=NOON.isoformat(),
        name="Running",
        message=None,
        state_details={"cache_key": "k"},
        data=[1],
        result_artifact_id=TEXT,
    )
    assert texts == NewFlowRunState(
        flow_run_id=RUN, type=RUNNING, id=RUN, timestamp=NOON, state_details=StateDetails(cache_key="k"), data=[1], result_artifact_id=RUN
    )
    assert assert_type(texts.flow_run_id, UUID) == assert_type(texts.id, UUID) == assert_type(texts.result_artifact_id, UUID | None) == RUN
    assert assert_type(texts.type, StateType) is RUNNING
    assert assert_type(texts.timestamp, datetime | None) == NOON
    assert assert_type(texts.state_details, StateDetails) == StateDetails(cache_key="k")
    left_out = NewFlowRunState(flow_run_id=RUN, type=RUNNING, id=None, timestamp=None, name=None, state_details=None, result_artifact_id=None)
    assert (left_out.name, left_out.state_details) == ("Running", StateDetails())


async def test_a_create_takes_texts_and_dicts_and_expects_types_by_their_names(dsn: str) -> None:
    async with create_pool(dsn) as pool:
        states, run = FlowRunStateRepository(pool), uuid4()
        first = await states.create_flow_run_state(str(run), "PENDING", timestamp=NOON.isoformat(), state_details={"retriable": True}, expected=None)
        assert (first.flow_run_id, first.type, first.timestamp, first.state_details.retriable) == (run, PENDING, NOON, True)
        second = await states.create_flow_run_state(run, StateType("RUNNING"), expected={"PENDING"})
        await states.create_flow_run_state(run, RUNNING, expected=str(second.id))
        passed: tuple[Expected, ...] = (..., {"RUNNING", PENDING}, ["RUNNING"], ("RUNNING",), {RUNNING}, frozenset({RUNNING}))
        for expected in passed:
            await states.create_flow_run_state(run, "RUNNING", expected=expected)
        with pytest.raises(UnexpectedStateError):
            await states.create_flow_run_state(run, "RUNNING", expected=["PENDING", FAILED])


async def test_transitions_take_types_and_their_names() -> None:
    of_types: dict[StateType, list[StateType]] = {PENDING: [RUNNING]}
    of_types_and_none: dict[StateType | None, tuple[StateType, ...]] = {None: (PENDING,)}
    pool = create_pool()
    FlowRunStateRepository(pool, transitions=of_types)
    FlowRunStateRepository(pool, transitions=of_types_and_none)
    FlowRunStateRepository(pool, transitions={"PENDING": ["RUNNING"]})
    FlowRunStateRepository(pool, transitions={None: ("PENDING",), "PENDING": {"RUNNING"}})
    FlowRunStateRepository(pool, transitions={None: [PENDING], "PENDING": ["RUNNING", FAILED]})


async def test_a_feed_s_answers_are_what_the_checkers_see(own_database: str) -> None:
    async with create_pool(own_database) as pool:
        await FlowRunStateRepository(pool).create_flow_run_state(RUN, "RUNNING")
        for feed in (FlowRunStateFeed(pool), FlowRunStateFeed(pool, layout="flowstates", clock_slack=5)):
            page = await feed.read_page(None, filter=FlowRunStateFilter(types=["RUNNING"]), limit=1, timeout=60)
            assert_type(page, FeedPage)
            assert_type(page.states, list[FlowRunState])
            assert_type(page.position, str)
            assert_type(page.is_caught_up, bool)
            assert_type(page.blocked_by, tuple[Blocker, ...])
            assert isinstance(assert_type(await feed.now(), str), str)
            async with feed.follow(poll=1, wake=asyncio.Event()) as pages:
                assert_type(pages, AsyncIterator[FeedPage])
                async for one in pages:
                    assert_type(one, FeedPage)
                    break
            for start in ("beginning", "now", page.position):
                async with feed.consume("types", start=start, skip_locked=False) as batch:
                    assert_type(batch, FeedBatch)
                    assert_type(batch.states, list[FlowRunState])
                    assert_type(batch.blocked_by, tuple[Blocker, ...])
                    assert await batch.connection.fetchval("select 1") == 1
            assert assert_type(await feed.move("types", page.position, expected=None), bool)
            (position,) = assert_type(await feed.positions(), list[ConsumerPosition])
            assert_type(position.updated, datetime)
            assert_type(position.behind, timedelta)
            assert assert_type(await feed.forget("types"), bool)


# fmt: off
WRONG: list[tuple[str, Callable[[FlowRunStateRepository], object]]] = [
    ("flow_run_ids", lambda _: FlowRunStateFilter(flow_run_ids=[1])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("ids", lambda _: FlowRunStateFilter(ids=RUN)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types=["RUNING"])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types=("RUNNING", "RUNING"))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types={"RUNING"})),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types=["running"])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types="RUNNING")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("types", lambda _: FlowRunStateFilter(types=RUNNING)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("names", lambda _: FlowRunStateFilter(names=[1])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("since", lambda _: FlowRunStateFilter(since=1709640000)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("terminal", lambda _: FlowRunStateFilter(terminal="perhaps")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("terminal", lambda _: FlowRunStateFilter(terminal="yes")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("current", lambda _: FlowRunStateFilter(current="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("type", lambda _: FlowRunStateFilter(type="RUNNING")),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ("flow_run_id", lambda _: NewFlowRunState(flow_run_id=1, type="RUNNING")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("flow_run_id", lambda _: NewFlowRunState(type="RUNNING")),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ("type", lambda _: NewFlowRunState(flow_run_id=RUN, type="RUNING")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("type", lambda _: NewFlowRunState(flow_run_id=RUN, type=None)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("timestamp", lambda _: NewFlowRunState(flow_run_id=RUN, type="RUNNING", timestamp=1709640000)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("message", lambda _: NewFlowRunState(flow_run_id=RUN, type="RUNNING", message=1)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("state_details", lambda _: NewFlowRunState(flow_run_id=RUN, type="RUNNING", state_details=[])),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("detail", lambda _: NewFlowRunState(flow_run_id=RUN, type="RUNNING", detail={})),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ("type", lambda states: states.create_flow_run_state(RUN, "RUNING")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("flow_run_id", lambda states: states.create_flow_run_state(1, "RUNNING")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("expected", lambda states: states.create_flow_run_state(RUN, "RUNNING", expected={"RUNING"})),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("expected", lambda states: states.create_flow_run_state(RUN, "RUNNING", expected=["RUNNING", RUN])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("newest_first", lambda states: states.read_flow_run_state_page(newest_first="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("per_run", lambda _: FlowRunStateAnalytics(create_pool()).measure_time_in_states(since=NOON, until=NOON, per_run="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("dry_run", lambda _: FlowRunStateRetention(create_pool()).prune(before=NOON, dry_run="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("data", lambda _: check(create_pool(), data="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("transaction_pooling", lambda _: create_pool(transaction_pooling="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("transitions", lambda _: FlowRunStateRepository(create_pool(), transitions={"RUNING": ["RUNNING"]})),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    ("transitions", lambda _: FlowRunStateRepository(create_pool(), transitions={None: ["RUNING"]})),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ("order", lambda states: states.read_flow_run_state_page(order="name")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("filter", lambda states: states.count_flow_run_states({"types": ["RUNNING"]})),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("layout", lambda _: FlowRunStateRepository(create_pool(), layout="prefct")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("layout", lambda _: FlowRunStateAnalytics(create_pool(), layout="prefct")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("layout", lambda _: FlowRunStateFeed(create_pool(), layout="prefct")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("clock_slack", lambda _: FlowRunStateFeed(create_pool(), clock_slack=timedelta(seconds=5))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("pool_or_connection", lambda _: FlowRunStateFeed("postgresql://localhost")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("after", lambda _: FlowRunStateFeed(create_pool()).read_page(5)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("limit", lambda _: FlowRunStateFeed(create_pool()).read_page(limit="5")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("filter", lambda _: FlowRunStateFeed(create_pool()).read_page(filter={"types": ["RUNNING"]})),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("poll", lambda _: FlowRunStateFeed(create_pool()).follow(poll=timedelta(seconds=1))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("wake", lambda _: FlowRunStateFeed(create_pool()).follow(wake=threading.Event())),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("name", lambda _: FlowRunStateFeed(create_pool()).consume(b"billing")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("start", lambda _: FlowRunStateFeed(create_pool()).consume("billing", start=0)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("skip_locked", lambda _: FlowRunStateFeed(create_pool()).consume("billing", skip_locked="no")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("timeout", lambda _: FlowRunStateFeed(create_pool()).consume("billing", timeout=timedelta(seconds=1))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("to", lambda _: FlowRunStateFeed(create_pool()).move("billing", None)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("expected", lambda _: FlowRunStateFeed(create_pool()).move("billing", "now", expected=5)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("name", lambda _: FlowRunStateFeed(create_pool()).forget(5)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("pool_or_connection", lambda _: FlowRunStateRepository("postgresql://localhost")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("pool_or_connection", lambda _: FlowRunStateRepository(Session())),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("pool_or_connection", lambda _: FlowRunStateRepository(ENGINE)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("pool_or_connection", lambda _: migrate(async_sessionmaker(ENGINE))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
]
# fmt: on


def test_what_sqlalchemy_has_is_taken() -> None:
    scoped = async_scoped_session(async_sessionmaker(ENGINE), scopefunc=current_task)
    for repository in (
        FlowRunStateRepository(AsyncSession(ENGINE)),
        FlowRunStateRepository(ENGINE.connect()),
        FlowRunStateRepository(async_sessionmaker(ENGINE)()),
        FlowRunStateRepository(scoped),
    ):
        assert assert_type(repository, FlowRunStateRepository)


@pytest.mark.parametrize(("field", "wrong"), WRONG, ids=[f"{number}-{field}" for number, (field, _) in enumerate(WRONG)])
async def test_what_the_checkers_refuse_is_refused_by_name_before_anything_is_sent(
    field: str, wrong: Callable[[FlowRunStateRepository], object]
) -> None:
    async def ask() -> None:
        answer = wrong(FlowRunStateRepository(create_pool()))
        if isawaitable(answer):
            await answer

    with pytest.raises(InvalidInputError) as caught:
        await ask()
    assert caught.value.field == field


def test_the_words_for_types_are_the_types() -> None:
    assert list(get_args(TypeName)) == list(StateType)


@pytest.mark.parametrize("model", [FlowRunStateFilter, NewFlowRunState])
def test_the_parameters_that_the_checkers_see_are_the_fields(model: type[FlowRunStateFilter | NewFlowRunState]) -> None:
    (seen,) = [node for node in ast.walk(ast.parse(getsource(model))) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    assert [parameter.arg for parameter in seen.args.kwonlyargs] == list(model.model_fields)
    required = [parameter.arg for parameter, default in zip(seen.args.kwonlyargs, seen.args.kw_defaults, strict=True) if default is None]
    assert required == [name for name, field in model.model_fields.items() if field.is_required()]


def test_the_exported_types_are_there_at_run_time() -> None:
    def annotated(pool: PoolOrConnection, layout: Layout, type: TypeName, expected: Expected) -> None: ...

    assert get_type_hints(annotated) == {"pool": PoolOrConnection, "layout": Layout, "type": TypeName, "expected": Expected, "return": type(None)}
    for runner in (FlowRunStateRepository, FlowRunStateAnalytics, FlowRunStateRetention, FlowRunStateFeed):
        for _, method in getmembers(runner, isfunction):
            assert get_type_hints(method)
    for record in (Blocker, ConsumerPosition, FeedBatch, FeedPage):
        assert list(get_type_hints(record)) == list(record._fields)
    for function in (check, check_plans, create_pool, migrate, migration_sql):
        assert get_type_hints(function)
