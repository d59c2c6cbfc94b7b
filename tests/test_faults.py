"""Whatever breaks while writers run: nothing acknowledged is lost, nothing is stored twice, no history forks, and the pool is usable afterwards.

The limits in seconds are there for what never ends. A test waits for what it wants to see, so it takes as long as the machine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from random import Random
from typing import Any, Generic, TypeVar
from uuid import uuid4

import pytest

from flowstates import FlowRunStateRepository, NewFlowRunState, StateType, create_pool, migrate
from tests.conftest import Pool
from tests.faults import FAULTS, Fault, OwnServer, folder_for_a_server, target, writing
from tests.stored import wrong_rows
from tests.writers import ISOLATION, MIXED

pytestmark = pytest.mark.server

T = TypeVar("T")


async def usable(pool: Pool) -> None:
    """As many calls at once as the pool has connections, twice: none of them is stuck or broken."""
    states = FlowRunStateRepository(pool)
    for _ in range(2):
        await asyncio.gather(*[states.create_flow_run_state(uuid4(), StateType.RUNNING, timeout=30) for _ in range(pool.get_max_size())])


@pytest.mark.parametrize(("isolation", "is_batched"), [*[(level, False) for level in (*ISOLATION, MIXED)], (MIXED, True)])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_while_writers_run(own_dsn: str, fault: Fault, isolation: str, is_batched: bool) -> None:
    random = Random(f"{fault.__name__} {isolation}")
    async with asyncio.timeout(200), target(own_dsn, isolation=isolation, runs=8 if is_batched else 3, is_batched=is_batched) as at:
        await migrate(at.pool)
        async with writing(at, random, writers=12 if is_batched else 5):
            for _ in range(2):
                await at.writers.log.more(20)
                await fault(at, random)
            await at.writers.log.more(20)
        assert await at.writers.problems() == []
        assert await wrong_rows(at.pool) == []
        await usable(at.pool)


@pytest.mark.once
async def test_the_server_crashes_twice_while_writers_run() -> None:
    random = Random("crash")
    with folder_for_a_server() as folder:
        server = OwnServer(folder)
        try:
            async with asyncio.timeout(200), target(await server.start(), isolation=MIXED) as at:
                await migrate(at.pool)
                async with writing(at, random):
                    for _ in range(2):
                        await at.writers.log.more(50)
                        await server.crash()
                        at.proxy.server = await server.start()
                    await at.writers.log.more(50)
                assert await at.writers.problems() == []
                assert await wrong_rows(at.pool) == []
                await usable(at.pool)
        finally:
            await server.stop()


async def test_the_database_is_migrated_twice_at_once_while_writers_wait_for_it(own_dsn: str) -> None:
    random = Random("migrate")
    async with asyncio.timeout(200), target(own_dsn, isolation="read committed") as at, writing(at, random):
        await at.writers.log.more(1, "UndefinedTableError")
        assert sorted(map(len, await asyncio.gather(migrate(at.pool), migrate(at.pool))))[0] == 0
        await at.writers.log.more(20)


class CancelledAt(Generic[T]):
    """Awaits a coroutine and cancels its task where it waits for the n-th time: at once, or when what it waits for has come.

    A cancellation that comes with the result finds the coroutine with both in hands.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], wait: int, *, with_result: bool) -> None:
        self._coroutine = coroutine
        self._wait = wait
        self._with_result = with_result

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731
        while True:
            try:
                waited_for = step()
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            self._wait -= 1
            if self._wait == 0:
                if self._with_result and waited_for is not None:
                    waited_for.add_done_callback(lambda _: task.cancel())
                else:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waited_for
                step = lambda: self._coroutine.send(None)  # noqa: E731
            except BaseException as error:  # whatever comes is the coroutine's
                step = lambda error=error: self._coroutine.throw(error)  # type: ignore[misc]  # noqa: E731


async def cancelled_at_every_wait(attempt: Callable[[], Coroutine[Any, Any, Any]], after: Callable[[], Awaitable[None]], *, with_result: bool) -> int:
    """Runs new attempts, cancelled one wait later each time, until one is no longer reached by its cancellation; how many were cancelled."""
    for wait in range(1, 500):

        async def run() -> Any:
            return await CancelledAt(attempt(), wait, with_result=with_result)  # noqa: B023 (awaited in this turn)

        task = asyncio.create_task(run())
        await asyncio.wait([task], timeout=60)
        assert task.done(), f"cancelled at wait {wait}, it never ends"
        if not task.cancelled():
            task.result()
            return wait - 1
        await after()
    raise AssertionError("it never completes")


@pytest.mark.parametrize("with_result", [False, True])
@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("call", ["create", "bulk", "delete", "delete_many"])
async def test_cancelled_at_every_await(dsn: str, call: str, isolation: str, with_result: bool) -> None:
    async with asyncio.timeout(200), create_pool(dsn, max_size=1, server_settings={"default_transaction_isolation": isolation}) as pool:
        states, run = FlowRunStateRepository(pool), uuid4()
        kept = await states.create_flow_run_state(run, StateType.PENDING)
        news: list[NewFlowRunState] = []

        def attempt() -> Coroutine[Any, Any, Any]:
            news[:] = [NewFlowRunState(flow_run_id=run, type=StateType.RUNNING, id=uuid4()) for _ in range(3)]
            match call:
                case "create":
                    return states.create_flow_run_state(run, StateType.RUNNING, id=news[0].id, expected=kept.id, timeout=60)
                case "bulk":
                    return states.create_flow_run_states(news, timeout=60)
                case "delete":
                    return states.delete_flow_run_state(kept.id, timeout=60)
                case _:
                    return states.delete_flow_run_states(flow_run_ids=[run], timeout=60)

        async def after() -> None:
            nonlocal kept
            before = {state.id for state in await states.read_flow_run_states(run)}
            if call == "create":
                assert before in ({kept.id}, {kept.id, news[0].id})
                stored = await states.create_flow_run_state(run, StateType.RUNNING, id=news[0].id, expected=kept.id, timeout=60)
                assert {state.id for state in await states.read_flow_run_states(run)} == {kept.id, news[0].id}
                assert await states.delete_flow_run_state(stored.id)
            elif call == "bulk":
                assert before in ({kept.id}, {kept.id, *(new.id for new in news)})
                outcomes = await states.create_flow_run_states(news, timeout=60)
                assert {outcome.status for outcome in outcomes} == {"present" if len(before) > 1 else "created"}
                assert len(await states.read_flow_run_states(run)) == 4
                await states.delete_flow_run_states(flow_run_state_ids=[new.id for new in news])
            else:
                assert before in (set(), {kept.id})
                assert await states.delete_flow_run_state(kept.id) == bool(before)
                kept = await states.create_flow_run_state(run, StateType.PENDING, expected=None)
            assert await wrong_rows(pool, run) == []

        assert await cancelled_at_every_wait(attempt, after, with_result=with_result) >= 1
