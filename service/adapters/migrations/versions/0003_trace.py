"""The trace of the request that made a job: what workers do for it joins that trace, whoever sends its message."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("trace", sa.JSON(none_as_null=True)))
