"""The service's own tables, for Alembic. Its queries are plain SQL."""

from sqlalchemy import Column, Double, ForeignKey, Integer, MetaData, Table, Text, Uuid

metadata = MetaData()

# It is here for the foreign key alone: flowstates makes it.
flow_run = Table("flow_run", metadata, Column("id", Uuid, primary_key=True))

# A run that is pruned takes its job along; without the cascade the job would keep its run.
job = Table(
    "job",
    metadata,
    Column("run_id", Uuid, ForeignKey("flow_run.id", ondelete="CASCADE"), primary_key=True),
    Column("customer", Text, nullable=False),
    Column("seconds", Double, nullable=False),
)

# It references no run, as it outlives them.
usage = Table(
    "usage",
    metadata,
    Column("customer", Text, primary_key=True),
    Column("jobs", Integer, nullable=False),
)
