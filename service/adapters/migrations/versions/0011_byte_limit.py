"""What the owner of a job may store in all, as it was when the job was accepted. Jobs of before have no limit."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("byte_limit", sa.BigInteger, nullable=False, server_default="0"))
