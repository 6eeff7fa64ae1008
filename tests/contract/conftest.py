"""Stores for the contract suites: memory, SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.migrate import upgrade
from service.adapters.sql.audit import SqlAudit
from service.adapters.sql.database import Database
from service.adapters.sql.holds import SqlHolds
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.keys import SqlKeys
from service.ports.access import AuditLog, CorpusHolds, KeyStore
from service.ports.jobs import JobStore
from tests.factories import StoppedClock
from tests.in_memory.access import MemoryHolds, MemoryKeys
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database | None]:
    """None: the suite is for what lies in memory."""
    if request.param == "memory":
        yield None
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/jobs.db"
        upgrade(url)
    else:
        url = request.getfixturevalue("postgresql_url")
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database | None, clock: StoppedClock) -> JobStore:
    return SqlJobStore(database, clock) if database else MemoryJobStore(clock)


@pytest.fixture
def keys(database: Database | None, clock: StoppedClock) -> KeyStore:
    return SqlKeys(database, clock) if database else MemoryKeys(clock)


@pytest.fixture
def audit(database: Database | None) -> AuditLog:
    return SqlAudit(database) if database else MemoryAudit()


@pytest.fixture
def holds(database: Database | None, clock: StoppedClock, store: JobStore) -> CorpusHolds:
    return MemoryHolds(clock, store) if isinstance(store, MemoryJobStore) else SqlHolds(database, clock)
