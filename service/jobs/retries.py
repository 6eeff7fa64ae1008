"""What becomes of a job whose attempt ended without a verdict: back to the queue, or failed. Ends no process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from headroom.contract.answers.job import JobError, Status
from service.foundation.errors import ServiceError, StoreUnavailable
from service.ports.files import ArtifactStore
from service.ports.jobs import JobStore
from service.records.job import Job

Result = TypeVar("Result")

# The outcome of an attempt that was given up on purpose, because its worker was told to stop.
STOPPED = "worker_stopped"


@dataclass(frozen=True)
class RetryPolicy:
    """How often a job is tried, and how long it rests after the first lost attempt (doubled with each)."""

    max_attempts: int
    pause_seconds: float


def lost_attempts(job: Job) -> int:
    """Attempts used up, the present one included. Those stopped on purpose count for nothing."""
    earlier = [record for record in job.attempts if record.attempt < job.attempt]
    return 1 + sum(record.outcome != STOPPED for record in earlier)


def retry_or_fail(
    store: JobStore, artifacts: ArtifactStore, job: Job, error: ServiceError, policy: RetryPolicy, now: datetime
) -> Job:
    """Requeue with a pause, or fail with `error` once the attempts are used up; a canceling job ends canceled.

    Fenced: AttemptSuperseded, and nothing written, if `job` is no longer run by its attempt.
    """
    lost = lost_attempts(job)
    if lost >= policy.max_attempts and job.status is not Status.CANCELING:
        reason = JobError(error.code, error.message, job.phase)
        ended = store.finish(job.id, job.attempt, Status.FAILED, None, reason)
    else:
        pause = timedelta(seconds=policy.pause_seconds * 2 ** (lost - 1))
        ended = store.requeue(job.id, job.attempt, error.code, now + pause)
    clear_away(artifacts, job, ended)
    return ended


def give_back(store: JobStore, artifacts: ArtifactStore, job: Job, now: datetime) -> Job:
    """Requeue at once, because the worker was told to stop. Fenced; a canceling job ends canceled."""
    ended = store.requeue(job.id, job.attempt, STOPPED, now)
    clear_away(artifacts, job, ended)
    return ended


def clear_away(artifacts: ArtifactStore, job: Job, ended: Job) -> None:
    """Remove the attempt's staging; and what an earlier attempt published, if the job now ended without success.

    A job that goes on keeps what was published: its next attempt adopts it.
    """
    artifacts.discard(job.id, job.attempt)
    if ended.status.is_final and ended.status is not Status.SUCCEEDED:
        artifacts.withdraw(job.id)


def patiently(action: Callable[[], Result], seconds: float, pause: Callable[[float], None] = time.sleep) -> Result:
    """Run `action` until the database answers: hours of work are not thrown away over a short outage."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except StoreUnavailable:
            if time.monotonic() >= deadline:
                raise
            pause(0.5)
