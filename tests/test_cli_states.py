"""The commands on one state: create, show and delete, and ids that are only begun."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunState, StateType
from flowstates.engine import queries
from flowstates.values import Layout
from tests.plans import explain
from tests.servers import POINT_AT_NEWEST
from tests.terminals import CTRL_C, CTRL_D, Terminal
from tests.test_cli import BEGIN, Done, execute, plain_environment, run, url

pytestmark = pytest.mark.versions

__all__ = ["plain_environment", "url"]  # fixtures


def test_a_state_is_created_listed_shown_and_deleted(url: str) -> None:
    run_id, id_ = uuid4(), uuid4()
    created = run("create", run_id, "running", "--id", id_, "--name", "Retrying", "--message", "again", "--timestamp", "2030-01-31T13:00:00+01:00",
                  "--details", '{"retriable": true, "new": 1}', "--data", '{"rows": [1, null]}', "--json")  # fmt: skip
    assert created.code == 0
    (record,) = created.records
    assert list(record) == list(FlowRunState.model_fields)
    assert FlowRunState.model_validate(record).model_dump(include={"id", "flow_run_id", "type", "name", "message", "timestamp", "data"}) == {
        "id": id_,
        "flow_run_id": run_id,
        "type": StateType.RUNNING,
        "name": "Retrying",
        "message": "again",
        "timestamp": BEGIN,
        "data": {"rows": [1, None]},
    }
    assert (record["state_details"]["retriable"], record["state_details"]["new"]) == (True, 1)
    assert run("show", id_, "--json").records == run("list", run_id, "--json").records == [record]
    assert run("delete", id_, "--yes") == Done(0, f"deleted: {id_}\n", "")
    assert run("delete", id_) == Done(1, "", f"error: no state {id_}\n")
    assert run("show", id_) == Done(1, "", f"error: no state {id_}\n")
    assert run("list", run_id) == Done(1, "", f"error: no states of run {run_id}\n")


def test_delete_says_in_json_whether_the_state_was_there(url: str) -> None:
    id_ = run("create", uuid4(), "PENDING", "--json").records[0]["id"]
    assert run("delete", id_, "--yes", "--json") == Done(0, f'{{"id": "{id_}", "deleted": true}}\n', "")
    again = run("delete", id_, "--yes", "--json")
    assert (again.code, again.records) == (1, [{"id": id_, "deleted": False}])


def test_an_unknown_run_or_state_prints_no_json(url: str) -> None:
    for command in ("list", "show"):
        done = run(command, uuid4(), "--json")
        assert (done.code, done.out) == (1, "")


def test_show_prints_all_eleven_columns(url: str) -> None:
    created = run("create", uuid4(), "FAILED", "--message", "one\ntwo", "--data", '{"a": "é"}', "--details", '{"retriable": false}')
    shown = run("show", re.findall(r"^id +(\S+)", created.out, re.MULTILINE)[0])
    assert created.out == shown.out
    assert re.findall(r"^\w+", shown.out, re.MULTILINE) == list(FlowRunState.model_fields)
    lines = [line.rstrip() for line in shown.out.splitlines()]
    assert "message             one" in lines
    assert "                    two" in lines
    assert '                      "a": "é"' in lines
    assert '                      "retriable": false' in lines
    assert "result_artifact_id  null" in lines


def test_a_person_sees_how_long_ago_it_was(url: str) -> None:
    id_ = run("create", uuid4(), "FAILED", "--timestamp", "2020-01-31T12:00:00Z", "--json").records[0]["id"]
    with Terminal("show", id_) as terminal:
        assert terminal.end() == 0
        assert re.search(r"^timestamp +2020-01-31 12:00:00\.000000 UTC \(\d+[dy] ago\)$", terminal.text, re.MULTILINE)
    assert "ago" not in run("show", id_).out


# A delete of a run's current state


class Two(NamedTuple):
    """A run with two states, in a database of one layout."""

    layout: Layout
    options: tuple[str, ...]
    run: UUID
    first: UUID
    current: UUID


@pytest.fixture(params=["flowstates", "prefect"])
def two(request: pytest.FixtureRequest, layout_dsns: dict[Layout, str]) -> Iterator[Two]:
    layout: Layout = request.param
    dsn, run_id, states = layout_dsns[layout], uuid4(), [uuid4(), uuid4()]

    async def fill() -> None:
        connection = await asyncpg.connect(dsn)
        if layout == "prefect":
            await connection.execute("insert into flow_run (id) values ($1)", run_id)
        insert = "insert into flow_run_state (id, flow_run_id, type, name, timestamp) values ($1, $2, $3, $4, $5)"
        await connection.execute(insert, states[0], run_id, "RUNNING", "Running", BEGIN)
        await connection.execute(insert, states[1], run_id, "PAUSED", "Paused", BEGIN.replace(hour=13))
        await connection.execute(POINT_AT_NEWEST[layout], [run_id])
        await connection.close()

    asyncio.run(fill())
    yield Two(layout, ("--database-url", dsn, "--layout", layout), run_id, *states)
    execute(dsn, "delete from flow_run where id = $1", run_id)


def test_a_delete_of_the_current_state_takes_a_yes(two: Two) -> None:
    refused = run("delete", two.current, *two.options)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"error: --yes: is missing: it is the current state of run {two.run} (PAUSED, ")
    effect = "; the run is then RUNNING again\n" if two.layout == "flowstates" else "; it can then no longer be resumed\n"
    assert refused.err.endswith(effect)
    assert run("delete", two.first, *two.options) == Done(0, f"deleted: {two.first}\n", "")
    if two.layout == "flowstates":
        assert run("delete", two.current, *two.options).err.endswith("and its only one; the run goes with it\n")
    assert run("delete", two.current, "--yes", *two.options) == Done(0, f"deleted: {two.current}\n", "")


@pytest.mark.parametrize(
    ("state", "effect"), [("COMPLETED", "Prefect may then run it again"), ("CANCELLING", "it may then run on"), ("FAILED", "without")]
)
def test_what_a_delete_does_to_a_run_of_prefects(state: str, effect: str, layout_dsns: dict[Layout, str]) -> None:
    dsn, run_id = layout_dsns["prefect"], uuid4()
    execute(dsn, "insert into flow_run (id) values ($1)", run_id)
    id_ = execute(dsn, "insert into flow_run_state (flow_run_id, type, name) values ($1, $2, 'x') returning id", run_id, state)
    execute(dsn, POINT_AT_NEWEST["prefect"], [run_id])
    assert effect in run("delete", id_, "--database-url", dsn, "--layout", "prefect").err
    execute(dsn, "delete from flow_run where id = $1", run_id)


def test_on_a_terminal_it_asks(two: Two, tmp_path: Path) -> None:
    for answer in ("n\n", "\n"):
        with Terminal("delete", two.current, *two.options) as terminal:
            asked = " ".join(terminal.until(r"\[y/N\]: $").split())
            assert f"It is the current state of run {two.run} (PAUSED, " in asked
            assert asked.endswith("Delete it? [y/N]:")
            terminal.type_in(answer)
            assert terminal.end() == 1
            assert "error: it is not deleted" in terminal.text
    for key in (CTRL_C, CTRL_D):
        with Terminal("delete", two.current, *two.options) as terminal:
            terminal.until(r"\[y/N\]: $")
            terminal.type_in(key)
            assert terminal.end() == 130
            assert ("Traceback" in terminal.text, "Aborted" in terminal.text) == (False, False)
    with (tmp_path / "out").open("wb") as out, Terminal("delete", two.current, "--json", *two.options, stdout=out) as terminal:
        terminal.until(r"\[y/N\]: $")
        terminal.type_in("y\n")
        assert terminal.end() == 0
    assert (tmp_path / "out").read_text() == f'{{"id": "{two.current}", "deleted": true}}\n'  # and nothing of the question
    with Terminal("delete", two.first, "--yes", *two.options) as terminal:
        assert terminal.end() == 0
        assert "y/N" not in terminal.text


def test_a_state_that_cannot_be_read_is_deleted_with_a_yes(layout_dsns: dict[Layout, str]) -> None:
    dsn, run_id = layout_dsns["prefect"], uuid4()
    options = ("--database-url", dsn, "--layout", "prefect")
    execute(dsn, "insert into flow_run (id) values ($1)", run_id)
    id_ = execute(dsn, "insert into flow_run_state (flow_run_id, type, name, timestamp) values ($1, 'RUNNING', 'x', 'infinity') returning id", run_id)
    done = run("delete", id_, *options)
    assert done.err.splitlines() == [
        f'error: flow run state {id_}: timestamp: is "infinity", which a datetime cannot hold',
        "  it may be its run's current state; --yes deletes it all the same",
    ]
    assert done.code == 3
    assert run("delete", id_, "--yes", *options).code == 0
    execute(dsn, "delete from flow_run where id = $1", run_id)


# Ids that are only begun


def begun(id: UUID) -> str:
    return str(id)[:23]  # 80 bits


def test_the_beginning_of_an_id_is_enough(two: Two) -> None:
    run_id, state_id = begun(two.run), begun(two.first)
    commands: tuple[tuple[object, ...], ...] = (
        ("list", run_id),
        ("list", run_id, "--last", 2),
        ("list", run_id, "--as-of", "2030-01-31T14:00:00Z"),
        ("list", run_id.replace("-", ""), run_id.upper(), "--type", "RUNNING"),
        ("list", "--id", state_id),
        ("show", state_id),
        ("export", run_id),
        ("export", "--id", state_id),
        ("timeline", run_id),
    )
    for command in commands:
        done = run(*command, *([] if command[0] == "export" else ["--json"]), *two.options)
        assert (done.code, {record["flow_run_id"] for record in done.records}) == (0, {str(two.run)})
    window = ("--since", "2030-01-31T12:00:00Z", "--until", "2030-01-31T14:00:00Z")
    (measured,) = run("durations", run_id, "--type", "RUNNING", "--per-run", *window, "--json", *two.options).records
    assert measured["flow_run_id"] == str(two.run)
    assert sum(sum(record["counts"].values()) for record in run("counts", run_id, *window, "--json", *two.options).records) == 2
    assert run("delete", state_id, *two.options).out == f"deleted: {two.first}\n"
    if two.layout == "flowstates":
        assert run("create", run_id, "COMPLETED", "--json", *two.options).records[0]["flow_run_id"] == str(two.run)


def test_a_beginning_that_several_have_names_them(two: Two, layout_dsns: dict[Layout, str]) -> None:
    dsn, start = layout_dsns[two.layout], str(uuid4())[:20]
    runs = sorted(UUID(start.replace("-", "") + f"{number:015x}") for number in range(7))
    states = sorted(uuid4() for _ in runs)
    for run_id, id_ in zip(runs, states, strict=True):
        if two.layout == "prefect":
            execute(dsn, "insert into flow_run (id) values ($1)", run_id)
        execute(dsn, "insert into flow_run_state (id, flow_run_id, type, name) values ($1, $2, 'RUNNING', 'x')", id_, run_id)
    execute(dsn, POINT_AT_NEWEST[two.layout], runs)
    done = run("list", start, *two.options)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [f"error: RUN_ID: {start} is the beginning of several", *[f"  {run_id}" for run_id in runs[:5]], "  ..."]
    two_of_them = str(runs[0])[:-1]
    execute(dsn, "delete from flow_run where id = any ($1)", runs[2:])
    assert run("timeline", two_of_them, *two.options).err.splitlines()[1:] == [f"  {run_id}" for run_id in runs[:2]]
    assert run("list", str(runs[0]), *two.options).code == 0
    execute(dsn, "delete from flow_run where id = any ($1)", runs)


def test_a_beginning_that_nobody_has_is_1(two: Two) -> None:
    nobody = str(uuid4())[:18]
    assert run("list", nobody, *two.options) == Done(1, "", f"error: no run begins with {nobody}\n")
    cure = "" if "prefect" in two.options else "; a new run takes a whole UUID"
    assert run("create", nobody, "RUNNING", *two.options) == Done(1, "", f"error: no run begins with {nobody}{cure}\n")
    assert run("export", two.run, nobody, *two.options) == Done(1, "", f"error: no run begins with {nobody}\n")
    for command in ("show", "delete"):
        assert run(command, nobody, *two.options) == Done(1, "", f"error: no state begins with {nobody}\n")


@pytest.mark.parametrize(
    "text", ["", "-", "g", "0195f2a07-", "0195f2a0 ", "0195f2a0--7", "0" * 33, "0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f0", "%", "é"]
)
def test_what_begins_no_id_is_bad_input(text: str, url: str) -> None:
    for command in (("list", "--", text), ("show", "--", text), ("list", f"--id={text}")):
        done = run(*command)
        assert (done.code, done.out) == (2, "")
        assert "is not a UUID or the beginning of one" in done.err


@pytest.mark.server
@pytest.mark.parametrize("layout", ["flowstates", "prefect"])
async def test_a_beginning_is_one_read_of_an_index(layout: Layout, layout_dsns: dict[Layout, str]) -> None:
    connection = await asyncpg.connect(layout_dsns[layout])
    transaction = connection.transaction()
    await transaction.start()
    try:
        more = {"flowstates": ("state_id, state_type, state_name, state_timestamp, transaction", "gen_random_uuid(), 'RUNNING', 'x', now(), '1'")}
        columns, values = more.get(layout, ("state_name", "'x'"))
        await connection.execute(f"insert into flow_run (id, {columns}) select gen_random_uuid(), {values} from generate_series(1, 20000)")
        await connection.execute("insert into flow_run_state (flow_run_id, type, name) select id, 'RUNNING', 'x' from flow_run")
        await connection.execute("analyze flow_run, flow_run_state")
        for name in ("read_flow_run_ids", "read_flow_run_state_ids"):
            for given in (["00000000-0000-0000-0000-000000000000", "0fffffff-ffff-ffff-ffff-ffffffffffff"], [str(uuid4())] * 2):
                for mode in ("custom", "generic"):
                    plan = await explain(connection, queries.catalog(name), given, mode, run=True)
                    assert "Seq Scan" not in plan.nodes
                    assert "Sort" not in plan.nodes
                    assert plan.pages <= 20
    finally:
        await transaction.rollback()
        await connection.close()
