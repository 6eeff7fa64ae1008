"""SqlJobStore: the job store over SQLite or PostgreSQL. What a step does is not decided here: see transitions.py."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, String, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from headroom.contract.answers.job import FINAL, JobError, Phase, Status
from service.adapters.sql import owner_bytes
from service.adapters.sql import receipts as sql_receipts
from service.adapters.sql.database import Database, serialize
from service.adapters.sql.figures import read_figures
from service.adapters.sql.job_queries import (
    events_after,
    find_job,
    page_of_jobs,
    read_owned_versions,
    several_jobs,
    values_of,
)
from service.adapters.sql.rows import append_events, insert_job, lock_job, read_event, read_known_jobs, save_change
from service.adapters.sql.shards import SqlShards
from service.adapters.sql.tables import REVISION, events, jobs, outbox, read_revision, reports
from service.adapters.sql.webhooks import SqlWebhooks
from service.foundation.errors import (
    AttemptSuperseded,
    InternalError,
    JobFinished,
    JobNotFinished,
    RecipeUnknown,
    ReportNotReady,
    RepositoryTaken,
    StoreUnavailable,
)
from service.ports.jobs import Clock, JobFilter, JobPage, StoreFigures
from service.records.job import WITHOUT_FILES, Event, Job, sources_of
from service.records.quotas import NO_QUOTAS, Quotas
from service.records.receipts import Answer, KeyedRequest, Receipt, Reservation
from service.records.transitions import HELD, Change, cancel_requested, claimed, ended, progressed, requeued

logger = logging.getLogger(__name__)


class SqlJobStore:
    """ports.JobStore over one SQLAlchemy URL, or a database shared with other stores.

    The schema must be there already: see migrate.py.

    Times come from `clock`, not from the database: hosts that share one must have theirs in step, well within a lease.
    """

    def __init__(self, database: str | Database, clock: Clock) -> None:
        self._database = database if isinstance(database, Database) else Database(database)
        self._clock = clock
        self.webhooks = SqlWebhooks(self._database, clock)
        self.shards = SqlShards(self._database, clock, _lock_held, lock_job, save_change)

    def add(self, job: Job, receipt: Receipt | None = None, quotas: Quotas = NO_QUOTAS) -> None:
        change = Change(job, (("status", {"status": job.status.value}),))
        with self._database.writing() as connection:
            if job.repository is not None:
                serialize(connection, f"repository {job.repository}")
                _check_repository(connection, job.repository, job.owner)
            if quotas.max_jobs:
                _check_jobs(connection, job.owner, quotas)
            now = self._clock()
            try:
                insert_job(connection, job, now)
            except IntegrityError as error:
                raise InternalError(f"job id {job.id} was given out twice") from error
            append_events(connection, change, now)
            if receipt is not None:
                sql_receipts.keep(connection, receipt)

    def check_repository(self, repository: str, owner: str) -> None:
        with self._database.reading() as connection:
            _check_repository(connection, repository, owner)

    def remove(self, job_id: str) -> None:
        with self._database.writing() as connection:
            ended = lock_job(connection, job_id, jobs.c.status.in_(values_of(FINAL)))
            if ended is None:
                find_job(connection, job_id)
                raise JobNotFinished(f"job {job_id} has not ended; cancel it, or wait, and delete it then")
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def forget_bytes(self, job_id: str) -> None:
        with self._database.writing() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(stored_bytes=0))

    def stored_bytes(self, owner: str) -> int:
        query = select(func.sum(jobs.c.stored_bytes)).where(jobs.c.owner == owner)
        with self._database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def reserve(self, request: KeyedRequest) -> Reservation | Answer:
        with self._database.writing() as connection:
            return sql_receipts.reserve(connection, request, self._clock())

    def give_back(self, reservation: Reservation) -> None:
        with self._database.writing() as connection:
            sql_receipts.give_back(connection, reservation)

    def forget_requests(self, before: datetime) -> None:
        with self._database.writing() as connection:
            sql_receipts.forget(connection, before)

    def get(self, job_id: str, owner: str | None = None) -> Job:
        with self._database.reading() as connection:
            return find_job(connection, job_id, owner)

    def page(self, where: JobFilter, limit: int, after: str | None) -> JobPage:
        with self._database.reading() as connection:
            return page_of_jobs(connection, where, limit, after)

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Job | None:
        now = self._clock()
        is_due = or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now)
        try:
            with self._database.writing() as connection:
                job = lock_job(connection, job_id, jobs.c.status == Status.QUEUED.value, is_due)
                return job and save_change(connection, job, claimed(job, worker, now, lease_seconds), now)
        except RecipeUnknown as error:
            logger.warning("%s", error.message)
            return None

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> Job:
        lease = timedelta(seconds=lease_seconds)
        return self._fenced(job_id, attempt, lambda job, now: Change(replace(job, lease_until=now + lease)))

    def report_progress(self, job_id: str, attempt: int, phase: Phase, progress: float) -> Job:
        return self._fenced(job_id, attempt, lambda job, now: progressed(job, phase, progress, now))

    def take_bytes(self, job_id: str, attempt: int, size: int) -> None:
        with self._database.writing() as connection:
            job = _lock_held(connection, job_id, attempt)
            used = owner_bytes.used(connection, job.owner) - job.stored_bytes
            Quotas(max_bytes=job.byte_limit).check_fit(used, size, "these files")
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(stored_bytes=size))

    def finish(
        self,
        job_id: str,
        attempt: int,
        status: Status,
        result: dict[str, Any] | None,
        error: JobError | None,
        stored_bytes: int = 0,
    ) -> Job:
        return self._fenced(job_id, attempt, lambda job, now: ended(job, status, result, error, now, stored_bytes))

    def requeue(self, job_id: str, attempt: int, outcome: str, not_before: datetime) -> Job:
        return self._fenced(job_id, attempt, lambda job, now: requeued(job, outcome, not_before, now))

    def save_report(self, job_id: str, attempt: int, report: dict[str, Any]) -> None:
        with self._database.writing() as connection:
            _lock_held(connection, job_id, attempt)
            connection.execute(delete(reports).where(reports.c.job_id == job_id))
            connection.execute(insert(reports).values(job_id=job_id, attempt=attempt, report=report))

    def report(self, job_id: str) -> dict[str, Any]:
        with self._database.reading() as connection:
            find_job(connection, job_id)
            report: dict[str, Any] | None = connection.scalar(
                select(reports.c.report).where(reports.c.job_id == job_id)
            )
        if report is None:
            raise ReportNotReady(f"job {job_id} has no report: it has measured nothing yet, or long ago")
        return report

    def forget_reports(self, before: datetime) -> int:
        ended = select(jobs.c.id).where(jobs.c.finished < before)
        with self._database.writing() as connection:
            return connection.execute(delete(reports).where(reports.c.job_id.in_(ended))).rowcount

    def request_cancel(self, job_id: str) -> Job:
        cancelable = jobs.c.status.in_(values_of([Status.QUEUED, *sources_of(Status.CANCELING)]))
        with self._database.writing() as connection:
            job = lock_job(connection, job_id, cancelable)
            if job is not None:
                now = self._clock()
                return save_change(connection, job, cancel_requested(job, now), now)
            job = find_job(connection, job_id)
        if job.status not in (Status.CANCELING, Status.CANCELED):
            raise JobFinished(f"job {job_id} has ended as {job.status.value} and cannot be canceled")
        return job

    def lapsed(self) -> list[Job]:
        query = select(jobs).where(jobs.c.lease_until < self._clock()).order_by(jobs.c.lease_until)
        with self._database.reading() as connection:
            return read_known_jobs(connection, connection.execute(query).mappings().all())

    def unfinished(self) -> dict[str, tuple[Status, int]]:
        query = select(jobs.c.id, jobs.c.status, jobs.c.attempt).where(jobs.c.status.not_in(values_of(FINAL)))
        with self._database.reading() as connection:
            return {job_id: (Status(status), attempt) for job_id, status, attempt in connection.execute(query)}

    def due_outbox(self, older_than_seconds: float, limit: int) -> list[str]:
        now = self._clock()
        unclaimed = or_(outbox.c.sent.is_(None), outbox.c.sent <= now - timedelta(seconds=older_than_seconds))
        query = select(outbox.c.job_id).where(outbox.c.due <= now, unclaimed).order_by(outbox.c.due).limit(limit)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def mark_sent(self, job_id: str) -> None:
        with self._database.writing() as connection:
            connection.execute(update(outbox).where(outbox.c.job_id == job_id).values(sent=self._clock()))

    def corpus_in_use(self, corpus_id: str, owner: str | None = None, since: datetime | None = None) -> bool:
        # Anywhere in the recipe: a job may read several. An id is long enough to mean nothing else there.
        named = jobs.c.recipe.cast(String).contains(corpus_id, autoescape=True)
        is_going_on = jobs.c.status.not_in(values_of(FINAL))
        reads = is_going_on if since is None else or_(is_going_on, jobs.c.finished >= since)
        query = select(jobs.c.id).where(reads, named).limit(1)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self._database.reading() as connection:
            return connection.scalar(query) is not None

    def events(self, job_id: str, after: int, limit: int) -> list[Event]:
        query = select(events).where(events.c.job_id == job_id, events.c.number > after)
        with self._database.reading() as connection:
            find_job(connection, job_id)
            rows = connection.execute(query.order_by(events.c.number).limit(limit)).mappings()
            return [read_event(row) for row in rows]

    def new_events(self, after: Mapping[str, int]) -> list[Event]:
        with self._database.reading() as connection:
            return events_after(connection, after)

    def versions(self, since: datetime) -> dict[str, int]:
        query = select(jobs.c.id, jobs.c.version).where(jobs.c.updated >= since)
        with self._database.reading() as connection:
            return {job_id: version for job_id, version in connection.execute(query)}

    def owned_versions(self, job_ids: Collection[str]) -> dict[str, tuple[str, int]]:
        with self._database.reading() as connection:
            return read_owned_versions(connection, job_ids)

    def several(self, job_ids: Collection[str]) -> list[Job]:
        with self._database.reading() as connection:
            return several_jobs(connection, job_ids)

    def figures(self, since: datetime) -> StoreFigures:
        with self._database.reading() as connection:
            return read_figures(connection, since, self._clock())

    def ping(self) -> None:
        with self._database.reading() as connection:
            found = read_revision(connection)
        if found != REVISION:
            raise StoreUnavailable(
                f"the database schema is {found or 'missing'}, not {REVISION}: run `python -m service.adapters.migrate`"
            )

    def close(self) -> None:
        self._database.close()

    def _fenced(self, job_id: str, attempt: int, step: Callable[[Job, datetime], Change]) -> Job:
        with self._database.writing() as connection:
            job = _lock_held(connection, job_id, attempt)
            now = self._clock()  # after waiting for the lock, so that events are in the order of their times
            return save_change(connection, job, step(job, now), now)


def _lock_held(connection: Connection, job_id: str, attempt: int) -> Job:
    job = lock_job(connection, job_id, jobs.c.attempt == attempt, jobs.c.status.in_(values_of(HELD)))
    if job is None:
        raise AttemptSuperseded(f"attempt {attempt} no longer owns job {job_id}")
    return job


def _check_jobs(connection: Connection, owner: str, quotas: Quotas) -> None:
    serialize(connection, f"jobs of {owner}")
    unfinished = select(func.count()).where(jobs.c.owner == owner, jobs.c.status.not_in(values_of(FINAL)))
    quotas.check_jobs(connection.scalar(unfinished) or 0)


def _check_repository(connection: Connection, repository: str, owner: str) -> None:
    foreign = (jobs.c.repository == repository, jobs.c.owner != owner)
    alive = jobs.c.status.not_in(values_of(WITHOUT_FILES))
    if connection.scalar(select(jobs.c.id).where(*foreign, alive).limit(1)) is not None:
        raise RepositoryTaken(f"{repository} belongs to another owner; publish under another name")
