"""The migrations give the schema that tables.py describes, from however many processes at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, insert, text

from service.adapters.migrate import current_is_latest, upgrade
from service.adapters.sql.database import Database
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.rows import _columns_of
from service.adapters.sql.tables import REVISION, metadata
from service.foundation.errors import StoreUnavailable
from tests.factories import make_job


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/100%/jobs.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database."""
    name = {"sqlite": "sqlite_url", "postgresql": "empty_postgresql_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


def revisions() -> list[str]:
    """From the first to the last."""
    config = Config()
    config.set_main_option("script_location", "service.adapters:migrations")
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def in_database(url: str, statement: str) -> None:
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text(statement))
    database.close()


def test_the_migrated_schema_is_the_one_in_the_tables(url: str) -> None:
    upgrade(url)

    database = Database(url)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_the_comparison_would_notice_a_difference(url: str) -> None:
    upgrade(url)
    in_database(url, "DROP INDEX ix_jobs_status")
    in_database(url, "ALTER TABLE outbox DROP COLUMN sent")

    database = Database(url)
    with database.reading() as connection:
        assert len(compare_metadata(MigrationContext.configure(connection), metadata)) == 2
    database.close()


def test_the_tables_name_the_last_migration(url: str) -> None:
    upgrade(url)

    assert revisions()[-1] == REVISION


@pytest.mark.parametrize("earlier", revisions()[:-1])
def test_a_database_of_an_earlier_version_keeps_its_jobs(url: str, earlier: str) -> None:
    upgrade(url, earlier)
    job = make_job()
    database = Database(url)
    with database.writing() as connection:
        old = Table("jobs", MetaData(), autoload_with=connection)
        columns = {name: value for name, value in _columns_of(job).items() if name in old.columns}
        connection.execute(insert(old).values(columns))
    database.close()

    upgrade(url)

    store = SqlJobStore(url, lambda: datetime.now(UTC))
    store.ping()
    kept = store.get(job.id)
    assert (kept.id, kept.recipe, kept.status) == (job.id, job.recipe, job.status)
    store.close()


def test_upgrading_again_changes_nothing(url: str) -> None:
    upgrade(url)
    store = SqlJobStore(url, lambda: datetime.now(UTC))
    job = make_job()
    store.add(job)

    upgrade(url)

    assert store.get(job.id) == job
    assert current_is_latest(store._database.engine)
    store.close()


@pytest.mark.parametrize("statement", ["DROP TABLE alembic_version", "UPDATE alembic_version SET version_num = '9999'"])
def test_a_store_refuses_to_answer_for_another_schema(url: str, statement: str) -> None:
    upgrade(url)
    in_database(url, statement)
    store = SqlJobStore(url, lambda: datetime.now(UTC))

    with pytest.raises(StoreUnavailable, match=r"service\.adapters\.migrate"):
        store.ping()
    assert not current_is_latest(store._database.engine)
    store.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: None,  # no folder
        lambda path: path.mkdir(parents=True),
        lambda path: (path.parent.mkdir(parents=True), path.touch()),
    ],
    ids=["absent", "a folder", "empty"],
)
def test_a_store_without_its_database_is_unavailable(sqlite_url: str, spoil: Callable[[Path], object]) -> None:
    spoil(Path(sqlite_url.removeprefix("sqlite:///")))
    store = SqlJobStore(sqlite_url, lambda: datetime.now(UTC))

    for call in (store.ping, store.lapsed, lambda: store.add(make_job())):
        with pytest.raises(StoreUnavailable):
            call()
    store.close()


@pytest.mark.processes
def test_processes_that_start_at_once_all_find_a_finished_schema(url: str) -> None:
    environment = os.environ | {"HEADROOM_DATABASE_URL": url}
    command = [sys.executable, "-W", "error", "-m", "service.adapters.migrate"]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in started]

    assert [process.returncode for process in started] == [0] * 3, outputs
    assert sum("Running upgrade  -> 0001" in output for output in outputs) == 1
    store = SqlJobStore(url, lambda: datetime.now(UTC))
    store.ping()
    store.close()
