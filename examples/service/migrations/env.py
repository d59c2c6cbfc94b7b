"""What Alembic runs: `alembic upgrade head`, on the database of DATABASE_URL."""

import asyncio
import os
import warnings
from collections.abc import Mapping
from typing import Any

from alembic import context
from flowstates import TABLES
from sqlalchemy import Connection, NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service.tables import metadata

# SQLAlchemy meets flow_run by our foreign key, and says of its column `transaction` that it has no such type.
warnings.filterwarnings("ignore", "Did not recognize type 'xid8'")


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Without it autogenerate would drop the tables of flowstates, which no model of ours describes."""
    return type_ != "table" or name not in TABLES


def include_object(item: object, name: str | None, type_: str, reflected: bool, compare_to: object) -> bool:
    """Without it autogenerate would create flow_run, which a table of ours references."""
    return type_ != "table" or name not in TABLES


def run(connection: Connection) -> None:
    context.configure(connection, target_metadata=metadata, include_name=include_name, include_object=include_object)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
    async with create_async_engine(url, poolclass=NullPool).connect() as connection:
        await connection.run_sync(run)


asyncio.run(main())
