"""The PostgreSQL that the tests use, by FLOWSTATES_TEST_POSTGRES: auto (default), embedded, embedded:16, container, or an address."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from flowstates.database.embedded import embedded_postgres
from flowstates.values import Layout

IMAGE = os.environ.get("FLOWSTATES_TEST_IMAGE", "postgres:18")
PREFECT_TABLES = (Path(__file__).parent / "prefect_tables.sql").read_text()

_CURRENT = "state_id, state_type, state_name, state_timestamp"
_EXTRA: dict[Layout, str] = {"flowstates": ", transaction", "prefect": ""}
POINT_AT_NEWEST: dict[Layout, str] = {
    layout: f"""
insert into flow_run (id, {_CURRENT}{extra})
select flow_run_id, id, type, name, timestamp{extra}
  from (select distinct on (flow_run_id) *
          from flow_run_state
         where $1::uuid[] is null or flow_run_id = any ($1)
         order by flow_run_id, timestamp desc) as newest
 order by timestamp
    on conflict (id) do update set ({_CURRENT}) = (excluded.state_id, excluded.state_type, excluded.state_name, excluded.state_timestamp)
"""
    for layout, extra in _EXTRA.items()
}
"""After states that a test has inserted by itself: the rows of some runs, or for null of all, point at the newest of their states."""


@dataclass(frozen=True)
class Server:
    dsn: str
    description: str


@contextmanager
def server_for_tests(wanted: str) -> Iterator[Server]:
    """A server with its reason to be the one. An address is used as it is; a server that is started here does not sync to disk."""
    if wanted.startswith(("postgresql://", "postgres://")):
        yield Server(wanted, "the one that FLOWSTATES_TEST_POSTGRES names")
        return
    kind, _, version = wanted.partition(":")
    lack = _lack_of_container() if kind == "auto" else None
    if kind == "container" or (kind == "auto" and lack is None):
        with _container() as dsn:
            yield Server(dsn, f"a container of {IMAGE}, " + ("asked for" if kind == "container" else "as Docker and the image are there"))
    elif kind in ("embedded", "auto"):
        with embedded_postgres(version=int(version or 18)) as dsn:
            asyncio.run(_without_sync(dsn))
            yield Server(dsn, "the embedded server, " + ("asked for" if kind == "embedded" else f"as there is {lack}"))
    else:
        raise ValueError(f"FLOWSTATES_TEST_POSTGRES is {wanted!r}, not auto, embedded, container or an address")


@contextmanager
def _container() -> Iterator[str]:
    for name, value in {
        "TESTCONTAINERS_RYUK_DISABLED": "true",  # its helper image comes from a registry
        "TC_POOLING_INTERVAL": "0.1",  # seconds
        "TESTCONTAINERS_CONNECTION_MODE": "docker_host",  # a machine that looks like a container gets a bridge's address otherwise
        "TC_HOST": "127.0.0.1",  # the port is published on IPv4 only
    }.items():
        os.environ.setdefault(name, value)
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(IMAGE, username="flowstates", password="hunter2", dbname="flowstates", driver=None)
    container.ports["5432"] = ("127.0.0.1", None)  # type: ignore[assignment]  # what docker-py takes
    container.with_env("PGDATA", "/pgdata/d").with_tmpfs_mount("/pgdata").with_command("-c fsync=off")
    with container:
        yield container.get_connection_url()


def _lack_of_container() -> str | None:
    import docker

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
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        return f"no image {IMAGE}"
    finally:
        client.close()
    return None


async def _without_sync(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("alter system set fsync = off")
    await connection.execute("select pg_reload_conf()")
    await connection.close()


def with_database(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


async def create_database(dsn: str, *, template: str = "template0") -> str:
    """A new database on the server of `dsn`; its address."""
    name = f"flowstates_test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"create database {name} template {template}")
    finally:
        await connection.close()
    return with_database(dsn, name)


async def drop_database(dsn: str, database_dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"drop database {urlsplit(database_dsn).path[1:]} with (force)")
    finally:
        await connection.close()
