"""Jobs as their clients see them, made of the store's records."""

from datetime import datetime, timedelta

from headroom.contract.answers.dry_run import DryRunView, EstimateView, FoundModelView, HeadView
from headroom.contract.answers.job import JobLinks, JobView, Phase, ProgressView, Status
from service.jobs.submission import DryRun
from service.records.job import Job, phase_shares


def job_view(job: Job) -> JobView:
    """Depends on the job alone, not on the time of day: one version of a job has one body, hence a strong ETag."""
    recipe, here = job.recipe, f"/v1/jobs/{job.id}"
    assert isinstance(recipe.corpus, str), "inline text is stored as a corpus before the job is"
    return JobView(
        **{name: getattr(job, name) for name in JOB_FIELDS},
        **recipe.model_dump(mode="json"),
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
    *("phase_seconds", "attempt", "version", "attempts", "error", "result"),
)


def progress_view(job: Job) -> ProgressView:
    """The job as a stream tells of it between two events."""
    return ProgressView(
        status=job.status,
        phase=job.phase,
        progress=job.progress,
        attempt=job.attempt,
        version=job.version,
        estimated_finish=_estimated_finish(job),
    )


def dry_run_view(dry_run: DryRun) -> DryRunView:
    found, head = dry_run.model, dry_run.head
    return DryRunView(
        valid=True,
        model=FoundModelView(
            id=found.id, revision=found.revision, bytes=found.inspection.nbytes, dtype=found.inspection.dtype
        ),
        head=HeadView(vocab_size=head.vocab_size, hidden_size=head.hidden_size, tied=head.is_tied, bytes=head.nbytes),
        estimate=EstimateView.model_validate(dry_run.estimate),
    )


def _estimated_finish(job: Job) -> datetime | None:
    """Stretches the phases that have ended to the whole; None until one has, and when the job does not run."""
    shares = phase_shares(job.recipe.kind)
    share = sum(shares[Phase(name)] for name in job.phase_seconds if name in shares)
    if job.status is not Status.RUNNING or job.started is None or share <= 0:
        return None
    return job.started + timedelta(seconds=sum(job.phase_seconds.values()) / share)
