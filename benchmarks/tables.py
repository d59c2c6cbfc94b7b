"""Large tables, each loaded once, in a database of its own, for all groups that read it.

They are made by `migrate` and loaded without the states' indexes, which are made again by their own definitions. Runs have ten states each, over
100 minutes, and random ids. Most of them begin one after the other in 29 days and end; the recent ones begin in the last day, and every
second of these is still RUNNING. So the last 24 hours have the recent runs and no others, whatever the size of the table.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from benchmarks.shared import FILL_RUNS
from flowstates import FlowRunStateAnalytics, FlowRunStateRepository, migrate

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

STATES, STATES_IN_SHORT, LEAST_STATES = 10_000_000, 100_000, 100_000
BYTES_A_STATE = 500  # of free disk that a table is said to need, its log and what sorts it among it
STATES_A_RUN = 10
BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
DAY = timedelta(days=1)
UNTIL = BEGIN + 30 * DAY
LOAD = """
insert into flow_run_state (flow_run_id, type, id, timestamp, name, message, state_details)
select md5(run::text)::uuid, type::state_type, gen_random_uuid(), begin + n * n * interval '1 minute', initcap(type), 'step ' || n, '{}'
  from (select run, case when run <= $1 then $3::timestamptz + run::float8 / $1 * interval '28 days 22 hours'
                         else $3::timestamptz + interval '29 days' + (run - $1)::float8 / $2 * interval '22 hours' end as begin
          from generate_series(1, $1::bigint + $2::bigint) as run
       ) as run
 cross join lateral (
       select n, case when n = 10 and run > $1 and run % 2 = 0 then 'RUNNING' else type end as type
         from unnest('{SCHEDULED,PENDING,RUNNING,PAUSED,RUNNING,SCHEDULED,PENDING,RUNNING,CANCELLING,COMPLETED}'::text[])
              with ordinality as state (type, n)
       ) as state
"""
DEFINITIONS = """
select format('alter table flow_run_state drop constraint %I', conname) as drop,
       format('alter table flow_run_state add constraint %I %s', conname, pg_get_constraintdef(oid)) as make
  from pg_constraint
 where conrelid = 'flow_run_state'::regclass and contype in ('p', 'u')
 union all
select format('drop index %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
  from pg_index
 where indrelid = 'flow_run_state'::regclass and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u'))
"""


class Table:
    """A table of so many states, of which `recent` runs are of the last day, and a bare connection to it."""

    def __init__(self, dsn: str, connection: Connection, states: int, recent: int) -> None:
        self.dsn, self.connection, self.states, self.recent = dsn, connection, states, recent
        self.runs = states // STATES_A_RUN
        self.repository, self.analytics = FlowRunStateRepository(connection), FlowRunStateAnalytics(connection)

    def some_runs(self, count: int) -> list[UUID]:
        """Some of its runs."""
        numbers = random.sample(range(1, self.runs + 1), count)
        return [UUID(md5(str(number).encode()).hexdigest()) for number in numbers]


def small_of(states: int) -> int:
    """The size of the small table beside one of so many states."""
    return max(states // 100, 10_000)


async def lack_of_disk(dsn: str, states: int) -> str:
    """Why tables up to so many states cannot be loaded; empty if they can."""
    connection = await asyncpg.connect(dsn)
    folder = await connection.fetchval("show data_directory")
    is_there = await connection.fetchval("select exists (select from pg_database where datname = $1)", _name(states))
    await connection.close()
    free, needed = shutil.disk_usage(folder).free / 1e9, states * BYTES_A_STATE / 1e9
    return "" if is_there or free >= needed else f"{free:.1f} GB of disk are free below {folder}, and {states:,} states take {needed:.1f}"


@asynccontextmanager
async def table_of(dsn: str, states: int, largest: int) -> AsyncIterator[Table]:
    """The table of so many states beside one of `largest`: as many of its runs are recent as are there, a hundredth, but at most half of them."""
    recent = min(largest // STATES_A_RUN // 100, states // STATES_A_RUN // 2)
    own = urlunsplit(urlsplit(dsn)._replace(path=f"/{_name(states)}"))
    admin = await asyncpg.connect(dsn)
    if not await admin.fetchval("select exists (select from pg_database where datname = $1)", _name(states)):
        await admin.execute(f"create database {_name(states)} template template0")
        await load(own, states, recent)
    await admin.close()
    connection = await asyncpg.connect(own)
    yield Table(own, connection, states, recent)
    await connection.close()


def _name(states: int) -> str:
    return f"bench_{states}"


async def load(dsn: str, states: int, recent: int) -> None:
    """Makes the tables in an empty database, and fills them."""
    connection = await asyncpg.connect(dsn)
    await migrate(connection)
    definitions = await connection.fetch(DEFINITIONS)
    for definition in definitions:
        await connection.execute(definition["drop"])
    await connection.execute(LOAD, states // STATES_A_RUN - recent, recent, BEGIN)
    await connection.execute("set maintenance_work_mem = '256MB'")
    await connection.execute("set work_mem = '256MB'")
    for definition in definitions:
        await connection.execute(definition["make"])
    await connection.execute(FILL_RUNS)
    await connection.execute("vacuum (analyze) flow_run_state, flow_run")
    await connection.execute("checkpoint")
    await connection.close()
