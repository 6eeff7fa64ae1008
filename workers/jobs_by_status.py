"""Every job of a status, page by page."""

from service.jobs import Job, Status
from service.ports import JobFilter, JobStore

PAGE = 100


def all_jobs(store: JobStore, status: Status) -> list[Job]:
    jobs: list[Job] = []
    while True:
        page = store.page(JobFilter(status=status), PAGE, jobs[-1].id if jobs else None)
        jobs += page.jobs
        if not page.has_more:
            return jobs
