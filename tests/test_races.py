"""Many who append to one run at the same moment: what wins, how many statements it takes, and who is told what."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from flowstates import ContentionError, FlowRunState, FlowRunStateRepository, StateType, UnexpectedStateError, create_pool
from tests.schedules import LIMIT, schedule
from tests.statements import counting
from tests.stored import wrong_rows
from tests.writers import ISOLATION, MIXED, defaults

pytestmark = pytest.mark.server

PENDING, RUNNING = StateType.PENDING, StateType.RUNNING
APPEND, MISS = "create_flow_run_state", "create_flow_run_state.miss"


@pytest.mark.parametrize("isolation", [*ISOLATION, MIXED])
async def test_no_compare_and_set_wins_against_a_state_that_is_not_current(dsn: str, isolation: str) -> None:
    """A state that a transaction appends and deletes is never seen, so all that was current at any time is in the history at the end."""
    run, wins, transactions = uuid4(), dict[UUID, UUID](), 0

    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=16, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool)
        await states.create_flow_run_state(run, PENDING)

        async def compare_and_set() -> None:
            while len(wins) < 300:
                current = await states.read_current_flow_run_state(run)
                assert current is not None
                try:
                    won = await states.create_flow_run_state(run, RUNNING, expected=current.id)
                except (UnexpectedStateError, ContentionError):
                    continue
                wins[won.id] = current.id

        async def append_twice_and_delete_the_first() -> None:
            nonlocal transactions
            while len(wins) < 300:
                if transactions > len(wins) / 3:  # or nobody else would win
                    await asyncio.sleep(0.001)
                    continue
                async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                    mine = FlowRunStateRepository(connection)
                    first = await mine.create_flow_run_state(run, PENDING)
                    await mine.create_flow_run_state(run, RUNNING)
                    await mine.delete_flow_run_state(first.id)
                transactions += 1

        await asyncio.gather(*[compare_and_set() for _ in range(12)], *[append_twice_and_delete_the_first() for _ in range(4)])
        history = await states.read_flow_run_states(run)
        followed = {state.id: before.id for before, state in pairwise(history)}
        stale = {id_: expected for id_, expected in wins.items() if followed.get(id_) != expected}
        assert not stale, f"{len(stale)} of {len(wins)} wins"
        assert len(history) == 1 + len(wins) + transactions
        assert await wrong_rows(pool, run) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_of_200_writers_of_one_run_each_tries_once(dsn: str, isolation: str) -> None:
    run = uuid4()
    connection_class, counts = counting()
    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=16, connection_class=connection_class, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool)
        first = await states.create_flow_run_state(run, PENDING)
        counts.clear()
        stored = await asyncio.gather(*[states.create_flow_run_state(run, RUNNING, timeout=LIMIT) for _ in range(200)])
        # A transaction at a higher level is undone where it waited; once more, at READ COMMITTED, it waits.
        assert counts[APPEND] == 200 if isolation == "read committed" else 200 <= counts[APPEND] <= 400
        assert counts.keys() == {APPEND}
        assert await states.read_flow_run_states(run) == [first, *sorted(stored, key=lambda state: state.timestamp)]
        assert await wrong_rows(pool, run) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_of_200_that_expect_one_state_one_wins_and_all_others_learn_of_it(dsn: str, isolation: str) -> None:
    run = uuid4()
    connection_class, counts = counting()
    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=16, connection_class=connection_class, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool)
        first = await states.create_flow_run_state(run, PENDING)
        counts.clear()
        tries = [states.create_flow_run_state(run, RUNNING, expected=first.id, timeout=LIMIT) for _ in range(200)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        (winner,) = [answer for answer in answers if isinstance(answer, FlowRunState)]
        assert all(isinstance(lost, UnexpectedStateError) and lost.current == winner for lost in answers if lost is not winner)
        assert counts[MISS] == 199
        assert counts[APPEND] == 200 if isolation == "read committed" else 200 <= counts[APPEND] <= 400
        assert await wrong_rows(pool, run) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_first_state_that_loses_its_race_is_tried_again(own_database: str, isolation: str) -> None:
    connection_class, counts = counting()
    async with schedule(own_database, isolation, connection_class=connection_class) as at:
        states = FlowRunStateRepository(at.pool)
        async with at.transaction() as other:
            first = await other.create(at.run, None)
            anyhow = await at.begin(states.create_flow_run_state(at.run, RUNNING))
            alone = await at.begin(states.create_flow_run_state(at.run, RUNNING, expected=None))
            counts.clear()
        assert (await anyhow).timestamp > first.timestamp
        with pytest.raises(UnexpectedStateError):
            await alone
        # At READ COMMITTED it stored nothing; above it was undone, and is then a statement that waits for nobody.
        assert counts == ({APPEND: 1, MISS: 2} if isolation == "read committed" else {APPEND: 2, MISS: 1})
        assert await wrong_rows(at.pool) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_a_first_state_that_waits_for_one_that_is_rolled_back_is_the_first(own_database: str, isolation: str) -> None:
    connection_class, counts = counting()
    async with schedule(own_database, isolation, connection_class=connection_class) as at:
        transaction = at.other.transaction()
        await transaction.start()
        await FlowRunStateRepository(at.other).create_flow_run_state(at.run, PENDING)
        append = await at.begin(FlowRunStateRepository(at.pool).create_flow_run_state(at.run, RUNNING, expected=None))
        await transaction.rollback()
        await append
        assert counts == {APPEND: 1}
        assert await wrong_rows(at.pool) == []


async def test_nothing_else_is_tried_again(own_database: str) -> None:
    connection_class, counts = counting()
    async with schedule(own_database, connection_class=connection_class) as at:
        states = FlowRunStateRepository(at.pool)
        first = await at.created(None)
        counts.clear()
        async with at.transaction() as other:
            second = await other.create(at.run, first.id)
            await other.delete(first.id)
            anyhow = await at.begin(states.create_flow_run_state(at.run, RUNNING))
            by_id = await at.begin(states.create_flow_run_state(at.run, RUNNING, expected=second.id))
            by_type = await at.begin(states.create_flow_run_state(at.run, RUNNING, expected={second.type}))
            stale = await at.begin(states.create_flow_run_state(at.run, RUNNING, expected=first.id))
        answers = await asyncio.gather(anyhow, by_id, by_type, stale, return_exceptions=True)
        assert [type(answer) for answer in answers] == [FlowRunState, UnexpectedStateError, FlowRunState, UnexpectedStateError]
        # One expected what it could not see yet, and was told at once.
        assert counts == {APPEND: 4, MISS: 2}


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_an_append_to_a_run_that_ends_meanwhile_begins_it_anew(own_database: str, isolation: str) -> None:
    connection_class, counts = counting()
    async with schedule(own_database, isolation, connection_class=connection_class) as at:
        states = FlowRunStateRepository(at.pool)
        before = await at.created(None)
        async with at.transaction() as other:
            await other.end_run(at.run)
            append = await at.begin(states.create_flow_run_state(at.run, RUNNING))
            stale = await at.begin(states.create_flow_run_state(at.run, RUNNING, expected=before.id))
            counts.clear()
        state = await append
        with pytest.raises(UnexpectedStateError):
            await stale
        assert await states.read_flow_run_states(at.run) == [state]
        assert counts == ({APPEND: 1, MISS: 2} if isolation == "read committed" else {APPEND: 2, MISS: 1}) | {"read_flow_run_states": 1}
        assert await wrong_rows(at.pool) == []


@pytest.mark.parametrize("isolation", ISOLATION)
async def test_of_those_who_make_and_delete_one_run_nobody_is_told_what_is_not_so(dsn: str, isolation: str) -> None:
    run, wins = uuid4(), 0
    async with asyncio.timeout(LIMIT), create_pool(dsn, max_size=8, **defaults(isolation)) as pool:
        states = FlowRunStateRepository(pool)

        async def come_and_go() -> None:
            nonlocal wins
            while wins < 400:
                try:
                    state = await states.create_flow_run_state(run, RUNNING, expected=None)
                except (UnexpectedStateError, ContentionError):
                    continue
                assert await states.delete_flow_run_state(state.id)
                wins += 1

        await asyncio.gather(*[come_and_go() for _ in range(8)])
        assert await states.read_flow_run_states(run) == []
        assert await wrong_rows(pool, run) == []


FORKED = """
import asyncio, os, random, sys, uuid

chance = random.Random(1)

def uuid7():
    return uuid.UUID(int=chance.getrandbits(128), version=4)

if sys.version_info >= (3, 14):
    uuid.uuid7 = uuid7
else:
    import uuid_utils.compat
    uuid_utils.compat.uuid7 = uuid7

from flowstates import FlowRunStateRepository, GeneratedIdConflictError, StateType, create_pool

async def create(run):
    async with create_pool(sys.argv[1]) as pool:
        states = FlowRunStateRepository(pool)
        try:
            return (await states.create_flow_run_state(run, StateType.RUNNING, message="m")).id
        except GeneratedIdConflictError as error:
            again = await states.create_flow_run_state(error.stored.flow_run_id, StateType.RUNNING, message="m", id=error.stored.id)
            assert again == error.stored
            return f"taken {again.id}"

run = uuid.uuid4()
for _ in range(2):
    if (child := os.fork()) == 0:
        print(asyncio.run(create(run)), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_forked_workers_with_one_random_state_are_told_that_a_generated_id_is_taken(dsn: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, dsn], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert second == f"taken {first}"
