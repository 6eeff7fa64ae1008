"""Progress reaches the store now and then, and cancellation is noticed there."""

from datetime import UTC, datetime

import pytest

from headroom.contract.answers.job import Phase
from service.foundation.errors import AttemptSuperseded, JobCanceled
from service.jobs.progress import ProgressReporter
from tests.factories import add_running_job
from tests.in_memory.job_store import MemoryJobStore


class Hands:
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store() -> MemoryJobStore:
    return MemoryJobStore(lambda: datetime.now(UTC))


def test_figures_within_half_a_second_are_not_written_but_a_new_phase_always_is(store: MemoryJobStore) -> None:
    job, hands = add_running_job(store), Hands()
    report = ProgressReporter(store, job, lambda: False, hands)

    report(Phase.ENCODING, 0.0)
    first = store.get(job.id).progress
    report(Phase.ENCODING, 0.5)
    assert store.get(job.id).progress == first

    hands.seconds += 0.6
    report(Phase.ENCODING, 0.5)
    assert store.get(job.id).progress == pytest.approx(0.05 + 0.2)

    report(Phase.SWEEPING, 0.0)
    assert store.get(job.id).phase is Phase.SWEEPING


def test_a_canceling_job_stops_at_its_next_write(store: MemoryJobStore) -> None:
    job = add_running_job(store)
    report = ProgressReporter(store, job, lambda: False, Hands())
    store.request_cancel(job.id)

    with pytest.raises(JobCanceled):
        report(Phase.ENCODING, 0.0)


def test_a_stop_by_signal_is_noticed_without_asking_the_store(store: MemoryJobStore) -> None:
    report = ProgressReporter(store, add_running_job(store), lambda: True, Hands())
    store.away = True

    with pytest.raises(JobCanceled):
        report(Phase.ENCODING, 0.0)


def test_an_attempt_that_lost_its_fence_is_stopped(store: MemoryJobStore) -> None:
    job = add_running_job(store)
    report = ProgressReporter(store, job, lambda: False, Hands())
    store.requeue(job.id, job.attempt, "worker_lost", datetime.now(UTC))

    with pytest.raises(AttemptSuperseded):
        report(Phase.ENCODING, 0.0)


def test_a_store_that_is_away_costs_a_figure_and_not_the_attempt(store: MemoryJobStore) -> None:
    job, hands = add_running_job(store), Hands()
    report = ProgressReporter(store, job, lambda: False, hands)

    store.away = True
    report(Phase.ENCODING, 0.0)
    store.away = False
    hands.seconds += 0.6
    report(Phase.ENCODING, 0.1)

    assert store.get(job.id).phase is Phase.ENCODING
