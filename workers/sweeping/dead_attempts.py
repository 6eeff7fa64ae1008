"""What dead attempts left: found by asking which attempts live. Both sweeper and workers look."""

import logging

from headroom.contract.answers.job import Status
from service.ports.jobs import JobFilter, JobStore
from service.records.job import Job
from service.records.transitions import HELD
from workers.wiring import Parts

PAGE = 100

logger = logging.getLogger(__name__)


def discard_stale(parts: Parts) -> None:
    """Remove what dead attempts left in staging, and what the shards of ended jobs left."""
    going_on = parts.store.unfinished()
    held = {(job_id, attempt) for job_id, (status, attempt) in going_on.items() if status in HELD}
    removed = parts.artifacts.discard_stale(held)
    if removed:
        logger.info("removed %d staging folders of dead attempts", removed)
    for job_id in parts.shard_files.jobs() - going_on.keys():
        parts.shard_files.remove(job_id)


def all_jobs(store: JobStore, status: Status) -> list[Job]:
    """Every job of a status, page by page."""
    jobs: list[Job] = []
    while True:
        page = store.page(JobFilter(status=status), PAGE, jobs[-1].id if jobs else None)
        jobs += page.jobs
        if not page.has_more:
            return jobs
