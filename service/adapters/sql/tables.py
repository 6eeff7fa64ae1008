"""The tables of the job store, for SQLite and PostgreSQL. Schema changes go through migrations/versions as well."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    inspect,
    select,
)

REVISION = "0011"  # the last migration: the one that gives these tables


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time. SQLite keeps no zone: it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

Document = JSON(none_as_null=True)


def _job_id() -> Column[Any]:
    return Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),  # kind to labels repeat the recipe, to be searched
    Column("model", String(200), nullable=False),
    Column("corpus", String(64)),
    Column("repository", String(200)),
    Column("labels", Document, nullable=False),
    Column("owner", String(64), nullable=False, server_default="local"),
    Column("recipe", Document, nullable=False),
    Column("status", String(16), nullable=False),
    Column("phase", String(16)),
    Column("progress", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("queued", UtcDateTime),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Column("lease_until", UtcDateTime),
    Column("not_before", UtcDateTime),
    Column("phase_seconds", Document, nullable=False),
    Column("error", Document),
    Column("result", Document),
    Column("trace", Document),
    Column("version", Integer, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Column("byte_limit", BigInteger, nullable=False, server_default="0"),
    Column("updated", UtcDateTime),  # when the version last grew; empty in jobs that ended before this was kept
    Index(None, "created", "id"),
    Index(None, "status"),
    Index(None, "corpus"),
    Index(None, "repository"),
    Index(None, "owner", "created", "id"),
    Index(None, "lease_until"),
    Index(None, "updated"),
)

attempts = Table(
    "attempts",
    metadata,
    _job_id(),
    Column("attempt", Integer, primary_key=True),
    Column("worker", String(255), nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("finished", UtcDateTime),
    Column("outcome", String(64), nullable=False),
)

events = Table(
    "events",
    metadata,
    _job_id(),
    Column("number", Integer, primary_key=True),
    Column("time", UtcDateTime, nullable=False),
    Column("type", String(32), nullable=False),
    Column("data", Document, nullable=False),
)

outbox = Table(  # one row for each queued job: its message to the queue
    "outbox",
    metadata,
    _job_id(),
    Column("due", UtcDateTime, nullable=False),
    Column("sent", UtcDateTime),
    Index(None, "due"),
)

shards = Table(  # pieces of running jobs that any worker may do
    "shards",
    metadata,
    _job_id(),
    Column("step", String(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("question", Document, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("holder", String(255), nullable=False),
    Column("lease_until", UtcDateTime),
    Column("progress", Float, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("only_parent", Boolean, nullable=False),
    Column("sent", UtcDateTime),
)

webhooks = Table(  # what signs the deliveries of a job; the rest of its webhook is in the recipe
    "webhooks",
    metadata,
    _job_id(),
    Column("secret", String(128), nullable=False),
    Column("disabled", Boolean, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    _job_id(),
    Column("number", Integer, primary_key=True),
    Column("message_id", String(64), nullable=False),
    Column("type", String(32), nullable=False),
    Column("payload", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt", UtcDateTime),
    Column("last_attempt", UtcDateTime),
    Column("response_status", Integer),
    Column("error", Text),
    Column("replay_of", Integer),
    Index(None, "next_attempt"),
)

reports = Table(
    "reports",
    metadata,
    _job_id(),
    Column("attempt", Integer, nullable=False),
    Column("report", Document, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("scopes", Document, nullable=False),
    Column("digest", String(64), nullable=False),  # sha256 of the secret
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime),
    Column("revoked", UtcDateTime),
    Column("last_used", UtcDateTime),
)

sessions = Table(  # of browsers
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # sha256 of the cookie
    Column("key_id", String(64), ForeignKey("keys.id", ondelete="CASCADE"), nullable=False),
    Column("expires", UtcDateTime, nullable=False),
)

corpus_holds = Table(
    "corpus_holds",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("corpus_id", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Index(None, "corpus_id"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", UtcDateTime, nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(500), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("owner", String(64)),
    Column("key_id", String(64)),
    Column("request_id", String(128)),
    Column("address", String(64)),
    Index(None, "owner", "number"),
)

receipts = Table(  # of requests with an Idempotency-Key
    "receipts",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("route", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("token", String(32), nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("answer", Document),  # null while the request is being answered
    Index(None, "time"),
)

alembic_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def read_revision(connection: Connection) -> str | None:
    """The last migration that was run on this database. Without Alembic, whose import takes longer than a job waits."""
    if not inspect(connection).has_table(alembic_version.name):
        return None
    revision: str | None = connection.scalar(select(alembic_version.c.version_num))
    return revision
