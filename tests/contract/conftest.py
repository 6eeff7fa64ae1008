"""Stores for the contract suites: memory, SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.memory_store import MemoryJobStore
from service.adapters.migrate import upgrade
from service.adapters.sql_store import SqlJobStore
from service.ports import JobStore
from tests.factories import StoppedClock


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: StoppedClock) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(clock)
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/jobs.db"
        upgrade(url)
    else:
        url = request.getfixturevalue("postgresql_url")
    opened = SqlJobStore(url, clock)
    yield opened
    opened.close()
