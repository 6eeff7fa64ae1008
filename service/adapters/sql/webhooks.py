"""SqlWebhooks: deliveries of webhooks over SQLite or PostgreSQL. They are made where jobs change: sql_rows.py."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from headroom.contract.webhook import Webhook
from service.adapters.sql.database import Database
from service.adapters.sql.tables import deliveries, jobs, webhooks
from service.foundation.errors import DeliveryNotFound
from service.ports.jobs import Clock
from service.records.job import Job
from service.records.transitions import Change
from service.records.webhooks import Delivery, DeliveryStatus, new_deliveries, replayed


class SqlWebhooks:
    """ports.WebhookStore over the database of the jobs."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def deliveries(self, job_id: str) -> list[Delivery]:
        query = select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.number)
        with self._database.reading() as connection:
            return [_delivery_of(row) for row in connection.execute(query).mappings()]

    def replay(self, job_id: str, number: int) -> Delivery:
        with self._database.writing() as connection:
            _lock_job(connection, job_id)
            query = select(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.number == number)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise DeliveryNotFound(f"job {job_id} has no delivery {number}; list its deliveries to see them")
            again = replayed(_delivery_of(row), next_number(connection, job_id), self._clock())
            connection.execute(update(webhooks).where(webhooks.c.job_id == job_id).values(disabled=False))
            connection.execute(insert(deliveries).values(_columns_of(again)))
        return again

    def claim_due(self, limit: int, claim_seconds: float) -> list[tuple[Delivery, Webhook]]:
        now = self._clock()
        due = (
            select(deliveries, webhooks.c.secret, jobs.c.recipe["webhook"].label("webhook"))
            .join(webhooks, webhooks.c.job_id == deliveries.c.job_id)
            .join(jobs, jobs.c.id == deliveries.c.job_id)
            .where(deliveries.c.next_attempt <= now)
            .order_by(deliveries.c.next_attempt)
            .limit(limit)
        )
        with self._database.reading() as connection:
            found = connection.execute(due).mappings().all()
        if not found:
            return []
        with self._database.writing() as connection:
            return [
                (claimed, _webhook_of(row))
                for row in found
                if (claimed := _claim(connection, row, now, claim_seconds)) is not None
            ]

    def record(self, delivery: Delivery) -> None:
        values = {name: value for name, value in _columns_of(delivery).items() if name in WRITTEN_AFTERWARDS}
        same = (
            deliveries.c.job_id == delivery.job_id,
            deliveries.c.number == delivery.number,
            deliveries.c.attempts == delivery.attempts,
        )
        with self._database.writing() as connection:
            connection.execute(update(deliveries).where(*same).values(values))
            if delivery.status is DeliveryStatus.DISABLED:
                self._disable(connection, delivery.job_id)

    def _disable(self, connection: Connection, job_id: str) -> None:
        connection.execute(update(webhooks).where(webhooks.c.job_id == job_id).values(disabled=True))
        pending = (deliveries.c.job_id == job_id, deliveries.c.status == DeliveryStatus.PENDING.value)
        values = {"status": DeliveryStatus.DISABLED.value, "next_attempt": None}
        connection.execute(update(deliveries).where(*pending).values(values))


WRITTEN_AFTERWARDS = {"status", "next_attempt", "response_status", "error"}


def insert_webhook(connection: Connection, job: Job) -> None:
    """Keep the secret of a new job's webhook, apart from the recipe, which is shown."""
    webhook = job.recipe.webhook
    if webhook is not None:
        assert webhook.secret is not None, "submission gives every webhook a secret"
        connection.execute(insert(webhooks).values(job_id=job.id, secret=webhook.secret, disabled=False))


def append_deliveries(connection: Connection, change: Change, now: datetime) -> None:
    """Add the messages of a change, in its transaction; the caller holds the job's row."""
    if change.job.recipe.webhook is None or not change.events:
        return
    if connection.scalar(select(webhooks.c.disabled).where(webhooks.c.job_id == change.job.id)) is not False:
        return
    found = new_deliveries(change, next_number(connection, change.job.id), now)
    if found:
        connection.execute(insert(deliveries), [_columns_of(delivery) for delivery in found])


def next_number(connection: Connection, job_id: str) -> int:
    last = connection.scalar(select(func.max(deliveries.c.number)).where(deliveries.c.job_id == job_id))
    return (last or 0) + 1


def _claim(connection: Connection, row: RowMapping, now: datetime, seconds: float) -> Delivery | None:
    """None if another sender was faster."""
    unclaimed = (
        deliveries.c.job_id == row["job_id"],
        deliveries.c.number == row["number"],
        deliveries.c.attempts == row["attempts"],
        deliveries.c.next_attempt <= now,
    )
    values = {
        "attempts": row["attempts"] + 1,
        "next_attempt": now + timedelta(seconds=seconds),
        "last_attempt": now,
    }
    claimed = update(deliveries).where(*unclaimed).values(values).returning(*deliveries.c)
    taken = connection.execute(claimed).mappings().one_or_none()
    return None if taken is None else _delivery_of(taken)


def _lock_job(connection: Connection, job_id: str) -> None:
    """Numbers of deliveries are given out one transaction at a time."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(version=jobs.c.version))


def _webhook_of(row: RowMapping) -> Webhook:
    return Webhook.model_validate({**row["webhook"], "secret": row["secret"]})


def _columns_of(delivery: Delivery) -> dict[str, Any]:
    return asdict(delivery) | {"status": delivery.status.value}


def _delivery_of(row: RowMapping) -> Delivery:
    values = {name: row[name] for name in COLUMNS}
    return Delivery(**values | {"status": DeliveryStatus(row["status"])})


COLUMNS: Sequence[str] = tuple(column.name for column in deliveries.c)
