"""The front door of the domain: take a recipe in, try it without doing it, cancel it. Runs nothing itself.

Accepted means stored: the job and its outbox row are one transaction, and only then the broker is told. A broker that
is away delays a job and loses none, since the sweeper sends what was not sent.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from headroom.contract.answers.job import Status
from headroom.contract.job_recipe import CorpusReference, InlineText
from headroom.contract.recipe import Recipe
from service.access.owned_corpora import OwnedCorpora
from service.foundation.errors import (
    CorpusEmpty,
    InvalidWebhook,
    JobNotFinished,
    QueueUnavailable,
    StoreUnavailable,
)
from service.foundation.tracing import NoTracer, Tracer
from service.jobs.estimates import Estimate, HeadFacts, estimate, head_facts
from service.ports.files import ArtifactStore
from service.ports.jobs import Clock, JobQueue, JobStore
from service.ports.models import FoundModel, ModelSource
from service.records.callers import Caller
from service.records.job import Job, new_job_id
from service.records.receipts import Receipt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DryRun:
    """What a job would work on, and what it would take."""

    model: FoundModel
    head: HeadFacts
    estimate: Estimate


@dataclass(frozen=True)
class Cancellation:
    job: Job
    was_asked_before: bool


@dataclass(frozen=True)
class Submission:
    """The collaborators of every call; holds no state of its own."""

    store: JobStore
    queue: JobQueue
    corpora: OwnedCorpora
    models: ModelSource
    clock: Clock
    tracer: Tracer = field(default_factory=NoTracer)
    may_tell_plainly: bool = False  # whether a webhook may be http: there are networks that it is allowed for

    def accept(self, recipe: Recipe, caller: Caller, receipt_of: Callable[[Job], Receipt] | None = None) -> Job:
        """Store a queued job and tell the broker. Inline text becomes a corpus, and the recipe names it.

        `receipt_of`: what to keep of the request that asked for the job, in one transaction with it.

        ModelNotFound, UnsafeModel, CorruptCheckpoint, CorpusNotFound, CorpusEmpty, RepositoryTaken, InvalidWebhook,
        QuotaExceeded: then nothing was queued.
        """
        self._check_webhook(recipe)
        self._check_repository(recipe, caller)
        self.corpora.check_room(caller)
        for reference in (recipe.model, *recipe.other_models):
            self.models.exists(reference.id, reference.revision)
        corpora = [self._corpus_id(corpus, caller) for corpus in recipe.corpora]
        now = self.clock()
        job = Job(
            id=new_job_id(),
            recipe=recipe.with_corpora(corpora).with_secret(),
            created=now,
            owner=caller.owner,
            queued=now,
            trace=self.tracer.context(),
            byte_limit=self.corpora.quotas.max_bytes,
        )
        self.store.add(job, receipt_of(job) if receipt_of else None, self.corpora.quotas)
        self._send(job.id)
        return job

    def try_out(self, recipe: Recipe, caller: Caller) -> DryRun:
        """The dry run: the same errors as `accept`, and those the engine would find in the headers. Stores nothing."""
        self._check_webhook(recipe)
        self._check_repository(recipe, caller)
        model = self.models.inspect(recipe.model.id, recipe.model.revision)
        for reference in recipe.other_models:
            self.models.inspect(reference.id, reference.revision)
        corpus_bytes = [self._bytes_of(corpus, caller) for corpus in recipe.corpora]
        return DryRun(model, head_facts(model.inspection), estimate(recipe, model.inspection, corpus_bytes))

    def cancel(self, job_id: str) -> Cancellation:
        """Ask a job to stop. JobNotFound; JobFinished if it ended in another way."""
        before = self.store.get(job_id).status
        job = self.store.request_cancel(job_id)
        try:
            self.queue.revoke(job_id)
        except QueueUnavailable:
            logger.warning("the broker is away: the cancellation of %s is known from the database alone", job_id)
        return Cancellation(job, was_asked_before=before in (Status.CANCELING, Status.CANCELED))

    def _check_webhook(self, recipe: Recipe) -> None:
        if recipe.webhook and recipe.webhook.url.startswith("http:") and not self.may_tell_plainly:
            raise InvalidWebhook("this server sends webhooks by https only; give an https address")

    def _check_repository(self, recipe: Recipe, caller: Caller) -> None:
        """Early, so that nothing is stored for a job that the store will refuse."""
        if recipe.publish_as is not None:
            self.store.check_repository(recipe.publish_as, caller.owner)

    def delete(self, job: Job, artifacts: ArtifactStore) -> None:
        """A job that has ended, with its report and its files, and so its commit in the hub. JobNotFinished.

        The files first: what is cut off in between can be done again.
        """
        if not job.status.is_final:
            raise JobNotFinished(f"job {job.id} has not ended; cancel it, or wait, and delete it then")
        artifacts.withdraw(job.id)
        self.store.remove(job.id)

    def _bytes_of(self, corpus: CorpusReference, caller: Caller) -> int:
        if not isinstance(corpus, InlineText):
            return self.corpora.get(caller, corpus).size
        if not corpus.text.strip():
            raise CorpusEmpty("the corpus holds no text; send some")
        return len(corpus.text.encode())

    def _corpus_id(self, corpus: CorpusReference, caller: Caller) -> str:
        if isinstance(corpus, InlineText):
            return self.corpora.add(caller, iter([corpus.text.encode()]), "text", None)[0].id
        found = self.corpora.get(caller, corpus)
        self.corpora.hold(caller, found)  # an admin's job may read what others hold
        return found.id

    def _send(self, job_id: str) -> None:
        try:
            self.queue.send(job_id)
            self.store.mark_sent(job_id)
        except (QueueUnavailable, StoreUnavailable) as error:
            logger.warning(
                "job %s is stored but its message was not sent or noted; the sweeper will: %s", job_id, error
            )
