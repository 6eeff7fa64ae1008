"""What was not sent is sent, what was lost comes back, and one bad step stops nothing."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headroom.contract.answers.job import Phase, Status
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.files.shard_files import DirectoryShardFiles
from service.foundation.settings import Settings
from service.records.job import Job
from service.records.receipts import KeyedRequest, Receipt, Reservation
from tests.factories import StoppedClock, claim_job, make_job
from tests.in_memory.access import MemoryHolds
from tests.in_memory.audit import MemoryAudit
from tests.in_memory.job_store import MemoryJobStore
from tests.in_memory.queue import MemoryQueue
from workers.sweeper import Sweeper
from workers.wiring import Parts


def sweep(parts: Parts, queue: MemoryQueue) -> None:
    Sweeper(parts, queue, MemoryHolds(parts.clock), MemoryAudit()).sweep()


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def store(clock: StoppedClock) -> MemoryJobStore:
    return MemoryJobStore(clock)


@pytest.fixture
def parts(tmp_path: Path, store: MemoryJobStore, clock: StoppedClock) -> Parts:
    corpora = DirectoryCorpora(tmp_path / "corpora", 1000, clock)
    artifacts = DirectoryArtifacts(tmp_path / "artifacts", 0.0)
    return Parts(
        Settings(data_dir=tmp_path), store, artifacts, corpora, DirectoryShardFiles(tmp_path / "shards"), clock
    )


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


def add(parts: Parts) -> Job:
    job = make_job(created=parts.clock(), queued=parts.clock())
    parts.store.add(job)
    return job


def claim(parts: Parts, job: Job) -> Job:
    return claim_job(parts.store, job.id)


def test_a_job_accepted_while_the_broker_was_away_is_sent_once(parts: Parts, queue: MemoryQueue) -> None:
    job = add(parts)
    queue.away = True
    sweep(parts, queue)
    queue.away = False

    sweep(parts, queue)
    sweep(parts, queue)

    assert queue.sent == [job.id]


def test_a_message_that_nobody_took_is_sent_again_after_a_while(
    parts: Parts, queue: MemoryQueue, clock: StoppedClock
) -> None:
    job = add(parts)
    sweep(parts, queue)
    clock.advance(61)
    sweep(parts, queue)

    assert queue.sent == [job.id, job.id]


def test_a_lapsed_job_rests_and_is_then_sent_again(parts: Parts, queue: MemoryQueue, clock: StoppedClock) -> None:
    job = claim(parts, add(parts))
    parts.store.report_progress(job.id, 1, Phase.ENCODING, 0.2)
    clock.advance(31)

    sweep(parts, queue)
    assert parts.store.get(job.id).status is Status.QUEUED
    assert queue.sent == []

    clock.advance(2)
    sweep(parts, queue)
    assert queue.sent == [job.id]


def test_a_job_whose_lease_is_held_is_left_alone(parts: Parts, queue: MemoryQueue, clock: StoppedClock) -> None:
    job = claim(parts, add(parts))
    clock.advance(29)

    sweep(parts, queue)

    assert parts.store.get(job.id).status is Status.RUNNING


def test_a_job_that_lapses_at_every_attempt_fails_as_worker_lost(
    parts: Parts, queue: MemoryQueue, clock: StoppedClock
) -> None:
    job = add(parts)
    for _ in range(3):
        claim(parts, job)
        parts.store.report_progress(job.id, parts.store.get(job.id).attempt, Phase.ENCODING, 0.2)
        clock.advance(31)
        sweep(parts, queue)
        clock.advance(10)

    ended = parts.store.get(job.id)
    assert ended.status is Status.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.phase) == ("worker_lost", Phase.ENCODING)
    assert "encoding" in ended.error.message


def test_a_lapsed_job_that_was_to_be_canceled_is_canceled(
    parts: Parts, queue: MemoryQueue, clock: StoppedClock
) -> None:
    job = claim(parts, add(parts))
    parts.store.request_cancel(job.id)
    clock.advance(31)

    sweep(parts, queue)

    assert parts.store.get(job.id).status is Status.CANCELED


def test_staging_of_dead_attempts_goes_and_that_of_running_ones_stays(parts: Parts, queue: MemoryQueue) -> None:
    running = claim(parts, add(parts))
    kept = parts.artifacts.staging(running.id, running.attempt)
    dead = parts.artifacts.staging(add(parts).id, 7)

    sweep(parts, queue)

    assert kept.is_dir()
    assert not dead.exists()


def test_a_step_that_fails_stops_neither_the_others_nor_the_sweeper(
    parts: Parts,
    queue: MemoryQueue,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = claim(parts, add(parts))
    clock.advance(31)

    def defect(job_id: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(queue, "send", defect)
    add(parts)

    with caplog.at_level(logging.ERROR):
        sweep(parts, queue)

    assert "ZeroDivisionError" in caplog.text
    assert parts.store.get(job.id).status is Status.QUEUED


def test_what_goes_on_being_wrong_is_logged_once_and_so_is_its_end(
    parts: Parts, queue: MemoryQueue, caplog: pytest.LogCaptureFixture
) -> None:
    sweeper = Sweeper(parts, queue, MemoryHolds(parts.clock), MemoryAudit())
    add(parts)
    with caplog.at_level(logging.INFO):
        queue.away = True
        sweeper.sweep()
        sweeper.sweep()
        queue.away = False
        sweeper.sweep()
        sweeper.sweep()

    assert [record.getMessage() for record in caplog.records] == [
        "sending: the memory queue was told to be away",
        "sending: goes on",
    ]


def test_a_database_that_is_away_ends_nothing(parts: Parts, store: MemoryJobStore, queue: MemoryQueue) -> None:
    job = add(parts)
    store.away = True
    sweep(parts, queue)
    store.away = False
    sweep(parts, queue)

    assert queue.sent == [job.id]


def test_more_running_jobs_than_one_page_all_keep_their_staging(parts: Parts, queue: MemoryQueue) -> None:
    folders = []
    for _ in range(101):
        job = claim(parts, add(parts))
        folders.append(parts.artifacts.staging(job.id, job.attempt))

    sweep(parts, queue)

    assert all(folder.is_dir() for folder in folders)


def test_requests_of_yesterday_are_forgotten(parts: Parts, store: MemoryJobStore, clock: StoppedClock) -> None:
    asked = KeyedRequest("a", "POST /v1/jobs", "k", "f")
    reservation = store.reserve(asked)
    assert isinstance(reservation, Reservation)
    store.add(make_job(), Receipt(reservation, {"status": 202}))
    sweep(parts, MemoryQueue())
    assert store.reserve(asked) == {"status": 202}
    clock.advance(24 * 3600 + 1)
    sweep(parts, MemoryQueue())
    assert store._receipts == {}
