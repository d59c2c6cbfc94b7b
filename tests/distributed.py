"""Databases of a Citus that FLOWSTATES_TEST_CITUS names: made on each of its nodes, as Citus does not do that itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from tests.servers import with_database

CITUS = os.environ.get("FLOWSTATES_TEST_CITUS") or None
"""The address of a superuser on the coordinator, of a database that knows the workers. With a password it is that of the workers too."""

if TYPE_CHECKING or CITUS:  # environments without a Citus need not have it
    import psycopg
    from psycopg import sql

if TYPE_CHECKING:
    from tests.conftest import Connection


class Node(NamedTuple):
    host: str
    port: int


class CitusDatabases:
    """Makes and drops databases on a Citus."""

    def __init__(self, coordinator: str) -> None:
        self._dsn = coordinator
        with _connected(coordinator) as connection:
            rows = connection.execute("select groupid = 0, nodename, nodeport from pg_dist_node where isactive and noderole = 'primary'").fetchall()
            self._coordinator = next((Node(*node) for is_coordinator, *node in rows if is_coordinator), None)
            self.workers = sorted(Node(*node) for is_coordinator, *node in rows if not is_coordinator)
        if self._coordinator is None or not self.workers:
            raise RuntimeError("FLOWSTATES_TEST_CITUS: the database knows no workers, or not its coordinator's own address: citus_add_node, say")

    def create(self) -> str:
        """A new database with Citus on all nodes; its address on the coordinator."""
        name = f"flowstates_test_{uuid4().hex[:12]}"
        dsn = with_database(self._dsn, name)
        for at in (*({"host": worker.host, "port": worker.port} for worker in self.workers), {}):
            with _connected(self._dsn, **at) as connection:
                connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
            with _connected(dsn, **at) as connection:
                connection.execute("create extension citus")
        with _connected(dsn) as connection:
            connection.execute("select citus_set_coordinator_host(%s, %s)", self._coordinator)
            for worker in self.workers:
                connection.execute("select citus_add_node(%s, %s)", worker)
        return dsn

    def drop(self, dsn: str) -> None:
        """Drops one that `create` made, whoever is still connected to it."""
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        for at in ({}, *({"host": worker.host, "port": worker.port} for worker in self.workers)):
            with _connected(self._dsn, **at) as connection:
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(str(name))))

    async def on_worker_of(self, dsn: str, run: UUID) -> Connection:
        """A connection to the worker that has a run of one of these."""
        with _connected(dsn) as connection:
            row = connection.execute(
                "select nodename, nodeport from pg_dist_shard_placement where shardid = get_shard_id_for_distribution_column('flow_run', %s)", [run]
            ).fetchone()
        assert row is not None
        return await asyncpg.connect(dsn, host=row[0], port=row[1])


def _connected(dsn: str, **at: Any) -> psycopg.Connection[Any]:
    connection = psycopg.connect(dsn, autocommit=True, **at)
    # That Citus does not do this on other nodes is why this is here.
    connection.execute("set client_min_messages = error")
    return connection
