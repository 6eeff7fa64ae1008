"""Backup while jobs run, and restore: what had ended is as before, what ran goes on, and nothing is published twice."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from api.main import build_app
from headroom.cli import cli
from headroom.contract.answers.job import Status
from headroom.contract.job_recipe import JobRecipe
from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.jobs.execution import AttemptServices, execute
from service.ports.engine import EngineOutcome, EngineTask, Progress
from service.records.job import Job
from tests.factories import add_job, add_running_job, claim_job, make_recipe
from tests.in_memory.queue import MemoryQueue
from tests.postgresql_server import PostgresqlServer
from tests.reports import make_report
from workers.sweeper import reclaim_lapsed, send_outbox
from workers.wiring import Parts, open_parts

REPORT = make_report({0.5: 0.001}, 0.5)


class Service:
    """A database and a data directory, as the processes of a server see them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.parts: Parts = open_parts(settings)

    def close(self) -> None:
        self.parts.close()

    def publish(self, job: Job, content: str) -> None:
        folder = self.parts.artifacts.staging(job.id, job.attempt)
        (folder / "weights").write_text(content)
        (folder / "report.json").write_text(json.dumps(REPORT))
        self.parts.artifacts.publish(job.id, job.attempt)

    def succeed(self, job: Job) -> None:
        self.parts.store.save_report(job.id, job.attempt, REPORT)
        self.parts.store.finish(job.id, job.attempt, Status.SUCCEEDED, {"ratio": 0.5}, None)

    def answers(self, *paths: str) -> list[Any]:
        with TestClient(build_app(self.settings), base_url="http://localhost") as client:
            return [client.get(path).text for path in paths]

    def read(self, job: Job) -> str:
        with self.parts.artifacts.open(job.id, "weights") as file:
            return file.read().decode()


@dataclass
class World:
    """Before the backup: one job that has succeeded, one that runs, one that waits; and their corpus."""

    service: Service
    done: Job
    running: Job
    waiting: Job

    @property
    def paths(self) -> list[str]:
        job = f"/v1/jobs/{self.done.id}"
        return [job, f"{job}/events", f"{job}/report", f"{job}/files", f"{job}/files/weights", "/v1/corpora"]


def make_world(settings: Settings) -> World:
    upgrade(settings.database)
    service = Service(settings)
    corpus = service.parts.corpora.add(iter([b"a text"]), "text", None)
    recipe = make_recipe(corpus=corpus.id, publish={"repo": "acme/sliced"})
    done = add_running_job(service.parts.store, recipe=recipe)
    service.publish(done, "first")
    service.succeed(done)
    running = add_running_job(service.parts.store, recipe=recipe)
    return World(service, done, running, add_job(service.parts.store, recipe=recipe))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(Settings(data_dir=tmp_path / "data", hub_endpoint=""))
    yield made
    made.service.close()


def run_backup(settings: Settings, target: Path) -> subprocess.CompletedProcess[str]:
    variables = {"HEADROOM_DATA_DIR": str(settings.data_dir), "HEADROOM_DATABASE_URL": settings.database_url}
    command = [sys.executable, "-P", "-m", "service.adapters.backup", str(target)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)


def never(task: EngineTask[JobRecipe], progress: Progress) -> EngineOutcome:
    raise AssertionError("it was computed before")


def run_again(service: Service, job_id: str) -> Job:
    """What a worker does with a job that is sent to it, without an engine."""
    parts = service.parts
    claimed = claim_job(parts.store, job_id)
    services = AttemptServices(
        store=parts.store,
        artifacts=parts.artifacts,
        corpora=parts.corpora,
        models=None,  # type: ignore[arg-type]  # nothing is fetched
        cache_dir=parts.settings.cache_dir,
        device="cpu",
        retry=parts.retry,
        clock=parts.clock,
        patience_seconds=1.0,
    )
    return execute(claimed, services, never, lambda phase, fraction: None)


def come_back(service: Service) -> list[str]:
    """What a sweeper does some time after the restore: ids of the jobs that it sends."""
    later = Parts(
        service.settings,
        SqlJobStore(service.settings.database, lambda: datetime.now(UTC) + timedelta(hours=1)),
        service.parts.artifacts,
        service.parts.corpora,
        service.parts.shard_files,
        lambda: datetime.now(UTC) - timedelta(hours=1),  # due at once, for those who look at the clock now
    )
    queue = MemoryQueue()
    reclaim_lapsed(later)
    send_outbox(service.parts, queue)
    later.store.close()
    return queue.sent


def test_a_backup_is_a_data_directory_that_answers_as_before(world: World, tmp_path: Path) -> None:
    before = world.service.answers(*world.paths)

    done = run_backup(world.service.settings, tmp_path / "backup")

    assert done.returncode == 0, done.stderr
    copied = json.loads(done.stdout)
    assert (copied["published"], copied["corpora"]) == (1, 1)
    restored = Service(Settings(data_dir=tmp_path / "backup", hub_endpoint=""))
    assert restored.answers(*world.paths) == before
    assert sorted(come_back(restored)) == sorted([world.running.id, world.waiting.id])
    assert restored.parts.store.get(world.running.id).attempts[0].outcome == "worker_lost"
    restored.close()


def test_a_database_older_than_the_files_publishes_nothing_twice(world: World, tmp_path: Path) -> None:
    """The files were copied last, or not restored at all: a job that runs again adopts what it had published."""
    assert run_backup(world.service.settings, tmp_path / "backup").returncode == 0
    world.service.publish(world.running, "before the crash")
    world.service.succeed(world.running)
    shutil.copytree(tmp_path / "data" / "artifacts", tmp_path / "backup" / "artifacts", dirs_exist_ok=True)

    restored = Service(Settings(data_dir=tmp_path / "backup", hub_endpoint=""))
    come_back(restored)
    ended = run_again(restored, world.running.id)

    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 2)
    assert restored.read(world.running) == "before the crash"
    commits = restored.answers("/hub/api/models/acme/sliced/refs")[0]
    assert len({tag["targetCommit"] for tag in json.loads(commits)["tags"]}) == 2
    restored.close()


def test_a_backup_while_jobs_come_in_is_of_one_moment(world: World, tmp_path: Path) -> None:
    stop = threading.Event()
    added: list[str] = []

    def keep_posting() -> None:
        while not stop.is_set():
            added.append(add_job(world.service.parts.store).id)

    poster = threading.Thread(target=keep_posting)
    poster.start()
    try:
        assert run_backup(world.service.settings, tmp_path / "backup").returncode == 0
    finally:
        stop.set()
        poster.join()

    restored = SqlJobStore(f"sqlite:///{tmp_path}/backup/headroom.db", lambda: datetime.now(UTC))
    restored.ping()
    kept = set(restored.due_outbox(0.0, 100_000)) & set(added)
    assert kept == set(added[: len(kept)]), "all that were posted before some moment, and none after it"
    restored.close()


def test_a_backup_never_replaces_and_says_what_it_cannot_copy(world: World, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    settings = world.service.settings

    there = run_backup(settings, tmp_path / "there")
    other = run_backup(settings.model_copy(update={"database_url": "postgresql://127.0.0.1:9/x"}), tmp_path / "other")
    absent = run_backup(Settings(data_dir=tmp_path / "absent"), tmp_path / "none")

    assert [done.returncode for done in (there, other, absent)] == [1, 1, 1]
    assert "is there already" in there.stderr
    assert "docs/operations.md" in other.stderr
    assert "cannot be copied" in absent.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there"]


def test_the_command_tells_what_was_copied(world: World, tmp_path: Path) -> None:
    data_dir = str(world.service.settings.data_dir)

    done = CliRunner().invoke(cli, ["backup", str(tmp_path / "backup"), "--data-dir", data_dir, "--json"])
    again = CliRunner().invoke(cli, ["backup", str(tmp_path / "backup"), "--data-dir", data_dir])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["published"] == 1
    assert "is there already" in str(again.exception)


@pytest.mark.postgresql
@pytest.mark.processes
def test_a_dump_of_postgresql_restores_to_the_same_answers(
    empty_postgresql_url: str, postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data", database_url=empty_postgresql_url, hub_endpoint="")
    world = make_world(settings)
    before = world.service.answers(*world.paths)
    dump = [postgresql.programs / "pg_dump", "--format=custom", f"--file={tmp_path}/dump", empty_postgresql_url]
    subprocess.run(dump, check=True)
    world.service.publish(world.running, "after the dump")
    world.service.succeed(world.running)
    world.service.close()

    url = postgresql.create_database()
    subprocess.run(
        [postgresql.programs / "pg_restore", "--exit-on-error", f"--dbname={url}", tmp_path / "dump"], check=True
    )
    restored = Service(settings.model_copy(update={"database_url": url}))

    restored.parts.store.ping()
    assert restored.answers(*world.paths) == before
    assert sorted(come_back(restored)) == sorted([world.running.id, world.waiting.id])
    assert run_again(restored, world.running.id).status is Status.SUCCEEDED
    assert restored.read(world.running) == "after the dump"
    restored.close()
    postgresql.drop_database(url)
