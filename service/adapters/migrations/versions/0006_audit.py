"""The audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("object", sa.String(500), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("key_id", sa.String(64)),
        sa.Column("request_id", sa.String(128)),
        sa.Column("address", sa.String(64)),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_owner_number", "audit", ["owner", "number"])
