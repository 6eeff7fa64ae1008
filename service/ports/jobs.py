"""Where jobs are kept and through what they are sent, as Protocols: stores of jobs, shards, webhooks; the queue.

One contract suite each in tests/contract; see docs/decisions/0009.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from headroom.contract.answers.job import JobError, Phase, Status
from headroom.contract.webhook import Webhook
from service.foundation.errors import ServiceError
from service.records.job import Event, Job
from service.records.quotas import NO_QUOTAS, Quotas
from service.records.receipts import Answer, KeyedRequest, Receipt, Reservation
from service.records.shards import NOT_HEARD_OF, GivenBack, Question, Shard
from service.records.webhooks import Delivery

Clock: TypeAlias = Callable[[], datetime]  # timezone-aware UTC


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None means any."""

    status: Status | None = None
    kind: str | None = None
    model: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    repository: str | None = None
    owner: str | None = None

    def matches(self, job: Job) -> bool:
        return (
            self.status in (None, job.status)
            and self.kind in (None, job.recipe.kind)
            and self.model in (None, job.recipe.model.id)
            and self.repository in (None, job.repository)
            and self.owner in (None, job.owner)
            and all(job.recipe.labels.get(key) == value for key, value in self.labels)
        )


@dataclass(frozen=True)
class JobPage:
    jobs: list[Job]
    has_more: bool


@dataclass(frozen=True)
class EndedJob:
    kind: str
    status: Status
    phase_seconds: dict[str, float]


@dataclass(frozen=True)
class StoreFigures:
    """What monitoring wants to know of a store, all of one moment."""

    jobs: dict[tuple[str, Status], int]  # by kind and status
    due: int  # queued jobs that may run now
    oldest_due: datetime | None  # since when the first of them may
    lost_attempts: int  # whose worker was lost, of those that ended lately
    ended: list[EndedJob]  # lately, newest first; at most ENDED_JOBS
    pending_deliveries: int = 0  # of webhooks, due or waiting for another attempt
    oldest_delivery: datetime | None = None  # when the first of them was made


ENDED_JOBS = 1000


class WebhookStore(Protocol):
    """Messages to the webhooks of jobs. A JobStore makes them, in one transaction with the change they tell of."""

    def deliveries(self, job_id: str) -> list[Delivery]:
        """In the order of their numbers; empty for a job that is not there."""

    def replay(self, job_id: str, number: int) -> Delivery:
        """Add the same message once more, due now; ends what a 410 had switched off. DeliveryNotFound."""

    def claim_due(self, limit: int, claim_seconds: float) -> list[tuple[Delivery, Webhook]]:
        """Take what is due, the oldest first: attempts + 1, and due again only when the claim has run out."""

    def record(self, delivery: Delivery) -> None:
        """How an attempt ended; ignored if another has begun since. DISABLED goes for all pending ones of the job."""


class ShardStore(Protocol):
    """Shards of jobs that run. They go when their job ends; an attempt that is lost gives back those that it held."""

    def ask(self, job_id: str, attempt: int, question: Question, count: int) -> None:
        """Make the shards of this question unless they are there; those of other ones that are not done go.
        AttemptSuperseded if the attempt does not own the job."""

    def of(self, job_id: str) -> list[Shard]:
        """All, by step and number; empty for a job without any."""

    def claim(self, shard: Shard, holder: str, lease_seconds: float) -> Shard | None:
        """Take an open one, as it was read. None if somebody was faster, or the job has ended. Of one that lapsed the
        job's history tells that it was lost."""

    def heartbeat(self, shard: Shard, lease_seconds: float, progress: float) -> None:
        """Extend the lease. AttemptSuperseded if the shard is not running under this claim."""

    def finish(self, shard: Shard) -> None:
        """Its answer is there. AttemptSuperseded like `heartbeat`."""

    def give_back(self, shard: Shard, why: GivenBack, said: ServiceError | str = NOT_HEARD_OF) -> None:
        """Ignored if the shard is not running under this claim. Unless it was stopped on purpose, the job's history
        tells of it, with what is `said`."""

    def release(self, job_id: str, holder: str, said: str) -> int:
        """Give back, as lost, all that this holder has of a job; how many there were. The history tells of each."""

    def unsent(self, older_than_seconds: float, limit: int) -> list[Shard]:
        """Open ones of running jobs that another worker may do, of which no message was sent, or one this long ago."""

    def mark_sent(self, shard: Shard) -> None:
        """The message left. Unknown ones are ignored."""


class JobStore(Protocol):
    """The store of truth. Every method is one transaction; StoreUnavailable when the database is away.

    RecipeUnknown where one job is asked for that a newer release accepted; pages and lists leave it out, and nothing
    claims it.
    """

    @property
    def webhooks(self) -> WebhookStore:
        """The messages that changes of these jobs call for."""

    @property
    def shards(self) -> ShardStore:
        """The pieces of these jobs that any worker may do."""

    def add(self, job: Job, receipt: Receipt | None = None, quotas: Quotas = NO_QUOTAS) -> None:
        """Insert a queued job, its first event, its outbox row and the receipt of its request together.

        RepositoryTaken if another owner has a job that published, or may yet, under its repository's name;
        RequestInFlight if another request has taken over the reservation of the receipt; QuotaExceeded if its owner
        has as many jobs that have not ended as `quotas` allow."""

    def check_repository(self, repository: str, owner: str) -> None:
        """RepositoryTaken if another owner has a job that published, or may yet, under this name. `add` asks again."""

    def remove(self, job_id: str) -> None:
        """A job that has ended, with its events and its report. JobNotFound, JobNotFinished."""

    def forget_bytes(self, job_id: str) -> None:
        """The published files of a job are gone. Unknown ids are ignored."""

    def stored_bytes(self, owner: str) -> int:
        """Bytes of the published files of this owner's jobs, as `finish` told them."""

    def reserve(self, request: KeyedRequest) -> Reservation | Answer:
        """The right to answer this request, or what it was answered. IdempotencyKeyReused, RequestInFlight."""

    def give_back(self, reservation: Reservation) -> None:
        """Nothing was done. Ignored once there is an answer, or when it was taken over."""

    def forget_requests(self, before: datetime) -> None:
        """Remove what is known of requests that were reserved before."""

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """JobNotFound if there is none, or none of this owner: what the two take is the same."""

    def page(self, where: JobFilter, limit: int, after: str | None) -> JobPage:
        """Newest first; `after` is the id of the last job of the page before, JobNotFound if it is another owner's."""

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Job | None:
        """Queued and due -> running, attempt + 1, lease set. None if somebody else has it or it has ended."""

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> Job:
        """Extend the lease. AttemptSuperseded if the job is not running or canceling under this attempt."""

    def report_progress(self, job_id: str, attempt: int, phase: Phase, progress: float) -> Job:
        """Fenced like heartbeat. A new phase closes the one before, in `phase_seconds` and as an event."""

    def take_bytes(self, job_id: str, attempt: int, size: int) -> None:
        """Count these bytes of files, which are about to be published, to the job's owner, in place of what an attempt
        before took. Fenced. QuotaExceeded, and nothing counted, if the owner would then store more than the job's
        `byte_limit`, corpora included; however many ask at once. A job that ends without success gives them back."""

    def finish(
        self,
        job_id: str,
        attempt: int,
        status: Status,
        result: dict[str, Any] | None,
        error: JobError | None,
        stored_bytes: int = 0,
    ) -> Job:
        """Fenced; final statuses only. A canceling job ends as canceled whatever is asked."""

    def save_report(self, job_id: str, attempt: int, report: dict[str, Any]) -> None:
        """Keep what was measured, whatever the verdict. Fenced; a later attempt replaces it."""

    def report(self, job_id: str) -> dict[str, Any]:
        """JobNotFound, or ReportNotReady while nothing has been measured."""

    def request_cancel(self, job_id: str) -> Job:
        """Queued -> canceled, running -> canceling, canceling stays; JobFinished if it has ended otherwise."""

    def requeue(self, job_id: str, attempt: int, outcome: str, not_before: datetime) -> Job:
        """Fenced. Running -> queued with a new outbox row, due at `not_before`; canceling -> canceled."""

    def lapsed(self) -> list[Job]:
        """Running or canceling jobs whose lease is over."""

    def unfinished(self) -> dict[str, tuple[Status, int]]:
        """Status and attempt of every job that has not ended, also of those that a newer release accepted."""

    def due_outbox(self, older_than_seconds: float, limit: int) -> list[str]:
        """Ids of queued jobs that are due and whose message was not sent, or was sent this long ago unclaimed."""

    def mark_sent(self, job_id: str) -> None:
        """The message left. Unknown ids are ignored."""

    def corpus_in_use(self, corpus_id: str, owner: str | None = None, since: datetime | None = None) -> bool:
        """Whether a job (of this owner) that has not ended, or not before `since`, reads this corpus."""

    def forget_reports(self, before: datetime) -> int:
        """Remove the reports of jobs that ended before this moment; how many there were."""

    def events(self, job_id: str, after: int, limit: int) -> list[Event]:
        """Events with a number above `after`, in order. JobNotFound if there is no such job."""

    def new_events(self, after: Mapping[str, int]) -> list[Event]:
        """The events of each job with a number above the one given for it; in order within a job."""

    def versions(self, since: datetime) -> dict[str, int]:
        """Id -> version of every job that is new or whose version grew at `since` or later, by the store's clock."""

    def owned_versions(self, job_ids: Collection[str]) -> dict[str, tuple[str, int]]:
        """Id -> owner and version of the jobs with these ids; ids of none are passed over."""

    def several(self, job_ids: Collection[str]) -> list[Job]:
        """The jobs with these ids, in any order; ids of none are passed over."""

    def figures(self, since: datetime) -> StoreFigures:
        """For monitoring; `since` says how lately."""

    def ping(self) -> None:
        """Raise StoreUnavailable unless the database answers and its schema is current."""

    def close(self) -> None:
        """Give back connections."""


class JobQueue(Protocol):
    """Carries job ids to workers. Loses nothing that matters: the outbox sends again."""

    def send(self, job_id: str) -> None:
        """QueueUnavailable if the broker is away; must not block for more than about two seconds."""

    def revoke(self, job_id: str) -> None:
        """A hint that the message need not be delivered. Never raises for an unknown id."""

    def ping(self) -> None:
        """Raise QueueUnavailable unless the broker answers."""

    def workers(self) -> int:
        """How many workers answered lately."""
