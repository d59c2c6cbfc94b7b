"""flowstates tail and flowstates consumers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunStateFeed, FlowRunStateRepository, StateType
from tests.conftest import Connection
from tests.feeds import told
from tests.servers import PREFECT_TABLES
from tests.test_cli import ROOT, plain_environment, run

pytestmark = pytest.mark.versions

__all__ = ["plain_environment"]  # a fixture


def create(dsn: str, *types: StateType, delete: UUID | None = None) -> list[UUID]:
    """States of runs of their own, which may be told."""

    async def work() -> list[UUID]:
        connection: Connection = await asyncpg.connect(dsn)
        states = FlowRunStateRepository(connection)
        if delete is not None:
            state = await states.read_flow_run_state(delete)
            assert state is not None
            await states.delete_flow_run_states(flow_run_ids=[state.flow_run_id])
        made = [(await states.create_flow_run_state(uuid4(), type_)).id for type_ in types]
        await told(FlowRunStateFeed(connection), None, made)
        await connection.close()
        return made

    return asyncio.run(asyncio.wait_for(work(), 200))


def ids(done_records: list[dict[str, str]]) -> list[UUID]:
    return [UUID(record["id"]) for record in done_records]


def test_tail_once_prints_what_there_is(own_database: str) -> None:
    made = create(own_database, StateType.PENDING, StateType.FAILED, StateType.RUNNING)
    options = ("--once", "--database-url", own_database)
    assert run("tail", *options).out.count("\n") == 2  # the head
    done = run("tail", "--beginning", *options)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[3] for line in done.out.splitlines()[2:]] == ["PENDING", "FAILED", "RUNNING"] or done.out.count("\n") == 5
    assert ids(run("tail", "--beginning", "--json", *options).records) == made
    assert ids(run("tail", "--beginning", "--type", "failed", "--json", *options).records) == made[1:2]


def test_a_consumer_goes_on_where_it_was(own_database: str) -> None:
    options = ("--database-url", own_database)
    assert run("consumers", *options).err == "error: no consumers\n"
    first = create(own_database, StateType.PENDING)
    tail = ("tail", "--once", "--json", "--name", "billing", *options)
    assert run(*tail).out == ""  # it begins with new ones
    made = create(own_database, StateType.PENDING, StateType.RUNNING)
    done = run("consumers", "--json", *options)
    (record,) = done.records
    assert (record["name"], record["states"]) == ("billing", 2)
    assert record["behind"] > 0
    assert ids(run(*tail).records) == made
    assert run(*tail).out == ""
    assert ids(run("tail", "--once", "--json", "--beginning", "--name", "all", *options).records) == [*first, *made]
    done = run("consumers", *options)
    assert [line.split()[:2] for line in done.out.splitlines()[2:]] == [["all", "0"], ["billing", "0"]]


def test_what_was_pruned_is_said_and_the_rest_is_printed(own_database: str) -> None:
    tail = ("tail", "--once", "--json", "--name", "billing", "--beginning", "--database-url", own_database)
    run(*tail)
    create(own_database, StateType.PENDING)
    run(*tail)
    (gone,) = create(own_database, StateType.PENDING)
    made = create(own_database, StateType.RUNNING, delete=gone)
    done = run(*tail)
    assert ids(done.records) == made
    assert (done.code, done.err) == (1, "warning: billing: states were pruned before they were told; it goes on with what is left\n")
    assert run(*tail).code == 0


def test_tail_of_prefects_tables(own_dsn: str) -> None:
    async def work() -> UUID:
        connection: Connection = await asyncpg.connect(own_dsn)
        await connection.execute(PREFECT_TABLES)
        run = await connection.fetchval("insert into flow_run default values returning id")
        insert = "insert into flow_run_state (flow_run_id, type, name, updated) values ($1, 'FAILED', 'x', now() - interval '1 h') returning id"
        made: UUID = await connection.fetchval(insert, run)
        await connection.close()
        return made

    made = asyncio.run(work())
    options = ("--database-url", own_dsn, "--layout", "prefect")
    assert ids(run("tail", "--once", "--json", "--beginning", *options).records) == [made]
    assert run("tail", "--once", "--json", *options).out == ""
    done = run("tail", "--once", "--name", "billing", *options)
    assert (done.code, "a named consumer takes a table of flowstates" in done.err) == (2, True)


def test_consumers_says_who_was_pruned_past_and_forgets(own_database: str) -> None:
    options = ("--database-url", own_database)
    run("tail", "--once", "--name", "billing", "--beginning", *options)
    create(own_database, StateType.PENDING)
    run("tail", "--once", "--name", "billing", *options)
    (gone,) = create(own_database, StateType.PENDING)
    create(own_database, delete=gone)
    assert [record["is_pruned"] for record in run("consumers", "--json", *options).records] == [True]
    assert "others were pruned before they were told" in run("consumers", *options).out
    done = run("consumers", "--forget", "billing", *options)
    assert (done.code, done.out, done.err) == (0, "", "")
    done = run("consumers", "--forget", "billing", *options)
    assert (done.code, done.err) == (1, "error: no consumer 'billing'\n")


def test_tail_holds_nothing_while_its_reader_does_not_read_and_ends_at_one_ctrl_c(own_database: str) -> None:
    create(own_database, *[StateType.PENDING] * 400)
    command = [sys.executable, "-m", "flowstates.cli", "tail", "--json", "--name", "slow", "--beginning", "--database-url", own_database]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    async def open_transactions() -> int:
        connection: Connection = await asyncpg.connect(own_database)
        text = "select count(*) from pg_stat_activity where datname = current_database() and backend_xid is not null"
        found: int = await connection.fetchval(text)
        await connection.close()
        return found

    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as following:
        assert following.stdout is not None
        following.stdout.read(1)  # the rest fills the pipe
        assert asyncio.run(open_transactions()) == 0
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130


def test_tail_goes_on_after_a_lost_connection(own_database: str) -> None:
    command = [sys.executable, "-m", "flowstates.cli", "tail", "--json", "--beginning", "--database-url", own_database]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    async def cut() -> None:
        connection: Connection = await asyncpg.connect(own_database)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        await connection.close()

    for name in ([], ["--name", "billing"]):
        with subprocess.Popen([*command, *name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            (made,) = create(own_database, StateType.FAILED)
            while UUID(json.loads(following.stdout.readline())["id"]) != made:
                pass
            asyncio.run(cut())
            (made,) = create(own_database, StateType.FAILED)
            assert UUID(json.loads(following.stdout.readline())["id"]) == made
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == 130


def test_tail_goes_on_until_ctrl_c(own_database: str) -> None:
    command = [sys.executable, "-m", "flowstates.cli", "tail", "--json", "--name", "billing", "--beginning", "--database-url", own_database]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        for _ in range(2):
            (made,) = create(own_database, StateType.FAILED)
            assert UUID(json.loads(following.stdout.readline())["id"]) == made
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stdout.read(), following.stderr.read()) == (130, "", "")
