"""The front door of the domain: take a recipe in, try it without doing it, cancel it. Runs nothing itself.

Accepted means stored: the job and its outbox row are one transaction, and only then the broker is told. A broker that
is away delays a job and loses none, since the sweeper sends what was not sent.
"""

import logging
from dataclasses import dataclass, field

from service.errors import CorpusEmpty, CorpusInUse, QueueUnavailable, StoreUnavailable
from service.estimates import Estimate, HeadFacts, estimate, head_facts
from service.jobs import Job, Status, new_job_id
from service.ports import Clock, CorpusStore, FoundModel, JobQueue, JobStore, ModelSource
from service.recipes.job_recipe import CorpusReference, InlineText
from service.recipes.recipe import Recipe
from service.tracing import NoTracer, Tracer

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
    corpora: CorpusStore
    models: ModelSource
    clock: Clock
    tracer: Tracer = field(default_factory=NoTracer)

    def accept(self, recipe: Recipe) -> Job:
        """Store a queued job and tell the broker. Inline text becomes a corpus, and the recipe names it.

        ModelNotFound, UnsafeModel, CorruptCheckpoint, CorpusNotFound, CorpusEmpty: then nothing was queued.
        """
        for reference in (recipe.model, *recipe.other_models):
            self.models.exists(reference.id, reference.revision)
        corpora = [self._corpus_id(corpus) for corpus in recipe.corpora]
        now = self.clock()
        job = Job(
            id=new_job_id(),
            recipe=recipe.with_corpora(corpora),
            created=now,
            queued=now,
            trace=self.tracer.context(),
        )
        self.store.add(job)
        self._send(job.id)
        return job

    def try_out(self, recipe: Recipe) -> DryRun:
        """The dry run: the same errors as `accept`, and those the engine would find in the headers. Stores nothing."""
        model = self.models.inspect(recipe.model.id, recipe.model.revision)
        for reference in recipe.other_models:
            self.models.inspect(reference.id, reference.revision)
        corpus_bytes = [self._bytes_of(corpus) for corpus in recipe.corpora]
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

    def delete_corpus(self, corpus_id: str) -> None:
        """CorpusNotFound, or CorpusInUse while a job that has not ended reads it."""
        self.corpora.get(corpus_id)
        if self.store.corpus_in_use(corpus_id):
            raise CorpusInUse(f"a job that has not ended reads {corpus_id}; cancel it, or wait, and delete it then")
        self.corpora.delete(corpus_id)

    def _bytes_of(self, corpus: CorpusReference) -> int:
        if not isinstance(corpus, InlineText):
            return self.corpora.get(corpus).size
        if not corpus.text.strip():
            raise CorpusEmpty("the corpus holds no text; send some")
        return len(corpus.text.encode())

    def _corpus_id(self, corpus: CorpusReference) -> str:
        if isinstance(corpus, InlineText):
            return self.corpora.add(iter([corpus.text.encode()]), "text", None).id
        return self.corpora.get(corpus).id

    def _send(self, job_id: str) -> None:
        try:
            self.queue.send(job_id)
            self.store.mark_sent(job_id)
        except (QueueUnavailable, StoreUnavailable) as error:
            logger.warning(
                "job %s is stored but its message was not sent or noted; the sweeper will: %s", job_id, error
            )
