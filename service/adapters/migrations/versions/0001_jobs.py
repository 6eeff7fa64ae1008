"""Jobs, their attempts, events and reports, and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("corpus", sa.String(64)),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("recipe", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("queued", TIME),
        sa.Column("started", TIME),
        sa.Column("finished", TIME),
        sa.Column("lease_until", TIME),
        sa.Column("not_before", TIME),
        sa.Column("phase_seconds", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_created_id", "jobs", ["created", "id"])
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_index("ix_jobs_corpus", "jobs", ["corpus"])
    op.create_index("ix_jobs_lease_until", "jobs", ["lease_until"])
    _create_attempts()
    _create_events()
    _create_outbox()
    _create_reports()


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        _job_id(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("started", TIME, nullable=False),
        sa.Column("finished", TIME),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_attempts"),
        _of_a_job("attempts"),
    )


def _create_events() -> None:
    op.create_table(
        "events",
        _job_id(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_events"),
        _of_a_job("events"),
    )


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        _job_id(),
        sa.Column("due", TIME, nullable=False),
        sa.Column("sent", TIME),
        sa.PrimaryKeyConstraint("job_id", name="pk_outbox"),
        _of_a_job("outbox"),
    )
    op.create_index("ix_outbox_due", "outbox", ["due"])


def _create_reports() -> None:
    op.create_table(
        "reports",
        _job_id(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_reports"),
        _of_a_job("reports"),
    )


def _job_id() -> sa.Column[str]:
    return sa.Column("job_id", sa.String(64), nullable=False)


def _of_a_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id_jobs", ondelete="CASCADE")
