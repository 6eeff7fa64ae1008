"""Run one claimed job in a process of its own, and see that it ends: by itself, on request, or by force.

    claim ─► process started ─► heartbeats ─┬─ it ended ────────────► no verdict recorded? retry_or_fail(worker_lost)
                                            ├─ canceling ───────────► TERM, KILL ─► canceled
                                            ├─ worker told to stop ─► TERM, KILL ─► requeued, counted for nothing
                                            ├─ parent died ─────────► TERM, KILL ─► retry_or_fail(worker_lost)
                                            └─ fence or lease lost ─► KILL ───────► nothing is written

The verdict of a job that runs to its end is recorded by its own process (service/jobs/execution.py). No tensors here.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Protocol

import structlog

from headroom.contract.answers.job import Status
from service.foundation.errors import AttemptSuperseded, StoreUnavailable, WorkerLost
from service.foundation.tracing import Span, as_variables
from service.jobs.retries import STOPPED, clear_away, give_back, retry_or_fail
from service.ports.jobs import JobStore
from service.records.job import Job
from workers.attempts.forked_group import start_module
from workers.attempts.lease import Lease, LeaseState
from workers.attempts.phase_spans import attributes_of
from workers.attempts.process_group import Group, describe_exit
from workers.wiring import Parts

POLL_SECONDS = 0.2
RETRY_SECONDS = 0.5
LAST_STEPS_SECONDS = 2.0  # what a process may take to leave after its verdict

logger = logging.getLogger(__name__)


class JobProcess(Protocol):
    """A process that runs a job: what is needed of workers/attempts/process_group.py."""

    def wait(self, seconds: float) -> int | None: ...

    def end(self, grace_seconds: float) -> int: ...

    def kill(self) -> int: ...


class Ending(Enum):
    """Why an attempt is over."""

    EXITED = auto()
    CANCELED = auto()
    STOPPED = auto()
    ORPHANED = auto()
    FENCED = auto()  # the job has ended, or this attempt has lost it


def run_attempt(job_id: str, parts: Parts, is_stopping: Callable[[], bool], start: Callable[[Job], JobProcess]) -> bool:
    """Claim a job and see it through. False, and nothing done, if somebody else has it, it is not due, or has ended."""
    job = parts.store.claim(job_id, worker_name(), parts.settings.lease_seconds)
    if job is None:
        logger.info("%s is not to be had: the message was a duplicate, or came early", job_id)
        return False
    structlog.contextvars.bind_contextvars(job_id=job.id, attempt=job.attempt)
    with parts.tracer.span("attempt", attributes_of(job), job.trace) as span:
        _run_claimed(replace(job, trace=parts.tracer.context() or job.trace), parts, is_stopping, start)
        _describe(span, parts.store, job)
    return True


def _run_claimed(job: Job, parts: Parts, is_stopping: Callable[[], bool], start: Callable[[Job], JobProcess]) -> None:
    settings = parts.settings
    lease = Lease(parts.store, job, settings.lease_seconds, settings.heartbeat_seconds)
    process = start(job)
    ending, returncode = _see_through(process, lease, settings.cancel_grace_seconds, is_stopping)
    logger.info("attempt %d of %s: %s; its process %s", job.attempt, job.id, ending.name, describe_exit(returncode))
    _settle(job, parts, ending, returncode)


def _describe(span: Span, store: JobStore, job: Job) -> None:
    """How the attempt ended, as the store has it; whoever recorded it."""
    try:
        now = store.get(job.id)
    except StoreUnavailable:
        return
    outcome = next((record.outcome for record in now.attempts if record.attempt == job.attempt), "")
    span.set({"headroom.outcome": outcome})
    if outcome and outcome != STOPPED and outcome not in list(Status):
        span.fail(outcome, now.error.message if now.error else "")


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def start_job_process(job: Job) -> Group:
    variables = dict(os.environ) | as_variables(job.trace)
    return start_module("workers.processes.job_process", [job.id, str(job.attempt)], variables)


def _see_through(
    process: JobProcess, lease: Lease, grace_seconds: float, is_stopping: Callable[[], bool]
) -> tuple[Ending, int]:
    parent = os.getppid()
    while process.wait(POLL_SECONDS) is None:
        match lease.check():
            case LeaseState.CANCELING:
                return Ending.CANCELED, process.end(grace_seconds)
            case LeaseState.SUPERSEDED:
                process.wait(LAST_STEPS_SECONDS)  # most often it has just recorded its verdict
                return Ending.FENCED, process.kill()
            case LeaseState.LAPSED:
                return Ending.FENCED, process.kill()
        if is_stopping():
            return Ending.STOPPED, process.end(grace_seconds)
        if os.getppid() != parent:
            return Ending.ORPHANED, process.end(grace_seconds)
    return Ending.EXITED, process.kill()  # what it left running goes too


def _settle(job: Job, parts: Parts, ending: Ending, returncode: int) -> None:
    """Record how the attempt ended, unless its own process did. A store that stays away leaves it to the sweeper."""
    parts.artifacts.discard(job.id, job.attempt)
    deadline = time.monotonic() + parts.settings.lease_seconds
    while True:
        try:
            _record(job, parts, ending, returncode)
            return
        except AttemptSuperseded:
            return
        except StoreUnavailable as error:
            logger.warning("the end of attempt %d of %s is not recorded yet: %s", job.attempt, job.id, error)
            if ending is Ending.FENCED or time.monotonic() >= deadline:
                return
            time.sleep(RETRY_SECONDS)


def _record(job: Job, parts: Parts, ending: Ending, returncode: int) -> None:
    now = parts.store.get(job.id)
    is_ours = now.attempt == job.attempt and now.status in (Status.RUNNING, Status.CANCELING)
    if ending is Ending.FENCED or not is_ours:
        clear_away(parts.artifacts, job, now)
    elif now.status is Status.CANCELING:
        clear_away(parts.artifacts, job, parts.store.finish(job.id, job.attempt, Status.CANCELED, None, None))
    elif ending is Ending.STOPPED:
        give_back(parts.store, parts.artifacts, now, parts.clock())
    else:
        retry_or_fail(parts.store, parts.artifacts, now, _loss(now, returncode), parts.retry, parts.clock())


def _loss(job: Job, returncode: int) -> WorkerLost:
    where = f"in phase {job.phase.value}" if job.phase else "before its first phase"
    hint = "the machine may be short of memory" if returncode == -signal.SIGKILL else "its log says more"
    return WorkerLost(f"the job's process {describe_exit(returncode)} {where}; {hint}")
