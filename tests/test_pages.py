from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any, Literal, TypeAlias
from uuid import UUID

import pytest

from flowstates import FlowRunState, FlowRunStateFilter, FlowRunStatePage, FlowRunStateRepository, InvalidInputError, StateType
from flowstates.engine import cursors
from flowstates.engine.cursors import Cursor
from flowstates.engine.pages import PageOfRows, read_page_of_rows
from flowstates.engine.rows import UnreadableRow
from flowstates.values import Layout
from tests import model
from tests.conftest import Connection
from tests.model import LAYOUTS
from tests.test_borrowed import connected

Order: TypeAlias = Literal["run", "time"]

START = datetime(2024, 3, 5, 12, tzinfo=UTC)
FILTERS = [
    None,
    FlowRunStateFilter(types=["RUNNING", "FAILED"], names=["Running"]),
    FlowRunStateFilter(since=START + timedelta(seconds=1), until=START + timedelta(seconds=5)),
    FlowRunStateFilter(current=True),
    FlowRunStateFilter(current=True, types=["RUNNING", "PAUSED"], since=START + timedelta(seconds=1)),
]

pytestmark = pytest.mark.parametrize("layout", LAYOUTS)
in_every_order = [pytest.mark.parametrize("order", ["run", "time"]), pytest.mark.parametrize("newest_first", [False, True])]


def made(random: Random, count: int, runs: list[UUID]) -> list[FlowRunState]:
    """States of the runs: few moments, so that several runs have a state at the same."""
    moments = {(random.choice(runs), START + timedelta(seconds=random.randrange(6), microseconds=random.randrange(9))) for _ in range(count)}
    return [
        model.state(run, UUID(int=random.getrandbits(128)), random.choice([StateType.RUNNING, StateType.PAUSED]), moment)
        for run, moment in sorted(moments)
    ]


@pytest.fixture
async def tables(connection: Connection, layout: Layout) -> Connection:
    await model.prepare(connection, layout)
    return connection


@pytest.fixture
async def states(tables: Connection, layout: Layout) -> list[FlowRunState]:
    states = made(Random(1), 18, [UUID(int=0), UUID(int=2**128 - 1), *(UUID(int=2**number) for number in range(0, 128, 40))])
    await model.store(tables, layout, states)
    return states


async def forwards(repository: FlowRunStateRepository, filter: FlowRunStateFilter | None = None, **asked: Any) -> AsyncIterator[FlowRunStatePage]:
    page = await repository.read_flow_run_state_page(filter, **asked)
    yield page
    while page.next is not None:
        page = await repository.read_flow_run_state_page(filter, **asked, cursor=page.next)
        yield page


async def backwards(
    page: FlowRunStatePage, repository: FlowRunStateRepository, filter: FlowRunStateFilter | None = None, **asked: Any
) -> AsyncIterator[FlowRunStatePage]:
    """From the page on which one stands, the last page first."""
    while page.previous is not None:
        page = await repository.read_flow_run_state_page(filter, **asked, cursor=page.previous)
        yield page


@pytest.mark.parametrize("filter", FILTERS, ids=["all", "some", "in_time", "current", "some_current"])
@in_every_order[0]
@in_every_order[1]
async def test_pages_joined_are_one_list(
    tables: Connection, layout: Layout, states: list[FlowRunState], filter: FlowRunStateFilter | None, order: Order, newest_first: bool
) -> None:
    repository = FlowRunStateRepository(tables, layout=layout)
    expected = model.find(states, filter, order=order, newest_first=newest_first)
    assert len(expected) > 3
    for limit in range(1, len(expected) + 2):
        asked: dict[str, Any] = {"limit": limit, "order": order, "newest_first": newest_first}
        pages = [page async for page in forwards(repository, filter, **asked)]
        assert [state for page in pages for state in page.states] == expected
        assert {len(page.states) for page in pages[:-1]} <= {limit}
        assert [page.previous is None for page in pages] == [True] + [False] * (len(pages) - 1)
        back = [page async for page in backwards(pages[-1], repository, filter, **asked)]
        assert [state for page in (*reversed(back), pages[-1]) for state in page.states] == expected
        # Whoever turns round on any page sees what they saw before.
        for page, following in pairwise(pages):
            assert following.previous is not None
            again = await repository.read_flow_run_state_page(filter, **asked, cursor=following.previous)
            assert (again.states, again.next is None) == (page.states, False)


@pytest.mark.parametrize("seed", range(3))
@in_every_order[0]
@in_every_order[1]
async def test_none_is_lost_or_seen_twice_while_others_write(
    own_dsn: str, tables: Connection, layout: Layout, order: Order, newest_first: bool, seed: int
) -> None:
    random = Random(seed)
    runs = [UUID(int=random.getrandbits(128)) for _ in range(12)]
    there, *others = (made(random, 60, runs) for _ in range(30))
    taken = {(state.flow_run_id, state.timestamp) for state in there}
    repository = FlowRunStateRepository(tables, layout=layout)
    asked: dict[str, Any] = {"limit": random.randint(2, 6), "order": order, "newest_first": newest_first}
    await model.store(tables, layout, there)
    doomed = set(random.sample([state.id for state in there], 20))
    coming = (state for batch in others for state in batch)
    async with connected(own_dsn) as writer:

        async def disturb() -> None:
            """Others come, some of them go again, and some of those go that were there."""
            new: list[FlowRunState] = []
            while len(new) < 5 and (state := next(coming, None)) is not None:
                if (state.flow_run_id, state.timestamp) not in taken:
                    taken.add((state.flow_run_id, state.timestamp))
                    new.append(state)
            await model.store(writer, layout, new)
            going = [state.id for state in new[:3]] + random.sample(sorted(doomed), min(len(doomed), 2))
            await FlowRunStateRepository(writer, layout=layout).delete_flow_run_states(flow_run_state_ids=going)

        async def seen(pages: AsyncIterator[FlowRunStatePage]) -> list[FlowRunStatePage]:
            found = []
            async for page in pages:
                found.append(page)
                await disturb()
            return found

        def joined(pages: Iterable[FlowRunStatePage]) -> list[FlowRunState]:
            states = [state for page in pages for state in page.states]
            assert states == model.find(set(states), order=order, newest_first=newest_first)  # in order, none twice
            return states

        ahead = await seen(forwards(repository, **asked))
        assert {state.id for state in there} - doomed <= {state.id for state in joined(ahead)}
        turn = ahead[-1].states[0]
        async with repository.stream_flow_run_states() as stream:
            everything = {state async for state in stream if state.id not in doomed} | {turn}
        before = model.find(everything, order=order, newest_first=newest_first)
        behind = joined(reversed(await seen(backwards(ahead[-1], repository, **asked))))
        assert set(before[: before.index(turn)]) <= set(behind)
        assert len(behind) > 20


async def test_a_page_whose_neighbours_are_gone(tables: Connection, layout: Layout, states: list[FlowRunState]) -> None:
    repository = FlowRunStateRepository(tables, layout=layout)
    first = await repository.read_flow_run_state_page(limit=2)
    second = await repository.read_flow_run_state_page(limit=2, cursor=first.next)
    # A position is of use without the state that it is of.
    await repository.delete_flow_run_states(flow_run_state_ids=[state.id for state in (*first.states, *second.states)])
    assert (await repository.read_flow_run_state_page(limit=1000, cursor=first.next)).states == model.find(states)[4:]
    assert await repository.read_flow_run_state_page(limit=2, cursor=second.previous) == ([], None, None)
    await repository.delete_flow_run_states(flow_run_ids={state.flow_run_id for state in states})
    assert await repository.read_flow_run_state_page(cursor=second.next) == ([], None, None)
    assert await repository.read_flow_run_state_page() == ([], None, None)


async def refused(repository: FlowRunStateRepository, cursor: Any, filter: FlowRunStateFilter | None = None, **asked: Any) -> bool:
    try:
        await repository.read_flow_run_state_page(filter, cursor=cursor, **asked)
    except InvalidInputError as error:
        return error.field == "cursor"
    return False


async def test_a_cursor_of_another_question_is_refused(tables: Connection, layout: Layout, states: list[FlowRunState]) -> None:
    repository = FlowRunStateRepository(tables, layout=layout)
    other: Layout = "prefect" if layout == "flowstates" else "flowstates"
    named = FlowRunStateFilter(names=["Running", "Paused"], since=START)
    page = await repository.read_flow_run_state_page(named, limit=1)
    assert page.next is not None
    for filter in (None, FlowRunStateFilter(), FlowRunStateFilter(names=["Running"], since=START), FlowRunStateFilter(names=["Running", "Paused"])):
        assert await refused(repository, page.next, filter)
    assert await refused(repository, page.next, named, order="time")
    assert await refused(repository, page.next, named, newest_first=True)
    assert await refused(FlowRunStateRepository(tables, layout=other), page.next, named)
    # What asks the same is no other question: another limit, a set in any order, a filter that says nothing.
    for names in (["Paused", "Running"], ["Running", "Paused", "Running"], {"Running", "Paused"}):
        same = FlowRunStateFilter(names=names, since=START.astimezone())
        assert (await repository.read_flow_run_state_page(same, limit=1000, cursor=page.next)).states == model.find(states, named)[1:]
    page = await repository.read_flow_run_state_page(limit=1)
    assert not await refused(repository, page.next, FlowRunStateFilter())
    assert await refused(repository, page.next, FlowRunStateFilter(current=True))
    page = await repository.read_flow_run_state_page(FlowRunStateFilter(current=True), limit=1)
    assert await refused(repository, page.next)


@in_every_order[0]
async def test_a_cursor_that_is_none_is_refused(tables: Connection, layout: Layout, states: list[FlowRunState], order: Order) -> None:
    repository = FlowRunStateRepository(tables, layout=layout)
    page = await repository.read_flow_run_state_page(limit=1, order=order)
    assert page.next is not None
    garbage: list[Any] = [
        "",
        "x",
        "====",
        "ÿ",
        "☃",
        "\0",
        " ",
        page.next + "A",
        page.next + " ",
        page.next.swapcase(),
        5,
        b"x",
        [],
        page.next.encode(),
    ]
    odd: list[Any] = [[], {}, None, 1, [1], [1, "a", "b", 0, "c"], [2, "a", "b", 0, "c"], [1, [], {}, [], None], "a", 1e400]
    garbage += map(encoded, odd)
    garbage += [page.next[:length] for length in range(len(page.next))]
    # One character of another kind, wherever it is.
    garbage += [page.next[:place] + ("A" if was != "A" else "B") + page.next[place + 1 :] for place, was in enumerate(page.next)]
    # And what this library has never written, though its form is right.
    version, first, second, *rest = json.loads(base64.urlsafe_b64decode(page.next + "=" * (-len(page.next) % 4)))
    times = [
        "2024-W01-1",
        "99999-01-01T00:00:00+00:00 BC",
        "294276-01-01T00:00:00+00:00",
        "10001-02-29T00:00:00+00:00",
        "10000-13-01T00:00:00+00:00",
        "2024-01-01",
        "2024-01-01T00:00:00+23:59",
        "now",
    ]
    garbage += [encoded([version, *((first, time) if order == "run" else (time, second)), *rest]) for time in times]
    # Also if whoever made it knows how cursors are made.
    question = f"{layout} {order} False {{}}"
    positions = [*((first, time) if order == "run" else (time, second) for time in times), ("a", "b"), ("", ""), (second, first), ("\0", "\0")]
    garbage += [cursors.encode(Cursor(position, backwards), question) for position in positions for backwards in (False, True)]
    known = cursors.encode(Cursor((first, second), backwards=False), question)
    assert known == page.next
    for cursor in garbage:
        assert await refused(repository, cursor, limit=1, order=order), cursor
    assert states


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("order", ["run", "time"])
async def test_pages_lead_past_rows_that_cannot_be_read(
    tables: Connection, layout: Layout, states: list[FlowRunState], order: Order, newest_first: bool
) -> None:
    # Our own tables hold no such time.
    times = ["infinity", "-infinity", "10000-02-29 12:00:00.5Z", "0044-03-15 00:00:00Z BC"] if layout == "prefect" else []
    for state, time in zip(states[::4], times, strict=False):
        await tables.execute("update flow_run_state set timestamp = $1::text::timestamptz where id = $2", time, state.id)
    await tables.execute("update flow_run_state set state_details = $1::text::jsonb where id = $2", '{"flow_run_id": "x"}', states[2].id)
    execution = FlowRunStateRepository(tables, layout=layout)._execution
    pages: list[PageOfRows] = []
    cursor: str | None = None
    while True:
        pages.append(await read_page_of_rows(execution, None, 2, order, newest_first, cursor, timeout=None))
        assert len(pages) < 20
        if (cursor := pages[-1].next) is None:
            break
    columns = "timestamp, id" if order == "time" else "flow_run_id, timestamp"
    way = "desc" if newest_first else "asc"
    wanted = await tables.fetch(f"select id::text from flow_run_state order by {columns.replace(',', f' {way},')} {way}")
    assert [row[0] for page in pages for row in page.rows] == [row["id"] for row in wanted]
    assert sum(isinstance(state, UnreadableRow) for page in pages for state in page.states_or_unreadable()) == len(times) + 1
    back = pages[-1]
    for page in reversed(pages[:-1]):
        assert back.previous is not None
        back = await read_page_of_rows(execution, None, 2, order, newest_first, back.previous, timeout=None)
        assert back.rows == page.rows
    assert back.previous is None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_a_page_waits_for_nobody(own_dsn: str, tables: Connection, layout: Layout, states: list[FlowRunState]) -> None:
    """An open transaction that has deleted and written neither holds a page up nor shows in it."""
    repository = FlowRunStateRepository(tables, layout=layout)
    async with connected(own_dsn) as writer, writer.transaction():
        await FlowRunStateRepository(writer, layout=layout).delete_flow_run_states(flow_run_state_ids=[state.id for state in states[:5]])
        await model.store(writer, layout, made(Random(2), 5, [UUID(int=77)]))
        assert (await repository.read_flow_run_state_page(timeout=10)).states == model.find(states)
