"""Prefect as a peer: a server that it can use, and prefect_peer.py run in Prefect's own environment (`make test-prefect` makes it)."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.shared import Row, Seconds

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venvs/prefect/bin/python"
IMAGES = (os.environ.get("FLOWSTATES_TEST_IMAGE", "flowstates-debian-postgres:15"), "postgres:18")
WORK = "a run moved through PENDING, RUNNING, COMPLETED"
PEERS = {
    "set_flow_run_state": ("Prefect's set_flow_run_state as its defaults are", 0.1),
    "set_flow_run_state, policy of the API": ("the same with the policy of Prefect's API", None),
}
READ, READ_AGAINST, READ_LIMIT = "a run of 8 states on Prefect's tables, our pool", "Prefect's read_flow_run_states and as_state()", 0.1


class LackingError(Exception):
    """What is not at hand."""


async def measure(settings: dict[str, dict[str, str]], turns: int) -> list[Row]:
    """Prefect's rows of moves, or one that says why there are none."""
    try:
        seconds = await _run(settings, "moves", turns)
    except LackingError as lack:
        against, limit = PEERS["set_flow_run_state"]
        return [Row(WORK, against, limit=limit, note=str(lack))]
    return [Row(WORK, against, seconds["flowstates"], seconds[name], limit) for name, (against, limit) in PEERS.items()]


async def measure_reads(settings: dict[str, dict[str, str]], turns: int) -> Row:
    """Prefect's row of reads, or one that says why there is none."""
    try:
        seconds = await _run(settings, "reads", turns)
    except LackingError as lack:
        return Row(READ, READ_AGAINST, limit=READ_LIMIT, note=str(lack))
    return Row(READ, READ_AGAINST, seconds["flowstates"], seconds["read_flow_run_states"], READ_LIMIT)


async def _run(settings: dict[str, dict[str, str]], work: str, turns: int) -> Seconds:
    with _server() as dsn:
        settings["Prefect's server"], seconds = await _run_peer(dsn, work, turns)
    return seconds


async def _run_peer(dsn: str, work: str, turns: int) -> tuple[dict[str, str], Seconds]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"PYTHONPATH": str(ROOT)}
    arguments = ("-m", "benchmarks.prefect_peer", dsn, work, str(turns))
    peer = await asyncio.create_subprocess_exec(PYTHON, *arguments, env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await peer.communicate()
    if peer.returncode:
        raise RuntimeError(f"prefect_peer.py ended with {peer.returncode}")
    told, seconds = json.loads(output.splitlines()[-1])
    return told, seconds


@contextmanager
def _server() -> Iterator[str]:
    """One with pg_trgm, which the embedded one lacks: what FLOWSTATES_BENCH_PREFECT names, or a container, its data on disk, fsync on."""
    if not PYTHON.exists():
        raise LackingError("Prefect's environment is not there: `make test-prefect` makes it")
    if dsn := os.environ.get("FLOWSTATES_BENCH_PREFECT"):
        yield dsn
        return
    import docker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
        except docker.errors.DockerException:
            raise LackingError("no Docker daemon, and FLOWSTATES_BENCH_PREFECT names no server with pg_trgm") from None
    try:
        image = next((image for image in IMAGES if client.images.list(image)), None)
    finally:
        client.close()
    if image is None:
        raise LackingError(f"no image {' or '.join(IMAGES)}, and FLOWSTATES_BENCH_PREFECT names no server with pg_trgm")
    os.environ |= {"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_CONNECTION_MODE": "docker_host", "TC_HOST": "127.0.0.1"}
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(image, username="flowstates", password="flowstates", dbname="flowstates", driver=None)
    container.ports["5432"] = ("127.0.0.1", None)
    with container:
        yield container.get_connection_url()
