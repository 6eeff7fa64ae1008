"""When a job last changed, by which those who follow many jobs find the few that did."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("updated", sa.DateTime(timezone=True)))
    op.create_index("ix_jobs_updated", "jobs", ["updated"])
