"""What a job is, and the only place that knows which transitions exist. No storage, no clock.

                 a                  c
    QUEUED ─────────────► RUNNING ─────────► SUCCEEDED
     │  ▲                  │ │ │ ─────d────► REJECTED
     │  └────────f─────────┘ │ └──────e────► FAILED
     b                       g
     ▼                       ▼
  CANCELED ◄──────h────── CANCELING

a: claim by conditional update, attempt + 1, lease set. b, g: cancel; a running job's worker is told by its status.
c: published. d: the drift gate refused. e: an error, or the last of `max_attempts` was lost.
f: the attempt was lost; back with a pause. h: the job's process group has ended, or its lease has lapsed.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headroom.contract.answers.job import FINAL, AttemptRecord, JobError, Phase, Status
from headroom.contract.recipe import Recipe
from headroom.contract.repository_names import default_repository
from service.foundation.tracing import TraceContext
from service.records.callers import LOCAL_OWNER

WITHOUT_FILES = frozenset({Status.FAILED, Status.CANCELED, Status.REJECTED})  # never to be published

TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.REJECTED, Status.FAILED, Status.CANCELING, Status.QUEUED}),
    Status.CANCELING: frozenset({Status.CANCELED}),
} | {status: frozenset() for status in FINAL}


def sources_of(target: Status) -> list[Status]:
    """The statuses from which `target` may be entered, for conditional updates."""
    return [status for status, targets in TRANSITIONS.items() if target in targets]


# Share of a compress job's time that each phase takes on average: turns (phase, fraction) into one 0..1 figure.
PHASE_SHARE: dict[Phase, float] = {
    Phase.FETCHING: 0.05,
    Phase.ENCODING: 0.40,
    Phase.ANALYZING: 0.10,
    Phase.SWEEPING: 0.20,
    Phase.SLICING: 0.05,
    Phase.VALIDATING: 0.17,
    Phase.PUBLISHING: 0.03,
}


# The phases of each kind of job, in order.
PHASES: dict[str, tuple[Phase, ...]] = {
    "compress": tuple(Phase),
    "steer": tuple(Phase),
    "compare": (Phase.FETCHING, Phase.ENCODING, Phase.SWEEPING),
    "analyze": (Phase.FETCHING, Phase.ENCODING, Phase.ANALYZING),
    "dynamics": (Phase.FETCHING, Phase.ENCODING),
}


def phase_shares(kind: str) -> dict[Phase, float]:
    """Share of each phase in a job of this kind; they add up to 1."""
    total = sum(PHASE_SHARE[phase] for phase in PHASES[kind])
    return {phase: PHASE_SHARE[phase] / total for phase in PHASES[kind]}


def overall_progress(kind: str, phase: Phase, fraction: float) -> float:
    """Progress of the whole job, 0..1, from the progress inside one phase."""
    shares = phase_shares(kind)
    phases = list(shares)
    done = sum(shares[earlier] for earlier in phases[: phases.index(phase)])
    return min(1.0, done + shares[phase] * min(max(fraction, 0.0), 1.0))


@dataclass(frozen=True)
class Job:
    """One request to do a recipe. Changed only through a JobStore."""

    id: str
    recipe: Recipe
    created: datetime
    owner: str = LOCAL_OWNER
    status: Status = Status.QUEUED
    phase: Phase | None = None
    progress: float = 0.0
    attempt: int = 0  # number of claims so far; the fence of every later write
    queued: datetime | None = None  # last time it entered the queue
    started: datetime | None = None  # start of the last attempt
    finished: datetime | None = None
    lease_until: datetime | None = None
    not_before: datetime | None = None  # pause after a lost worker
    phase_seconds: dict[str, float] = field(default_factory=dict)  # finished phases of the last attempt
    error: JobError | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    result: dict[str, Any] | None = None  # summary figures for dashboards; the report holds the rest
    trace: TraceContext = field(default_factory=dict)  # of the request that made it: attempts are spans below it
    stored_bytes: int = 0  # of its published files, or of those that are just being published
    byte_limit: int = 0  # of all that its owner stores, as it was when the job was accepted; 0: none
    version: int = 0  # grows with every change: the ETag

    @property
    def repository(self) -> str | None:
        """The `ns/name` under which the hub has its files once it has succeeded; None for a kind that makes none."""
        if Phase.PUBLISHING not in PHASES[self.recipe.kind]:
            return None
        return self.recipe.publish_as or default_repository(self.recipe.model.id, self.id)


@dataclass(frozen=True)
class Event:
    """One numbered line of a job's history. Numbers start at 1 and have no gaps within a job."""

    job_id: str
    number: int
    time: datetime
    type: str  # "status", "phase", "attempt", "shard"
    data: dict[str, Any]


def new_job_id() -> str:
    return f"job_{secrets.token_hex(16)}"
