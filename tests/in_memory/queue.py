"""MemoryQueue: a queue for tests and examples. Delivers nothing by itself; `sent` is there to be read."""

from service.foundation.errors import QueueUnavailable


class MemoryQueue:
    """ports.JobQueue over two lists. `away` makes it behave like a broker that does not answer."""

    def __init__(self, workers: int = 1) -> None:
        self.away = False
        self.sent: list[str] = []
        self.revoked: list[str] = []
        self._workers = workers

    def send(self, job_id: str) -> None:
        self.ping()
        self.sent.append(job_id)

    def revoke(self, job_id: str) -> None:
        if not self.away:
            self.revoked.append(job_id)

    def ping(self) -> None:
        if self.away:
            raise QueueUnavailable("the memory queue was told to be away")

    def workers(self) -> int:
        return 0 if self.away else self._workers
