"""Questions about jobs, asked on a connection that the caller holds. Nothing is written here."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, false, or_, select

from headroom.contract.answers.job import Status
from headroom.contract.job_recipe import LABEL_KEY
from service.adapters.sql.rows import is_storable, read_event, read_jobs, read_known_jobs
from service.adapters.sql.tables import events, jobs
from service.foundation.errors import JobNotFound
from service.ports.jobs import JobFilter, JobPage
from service.records.job import Event, Job

IDS_PER_QUERY = 1000
JOBS_PER_CONDITION = 200  # SQLite nests no more than a thousand terms

# The questions that are asked most, of which most are for one job: put together once, they cost a third.
_OWNED = select(jobs.c.id, jobs.c.owner, jobs.c.version)
OWNED_VERSION = _OWNED.where(jobs.c.id == bindparam("id"))
OWNED_VERSIONS = _OWNED.where(jobs.c.id.in_(bindparam("ids", expanding=True)))


def find_job(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    """JobNotFound if there is none, or none of this owner."""
    query = select(jobs).where(jobs.c.id == job_id)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    rows = connection.execute(query).mappings().all() if is_storable(job_id) else []
    if not rows:
        raise JobNotFound(f"there is no job {job_id!r}; list the jobs to see their ids")
    return read_jobs(connection, rows)[0]


def page_of_jobs(connection: Connection, where: JobFilter, limit: int, after: str | None) -> JobPage:
    """Newest first, at most `limit`; `after` is the id of the last job of the page before."""
    query = _matching(where).order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(limit + 1)
    part = query
    if after is not None:
        last = find_job(connection, after, where.owner)
        part = query.where(_is_older_than(last.created, last.id))
    while True:
        rows = connection.execute(part).mappings().all()
        known, has_more = read_known_jobs(connection, rows[:limit]), len(rows) > limit
        if known or not has_more:  # an empty page would say nothing of where the next one begins
            return JobPage(known, has_more)
        part = query.where(_is_older_than(rows[limit - 1]["created"], rows[limit - 1]["id"]))


def several_jobs(connection: Connection, job_ids: Iterable[str]) -> list[Job]:
    """The jobs with these ids, in any order; ids of none are passed over."""
    found: list[Job] = []
    for ids in _portions(job_ids):
        rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids))).mappings().all()
        found += read_known_jobs(connection, rows)
    return found


def read_owned_versions(connection: Connection, job_ids: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Id -> owner and version of the jobs with these ids; ids of none are passed over."""
    found: dict[str, tuple[str, int]] = {}
    for ids in _portions(filter(is_storable, job_ids)):
        one, many = (OWNED_VERSION, {"id": ids[0]}), (OWNED_VERSIONS, {"ids": ids})
        rows = connection.execute(*(one if len(ids) == 1 else many))
        found |= {job_id: (owner, version) for job_id, owner, version in rows}
    return found


def events_after(connection: Connection, after: Mapping[str, int]) -> list[Event]:
    """The events of each job with a number above the one given for it; in order within a job."""
    found: list[Event] = []
    for ids in _portions(after, JOBS_PER_CONDITION):
        of_job = (and_(events.c.job_id == job_id, events.c.number > after[job_id]) for job_id in ids)
        query = select(events).where(or_(*of_job)).order_by(events.c.job_id, events.c.number)
        found += [read_event(row) for row in connection.execute(query).mappings()]
    return found


def values_of(statuses: Iterable[Status]) -> list[str]:
    """Statuses as they stand in the column."""
    return [status.value for status in statuses]


def _matching(where: JobFilter) -> Select[Any]:
    asked = [
        (jobs.c.model, where.model),
        (jobs.c.kind, where.kind),
        (jobs.c.status, where.status),
        (jobs.c.repository, where.repository),
        (jobs.c.owner, where.owner),
    ]
    # No recipe has another key, and a quote in it would end the JSON path.
    has_odd_key = not all(LABEL_KEY.fullmatch(key) for key, _ in where.labels)
    asked += [(jobs.c.labels[key].as_string(), value) for key, value in where.labels if not has_odd_key]
    if has_odd_key or any(value is not None and not is_storable(value) for _, value in asked):
        return select(jobs).where(false())
    return select(jobs).where(*(column == str(value) for column, value in asked if value is not None))


def _is_older_than(created: datetime, job_id: str) -> ColumnElement[bool]:
    return or_(jobs.c.created < created, (jobs.c.created == created) & (jobs.c.id < job_id))


def _portions(ids: Iterable[str], most: int = IDS_PER_QUERY) -> Iterator[list[str]]:
    """As many at a time as both databases take in one question."""
    left = list(ids)
    for start in range(0, len(left), most):
        yield left[start : start + most]
