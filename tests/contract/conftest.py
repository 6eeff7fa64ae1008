"""Stores for the contract suites: memory, SQLite and, where HEADROOM_TEST_POSTGRESQL names a server, PostgreSQL."""

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from service.adapters.memory_store import MemoryJobStore
from service.adapters.migrate import upgrade
from service.adapters.sql_store import SqlJobStore
from service.ports import JobStore
from tests.factories import StoppedClock

POSTGRESQL = os.environ.get("HEADROOM_TEST_POSTGRESQL", "")  # SQLAlchemy URL of a database in which schemas can be made


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
def schema() -> Iterator[str]:
    """The URL of an empty PostgreSQL schema."""
    engine, name = create_engine(POSTGRESQL), f"test_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    url = make_url(POSTGRESQL).update_query_dict({"options": f"-csearch_path={name}"})
    yield url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture(params=["memory", "sqlite", *(["postgresql"] if POSTGRESQL else [])])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: StoppedClock) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(clock)
        return
    url = f"sqlite:///{tmp_path}/jobs.db" if request.param == "sqlite" else request.getfixturevalue("schema")
    upgrade(url)
    opened = SqlJobStore(url, clock)
    yield opened
    opened.close()
