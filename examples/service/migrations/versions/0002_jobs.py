"""The service's own tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("run_id", sa.Uuid, sa.ForeignKey("flow_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("customer", sa.Text, primary_key=True),
        sa.Column("jobs", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("usage")
    op.drop_table("job")
