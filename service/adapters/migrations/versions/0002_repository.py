"""The model repository of a job, by which the hub finds it. Jobs of before have none: their files stay theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("repository", sa.String(200)))
    op.create_index("ix_jobs_repository", "jobs", ["repository"])
