"""The tables of Prefect's layout, what a test that inserts states by itself owes the rows of their runs, and databases of odd kinds."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from flowstates.engine import queries
from flowstates.values import Layout

PREFECT_TABLES = queries.testing("prefect_tables")

_CURRENT = "state_id, state_type, state_name, state_timestamp"
_EXTRA: dict[Layout, str] = {"flowstates": ", transaction", "prefect": "", "citus": ""}
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
