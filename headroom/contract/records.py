"""What the server tells, as frozen records. Built from its JSON; nothing here asks for anything.

Fields that a newer server adds are ignored, and the JSON itself stays at hand in `JobRecord.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

FINAL_STATUSES = frozenset({"succeeded", "failed", "canceled", "rejected"})

RecordT = TypeVar("RecordT")


def known_fields(record: type[RecordT], data: Mapping[str, Any]) -> RecordT:
    """Build a dataclass from the keys of `data` that it has; others are ignored."""
    names = {field.name for field in fields(record)}  # type: ignore[arg-type]
    return record(**{key: value for key, value in data.items() if key in names})


def parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class ModelRef:
    id: str
    revision: str | None = None


@dataclass(frozen=True)
class JobError:
    """Why a job failed."""

    code: str
    message: str
    phase: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One try of one worker; `outcome` is empty while it runs."""

    attempt: int
    worker: str
    started: str
    finished: str | None = None
    outcome: str = ""


@dataclass(frozen=True)
class Result:
    """The figures of the chosen size: fractions as fractions, bytes as integers. The report holds the rest.

    None: not measured, as the bytes of a rejected job, or no finite number.
    """

    passes: bool
    ratio: float
    kept_columns: int
    hidden_size: int
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    perplexity_drift: float | None = None
    perplexity_drift_low: float | None = None
    perplexity_drift_high: float | None = None
    kl_mean: float | None = None
    top1_agreement: float | None = None
    largest_passing_ratio: float | None = None
    rejected_for: str | None = None  # `over_budget` or `not_worth_it`, of a rejected job
    checkpoint_bytes_before: int | None = None
    checkpoint_bytes_after: int | None = None
    head_bytes_before: int | None = None
    head_bytes_after: int | None = None


@dataclass(frozen=True)
class JobRecord:
    """A job as the server last told it."""

    id: str
    kind: str
    status: str
    phase: str | None
    progress: float
    model: ModelRef
    corpus: str
    labels: Mapping[str, str]
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    estimated_finish: datetime | None
    phase_seconds: Mapping[str, float]
    attempt: int
    version: int  # grows with every change
    attempts: tuple[Attempt, ...]
    error: JobError | None
    result: Result | None  # of a compress job
    figures: Mapping[str, Any]  # the summary of a job of any kind; empty until it has measured something
    json: dict[str, Any] = field(repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "JobRecord":
        error, result = data.get("error"), data.get("result")
        return cls(
            id=data["id"],
            kind=data["kind"],
            status=data["status"],
            phase=data.get("phase"),
            progress=data.get("progress") or 0.0,
            model=known_fields(ModelRef, data["model"]),
            corpus=data["corpus"],
            labels=data.get("labels") or {},
            created=parse_time(data.get("created")),
            started=parse_time(data.get("started")),
            finished=parse_time(data.get("finished")),
            estimated_finish=parse_time(data.get("estimated_finish")),
            phase_seconds=data.get("phase_seconds") or {},
            attempt=data.get("attempt") or 0,
            version=data.get("version") or 0,
            attempts=tuple(known_fields(Attempt, item) for item in data.get("attempts") or ()),
            error=known_fields(JobError, error) if error else None,
            result=known_fields(Result, result) if result and data["kind"] == "compress" else None,
            figures=result or {},
            json=data,
        )

    def at(self, progress: Mapping[str, Any]) -> "JobRecord":
        """The same job further on: `progress` as its stream of events tells it, unless that is older."""
        if progress.get("version", self.version) < self.version:
            return self
        return JobRecord.from_json({**self.json, **progress})


@dataclass(frozen=True)
class Event:
    """One numbered line of a job's history; numbers start at 1."""

    number: int
    time: str
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class RemoteFile:
    """A published file: `path` is relative and '/'-separated."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    id: str
    sha256: str
    size: int
    format: str
    field: str | None = None
    created: str | None = None


@dataclass(frozen=True)
class Model:
    """A model that the server has on its disk (`local`) or made (`output`)."""

    id: str
    kind: str
    job_id: str | None = None
    repository: str | None = None


@dataclass(frozen=True)
class DryRun:
    """What a job would do, without doing it. Empty mappings where the server could not tell."""

    model: Mapping[str, Any]
    head: Mapping[str, Any]
    estimate: Mapping[str, Any]
