"""MemoryJobStore: the job store for tests and examples. Thread-safe; nothing outlives the process."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from headroom.contract.answers.job import JobError, Phase, Status
from service.foundation.errors import (
    AttemptSuperseded,
    InternalError,
    JobFinished,
    JobNotFinished,
    JobNotFound,
    ReportNotReady,
    RepositoryTaken,
    RequestInFlight,
    StoreUnavailable,
    WorkerLost,
)
from service.ports.jobs import ENDED_JOBS, Clock, EndedJob, JobFilter, JobPage, StoreFigures
from service.records.job import WITHOUT_FILES, Event, Job
from service.records.quotas import NO_QUOTAS, Quotas
from service.records.receipts import Answer, KeyedRequest, Receipt, Reservation, answer_of
from service.records.shards import GivenBack, parent_holder
from service.records.transitions import (
    HELD,
    Change,
    cancel_requested,
    claimed,
    ended,
    is_due,
    progressed,
    requeued,
    shard_lost,
)
from tests.in_memory.shards import MemoryShards
from tests.in_memory.webhooks import MemoryWebhooks


class MemoryJobStore:
    """ports.JobStore over dictionaries. `away` makes every call raise StoreUnavailable, for tests."""

    def __init__(self, clock: Clock) -> None:
        self.away = False
        self._clock = clock
        self.mutex = threading.RLock()
        self.corpus_bytes: Callable[[str], int] = lambda owner: 0  # of an owner, where corpora count as well
        self._jobs: dict[str, Job] = {}
        self._events: dict[str, list[Event]] = {}
        self._outbox: dict[str, datetime | None] = {}  # queued job -> when its message was sent
        self._reports: dict[str, str] = {}
        self._receipts: dict[tuple[str, str, str], tuple[Reservation, Answer | None]] = {}
        self.webhooks = MemoryWebhooks(clock)
        self.shards = MemoryShards(
            clock,
            self.mutex,
            lambda job_id, attempt: self._fenced(job_id, attempt, Change),
            lambda job_id: self._jobs[job_id].status is Status.RUNNING,
            lambda job_id, loss: self._apply(shard_lost(self._jobs[job_id], loss)),
        )
        self._updated: dict[str, datetime] = {}  # job -> when its version last grew

    def check_repository(self, repository: str, owner: str) -> None:
        with self._open():
            self._check_repository(repository, owner)

    def _check_repository(self, repository: str, owner: str) -> None:
        named = (job for job in self._jobs.values() if job.repository == repository)
        if any(job.owner != owner and job.status not in WITHOUT_FILES for job in named):
            raise RepositoryTaken(f"{repository} belongs to another owner; publish under another name")

    def add(self, job: Job, receipt: Receipt | None = None, quotas: Quotas = NO_QUOTAS) -> None:
        with self._open():
            if job.id in self._jobs:
                raise InternalError(f"job id {job.id} was given out twice")
            if job.repository is not None:
                self._check_repository(job.repository, job.owner)
            unfinished = [other for other in self._jobs.values() if not other.status.is_final]
            quotas.check_jobs(sum(other.owner == job.owner for other in unfinished))
            if receipt is not None:
                self._keep(receipt)
            self._apply(Change(job, (("status", {"status": job.status.value}),)))

    def remove(self, job_id: str) -> None:
        with self._open():
            if not self._find(job_id).status.is_final:
                raise JobNotFinished(f"job {job_id} has not ended; cancel it, or wait, and delete it then")
            for kept in (self._jobs, self._events, self._reports, self._updated):
                kept.pop(job_id, None)

    def forget_bytes(self, job_id: str) -> None:
        with self._open():
            if job_id in self._jobs:
                self._jobs[job_id] = replace(self._jobs[job_id], stored_bytes=0)

    def stored_bytes(self, owner: str) -> int:
        with self._open():
            return sum(job.stored_bytes for job in self._jobs.values() if job.owner == owner)

    def reserve(self, request: KeyedRequest) -> Reservation | Answer:
        place, now = _place(request), self._clock()
        with self._open():
            if place in self._receipts:
                answer = answer_of(*self._receipts[place], request, now)
                if answer is not None:
                    return answer
            made = Reservation(request, now)
            self._receipts[place] = made, None
            return made

    def give_back(self, reservation: Reservation) -> None:
        with self._open():
            if self._receipts.get(_place(reservation.request)) == (reservation, None):
                del self._receipts[_place(reservation.request)]

    def forget_requests(self, before: datetime) -> None:
        with self._open():
            kept = {place: held for place, held in self._receipts.items() if held[0].time >= before}
            self._receipts = kept

    def get(self, job_id: str, owner: str | None = None) -> Job:
        with self._open():
            return self._find(job_id, owner)

    def page(self, where: JobFilter, limit: int, after: str | None) -> JobPage:
        with self._open():
            newest_first = sorted(self._jobs.values(), key=lambda job: (job.created, job.id), reverse=True)
            if after is not None:
                newest_first = newest_first[newest_first.index(self._find(after, where.owner)) + 1 :]
            found = [job for job in newest_first if where.matches(job)]
            return JobPage(found[:limit], has_more=len(found) > limit)

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Job | None:
        with self._open():
            job, now = self._jobs.get(job_id), self._clock()
            if job is None or job.status is not Status.QUEUED or not is_due(job, now):
                return None
            return self._apply(claimed(job, worker, now, lease_seconds))

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> Job:
        lease_until = self._clock() + timedelta(seconds=lease_seconds)
        return self._fenced(job_id, attempt, lambda job: Change(replace(job, lease_until=lease_until)))

    def report_progress(self, job_id: str, attempt: int, phase: Phase, progress: float) -> Job:
        return self._fenced(job_id, attempt, lambda job: progressed(job, phase, progress, self._clock()))

    def take_bytes(self, job_id: str, attempt: int, size: int) -> None:
        with self._open():
            job = self._fenced(job_id, attempt, Change)
            used = self.stored_bytes(job.owner) - job.stored_bytes + self.corpus_bytes(job.owner)
            Quotas(max_bytes=job.byte_limit).check_fit(used, size, "these files")
            self._jobs[job_id] = replace(job, stored_bytes=size)

    def finish(
        self,
        job_id: str,
        attempt: int,
        status: Status,
        result: dict[str, Any] | None,
        error: JobError | None,
        stored_bytes: int = 0,
    ) -> Job:
        def end(job: Job) -> Change:
            return ended(job, status, _copy(result), error, self._clock(), stored_bytes)

        return self._fenced(job_id, attempt, end)

    def requeue(self, job_id: str, attempt: int, outcome: str, not_before: datetime) -> Job:
        return self._fenced(job_id, attempt, lambda job: requeued(job, outcome, not_before, self._clock()))

    def save_report(self, job_id: str, attempt: int, report: dict[str, Any]) -> None:
        text = json.dumps(report, allow_nan=False)
        with self._open():
            self._fenced(job_id, attempt, Change)
            self._reports[job_id] = text

    def report(self, job_id: str) -> dict[str, Any]:
        with self._open():
            self._find(job_id)
            if job_id not in self._reports:
                raise ReportNotReady(f"job {job_id} has no report: it has measured nothing yet, or long ago")
            report: dict[str, Any] = json.loads(self._reports[job_id])
            return report

    def request_cancel(self, job_id: str) -> Job:
        with self._open():
            job = self._find(job_id)
            if job.status in (Status.CANCELING, Status.CANCELED):
                return job
            if job.status.is_final:
                raise JobFinished(f"job {job_id} has ended as {job.status.value} and cannot be canceled")
            return self._apply(cancel_requested(job, self._clock()))

    def lapsed(self) -> list[Job]:
        with self._open():
            now = self._clock()
            return [job for job in self._jobs.values() if job.lease_until is not None and job.lease_until < now]

    def unfinished(self) -> dict[str, tuple[Status, int]]:
        with self._open():
            return {job.id: (job.status, job.attempt) for job in self._jobs.values() if not job.status.is_final}

    def due_outbox(self, older_than_seconds: float, limit: int) -> list[str]:
        with self._open():
            now = self._clock()
            sent_before = now - timedelta(seconds=older_than_seconds)
            due = [
                job_id
                for job_id, sent in self._outbox.items()
                if is_due(self._jobs[job_id], now) and (sent is None or sent <= sent_before)
            ]
            return due[:limit]

    def mark_sent(self, job_id: str) -> None:
        with self._open():
            if job_id in self._outbox:
                self._outbox[job_id] = self._clock()

    def corpus_in_use(self, corpus_id: str, owner: str | None = None, since: datetime | None = None) -> bool:
        def reads(job: Job) -> bool:
            is_recent = since is not None and job.finished is not None and job.finished >= since
            return corpus_id in job.recipe.corpora and (not job.status.is_final or is_recent)

        with self._open():
            return any(reads(job) and owner in (None, job.owner) for job in self._jobs.values())

    def forget_reports(self, before: datetime) -> int:
        with self._open():
            old = [job.id for job in self._jobs.values() if job.finished is not None and job.finished < before]
            return sum(self._reports.pop(job_id, None) is not None for job_id in old)

    def events(self, job_id: str, after: int, limit: int) -> list[Event]:
        with self._open():
            self._find(job_id)
            return self._events[job_id][max(after, 0) :][:limit]

    def new_events(self, after: Mapping[str, int]) -> list[Event]:
        with self._open():
            return [event for job_id, last in after.items() for event in self._events.get(job_id, [])[last:]]

    def versions(self, since: datetime) -> dict[str, int]:
        with self._open():
            return {job_id: self._jobs[job_id].version for job_id, time in self._updated.items() if time >= since}

    def owned_versions(self, job_ids: Collection[str]) -> dict[str, tuple[str, int]]:
        return {job.id: (job.owner, job.version) for job in self.several(job_ids)}

    def several(self, job_ids: Collection[str]) -> list[Job]:
        with self._open():
            return [self._jobs[job_id] for job_id in set(job_ids) if job_id in self._jobs]

    def figures(self, since: datetime) -> StoreFigures:
        with self._open():
            now = self._clock()
            queued = [job for job in self._jobs.values() if job.status is Status.QUEUED and is_due(job, now)]
            due = [job.not_before or job.created for job in queued]
            ended = [job for job in self._jobs.values() if job.finished is not None and job.finished >= since]
            records = [record for job in self._jobs.values() for record in job.attempts]
            pending = self.webhooks.pending()
            return StoreFigures(
                pending_deliveries=len(pending),
                oldest_delivery=min((one.created for one in pending), default=None),
                jobs=dict(Counter((job.recipe.kind, job.status) for job in self._jobs.values())),
                due=len(due),
                oldest_due=min(due, default=None),
                lost_attempts=sum(
                    record.outcome == WorkerLost.code and record.finished is not None and record.finished >= since
                    for record in records
                ),
                ended=[
                    EndedJob(job.recipe.kind, job.status, job.phase_seconds)
                    for job in sorted(ended, key=lambda job: job.finished or since, reverse=True)[:ENDED_JOBS]
                ],
            )

    def ping(self) -> None:
        with self._open():
            pass

    def close(self) -> None:
        pass

    def _open(self) -> threading.RLock:
        if self.away:
            raise StoreUnavailable("the memory store was told to be away")
        return self.mutex

    def _keep(self, receipt: Receipt) -> None:
        place = _place(receipt.reservation.request)
        if self._receipts.get(place) != (receipt.reservation, None):
            raise RequestInFlight("the same request is being answered; send it again in a second")
        self._receipts[place] = receipt.reservation, receipt.answer

    def _find(self, job_id: str, owner: str | None = None) -> Job:
        if job_id not in self._jobs or owner not in (None, self._jobs[job_id].owner):
            raise JobNotFound(f"there is no job {job_id}; list the jobs to see their ids")
        return self._jobs[job_id]

    def _fenced(self, job_id: str, attempt: int, step: Callable[[Job], Change]) -> Job:
        with self._open():
            job = self._jobs.get(job_id)
            if job is None or job.attempt != attempt or job.status not in HELD:
                raise AttemptSuperseded(f"attempt {attempt} no longer owns job {job_id}")
            return self._apply(step(job))

    def _apply(self, change: Change) -> Job:
        job = change.job
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        lines = self._events.setdefault(job.id, [])
        now = self._clock()
        lines.extend(
            Event(job.id, number, now, type_, data)
            for number, (type_, data) in enumerate(change.events, start=len(lines) + 1)
        )
        if before is None:
            self.webhooks.add(job)
        self.webhooks.append(change, now)
        if before is None or before.version != job.version:
            self._updated[job.id] = now
        if job.status is not Status.QUEUED:
            self._outbox.pop(job.id, None)
        elif before is None or before.status is not Status.QUEUED:
            self._outbox[job.id] = None
            self.shards.release(job.id, parent_holder(job.attempt), "", GivenBack.STOPPED)
        if job.status.is_final:
            self.shards.remove(job.id)
        return job


def _place(request: KeyedRequest) -> tuple[str, str, str]:
    return request.owner, request.route, request.key


def _copy(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a database would give back; also refuses what is not JSON."""
    copied: dict[str, Any] | None = json.loads(json.dumps(result, allow_nan=False))
    return copied
