"""LateQueue: a queue that is opened when it is first needed. Knows nothing of Celery until then."""

from functools import cached_property

from service.ports.jobs import JobQueue


class LateQueue:
    """ports.JobQueue over a broker, as CeleryQueue is, for a process that may not need it for days.

    Loading Celery and its client takes some 0.2 s of a start and 15 MB.
    """

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url

    @cached_property
    def _queue(self) -> JobQueue:
        from service.adapters.remote.celery_queue import CeleryQueue

        return CeleryQueue(self._broker_url)

    def send(self, job_id: str) -> None:
        self._queue.send(job_id)

    def revoke(self, job_id: str) -> None:
        self._queue.revoke(job_id)

    def ping(self) -> None:
        self._queue.ping()

    def workers(self) -> int:
        return self._queue.workers()
