"""Shards: pieces of a running job that any worker may do. What each step does to one, as pure functions.

    WAITING ──claim──► RUNNING ──finish──► DONE
       ▲                  │
       └── give back, or the lease lapses

A job asks one question at a time, such as "encode" or "sweep"; every shard answers it for its own windows. A question
is known by its digest, so a later attempt of the job that asks the same finds what is done already.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeAlias

from headroom.contract.answers.shard_loss import LossReason, ShardLoss
from service.foundation.errors import ServiceError


@dataclass(frozen=True)
class AskedWindows:
    """What every question is about: a file of windows that all workers can read, in so many shards."""

    windows: str  # name of that file
    shards: int
    model: str  # digest of its files
    revision: str | None


@dataclass(frozen=True)
class EncodeQuestion(AskedWindows):
    """The statistics of a shard's calibration windows."""


@dataclass(frozen=True)
class SweepQuestion(AskedWindows):
    """The figures of each of a shard's evaluation positions, at every size."""

    head: str  # name of the file with the head
    sizes: tuple[int, ...]
    top: int  # so many most probable tokens are compared


@dataclass(frozen=True)
class ValidateQuestion(AskedWindows):
    """What the stored checkpoint does at each of a shard's evaluation positions."""

    stored: str  # name of the list of its files


@dataclass(frozen=True)
class StatesQuestion(AskedWindows):
    """The hidden states of those shards that the job's own machine lacks."""

    part: str  # "calibration" or "evaluation"
    numbers: tuple[int, ...]  # of the shards: this question has as many of its own


Question: TypeAlias = EncodeQuestion | SweepQuestion | ValidateQuestion | StatesQuestion  # the same for all shards

OPERATIONS: dict[str, type[Question]] = {
    "encode": EncodeQuestion,
    "sweep": SweepQuestion,
    "validate": ValidateQuestion,
    "hand_over": StatesQuestion,
}


def operation_of(question: Question) -> str:
    return next(name for name, kind in OPERATIONS.items() if isinstance(question, kind))


def question_told(question: Question) -> dict[str, Any]:
    """A question as JSON: what the database keeps, and what names the question."""
    return {"operation": operation_of(question)} | asdict(question)


def read_question(told: dict[str, Any]) -> Question:
    """The inverse of question_told."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return OPERATIONS[fields.pop("operation")](**fields)


def windows_number(question: AskedWindows, number: int) -> int:
    """Which part of the windows is meant by a shard of this number."""
    return question.numbers[number] if isinstance(question, StatesQuestion) else number


class ShardState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class GivenBack(StrEnum):
    """Why a worker left a shard."""

    STOPPED = "stopped"  # on purpose: counts for nothing
    LOST = "lost"  # its process died: counted
    FAILED = "failed"  # it raised an error: from now on only the job's own attempt may try, and its error is the job's


@dataclass(frozen=True)
class Shard:
    """One piece of one question of one job. Changed only through a ShardStore."""

    job_id: str
    step: str  # digest of the question
    number: int  # 0, 1, ..
    question: Question
    created: datetime
    state: ShardState = ShardState.WAITING
    attempt: int = 0  # number of claims so far: the fence of every later write
    holder: str = ""  # who has it, or had it last
    lease_until: datetime | None = None
    progress: float = 0.0
    losses: int = 0
    only_parent: bool = False  # another worker failed at it
    sent: datetime | None = None  # when a message about it last woke a worker

    def is_open(self, now: datetime) -> bool:
        """Whether it may be claimed."""
        return self.state is ShardState.WAITING or self.has_lapsed(now)

    def has_lapsed(self, now: datetime) -> bool:
        return self.state is ShardState.RUNNING and self.lease_until is not None and self.lease_until < now

    def losses_at(self, now: datetime) -> int:
        return self.losses + self.has_lapsed(now)


def step_of(question: Question) -> str:
    return hashlib.sha256(json.dumps(question_told(question), sort_keys=True).encode()).hexdigest()[:32]


def parent_holder(attempt: int) -> str:
    """The holder's name under which the job's own attempt holds shards."""
    return f"attempt {attempt}"


def new_shards(job_id: str, question: Question, count: int, now: datetime) -> list[Shard]:
    step = step_of(question)
    return [Shard(job_id, step, number, question, now) for number in range(count)]


def claimed(shard: Shard, holder: str, now: datetime, lease_seconds: float) -> Shard:
    return replace(
        shard,
        state=ShardState.RUNNING,
        attempt=shard.attempt + 1,
        holder=holder,
        lease_until=now + timedelta(seconds=lease_seconds),
        progress=0.0,
        losses=shard.losses_at(now),
    )


def given_back(shard: Shard, why: GivenBack) -> Shard:
    return replace(
        shard,
        state=ShardState.WAITING,
        lease_until=None,
        progress=0.0,
        losses=shard.losses + (why is GivenBack.LOST),
        only_parent=shard.only_parent or why is GivenBack.FAILED,
        sent=None,
    )


NOT_HEARD_OF = "nothing was heard of its worker for longer than its lease"


def loss_of(shard: Shard, why: GivenBack, said: ServiceError | str = NOT_HEARD_OF) -> ShardLoss | None:
    """What the job's history tells of a shard that its holder leaves; None if it was stopped on purpose."""
    if why is GivenBack.STOPPED:
        return None
    return ShardLoss(
        operation=operation_of(shard.question),
        shard=windows_number(shard.question, shard.number) + 1,
        shards=shard.question.shards,
        worker=shard.holder,
        why=LossReason(why.value),
        code=None if isinstance(said, str) else said.code,
        message=said if isinstance(said, str) else said.message,
    )


def finished(shard: Shard) -> Shard:
    return replace(shard, state=ShardState.DONE, lease_until=None, progress=1.0)


def ranges(count: int, shards: int) -> list[slice]:
    """`count` windows as contiguous parts, one for each shard, whose sizes differ by at most one."""
    ends = [count * number // shards for number in range(shards + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def answer_name(shard: Shard) -> str:
    """The name of the file with the answer of this claim."""
    return f"{shard.step}.{shard.number}.{shard.attempt}"


def cache_name(question: AskedWindows, number: int) -> str:
    """The name of a shard's hidden states in a worker's cache: the same for all questions about the same windows."""
    described = [question.windows, question.shards, windows_number(question, number)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


# How long a shard that has been encoded is left to the machine that did: only there nothing is encoded again.
PATIENCE = timedelta(seconds=15)


def in_order_of_choice(
    shards: Iterable[Shard], now: datetime, is_local: Callable[[Shard], bool], *, is_parent: bool
) -> list[Shard]:
    """Those that a worker should try to claim, best first: those whose hidden states it has."""
    best, others, known = [], [], list(shards)
    # Whoever hands hidden states over does so one file after another, and nobody else has them.
    is_being_handed_over = any(
        isinstance(one.question, StatesQuestion) and one.state is ShardState.RUNNING and not one.has_lapsed(now)
        for one in known
    )
    for shard in known:
        if not shard.is_open(now) or (shard.only_parent and not is_parent):
            continue
        if is_local(shard):
            best.append(shard)
        elif isinstance(shard.question, EncodeQuestion) or (
            now - shard.created >= PATIENCE and not is_being_handed_over
        ):
            others.append(shard)
    return best + others


def mean_progress(shards: Iterable[Shard]) -> float:
    found = [shard.progress for shard in shards]
    return sum(found) / max(len(found), 1)
