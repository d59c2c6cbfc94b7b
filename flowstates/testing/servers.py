"""The PostgreSQL server that tests use: one that is started for them, or one that is there."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import asyncpg

from flowstates.database.embedded import postgres_for_tests
from flowstates.engine import queries
from flowstates.engine.connections import BROKEN
from flowstates.errors import FlowStatesError, InvalidInputError
from flowstates.testing.databases import check_address
from flowstates.values import shown

Answer = TypeVar("Answer")

VARIABLE = "FLOWSTATES_TEST_POSTGRES"
_SOCKET = Path("/var/run/docker.sock")  # where a daemon listens that DOCKER_HOST does not name
IMAGE_VARIABLE = "FLOWSTATES_TEST_IMAGE"
FORMS = "auto, embedded, embedded:16, container, container:IMAGE or an address that begins with postgresql://"


class Server(NamedTuple):
    """The address of a server's own database, which version it is, and why it is the one."""

    dsn: str
    version: str
    reason: str


@contextmanager
def server_for_tests(wanted: str) -> Iterator[Server]:
    """The server that is wanted, by one of FORMS. One that is started here ends with the block and does not sync to disk.

    `auto` is a container if Docker and the image are there, else the embedded server. InvalidInputError for what is none of FORMS, and
    FlowStatesError or ImportError, with what is lacking, for a server that cannot be had or does not answer.
    """
    if wanted.startswith(("postgresql://", "postgres://")):
        yield _described(check_address("server", wanted), "the one whose address was given")
        return
    kind, _, rest = wanted.partition(":")
    image = rest if kind == "container" and rest else os.environ.get(IMAGE_VARIABLE, "postgres:18")
    if kind not in ("auto", "embedded", "container") or (kind == "auto" and rest):
        raise InvalidInputError("server", f"is {shown(wanted)}, not {FORMS}")
    if kind == "embedded" and rest not in ("", "16", "18"):
        raise InvalidInputError("server", f"is {shown(wanted)}, and the embedded server is 16 or 18")
    lack = None if kind == "embedded" else _lack_of_container(image)
    if kind == "container" and lack is not None and not lack.startswith("no image"):  # which is pulled
        raise FlowStatesError(f"a container was asked for, and there is {lack}: name another server, as embedded")
    if kind == "container" or (kind == "auto" and lack is None):
        with _container(image) as dsn:
            yield _described(dsn, f"a container of {image}, " + ("asked for" if kind == "container" else "as Docker and the image are there"))
        return
    with ExitStack() as stack:
        try:
            dsn = stack.enter_context(postgres_for_tests(version=int(rest or 18)))
        except ImportError as error:
            if kind == "auto":
                error.add_note(f"the embedded server is what is taken as there is {lack}")
            raise
        _run(_spare_the_disk(dsn))
        yield _described(dsn, "the embedded server, " + ("asked for" if kind == "embedded" else f"as there is {lack}"))


@contextmanager
def _container(image: str) -> Iterator[str]:
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(image, username="flowstates", password="flowstates", dbname="flowstates", driver=None)  # noqa: S106 (reached from this machine alone)
    container.ports["5432"] = ("127.0.0.1", None)  # type: ignore[assignment]  # what docker-py takes
    container.with_env("PGDATA", "/pgdata/d").with_tmpfs_mount("/pgdata").with_command("-c fsync=off -c max_wal_size=256MB")
    with ExitStack() as stack:
        try:
            stack.enter_context(container)
            dsn = container.get_connection_url()
        except (DockerException, OSError, RuntimeError) as error:  # a RuntimeError is how testcontainers says that it has ended
            raise FlowStatesError(f"no container of {image} could be started: {in_a_line(error)}") from error
        yield dsn


def _lack_of_container(image: str) -> str | None:
    """What a container needs and is not there, in words."""
    try:
        import docker
        import testcontainers.community.postgres  # noqa: F401 (only whether it is there)
    except ImportError:
        is_alone = os.environ.get("DOCKER_HOST") or _SOCKET.exists()
        return "no package testcontainers (pip install 'testcontainers>=4.15')" + ("" if is_alone else " and no Docker daemon")
    with warnings.catch_warnings():
        # docker leaves its socket open when nothing listens, in a cycle that is found later, when nobody ignores the warning any more.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
        except docker.errors.DockerException:
            client = None
        if client is None:
            gc.collect()
            return "no Docker daemon"
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        return f"no image {image}"
    except (docker.errors.DockerException, OSError) as error:
        return f"a Docker daemon that fails: {in_a_line(error)}"
    finally:
        client.close()
    return None


def in_a_line(error: Exception) -> str:
    """What an error says, in one line; of one without words its class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _described(dsn: str, reason: str) -> Server:
    try:
        version = _run(_version(dsn))
    except (*BROKEN, ValueError) as error:  # a ValueError is of an option of the address
        raise FlowStatesError(in_a_line(error)) from error
    return Server(dsn, version, reason)


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Runs it on a thread of its own: this one's event loop is the tests' matter."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    version: str = await connection.fetchval(queries.testing("read_version"))
    await connection.close()
    return version


async def _spare_the_disk(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    for text in ("disable_sync", "limit_wal", "reload_settings"):
        await connection.execute(queries.testing(text))
    await connection.close()
