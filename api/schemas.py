"""The JSON that the API answers with. What it accepts is service/recipes/; errors are api/errors.py."""

from datetime import datetime, timedelta
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from headroom.contract.job_recipe import ModelReference
from service.jobs.submission import DryRun
from service.ports.files import Corpus, StoredFile
from service.records.job import Event, Job, Phase, Status, phase_shares
from service.records.webhooks import Delivery, DeliveryStatus


class View(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class AttemptView(View):
    attempt: int
    worker: str
    started: datetime
    finished: datetime | None
    outcome: str = Field(description="empty while the attempt runs")


class JobErrorView(View):
    code: str
    message: str
    phase: Phase | None


class JobLinks(View):
    self: str
    events: str
    report: str
    files: str
    hub: str | None = Field(description="`ns/name` of the published files for Hugging Face clients, once there are any")


class JobView(View):
    """A job as a client sees it: what is known of every job, and beside it the recipe's own fields, as posted.

    A figure of the future is a guess from the phases that have ended.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    kind: str
    status: Status
    phase: Phase | None
    progress: float
    model: ModelReference
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
    attempts: list[AttemptView]
    error: JobErrorView | None
    result: dict[str, Any] | None = Field(description="summary figures; the report holds the rest")
    links: JobLinks

    @classmethod
    def of(cls, job: Job) -> Self:
        """Depends on the job alone, not on the time of day: one version of a job has one body, hence a strong ETag."""
        recipe, here = job.recipe, f"/v1/jobs/{job.id}"
        assert isinstance(recipe.corpus, str), "inline text is stored as a corpus before the job is"
        return cls(
            **{name: getattr(job, name) for name in JOB_FIELDS},
            **recipe.model_dump(mode="json"),
            attempts=[AttemptView.model_validate(attempt) for attempt in job.attempts],
            error=None if job.error is None else JobErrorView.model_validate(job.error),
            estimated_finish=_estimated_finish(job),
            links=JobLinks(
                self=here,
                events=f"{here}/events",
                report=f"{here}/report",
                files=f"{here}/files",
                hub=job.repository if job.status is Status.SUCCEEDED else None,
            ),
        )


JOB_FIELDS = (
    *("id", "owner", "status", "phase", "progress", "created", "queued", "started", "finished"),
    *("phase_seconds", "attempt", "version", "result"),
)


def _estimated_finish(job: Job) -> datetime | None:
    """Stretches the phases that have ended to the whole; None until one has, and when the job does not run."""
    shares = phase_shares(job.recipe.kind)
    share = sum(shares[Phase(name)] for name in job.phase_seconds if name in shares)
    if job.status is not Status.RUNNING or job.started is None or share <= 0:
        return None
    return job.started + timedelta(seconds=sum(job.phase_seconds.values()) / share)


class JobList(View):
    data: list[JobView]
    has_more: bool


class FoundModelView(View):
    id: str
    revision: str | None
    bytes: int
    dtype: str


class HeadView(View):
    vocab_size: int
    hidden_size: int
    tied: bool
    bytes: int


class EstimateView(View):
    kept_columns: int | None
    head_bytes_after: int | None
    seconds: float
    memory_bytes: int
    least_memory_bytes: int


class DryRunView(View):
    """What a job would work on and take; null where only measuring can tell."""

    valid: bool
    model: FoundModelView
    head: HeadView
    estimate: EstimateView

    @classmethod
    def of(cls, dry_run: DryRun) -> Self:
        found, head = dry_run.model, dry_run.head
        return cls(
            valid=True,
            model=FoundModelView(
                id=found.id, revision=found.revision, bytes=found.inspection.nbytes, dtype=found.inspection.dtype
            ),
            head=HeadView(
                vocab_size=head.vocab_size, hidden_size=head.hidden_size, tied=head.is_tied, bytes=head.nbytes
            ),
            estimate=EstimateView.model_validate(dry_run.estimate),
        )


class EventView(View):
    number: int
    time: datetime
    type: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls.model_validate(event)


class ProgressView(View):
    """How far a job has got: the `progress` message of a stream of events."""

    status: Status
    phase: Phase | None
    progress: float
    attempt: int
    version: int = Field(description="of the job: what has a lower one is older")
    estimated_finish: datetime | None

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(
            status=job.status,
            phase=job.phase,
            progress=job.progress,
            attempt=job.attempt,
            version=job.version,
            estimated_finish=_estimated_finish(job),
        )


class EventList(View):
    data: list[EventView]
    has_more: bool


class DeliveryView(View):
    number: int
    message_id: str = Field(description="the webhook-id header")
    type: str
    status: DeliveryStatus
    created: datetime
    attempts: int
    next_attempt: datetime | None
    last_attempt: datetime | None
    response_status: int | None
    error: str | None = Field(description="why the last attempt failed")
    replay_of: int | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls.model_validate(delivery)


class DeliveryList(View):
    data: list[DeliveryView]


class FileView(View):
    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, file: StoredFile) -> Self:
        return cls.model_validate(file)


class FileList(View):
    data: list[FileView]


class CorpusView(View):
    id: str
    sha256: str
    size: int
    format: str
    field: str | None
    created: datetime

    @classmethod
    def of(cls, corpus: Corpus) -> Self:
        return cls.model_validate(corpus)


class CorpusList(View):
    data: list[CorpusView]


class ModelView(View):
    id: str
    kind: str = Field(description="`local`, or `output` of a job")
    job_id: str | None = None
    repository: str | None = Field(default=None, description="of an output: what the hub calls it")


class ModelList(View):
    data: list[ModelView]


class SessionView(View):
    open: bool = Field(description="the server asks nobody for a key")
    owner: str | None
    key_id: str | None
    scopes: list[str]


class AuditEntryView(View):
    number: int
    time: datetime
    action: str
    object: str
    outcome: str
    owner: str | None
    key_id: str | None
    request_id: str | None
    address: str | None


class AuditList(View):
    data: list[AuditEntryView]
    has_more: bool


class CheckView(View):
    ok: bool
    detail: str


class ReadinessView(View):
    ready: bool
    checks: dict[str, CheckView]


class LivenessView(View):
    status: str


class FieldErrorView(View):
    field: str
    message: str


class Problem(View):
    """RFC 9457, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[FieldErrorView]
