"""A job's process does not outlive the process that started it, nor touch a job that is not its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headroom.contract.answers.job import Status
from headroom.contract.report.report import open_report
from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.ports.engine import CorpusFile, EngineOutcome, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.factories import add_running_job, make_recipe
from tests.reports import make_dynamics
from workers.processes import job_process

pytestmark = pytest.mark.processes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[SqlJobStore]:
    upgrade(settings.database)
    opened = SqlJobStore(settings.database, lambda: datetime.now(UTC))
    yield opened
    opened.close()


def start(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "workers.processes.job_process", *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ) | {"HEADROOM_DATA_DIR": str(settings.data_dir), "HEADROOM_HUB_ENDPOINT": ""},
        start_new_session=True,
    )


def test_it_is_killed_when_the_pipe_from_its_parent_closes(settings: Settings, store: SqlJobStore) -> None:
    job = add_running_job(store)
    with start(settings, job.id, "1") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == -9
    assert store.get(job.id).status is Status.RUNNING, "nothing was written"


def test_it_leaves_a_job_alone_that_another_attempt_owns(settings: Settings, store: SqlJobStore) -> None:
    job = add_running_job(store)
    before = store.get(job.id).version
    with start(settings, job.id, "2") as process:
        assert process.wait(30) == 0
    assert store.get(job.id).version == before


def test_it_records_why_a_job_cannot_be_done(settings: Settings, store: SqlJobStore) -> None:
    job = add_running_job(store)
    with start(settings, job.id, "1") as process:
        assert process.wait(30) == 0

    ended = store.get(job.id)
    assert ended.status is Status.FAILED
    assert ended.error is not None
    assert ended.error.code == "corpus_not_found"


def test_a_database_that_is_missing_is_no_verdict(settings: Settings) -> None:
    with start(settings, "job_" + "0" * 32, "1") as process:
        assert process.wait(30) != 0


@pytest.mark.parametrize(("set_to", "given"), [("123", 123), ("0", 7)])
def test_a_job_may_use_the_memory_that_is_set_or_else_what_is_free(
    set_to: str, given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[EngineTask] = []

    def engine(task: EngineTask, progress: Any) -> EngineOutcome:
        tasks.append(task)
        return EngineOutcome(Verdict.REPORT, open_report(make_dynamics()))

    monkeypatch.setattr("service.compression.jobs.engines.run_engine", engine)
    monkeypatch.setattr("service.compression.states.model_loading.go_offline", lambda: None)
    monkeypatch.setattr(job_process, "set_threads", lambda threads: None)
    monkeypatch.setattr(job_process, "free_memory", lambda device: 7)
    monkeypatch.setenv("HEADROOM_MEMORY_BYTES", set_to)
    local = LocalModel("acme/tiny", None, tmp_path)
    task: EngineTask = EngineTask(
        "job", make_recipe(), (local,), (CorpusFile(tmp_path, "text", None),), tmp_path, tmp_path, "cpu"
    )
    job_process.run_on_device(task, lambda phase, done: None)
    assert [task.memory_bytes for task in tasks] == [given]
