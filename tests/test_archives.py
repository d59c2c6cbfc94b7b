"""What prune archives: all that goes is in the file, readable, and nothing of the file is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from flowstates import FlowRunState, FlowRunStateRepository, FlowRunStateRetention, FlowStatesError, InvalidInputError, Keep, StateType, check
from flowstates.cli.imports import read_states
from flowstates.engine import archives, pruning
from tests.conftest import Pool
from tests.test_retention import DAY, lengths, make, own_pool

__all__ = ["own_pool"]  # a fixture

OLD = b'{"id":"0195f2a0-7d1c-7cc3-98c4-dc0c0c073990","flow_run_id":"0195f2a0-7d1c-7cc3-98c4-dc0c0c07398f","type":"RUNNING","name":"Running"}'
UNFIT = {
    "a number beyond a double": f"'{'1' + '0' * 400}.5'",
    "deep": f"'{'[' * 300 + ']' * 300}'",
    "deeper than an import takes": f"'{'[' * 230 + ']' * 230}'",
    "longer than an import takes": f"'{'1' * 4299}'",
}


async def spoil(pool: Pool, run: UUID, data: str) -> None:
    await pool.execute(f"update flow_run_state set data = {data} where flow_run_id = $1 and type = 'PENDING'", run)


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("keep", [None, Keep(last=True)])
@pytest.mark.parametrize("what", UNFIT)
async def test_a_run_that_no_archive_can_keep_stays_and_the_others_go(own_pool: Pool, tmp_path: Path, what: str, keep: Keep | None) -> None:
    runs = await make(own_pool, 5)
    await spoil(own_pool, runs[2], UNFIT[what])
    path = tmp_path / "gone.jsonl"
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, keep=keep, archive=path)
    rest = 0 if keep is None else 1
    assert (report.runs, report.held, report.is_done) == (4, {"archive": 1}, True)
    assert await lengths(own_pool, [run for run in runs if run != runs[2]]) == [rest] * 4
    assert await own_pool.fetchval("select count(*) from flow_run_state where flow_run_id = $1", runs[2]) == 4
    assert len(lines(path)) == report.states == 4 * (4 - rest)
    assert await check(own_pool, data=True) == [] or what != "longer than an import takes"


async def test_a_row_that_cannot_be_read_keeps_its_run_alone(own_pool: Pool, tmp_path: Path) -> None:
    runs = await make(own_pool, 3)
    await own_pool.execute("""update flow_run_state set state_details = '{"retriable": "maybe"}' where flow_run_id = $1""", runs[0])
    taken: list[FlowRunState] = []

    async def take(states: list[FlowRunState]) -> None:
        taken.extend(states)

    archives: list[Any] = [take, tmp_path / "gone.jsonl"]
    reports = [await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=archive) for archive in archives]
    assert [(report.runs, report.held, report.is_done) for report in reports] == [(2, {"archive": 1}, True), (0, {"archive": 1}, True)]
    assert {state.flow_run_id for state in taken} == set(runs[1:])
    # Without an archive nobody has to read it.
    assert (await FlowRunStateRetention(own_pool).prune(older_than=DAY)).runs == 1


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("there", "stays"),
    [
        (b"", b""),
        (OLD + b"\n", OLD + b"\n"),
        (OLD, OLD + b"\n"),  # an editor has taken the end of the line
        (OLD + b"\n" + OLD[:40], None),  # what a broken writer leaves, where no member is whole or not
    ],
)
async def test_what_is_in_the_file_stays(own_pool: Pool, tmp_path: Path, there: bytes, stays: bytes | None, ending: str) -> None:
    (run,) = await make(own_pool, 1)
    path = tmp_path / f"gone.jsonl{ending}"
    if ending and stays is None:
        path.write_bytes(gzip.compress(OLD + b"\n") + gzip.compress(OLD)[:30])
    else:
        path.write_bytes(gzip.compress(there) if ending else there)
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
    assert report.states == 4
    found = lines(path)
    assert found[:-4] == [json.loads(line) for line in (OLD + b"\n" if stays is None else stays).splitlines()]
    assert {line["flow_run_id"] for line in found[-4:]} == {str(run)}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("there", [b"\x89PNG no line", b"words\nand words\n", b'{"level":"info"}\n{"le', b"[1]\n"])
async def test_a_file_of_something_else_is_left_alone(own_pool: Pool, tmp_path: Path, there: bytes, ending: str) -> None:
    runs = await make(own_pool, 1)
    path = tmp_path / f"photo{ending}"
    content = gzip.compress(there) if ending else there
    path.write_bytes(content)
    if ending and there.startswith(b"{"):  # a member that is whole is added to
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
        assert path.read_bytes().startswith(content)
        return
    with pytest.raises(InvalidInputError, match="no archive") as refused:
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
    assert refused.value.field == "archive"
    assert path.read_bytes() == content
    assert await lengths(own_pool, runs) == [4]


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "fifo"])
async def test_what_is_no_regular_file_is_refused(own_pool: Pool, tmp_path: Path, path: str) -> None:
    if path == "fifo":
        path = str(tmp_path / path)
        os.mkfifo(path)
    with pytest.raises(InvalidInputError, match="regular file") as refused:
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
    assert refused.value.field == "archive"


async def test_a_large_compressed_file_is_added_to_in_little_memory(own_pool: Pool, tmp_path: Path) -> None:
    """A megabyte of it may be a gigabyte of text."""
    await make(own_pool, 1)
    path = tmp_path / "gone.jsonl.gz"
    line = OLD[:-1] + b',"message":"' + b"x" * 3_000_000 + b'"}'
    path.write_bytes(gzip.compress(b"\n".join([line] * 3)))
    await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
    assert len(lines(path)) == 7


@pytest.mark.parametrize(
    "error",
    [asyncpg.ForeignKeyViolationError("x"), asyncpg.SerializationError("x"), asyncpg.LockNotAvailableError("x"), TimeoutError(), ValueError("x")],
)
async def test_what_the_callers_function_raises_is_raised_at_once(own_pool: Pool, error: Exception) -> None:
    runs, calls = await make(own_pool, 2), 0

    async def archive(_: list[FlowRunState]) -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)) as caught:
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=archive)
    assert caught.value is error
    assert calls == 1
    assert not hasattr(error, "__notes__")
    assert await lengths(own_pool, runs) == [4, 4]


async def test_batches_follow_the_size_of_what_is_archived(own_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_MOST_BYTES", 100_000)
    await make(own_pool, 60)
    await own_pool.execute("update flow_run_state set data = to_jsonb(repeat('x', 5000))")
    sizes: list[int] = []

    async def archive(states: list[FlowRunState]) -> None:
        sizes.append(sum(len(state.model_dump_json()) for state in states))

    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, batch_size=60, archive=archive)
    assert report.states == 240
    assert max(sizes[1:]) < 150_000
    assert len(sizes) < 25


async def test_an_archive_is_not_left_open_by_a_timeout(own_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(archives.ArchiveFile):
        def __init__(self, path: str, stop: threading.Event | None = None) -> None:
            assert stop is not None
            assert stop.wait(60)
            super().__init__(path)

    await make(own_pool, 1)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "ArchiveFile", Slow)
        with pytest.raises(TimeoutError):
            await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=tmp_path / "gone.jsonl", timeout=0.2)
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=tmp_path / "gone.jsonl")  # nobody else is writing it
    assert report.states == 4


async def test_an_archive_is_not_left_open_by_two_cancellations(own_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, opened = threading.Event(), threading.Event(), threading.Event()

    class Slow(archives.ArchiveFile):
        def __init__(self, path: str, stop: threading.Event | None = None) -> None:
            begun.set()
            assert go.wait(60)
            super().__init__(path)
            opened.set()

    await make(own_pool, 1)
    retention = FlowRunStateRetention(own_pool)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "ArchiveFile", Slow)
        pruning = asyncio.create_task(retention.prune(older_than=DAY, archive=tmp_path / "gone.jsonl"))
        assert await asyncio.to_thread(begun.wait, 60)
        for _ in range(2):
            pruning.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        go.set()
        await asyncio.wait([pruning])
        assert pruning.cancelled()
        assert await asyncio.to_thread(opened.wait, 60)
    assert (await retention.prune(older_than=DAY, archive=tmp_path / "gone.jsonl")).states == 4


async def test_a_large_compressed_archive_is_not_read_on_for_nobody(tmp_path: Path) -> None:
    path, stop = tmp_path / "gone.jsonl.gz", threading.Event()
    path.write_bytes(gzip.compress(OLD + b"\n"))
    stop.set()
    with pytest.raises(FlowStatesError, match="nobody waits"):
        archives.ArchiveFile(str(path), stop)
    archives.ArchiveFile(str(path)).close()


async def test_states_that_a_trigger_keeps_back_keep_their_runs(own_pool: Pool) -> None:
    runs = await make(own_pool, 2)
    await own_pool.execute(
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger nothing before delete on flow_run_state for each row execute function nothing()"
    )
    for keep in (None, Keep(last=True)):
        with pytest.raises(FlowStatesError, match=r"0 of \d states"):
            await FlowRunStateRetention(own_pool).prune(older_than=DAY, keep=keep)
    assert await lengths(own_pool, runs) == [4, 4]
    await own_pool.execute("drop trigger nothing on flow_run_state")
    assert await check(own_pool, data=True) == []


KEYS = {
    "set null": "create table job (run_id uuid not null references flow_run on delete set null)",
    "set default": "create table job (run_id uuid default '00000000-0000-0000-0000-000000000000' references flow_run on delete set default)",
    "set null and a check": "create table job (run_id uuid references flow_run on delete set null, constraint has_run check (run_id is not null))",
}


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_that_cannot_let_go_of_a_run_holds_that_run_alone(own_pool: Pool, key: str) -> None:
    runs = await make(own_pool, 4)
    await own_pool.execute(KEYS[key])
    await own_pool.execute("insert into job values ($1)", runs[1])
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY)
    assert (report.runs, list(report.held.values()), report.is_done) == (3, [1], True)
    assert await lengths(own_pool, runs) == [0, 4, 0, 0]


async def test_a_held_run_that_comes_to_life_between_two_looks_is_passed(own_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = await make(own_pool, 6)
    await own_pool.execute("create table job (run_id uuid references flow_run)")
    await own_pool.execute("insert into job values ($1)", runs[2])
    batch = pruning.Pass._batch
    states = FlowRunStateRepository(own_pool)

    async def racing(self: pruning.Pass, position: Any, size: int, *, run_id: str | None = None, look: bool = False) -> Any:
        if run_id is not None:
            await states.create_flow_run_state(run_id, StateType.RUNNING)
        return await batch(self, position, size, run_id=run_id, look=look)

    monkeypatch.setattr(pruning.Pass, "_batch", racing)
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY)
    assert (report.runs, report.passed, report.held, report.is_done) == (5, 1, {}, True)
    assert await lengths(own_pool, runs) == [0, 0, 5, 0, 0, 0]


async def test_a_label_of_the_owners_does_not_end_a_pass(own_pool: Pool) -> None:
    await own_pool.execute("alter type state_type add value 'SUSPENDED'")
    old, young = await make(own_pool, 1), await make(own_pool, 1, end=StateType.RUNNING)
    other = uuid4()
    await own_pool.execute(
        "with run as (insert into flow_run values ($1, $1, 'SUSPENDED', 'Suspended', '2019-01-01', pg_current_xact_id()))"
        " insert into flow_run_state (id, type, name, timestamp, flow_run_id) values ($1, 'SUSPENDED', 'Suspended', '2019-01-01', $1)",
        other,
    )
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY)
    assert (report.runs, report.is_done) == (1, True)
    assert report.oldest is not None
    assert report.oldest.flow_run_id == young[0]
    assert await lengths(own_pool, old) == [0]


async def test_a_pass_that_ends_with_its_last_batch_is_done(own_pool: Pool) -> None:
    await make(own_pool, 2)
    report = await FlowRunStateRetention(own_pool).prune(older_than=DAY, max_batches=1)
    assert (report.runs, report.is_done, report.cursor) == (2, True, None)


Given = Callable[[FlowRunStateRetention], Awaitable[object]]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("pause", {"pause": 10**400}),
        ("max_lag", {"max_lag": 10**400}),
        ("batch_size", {"batch_size": 10**5000}),
        ("batch_size", {"batch_size": -(10**5000)}),
        ("max_batches", {"max_batches": -(10**5000)}),
        ("on_batch", {"on_batch": 5}),
        ("on_batch", {"on_batch": asyncio.sleep}),
    ],
)
async def test_odd_arguments_are_refused_by_name(own_pool: Pool, field: str, given: dict[str, Any]) -> None:
    runs = await make(own_pool, 1)
    with pytest.raises(InvalidInputError) as refused:
        await FlowRunStateRetention(own_pool).prune(older_than=DAY, **given)
    assert refused.value.field == field
    assert await lengths(own_pool, runs) == [4]


async def test_what_is_archived_can_be_imported(own_pool: Pool, tmp_path: Path) -> None:
    runs = await make(own_pool, 2)
    await spoil(own_pool, runs[0], f"'{'[' * 90 + ']' * 90}'")
    path = tmp_path / "gone.jsonl"
    path.write_bytes(OLD)
    states = FlowRunStateRepository(own_pool)
    before = [await states.read_flow_run_states(run) for run in runs]
    await FlowRunStateRetention(own_pool).prune(older_than=DAY, archive=path)
    with path.open("rb") as file:
        counts = await read_states(states, file, on_tie="refuse", skip=True)
    assert counts["created"] == 9
    after = [await states.read_flow_run_states(run) for run in runs]
    assert [[state.model_copy(update={"created": None, "updated": None}) for state in run] for run in after] == [
        [state.model_copy(update={"created": None, "updated": None}) for state in run] for run in before
    ]
