"""The tables of flowstates."""

from alembic import op
from flowstates import migration_sql

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    for statement in migration_sql(until="0002_feed"):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("every history would be gone")
