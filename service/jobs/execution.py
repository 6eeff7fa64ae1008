"""One attempt of one job, from claim to verdict. No tensors, no processes; whatever it raises left nothing in staging.

    fetching ─► engine (encoding .. validating) ─► report saved ─┬─► rejected, or succeeded without files
                                                                     └─► publishing ─► succeeded

Every write is fenced by the attempt number. Between publishing the files and finishing the job the fence can fall;
the files then stay for the next attempt, which adopts them, and go only once the job has ended without success.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from headroom.contract.answers.job import JobError, Phase, Status
from headroom.contract.compress import CompressRecipe
from headroom.contract.job_recipe import JobRecipe
from headroom.contract.recipe import Recipe
from headroom.contract.report.report import CompressReport, Report, SteerReport, as_document, open_report
from service.foundation.errors import AttemptSuperseded, InternalError, JobCanceled, ServiceError, StoreUnavailable
from service.foundation.hashed_files import HashedFile
from service.jobs.failures import as_service_error, is_retryable
from service.jobs.retries import RetryPolicy, clear_away, patiently, retry_or_fail
from service.ports.engine import CorpusFile, Engine, EngineTask, Progress, ShardPool, Verdict
from service.ports.files import ArtifactStore, CorpusStore, same_content
from service.ports.jobs import Clock, JobStore
from service.ports.models import LocalModel, ModelSource
from service.publishing.manifest import MANIFEST_NAME, REPORT_NAME, as_json, describe_artifact, hash_files, write_whole
from service.publishing.revisions import of_revision
from service.records.job import Job
from service.reports.model_card import CARD_NAME, write_card
from service.reports.report_page import PAGE_NAME, write_page
from service.reports.rollout import roll_out
from service.reports.summaries import summarize, with_timing

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class AttemptServices:
    """Everything an attempt works with."""

    store: JobStore
    artifacts: ArtifactStore
    corpora: CorpusStore
    models: ModelSource
    cache_dir: Path
    device: str
    retry: RetryPolicy
    clock: Clock
    patience_seconds: float  # how long a write waits for a database that is away
    pause: Callable[[float], None] = time.sleep
    pool_of: Callable[[Job], ShardPool | None] = lambda job: None  # of a job that is spread over workers


def execute(job: Job, services: AttemptServices, engine: Engine, progress: Progress) -> Job:
    """Run a claimed job to its verdict, and record it: the job as it was left.

    A failure is recorded too, or the job put back where a later attempt may succeed. Raises JobCanceled (whoever
    asked for it records it), AttemptSuperseded, and StoreUnavailable when nothing could be recorded in time.
    """
    try:
        return _attempt(job, services, engine, progress)
    except (JobCanceled, AttemptSuperseded):
        services.artifacts.discard(job.id, job.attempt)
        raise
    except Exception as raised:
        services.artifacts.discard(job.id, job.attempt)  # first, so that a full disk has room for the verdict
        return _record_failure(job, services, raised)


def _attempt(job: Job, services: AttemptServices, engine: Engine, progress: Progress) -> Job:
    progress(Phase.FETCHING, 0.0)
    if services.artifacts.files(job.id):
        return _adopt(job, services)  # an attempt before this one died between publishing and finishing
    corpora = _corpora(job, services)  # before the model, which may take minutes to fetch
    started = time.monotonic()
    models = _fetch(job, services, progress)
    fetching_seconds = time.monotonic() - started
    task = _prepare(job, services, models, corpora)
    outcome = engine(task, progress)
    report = _completed(job, outcome.report, fetching_seconds)
    _write(services, lambda: services.store.save_report(job.id, job.attempt, as_document(report)))
    if outcome.verdict is Verdict.PUBLISH:
        revisions = {path: _completed(job, found, fetching_seconds) for path, found in outcome.revisions.items()}
        return _publish(job, services, task, outcome.hashes, {"": report} | revisions, progress)
    services.artifacts.discard(job.id, job.attempt)
    status = Status.REJECTED if outcome.verdict is Verdict.REJECT else Status.SUCCEEDED
    return _finish(job, services, status, summarize(report).model_dump(mode="json"))


def _completed(job: Job, found: Report, fetching_seconds: float) -> Report:
    """The engine's report with what the engine does not know."""
    report = with_timing(found, Phase.FETCHING.value, fetching_seconds)
    if isinstance(report, CompressReport):
        return report.model_copy(update={"rollout": roll_out(report, can_widen=_can_widen(job.recipe, report))})
    return report


def _can_widen(recipe: Recipe, report: CompressReport) -> bool:
    """A tied table holds all columns, unless the job gave the head a table of its own."""
    if not isinstance(recipe, CompressRecipe) or not report.head.tied:
        return False
    if report.refinement is not None and report.refinement.helped:
        return False  # other sizes are of the closed form
    return recipe.options.tied == "keep" and report.head_dtype == "source"


def _corpora(job: Job, services: AttemptServices) -> list[CorpusFile]:
    files = []
    for corpus_id in job.recipe.corpora:
        if not isinstance(corpus_id, str):
            raise InternalError("the job holds a corpus as text, but submission stores corpora first")
        corpus = services.corpora.get(corpus_id)
        files.append(CorpusFile(services.corpora.path(corpus.id), corpus.format, corpus.field))
    return files


def _fetch(job: Job, services: AttemptServices, progress: Progress) -> list[LocalModel]:
    references = (job.recipe.model, *job.recipe.other_models)
    models: list[LocalModel] = []

    def tell(fraction: float) -> None:
        progress(Phase.FETCHING, (len(models) + fraction) / len(references))

    for reference in references:
        models.append(services.models.fetch(reference.id, reference.revision, tell))
    return models


def _prepare(
    job: Job, services: AttemptServices, models: list[LocalModel], corpora: list[CorpusFile]
) -> EngineTask[JobRecipe]:
    services.cache_dir.mkdir(parents=True, exist_ok=True)
    return EngineTask(
        job_id=job.id,
        recipe=job.recipe,
        models=tuple(models),
        corpora=tuple(corpora),
        cache_dir=services.cache_dir,
        staging=services.artifacts.staging(job.id, job.attempt),
        device=services.device,
        pool=services.pool_of(job),
    )


def _publish(
    job: Job,
    services: AttemptServices,
    task: EngineTask[JobRecipe],
    known: dict[str, HashedFile],
    reports: dict[str, Report],
    progress: Progress,
) -> Job:
    """`reports`: by folder; '' of the checkpoint that was chosen, others of further points of its curve."""
    progress(Phase.PUBLISHING, 0.0)
    for folder, report in reports.items():
        write_whole(task.staging / folder / REPORT_NAME, as_json(as_document(report)))
        if not folder:  # with its plots some megabytes: once
            write_whole(task.staging / PAGE_NAME, write_page(report).encode())
        if isinstance(report, CompressReport | SteerReport):  # the others publish nothing
            write_whole(task.staging / folder / CARD_NAME, write_card(job, task.model, report, folder).encode())
    hashed = hash_files(task.staging, known, lambda fraction: progress(Phase.PUBLISHING, 0.9 * fraction))
    hashes = {path: file.sha256 for path, file in hashed.items()}
    for folder in reports:
        manifest = as_json(describe_artifact(job, task.model, of_revision(hashes, folder)))
        path = task.staging / folder / MANIFEST_NAME
        write_whole(path, manifest)
        hashed[path.relative_to(task.staging).as_posix()] = HashedFile.of(path, sha256(manifest).hexdigest())
    progress(Phase.PUBLISHING, 0.9)
    size = sum(file.size for file in _once(hashed).values())
    _write(services, lambda: services.store.take_bytes(job.id, job.attempt, size))
    published = {file.path: file.sha256 for file in services.artifacts.publish(job.id, job.attempt, hashed)}
    if published.get(REPORT_NAME) != hashes[REPORT_NAME]:
        return _adopt(job, services)  # an attempt that had lost its fence was faster; its files are the ones to keep
    return _finish(job, services, Status.SUCCEEDED, summarize(reports[""]).model_dump(mode="json"))


def _once(hashed: dict[str, HashedFile]) -> dict[tuple[str, str], HashedFile]:
    """As same_content counts what is stored."""
    return {(path.rpartition("/")[2], file.sha256): file for path, file in hashed.items()}


def _adopt(job: Job, services: AttemptServices) -> Job:
    """Finish with what another attempt of this job published: report and figures are those of the files."""
    with services.artifacts.open(job.id, REPORT_NAME) as file:
        report: dict[str, Any] = json.load(file)
    _write(services, lambda: services.store.save_report(job.id, job.attempt, report))
    return _finish(job, services, Status.SUCCEEDED, summarize(open_report(report)).model_dump(mode="json"))


def _record_failure(job: Job, services: AttemptServices, raised: Exception) -> Job:
    error = as_service_error(raised)
    if isinstance(error, StoreUnavailable):
        raise error  # nothing can be recorded; the lease will tell
    if not isinstance(raised, ServiceError):
        logger.error("attempt %d of %s failed", job.attempt, job.id, exc_info=raised)
    elif raised.__cause__ is not None:  # what a library said, which the user is not told
        logger.warning("attempt %d of %s failed", job.attempt, job.id, exc_info=raised)
    now = _write(services, lambda: services.store.get(job.id))
    if now.attempt != job.attempt:
        raise AttemptSuperseded(f"attempt {job.attempt} no longer owns job {job.id}") from raised
    if is_retryable(error):
        return _write(
            services,
            lambda: retry_or_fail(services.store, services.artifacts, now, error, services.retry, services.clock()),
        )
    return _finish(job, services, Status.FAILED, None, JobError(error.code, error.message, now.phase))


def _finish(
    job: Job, services: AttemptServices, status: Status, result: dict[str, Any] | None, error: JobError | None = None
) -> Job:
    files = services.artifacts.files(job.id) if status is Status.SUCCEEDED else []
    size = sum(file.size for file in same_content(files).values())
    try:
        ended = _write(services, lambda: services.store.finish(job.id, job.attempt, status, result, error, size))
    except AttemptSuperseded:
        ended = services.store.get(job.id)
        if ended.attempt != job.attempt or not ended.status.is_final:
            clear_away(services.artifacts, job, ended)
            raise
    clear_away(services.artifacts, job, ended)  # also when a cancellation came in between
    return ended


def _write(services: AttemptServices, action: Callable[[], Result]) -> Result:
    return patiently(action, services.patience_seconds, services.pause)
