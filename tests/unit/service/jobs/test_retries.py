"""A lost attempt costs a pause, and too many of them the job."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headroom.contract.answers.job import Phase, Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.foundation.errors import AttemptSuperseded, WorkerLost
from service.jobs.retries import STOPPED, RetryPolicy, give_back, retry_or_fail
from tests.factories import StoppedClock, add_running_job, claim_job
from tests.in_memory.job_store import MemoryJobStore

POLICY = RetryPolicy(max_attempts=3, pause_seconds=2.0)
LOST = WorkerLost("it was killed")


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def store(clock: StoppedClock) -> MemoryJobStore:
    return MemoryJobStore(clock)


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryArtifacts:
    return DirectoryArtifacts(tmp_path / "artifacts")


def test_the_pause_doubles_until_the_attempts_are_used_up(
    store: MemoryJobStore, artifacts: DirectoryArtifacts, clock: StoppedClock
) -> None:
    job = add_running_job(store)
    pauses = []
    while job.status is Status.RUNNING:
        store.report_progress(job.id, job.attempt, Phase.ENCODING, 0.2)
        ended = retry_or_fail(store, artifacts, store.get(job.id), LOST, POLICY, clock.now)
        if ended.not_before is None:
            job = ended
            break
        pauses.append(ended.not_before - clock.now)
        clock.now = ended.not_before
        job = claim_job(store, job.id)

    assert pauses == [timedelta(seconds=2), timedelta(seconds=4)]
    assert job.status is Status.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.phase) == ("worker_lost", Phase.ENCODING)
    assert [record.outcome for record in job.attempts] == ["worker_lost"] * 3


def test_attempts_stopped_on_purpose_are_not_counted(
    store: MemoryJobStore, artifacts: DirectoryArtifacts, clock: StoppedClock
) -> None:
    job = add_running_job(store)
    for _ in range(5):
        assert give_back(store, artifacts, job, clock.now).not_before == clock.now
        job = claim_job(store, job.id)

    ended = retry_or_fail(store, artifacts, job, LOST, POLICY, clock.now)

    assert ended.status is Status.QUEUED
    assert [record.outcome for record in ended.attempts] == [STOPPED] * 5 + ["worker_lost"]
    assert ended.not_before == clock.now + timedelta(seconds=2)


@pytest.mark.parametrize("lost_before", [0, 2])
def test_a_canceling_job_whose_worker_is_lost_ends_canceled(
    lost_before: int, store: MemoryJobStore, artifacts: DirectoryArtifacts, clock: StoppedClock
) -> None:
    job = add_running_job(store)
    for _ in range(lost_before):
        store.requeue(job.id, job.attempt, "worker_lost", clock.now)
        job = claim_job(store, job.id)
    canceling = store.request_cancel(job.id)

    assert retry_or_fail(store, artifacts, canceling, LOST, POLICY, clock.now).status is Status.CANCELED


def test_nothing_is_written_for_an_attempt_that_lost_its_fence(
    store: MemoryJobStore, artifacts: DirectoryArtifacts, clock: StoppedClock
) -> None:
    old = add_running_job(store)
    store.requeue(old.id, old.attempt, "worker_lost", clock.now)
    claim_job(store, old.id)

    with pytest.raises(AttemptSuperseded):
        retry_or_fail(store, artifacts, old, LOST, POLICY, clock.now)
    assert store.get(old.id).attempt == 2


def test_staging_goes_at_once_and_published_files_only_with_the_job(
    store: MemoryJobStore, artifacts: DirectoryArtifacts, clock: StoppedClock
) -> None:
    job = add_running_job(store)
    (artifacts.staging(job.id, job.attempt) / "report.json").write_text("{}")
    artifacts.publish(job.id, job.attempt)
    staged = artifacts.staging(job.id, job.attempt)

    retry_or_fail(store, artifacts, job, LOST, POLICY, clock.now)
    assert not staged.exists()
    assert artifacts.files(job.id), "the next attempt adopts them"

    clock.advance(10)
    job = claim_job(store, job.id)
    retry_or_fail(store, artifacts, job, LOST, RetryPolicy(max_attempts=2, pause_seconds=1), clock.now)
    assert store.get(job.id).status is Status.FAILED
    assert artifacts.files(job.id) == []
