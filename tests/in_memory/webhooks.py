"""MemoryWebhooks: deliveries for tests and examples. Filled by MemoryJobStore, as SQL fills its own with the job."""

import threading
from dataclasses import replace
from datetime import datetime, timedelta

from headroom.contract.webhook import Webhook
from service.foundation.errors import DeliveryNotFound
from service.ports.jobs import Clock
from service.records.job import Job
from service.records.transitions import Change
from service.records.webhooks import Delivery, DeliveryStatus, new_deliveries, replayed


class MemoryWebhooks:
    """ports.WebhookStore over dictionaries."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.RLock()
        self._webhooks: dict[str, Webhook] = {}
        self._disabled: set[str] = set()
        self._deliveries: dict[str, list[Delivery]] = {}

    def add(self, job: Job) -> None:
        if job.recipe.webhook is not None:
            self._webhooks[job.id] = job.recipe.webhook

    def append(self, change: Change, now: datetime) -> None:
        with self._mutex:
            if change.job.id not in self._disabled:
                lines = self._deliveries.setdefault(change.job.id, [])
                lines += new_deliveries(change, len(lines) + 1, now)

    def deliveries(self, job_id: str) -> list[Delivery]:
        with self._mutex:
            return list(self._deliveries.get(job_id, []))

    def replay(self, job_id: str, number: int) -> Delivery:
        with self._mutex:
            lines = self._deliveries.get(job_id, [])
            if not 1 <= number <= len(lines):
                raise DeliveryNotFound(f"job {job_id} has no delivery {number}; list its deliveries to see them")
            lines.append(replayed(lines[number - 1], len(lines) + 1, self._clock()))
            self._disabled.discard(job_id)
            return lines[-1]

    def claim_due(self, limit: int, claim_seconds: float) -> list[tuple[Delivery, Webhook]]:
        with self._mutex:
            now = self._clock()
            every = [one for lines in self._deliveries.values() for one in lines]
            waiting = [(one.next_attempt, one) for one in every if one.next_attempt is not None]
            due = [one for time, one in sorted(waiting, key=lambda pair: pair[0]) if time <= now]
            until = now + timedelta(seconds=claim_seconds)
            claimed = [
                replace(one, attempts=one.attempts + 1, next_attempt=until, last_attempt=now) for one in due[:limit]
            ]
            for one in claimed:
                self._put(one)
            return [(one, self._webhooks[one.job_id]) for one in claimed]

    def record(self, delivery: Delivery) -> None:
        with self._mutex:
            if self._deliveries[delivery.job_id][delivery.number - 1].attempts != delivery.attempts:
                return
            self._put(delivery)
            if delivery.status is DeliveryStatus.DISABLED:
                self._disabled.add(delivery.job_id)
                for one in self._deliveries[delivery.job_id]:
                    if one.status is DeliveryStatus.PENDING:
                        self._put(replace(one, status=DeliveryStatus.DISABLED, next_attempt=None))

    def pending(self) -> list[Delivery]:
        with self._mutex:
            every = [one for lines in self._deliveries.values() for one in lines]
            return [one for one in every if one.status is DeliveryStatus.PENDING]

    def _put(self, delivery: Delivery) -> None:
        self._deliveries[delivery.job_id][delivery.number - 1] = delivery
