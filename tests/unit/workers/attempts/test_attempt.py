"""An attempt ends in one way, and exactly one verdict is recorded. The process is a stand-in; the store is not."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headroom.contract.answers.job import Phase, Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles
from service.foundation.settings import Settings
from service.records.job import Job
from tests.factories import add_job
from tests.in_memory.job_store import MemoryJobStore
from workers.attempts import attempt
from workers.attempts.attempt import run_attempt
from workers.wiring import Parts


@dataclass
class StandIn:
    """A job's process that runs until told otherwise. `step` is called at every poll; a number from it is the exit."""

    step: Callable[[int], int | None] = lambda poll: None
    polls: int = 0
    calls: list[str] = field(default_factory=list)

    def wait(self, seconds: float) -> int | None:
        self.polls += 1
        assert self.polls < 1000, "the attempt never ended"
        return self.step(self.polls)

    def end(self, grace_seconds: float) -> int:
        self.calls.append("end")
        return -15

    def kill(self) -> int:
        self.calls.append("kill")
        code = self.step(self.polls)
        return -9 if code is None else code


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    def clock() -> datetime:
        return datetime.now(UTC)

    settings = Settings(data_dir=tmp_path, heartbeat_seconds=0.0, lease_seconds=30, retry_pause_seconds=0.0)
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, clock)
    files = DirectoryShardFiles(tmp_path / "shards")
    return Parts(settings, MemoryJobStore(clock), DirectoryArtifacts(tmp_path / "artifacts"), corpora, files, clock)


@pytest.fixture
def job(parts: Parts) -> Job:
    return add_job(parts.store)


def run(parts: Parts, job: Job, process: StandIn, is_stopping: Callable[[], bool] = lambda: False) -> Job:
    def start(claimed: Job) -> StandIn:
        (parts.artifacts.staging(claimed.id, claimed.attempt) / "half.bin").write_bytes(b"x")
        return process

    run_attempt(job.id, parts, is_stopping, start)
    return parts.store.get(job.id)


def staged_files(parts: Parts) -> list[Path]:
    return list(parts.settings.artifacts_dir.rglob("half.bin"))


def test_a_verdict_of_the_process_itself_is_left_as_it_is(parts: Parts, job: Job) -> None:
    def finish(poll: int) -> int:
        if not parts.store.get(job.id).status.is_final:
            parts.store.finish(job.id, 1, Status.REJECTED, {"passes": False}, None)
        return 0

    ended = run(parts, job, StandIn(finish))

    assert ended.status is Status.REJECTED
    assert [record.outcome for record in ended.attempts] == ["rejected"]


def test_a_killed_process_puts_the_job_back_as_worker_lost_and_leaves_no_staging(parts: Parts, job: Job) -> None:
    ended = run(parts, job, StandIn(lambda poll: -9))

    assert ended.status is Status.QUEUED
    assert [record.outcome for record in ended.attempts] == ["worker_lost"]
    assert staged_files(parts) == []


def test_the_last_lost_attempt_fails_the_job_and_names_signal_and_phase(parts: Parts, job: Job) -> None:
    def die(poll: int) -> int:
        now = parts.store.get(job.id)
        if now.status is Status.RUNNING:
            parts.store.report_progress(job.id, now.attempt, Phase.SWEEPING, 0.6)
        return -9

    for _ in range(3):
        ended = run(parts, job, StandIn(die))

    assert ended.status is Status.FAILED
    assert ended.error is not None
    assert ended.error.code == "worker_lost"
    assert "SIGKILL" in ended.error.message
    assert "sweeping" in ended.error.message
    assert ended.error.phase is Phase.SWEEPING


def test_an_exit_without_a_verdict_names_the_exit_code(parts: Parts, job: Job) -> None:
    for _ in range(3):
        ended = run(parts, job, StandIn(lambda poll: 1))

    assert ended.error is not None
    assert "exit code 1" in ended.error.message


def test_a_canceled_job_is_ended_and_recorded(parts: Parts, job: Job) -> None:
    def cancel(poll: int) -> None:
        if poll == 3:
            parts.store.request_cancel(job.id)

    process = StandIn(cancel)
    ended = run(parts, job, process)

    assert ended.status is Status.CANCELED
    assert process.calls == ["end"]
    assert staged_files(parts) == []


def test_a_job_that_stopped_by_itself_on_cancellation_is_recorded_as_canceled(parts: Parts, job: Job) -> None:
    def stop(poll: int) -> int:
        if parts.store.get(job.id).status is Status.RUNNING:
            parts.store.request_cancel(job.id)
        return 0

    assert run(parts, job, StandIn(stop)).status is Status.CANCELED


def test_an_attempt_that_lost_its_fence_is_killed_and_writes_nothing(parts: Parts, job: Job) -> None:
    def lose(poll: int) -> None:
        if poll == 3:
            parts.store.requeue(job.id, 1, "worker_lost", parts.clock())
            assert parts.store.claim(job.id, "other", 30) is not None

    process = StandIn(lose)
    ended = run(parts, job, process)

    assert process.calls == ["kill"]
    assert (ended.status, ended.attempt, ended.attempts[-1].worker) == (Status.RUNNING, 2, "other")


def test_a_worker_told_to_stop_gives_the_job_back_at_once(parts: Parts, job: Job) -> None:
    process = StandIn()
    ended = run(parts, job, process, is_stopping=lambda: process.polls >= 3)

    assert process.calls == ["end"]
    assert ended.status is Status.QUEUED
    assert [record.outcome for record in ended.attempts] == ["worker_stopped"]
    assert parts.store.due_outbox(60, 10) == [job.id]


def test_a_worker_whose_parent_died_ends_the_job_process(
    parts: Parts, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = StandIn()
    monkeypatch.setattr(attempt.os, "getppid", lambda: 1 if process.polls >= 3 else 4242)

    ended = run(parts, job, process)

    assert process.calls == ["end"]
    assert [record.outcome for record in ended.attempts] == ["worker_lost"]


def test_a_database_that_stays_away_past_the_lease_ends_the_process_and_leaves_the_job(parts: Parts, job: Job) -> None:
    store = parts.store
    assert isinstance(store, MemoryJobStore)
    short_lease = replace(parts, settings=parts.settings.model_copy(update={"lease_seconds": 0.0}))

    def go_away(poll: int) -> None:
        store.away = True

    process = StandIn(go_away)
    run_attempt(job.id, short_lease, lambda: False, lambda claimed: process)

    assert process.calls == ["kill"]
    store.away = False
    assert store.get(job.id).status is Status.RUNNING


def test_a_duplicate_message_starts_nothing(parts: Parts, job: Job) -> None:
    assert parts.store.claim(job.id, "other", 30) is not None

    def start(claimed: Job) -> StandIn:
        raise AssertionError("started")

    assert run_attempt(job.id, parts, lambda: False, start) is False
    assert run_attempt("job_" + "0" * 32, parts, lambda: False, start) is False
