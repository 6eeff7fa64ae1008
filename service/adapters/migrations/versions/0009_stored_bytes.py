"""Bytes of a job's published files, for quotas. Jobs of before count nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"))
