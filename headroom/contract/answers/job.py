"""A job as both sides of HTTP know it: its states, how far it has got, and its history."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self, TypeAlias

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, WrapValidator, field_validator

from headroom.contract.answers.answer import Answer, known_or_as_told
from headroom.contract.answers.results import (
    AnalyzeResult,
    CompareResult,
    CompressResult,
    DynamicsResult,
    SteerResult,
)
from headroom.contract.answers.shard_loss import ShardLoss
from headroom.contract.report.part import ReportPart


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.REJECTED})


class Phase(StrEnum):
    FETCHING = "fetching"
    ENCODING = "encoding"
    ANALYZING = "analyzing"
    SWEEPING = "sweeping"
    SLICING = "slicing"
    VALIDATING = "validating"
    PUBLISHING = "publishing"


# A newer server's further words come as strings.
ToldStatus: TypeAlias = Annotated[Status, WrapValidator(known_or_as_told)]
ToldPhase: TypeAlias = Annotated[Phase, WrapValidator(known_or_as_told)]


@dataclass(frozen=True)
class JobError:
    """Why a job failed: a code, one sentence, and where it happened."""

    code: str
    message: str
    phase: ToldPhase | None = None


@dataclass(frozen=True)
class AttemptRecord:
    """One claim of a job by one worker, and how it ended (`outcome` is empty while it runs)."""

    attempt: int
    worker: str
    started: datetime
    finished: datetime | None = None
    outcome: str = ""


class ModelOfJob(Answer):
    """What a job works on."""

    id: str
    revision: str | None = None


class JobLinks(Answer):
    """Where the rest of a job is."""

    self: str
    events: str
    report: str
    files: str
    hub: str | None = Field(description="`ns/name` of the published files for Hugging Face clients, once there are any")


# Of a kind or a version that this one does not know: as it came.
Summary: TypeAlias = Annotated[
    dict[str, Any] | CompressResult | AnalyzeResult | SteerResult | CompareResult | DynamicsResult,
    Field(union_mode="left_to_right"),
]

RESULTS: dict[str, type[ReportPart]] = {
    "compress": CompressResult,
    "analyze": AnalyzeResult,
    "steer": SteerResult,
    "compare": CompareResult,
    "dynamics": DynamicsResult,
}


class JobView(Answer):
    """A job as a client sees it: what is known of every job, and beside it the recipe's own fields, as posted.

    A figure of the future is a guess from the phases that have ended.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    kind: str
    status: ToldStatus
    phase: ToldPhase | None
    progress: float
    model: ModelOfJob
    corpus: str
    options: dict[str, Any]
    labels: dict[str, str]
    owner: str
    created: datetime
    queued: datetime | None
    started: datetime | None
    finished: datetime | None
    estimated_finish: datetime | None
    phase_seconds: dict[str, float]
    attempt: int
    version: int = Field(description="grows with every change")
    attempts: tuple[AttemptRecord, ...]
    error: JobError | None
    result: Summary | None = Field(description="summary figures; the report holds the rest")
    links: JobLinks

    _told: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("result", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        record = RESULTS.get(info.data.get("kind", ""))
        if record is None or not isinstance(value, dict):
            return value
        try:
            return record.model_validate(value, strict=False)
        except ValidationError:
            return value

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        view = super().read(told)
        view._told = dict(told)
        return view

    @property
    def told(self) -> dict[str, Any]:
        """The JSON that it was read from, with what a newer server says beside; empty where none was read."""
        return self._told

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def compressed(self) -> CompressResult | None:
        """The result of a compress job, once it has measured something."""
        return self.result if isinstance(self.result, CompressResult) else None

    def at(self, progress: dict[str, Any]) -> "JobView":
        """The same job further on: `progress` as its stream of events tells it, unless that is older."""
        if progress.get("version", self.version) < self.version:
            return self
        return JobView.read({**self._told, **progress})


class JobList(Answer):
    data: list[JobView]
    has_more: bool


class ProgressView(Answer):
    """How far a job has got: the `progress` message of a stream of events."""

    status: ToldStatus
    phase: ToldPhase | None
    progress: float
    attempt: int
    version: int = Field(description="of the job: what has a lower one is older")
    estimated_finish: datetime | None


class EventView(Answer):
    """One numbered line of a job's history; numbers start at 1."""

    number: int
    time: datetime
    type: str = Field(description="`status`, `phase`, `attempt` or `shard`; a newer server may know more")
    data: dict[str, Any] = Field(description="what became of it; of a `shard` that was lost see the API's document")

    @property
    def shard_loss(self) -> ShardLoss | None:
        """What an event of type `shard` tells; None for any other, or if a newer server tells it otherwise."""
        try:
            return ShardLoss.model_validate(self.data) if self.type == "shard" else None
        except ValidationError:
            return None


class EventList(Answer):
    data: list[EventView]
    has_more: bool
