"""What each step does to a job, as pure functions: the job after it, and the events it leaves. No storage, no clock.

Every JobStore applies these under its own lock, so the memory store and the SQL store cannot disagree. Whether a step
is allowed at all (fence, due time) is decided by the store, in the condition that takes the lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from headroom.contract.answers.job import AttemptRecord, JobError, Phase, Status
from headroom.contract.answers.shard_loss import ShardLoss
from service.records.job import TRANSITIONS, Job
from service.records.shards import parent_holder

EventBody = tuple[str, dict[str, Any]]  # type, data

HELD = frozenset({Status.RUNNING, Status.CANCELING})  # the statuses in which an attempt owns the job


@dataclass(frozen=True)
class Change:
    """A job after one step. An unchanged `version` means that nothing a user can see has changed."""

    job: Job
    events: tuple[EventBody, ...] = ()


def is_due(job: Job, now: datetime) -> bool:
    """Whether a queued job may be claimed yet."""
    return job.not_before is None or job.not_before <= now


def claimed(job: Job, worker: str, now: datetime, lease_seconds: float) -> Change:
    """A worker takes a queued job. What the attempt before left behind is cleared."""
    record = AttemptRecord(job.attempt + 1, worker, now)
    return _entered(
        job,
        Status.RUNNING,
        attempt=record.attempt,
        attempts=(*job.attempts, record),
        started=now,
        lease_until=now + timedelta(seconds=lease_seconds),
        not_before=None,
        phase=None,
        progress=0.0,
        phase_seconds={},
    )


def progressed(job: Job, phase: Phase, progress: float, now: datetime) -> Change:
    """The attempt got further. Only a new phase is an event; the figure alone just replaces the one before."""
    if phase == job.phase:
        changed = progress != job.progress
        return Change(replace(job, progress=progress, version=job.version + changed))
    after = replace(
        job, phase=phase, progress=progress, phase_seconds=_with_phase_closed(job, now), version=job.version + 1
    )
    return Change(after, (("phase", {"phase": phase.value}),))


def ended(
    job: Job,
    status: Status,
    result: Mapping[str, Any] | None,
    error: JobError | None,
    now: datetime,
    stored_bytes: int = 0,
) -> Change:
    """The attempt ends the job. A canceling job is canceled, whatever the attempt came to."""
    if not status.is_final:
        raise ValueError(f"{status.value} is not a final status")
    if job.status is Status.CANCELING:
        status, result, error = Status.CANCELED, None, None
    is_complete = status in (Status.SUCCEEDED, Status.REJECTED)
    return _attempt_closed(
        job,
        status,
        outcome=error.code if error else status.value,
        now=now,
        progress=1.0 if is_complete else job.progress,
        result=dict(result) if result is not None else None,
        error=error,
        finished=now,
        stored_bytes=stored_bytes if status is Status.SUCCEEDED else 0,
    )


def requeued(job: Job, outcome: str, not_before: datetime, now: datetime) -> Change:
    """The attempt is lost. The job waits for the next one, or ends if it was to be canceled."""
    if job.status is Status.CANCELING:
        return _attempt_closed(job, Status.CANCELED, outcome, now, finished=now, stored_bytes=0)
    return _attempt_closed(
        job, Status.QUEUED, outcome, now, queued=now, not_before=not_before, phase=None, progress=0.0
    )


def cancel_requested(job: Job, now: datetime) -> Change:
    """A queued job ends at once; a running one is told by its status."""
    if job.status is Status.QUEUED:
        return _entered(job, Status.CANCELED, finished=now, not_before=None, stored_bytes=0)
    return _entered(job, Status.CANCELING)


def shard_lost(job: Job, loss: ShardLoss) -> Change:
    """A worker left a shard undone. Nothing but the history tells of it: the job goes on."""
    told = loss.model_dump(mode="json") | {"worker": _worker_of(job, loss.worker)}
    return Change(replace(job, version=job.version + 1), (("shard", told),))


def _worker_of(job: Job, holder: str) -> str:
    """The worker of an attempt that held a shard of its own job; of others the holder is the worker."""
    return next((one.worker for one in job.attempts if parent_holder(one.attempt) == holder), holder)


def _attempt_closed(job: Job, status: Status, outcome: str, now: datetime, **values: Any) -> Change:
    attempts = (*job.attempts[:-1], replace(job.attempts[-1], finished=now, outcome=outcome))
    closed: dict[str, Any] = {
        "attempts": attempts,
        "lease_until": None,
        "phase_seconds": _with_phase_closed(job, now),
    }
    change = _entered(job, status, **(closed | values))
    return Change(change.job, (("attempt", {"attempt": job.attempt, "outcome": outcome}), *change.events))


def _entered(job: Job, status: Status, **values: Any) -> Change:
    assert status in TRANSITIONS[job.status], f"{job.status} -> {status}"
    after = replace(job, status=status, version=job.version + 1, **values)
    return Change(after, (("status", {"status": status.value}),))


def _with_phase_closed(job: Job, now: datetime) -> dict[str, float]:
    """Phases follow each other without gaps from the start of the attempt, so the open one took what is left."""
    if job.phase is None or job.started is None:
        return dict(job.phase_seconds)
    elapsed = (now - job.started).total_seconds() - sum(job.phase_seconds.values())
    earlier = job.phase_seconds.get(job.phase.value, 0.0)
    return job.phase_seconds | {job.phase.value: round(earlier + max(elapsed, 0.0), 3)}
