"""A lease is renewed in time, and hears what the store wants."""

from datetime import UTC, datetime

import pytest

from service.records.job import Job
from tests.factories import add_running_job
from tests.in_memory.job_store import MemoryJobStore
from workers.attempts.lease import Lease, LeaseState


class Hands:
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def store(hands: Hands) -> MemoryJobStore:
    return MemoryJobStore(hands.now)


@pytest.fixture
def job(store: MemoryJobStore) -> Job:
    return add_running_job(store)


@pytest.fixture
def lease(store: MemoryJobStore, job: Job, hands: Hands) -> Lease:
    return Lease(store, job, seconds=30, interval=2, monotonic=hands)


def test_a_heartbeat_is_sent_only_when_it_is_due(lease: Lease, store: MemoryJobStore, job: Job, hands: Hands) -> None:
    hands.seconds = 1.9
    lease.check()
    assert store.get(job.id).lease_until == datetime.fromtimestamp(30, UTC)

    hands.seconds = 2.0
    assert lease.check() is LeaseState.HELD
    assert store.get(job.id).lease_until == datetime.fromtimestamp(32, UTC)


def test_a_cancellation_is_heard_at_the_next_heartbeat(
    lease: Lease, store: MemoryJobStore, job: Job, hands: Hands
) -> None:
    store.request_cancel(job.id)
    assert lease.check() is LeaseState.HELD
    hands.seconds = 2.0
    assert lease.check() is LeaseState.CANCELING


def test_a_job_taken_by_another_attempt_is_superseded(
    lease: Lease, store: MemoryJobStore, job: Job, hands: Hands
) -> None:
    store.requeue(job.id, job.attempt, "worker_lost", hands.now())
    hands.seconds = 2.0
    assert lease.check() is LeaseState.SUPERSEDED


def test_a_store_that_is_away_costs_the_lease_only_when_it_has_run_out(
    lease: Lease, store: MemoryJobStore, hands: Hands
) -> None:
    store.away = True
    for hands.seconds in (2.0, 15.0, 29.0):
        assert lease.check() is LeaseState.HELD
    hands.seconds = 31.0
    assert lease.check() is LeaseState.LAPSED


def test_an_outage_that_ends_in_time_is_forgotten(lease: Lease, store: MemoryJobStore, hands: Hands) -> None:
    store.away = True
    hands.seconds = 29.0
    lease.check()
    store.away = False
    hands.seconds = 31.0
    assert lease.check() is LeaseState.HELD
    store.away = True
    hands.seconds = 60.0
    assert lease.check() is LeaseState.HELD
