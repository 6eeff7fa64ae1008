"""Between rows and records: reading jobs and events, and writing a change. Runs inside the caller's transaction."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, select, update

from headroom.contract.answers.job import AttemptRecord, JobError, Phase, Status
from headroom.contract.recipe import RECIPES, Recipe
from service.adapters.sql import shards as sql_shards
from service.adapters.sql.tables import attempts, events, jobs, outbox
from service.adapters.sql.webhooks import append_deliveries, insert_webhook
from service.foundation.errors import RecipeUnknown
from service.records.job import Event, Job
from service.records.shards import GivenBack, parent_holder
from service.records.transitions import Change

logger = logging.getLogger(__name__)


def is_storable(text: str) -> bool:
    """PostgreSQL refuses NUL, and both databases half a surrogate pair, even in a question."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


def read_jobs(connection: Connection, rows: Sequence[RowMapping]) -> list[Job]:
    """Turn rows of `jobs` into records, with their attempts, in the order of the rows. RecipeUnknown."""
    return _with_attempts(connection, [(row, _recipe_of(row)) for row in rows])


def read_known_jobs(connection: Connection, rows: Sequence[RowMapping]) -> list[Job]:
    """Without the jobs that a newer release accepted, from which this one went back: they wait for it."""
    known = []
    for row in rows:
        try:
            known.append((row, _recipe_of(row)))
        except RecipeUnknown as error:
            logger.warning("%s", error.message)
    return _with_attempts(connection, known)


def _with_attempts(connection: Connection, rows: Sequence[tuple[RowMapping, Recipe]]) -> list[Job]:
    found: dict[str, list[AttemptRecord]] = {row["id"]: [] for row, _ in rows}
    query = select(attempts).where(attempts.c.job_id.in_(found)).order_by(attempts.c.attempt)
    for row in connection.execute(query).mappings() if found else ():
        columns = {name: value for name, value in row.items() if name != "job_id"}
        found[row["job_id"]].append(AttemptRecord(**columns))
    return [_job_of(row, recipe, found[row["id"]]) for row, recipe in rows]


def lock_job(connection: Connection, job_id: str, *conditions: ColumnElement[bool]) -> Job | None:
    """Take the job's row for the rest of the transaction, if it exists and meets the conditions.

    An UPDATE that changes nothing: the database checks the conditions again once it has the lock, so no other
    transaction can come between this look and the caller's change.
    """
    if not is_storable(job_id):
        return None
    locked = update(jobs).where(jobs.c.id == job_id, *conditions).values(version=jobs.c.version).returning(*jobs.c)
    rows = connection.execute(locked).mappings().all()
    return read_jobs(connection, rows)[0] if rows else None


def insert_job(connection: Connection, job: Job, now: datetime) -> None:
    """A new queued job with its outbox row."""
    connection.execute(insert(jobs).values(_columns_of(job) | {"updated": now}))
    insert_webhook(connection, job)
    _put_in_outbox(connection, job)


def save_change(connection: Connection, before: Job, change: Change, now: datetime) -> Job:
    """Write what differs between a locked job and the job after it, and append the events."""
    after = change.job
    old, new = _columns_of(before), _columns_of(after)
    differing = {name: value for name, value in new.items() if value != old[name]}
    if after.version != before.version:
        differing["updated"] = now
    if differing:
        connection.execute(update(jobs).where(jobs.c.id == after.id).values(differing))
    _save_attempts(connection, before, after)
    if after.status is not before.status:
        if before.status is Status.QUEUED:
            connection.execute(delete(outbox).where(outbox.c.job_id == after.id))
        elif after.status is Status.QUEUED:
            _put_in_outbox(connection, after)
            sql_shards.release(connection, after.id, parent_holder(after.attempt), GivenBack.STOPPED)
        if after.status.is_final:
            sql_shards.remove_all(connection, after.id)
    append_events(connection, change, now)
    append_deliveries(connection, change, now)
    return after


def append_events(connection: Connection, change: Change, now: datetime) -> None:
    """Number on from the last event. Gapless because the caller holds the job's row."""
    if not change.events:
        return
    job_id = change.job.id
    last = connection.scalar(select(func.max(events.c.number)).where(events.c.job_id == job_id)) or 0
    lines = [
        {"job_id": job_id, "number": number, "time": now, "type": type_, "data": data}
        for number, (type_, data) in enumerate(change.events, start=last + 1)
    ]
    connection.execute(insert(events), lines)


def read_event(row: RowMapping) -> Event:
    return Event(**row)


def _save_attempts(connection: Connection, before: Job, after: Job) -> None:
    for record in after.attempts[len(before.attempts) :]:
        connection.execute(insert(attempts).values(job_id=after.id, **asdict(record)))
    for old, new in zip(before.attempts, after.attempts, strict=False):
        if old != new:
            same = (attempts.c.job_id == after.id, attempts.c.attempt == new.attempt)
            connection.execute(update(attempts).where(*same).values(finished=new.finished, outcome=new.outcome))


def _put_in_outbox(connection: Connection, job: Job) -> None:
    connection.execute(insert(outbox).values(job_id=job.id, due=job.not_before or job.created))


def _columns_of(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "id": job.id,
        "kind": recipe.kind,
        "model": recipe.model.id,
        "corpus": recipe.corpus if isinstance(recipe.corpus, str) else None,
        "repository": job.repository,
        "labels": recipe.labels,
        "owner": job.owner,
        "recipe": recipe.model_dump(mode="json"),
        "status": job.status.value,
        "phase": job.phase.value if job.phase else None,
        "progress": job.progress,
        "attempt": job.attempt,
        "created": job.created,
        "queued": job.queued,
        "started": job.started,
        "finished": job.finished,
        "lease_until": job.lease_until,
        "not_before": job.not_before,
        "phase_seconds": job.phase_seconds,
        "error": asdict(job.error) if job.error else None,
        "result": job.result,
        "trace": job.trace or None,
        "version": job.version,
        "stored_bytes": job.stored_bytes,
        "byte_limit": job.byte_limit,
    }


def _recipe_of(row: RowMapping) -> Recipe:
    try:
        return RECIPES.validate_python(row["recipe"])
    except ValidationError as error:
        places = ", ".join(sorted({".".join(map(str, problem["loc"])) or row["kind"] for problem in error.errors()}))
        raise RecipeUnknown(
            f"job {row['id']} was accepted by a newer release of the service, which knows what this one does not "
            f"({places}); upgrade the service again to read or cancel it"
        ) from error


def _job_of(row: RowMapping, recipe: Recipe, records: list[AttemptRecord]) -> Job:
    error = row["error"]
    same = (
        "id",
        "owner",
        "progress",
        "attempt",
        "created",
        "queued",
        "started",
        "finished",
        "lease_until",
        "not_before",
    )
    return Job(
        **{name: row[name] for name in same},
        recipe=recipe,
        status=Status(row["status"]),
        phase=_phase_of(row["phase"]),
        phase_seconds=row["phase_seconds"],
        error=JobError(error["code"], error["message"], _phase_of(error["phase"])) if error else None,
        attempts=tuple(records),
        result=row["result"],
        trace=row["trace"] or {},
        version=row["version"],
        stored_bytes=row["stored_bytes"],
        byte_limit=row["byte_limit"],
    )


def _phase_of(value: str | None) -> Phase | None:
    return Phase(value) if value else None
