"""What is done again, by the library and by its callers, and what the log says of it."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from socket import gaierror
from uuid import uuid4

import asyncpg
import pytest

from flowstates import (
    ContentionError,
    FlowRunStateRepository,
    FlowRunStateRetention,
    InvalidInputError,
    NewFlowRunState,
    UnexpectedStateError,
    create_pool,
    is_retryable,
)
from tests.conftest import Pool

pytestmark = pytest.mark.versions

UNDO_TWICE = """
create sequence tries;
create function undo() returns trigger language plpgsql as $$
begin
    if nextval('tries') <= 2 then
        raise serialization_failure using message = 'undone', detail = 'on purpose';
    end if;
    return coalesce(new, old);
end $$;
create trigger undo before insert or delete on flow_run_state for each row execute function undo();
"""


@pytest.fixture
async def own_pool(own_database: str) -> AsyncIterator[Pool]:
    async with create_pool(own_database) as pool:
        yield pool


@pytest.mark.versions
@pytest.mark.parametrize(
    "error",
    [
        ContentionError(),
        asyncpg.SerializationError(),
        asyncpg.DeadlockDetectedError(),
        asyncpg.LockNotAvailableError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.ConnectionFailureError(),
        asyncpg.ProtocolViolationError(),
        asyncpg.AdminShutdownError(),
        asyncpg.CrashShutdownError(),
        asyncpg.CannotConnectNowError(),
        asyncpg.IdleInTransactionSessionTimeoutError(),
        asyncpg.TooManyConnectionsError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("cannot call Transaction.rollback(): the underlying connection is closed"),
        asyncpg.InterfaceError("cannot call Connection.fetch(): connection has been released back to the pool"),  # a lost one says it too
        asyncpg.InterfaceError("cannot perform operation: another operation is cancelling"),
        asyncpg.InternalClientError(),
        asyncpg.TargetServerAttributeNotMatched(),
        ConnectionRefusedError(),
        FileNotFoundError(2, "No such file or directory"),  # a Unix socket whose server is not there
        gaierror(),
        ssl.SSLError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_succeed_when_it_is_done_again(error: Exception) -> None:
    assert is_retryable(error)


@pytest.mark.versions
@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("id", "is no UUID"),
        UnexpectedStateError(None, uuid4(), "RUNNING"),
        asyncpg.UniqueViolationError(),
        asyncpg.QueryCanceledError(),
        asyncpg.UndefinedTableError(),
        asyncpg.InsufficientPrivilegeError(),
        asyncpg.ReadOnlySQLTransactionError(),
        asyncpg.DataError("a lone surrogate"),
        asyncpg.ClientConfigurationError("no such option"),
        asyncpg.UnsupportedServerFeatureError("no"),
        FileNotFoundError(2, "No such file or directory", "rules.json"),
        PermissionError(13, "Permission denied", "rules.json"),
        OSError(28, "No space left on device", "rules.json"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_again_when_it_is_done_again(error: BaseException) -> None:
    assert not is_retryable(error)


PASSES = {
    "connection is closed",
    "cannot perform operation: connection is closed",
    "cannot perform operation: another operation is cancelling",
    "cannot call {}.{}(): the underlying connection is closed",
    # Of a connection that was lost, too.
    "cannot call {}.{}(): the underlying connection has been released back to the pool",
    "cannot call Connection.{}(): connection has been released back to the pool",
    "pool is being initialized in another task",
    "pool is being initialized, but not yet ready: likely there is a race between creating a pool and using it",
    # Of a rollback after a commit that failed, which hides why.
    "cannot {}; the transaction is in error state",
}
"""What asyncpg's InterfaceError says, in its source, of what passes by itself."""


def said_by_asyncpg() -> set[str]:
    """All texts of InterfaceError in its source: what Python makes of the literals, and `{}` for each value in an f-string."""
    folder = Path(asyncpg.__file__).parent
    raised, literal = re.compile(r"\bInterfaceError\("), r"f?\"(?:\\.|[^\"\\\n])*\"|f?'(?:\\.|[^'\\\n])*'"
    texts = set()
    for file in [*folder.rglob("*.py"), *folder.rglob("*.pyx")]:
        source = file.read_text()
        for at in raised.finditer(source):
            if literals := re.match(rf"(?:\s*(?:{literal}))+", source[at.end() :]):
                tree = ast.parse(f"({literals[0].strip()})", mode="eval").body
                parts = tree.values if isinstance(tree, ast.JoinedStr) else [tree]
                texts.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts))
    return texts


def test_all_that_asyncpg_says_of_its_use_is_sorted() -> None:
    said = said_by_asyncpg()
    assert len(said) > 40
    assert {text for text in said if is_retryable(asyncpg.InterfaceError(text))} == PASSES


@pytest.mark.versions
async def test_misuse_fails_again_when_it_is_done_again(dsn: str) -> None:
    async with create_pool(dsn) as pool:
        states = FlowRunStateRepository(pool)
        async with pool.acquire() as connection:
            on_connection = FlowRunStateRepository(connection)
            first, second = await asyncio.gather(*(on_connection.read_flow_run_states(uuid4()) for _ in range(2)), return_exceptions=True)
            assert first == []
            with pytest.raises(asyncpg.InterfaceError) as of_arguments:
                await connection.fetch("select $1::text")
            transaction = connection.transaction()
            await transaction.start()
            with pytest.raises(asyncpg.InterfaceError) as of_a_second_start:
                await transaction.start()
            await transaction.commit()
            with pytest.raises(asyncpg.InterfaceError) as of_a_second_commit:
                await transaction.commit()
        other = create_pool(dsn)
        with pytest.raises(asyncpg.InterfaceError) as of_another_pool:
            async with pool.acquire() as connection, other:
                await other.release(connection)
    errors = [second, of_arguments.value, of_a_second_start.value, of_a_second_commit.value, of_another_pool.value]
    with pytest.raises(asyncpg.InterfaceError) as of_pool:
        await states.read_flow_run_states(uuid4())
    with pytest.raises(asyncpg.InterfaceError) as of_new_pool:
        await FlowRunStateRepository(create_pool(dsn)).read_flow_run_states(uuid4())
    for error in (*errors, of_pool.value, of_new_pool.value):
        assert isinstance(error, asyncpg.InterfaceError)
        assert not is_retryable(error), str(error)


async def test_two_transactions_that_create_one_id_and_the_later_is_done_again(pool: Pool) -> None:
    run, id = uuid4(), uuid4()
    async with pool.acquire() as one, pool.acquire() as two:
        first, second = one.transaction(), two.transaction()
        await first.start()
        await second.start()
        stored = await FlowRunStateRepository(one).create_flow_run_state(run, "RUNNING", id=id)
        repeat = asyncio.ensure_future(FlowRunStateRepository(two).create_flow_run_state(uuid4(), "RUNNING", id=id))
        while not await pool.fetchval("select pg_blocking_pids($1) <> '{}'", two.get_server_pid()):
            pass
        await first.commit()
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await repeat
        await second.rollback()
    assert is_retryable(caught.value)
    assert await FlowRunStateRepository(pool).create_flow_run_state(run, "RUNNING", id=id) == stored


async def test_a_key_that_somebody_has_added_is_no_reason_to_do_it_again(own_pool: Pool) -> None:
    await own_pool.execute("create unique index mine on flow_run_state (message)")
    states = FlowRunStateRepository(own_pool)
    await states.create_flow_run_state(uuid4(), "RUNNING", message="one")
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await states.create_flow_run_state(uuid4(), "RUNNING", message="one")
    assert not is_retryable(caught.value)


async def test_a_connection_that_broke_is_worth_another_try(dsn: str) -> None:
    async with create_pool(dsn) as pool:
        states = FlowRunStateRepository(pool)
        async with pool.acquire() as connection:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)) as caught:
                await connection.execute("select pg_terminate_backend(pg_backend_pid())")
            assert is_retryable(caught.value)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)) as caught:
                await FlowRunStateRepository(connection).read_flow_run_states(uuid4())
            assert is_retryable(caught.value)
        assert await states.read_flow_run_states(uuid4()) == []


@pytest.mark.parametrize("call", ["create_flow_run_state", "create_flow_run_states", "delete_flow_run_state", "prune"])
async def test_the_log_says_what_was_done_again(own_pool: Pool, caplog: pytest.LogCaptureFixture, call: str) -> None:
    states = FlowRunStateRepository(own_pool)
    state = await states.create_flow_run_state(uuid4(), "COMPLETED", message="a secret")
    await own_pool.execute(UNDO_TWICE)
    with caplog.at_level(logging.DEBUG, "flowstates"):
        if call == "create_flow_run_state":
            await states.create_flow_run_state(uuid4(), "RUNNING", message="a secret")
        elif call == "create_flow_run_states":
            await states.create_flow_run_states([NewFlowRunState(flow_run_id=uuid4(), type="RUNNING", message="a secret")])
        elif call == "delete_flow_run_state":
            assert await states.delete_flow_run_state(state.id)
        else:
            assert (await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0))).runs == 1
    again = [record for record in caplog.records if "again" in record.getMessage()]
    assert len(again) == 2
    for record in again:
        assert record.getMessage() in {f"{name} is done again: undone" for name in (call, "prune.runs")}
        assert (record.name, record.levelname) == ("flowstates", "DEBUG")
    assert "secret" not in caplog.text


async def test_a_create_that_stored_nothing_is_done_again(own_pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    await own_pool.execute(
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger nothing before insert on flow_run for each row execute function nothing()"
    )
    with caplog.at_level(logging.DEBUG, "flowstates"), pytest.raises(ContentionError) as caught:
        await FlowRunStateRepository(own_pool).create_flow_run_state(uuid4(), "RUNNING")
    assert is_retryable(caught.value)
    assert [record.getMessage() for record in caplog.records if record.name == "flowstates"] == [
        "create_flow_run_state is done again: nothing was stored"
    ] * 4


async def test_the_log_says_what_a_prune_did(own_pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await FlowRunStateRepository(own_pool).create_flow_run_state(uuid4(), "COMPLETED")
    with caplog.at_level(logging.INFO, "flowstates"):
        await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0), dry_run=True)
        await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0), batch_size=1, max_batches=2)
        await FlowRunStateRetention(own_pool).prune(older_than=timedelta(0))
    assert [record.getMessage() for record in caplog.records if record.name == "flowstates"] == [
        "prune (dry run): 1 batch, 3 runs, 3 states; passed 0, held 0; done",
        "prune: 2 batches, 2 runs, 2 states; passed 0, held 0; more to do",
        "prune: 1 batch, 1 run, 1 state; passed 0, held 0; done",
    ]


async def test_what_goes_by_itself_is_not_in_the_log(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flowstates"):
        states = FlowRunStateRepository(pool)
        state = await states.create_flow_run_state(uuid4(), "RUNNING")
        assert await states.read_flow_run_states(state.flow_run_id) == [state]
        assert await states.delete_flow_run_state(state.id)
    assert [record for record in caplog.records if record.name == "flowstates"] == []
