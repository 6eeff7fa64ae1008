"""What one open stream waits for: a mailbox of bounded size that live_jobs.py fills. Nothing here reads the store."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from service.ports.jobs import JobFilter
from service.records.job import Job

MAX_EVENTS = 200  # that a stream of one job may lag behind before it reads them from the store
MAX_JOBS = 1000  # that a stream of many jobs may lag behind before it is cut


@dataclass(frozen=True)
class JobChange:
    """A job that changed, and its messages: encoded once for all streams."""

    job: Job
    message: bytes
    progress: bytes
    events: tuple[tuple[int, bytes], ...]  # number, message


class Watch:
    """A mailbox. Filled and emptied in the event loop only."""

    def __init__(self) -> None:
        self.closed = False  # the server stops, or this stream cannot keep up
        self._filled = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Whether there is something to take, or it was closed, before the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return False
        self._filled.clear()
        return True

    def close(self) -> None:
        self.closed = True
        self._filled.set()


class JobWatch(Watch):
    """A watch of one job: its latest state and the events since the last look."""

    def __init__(self) -> None:
        super().__init__()
        self._change: JobChange | None = None
        self._events: list[tuple[int, bytes]] = []

    def offer(self, change: JobChange) -> None:
        """A stream that lags far behind loses events here, sees so by their numbers, and reads the store."""
        self._change = change
        self._events = [*self._events, *change.events][-MAX_EVENTS:]
        self._filled.set()

    def take(self) -> JobChange | None:
        change, self._change = self._change, None
        events, self._events = self._events, []
        return change and JobChange(change.job, change.message, change.progress, tuple(events))


class ListWatch(Watch):
    """A watch of a filter: the latest state of each of its jobs that changed since the last look."""

    def __init__(self, where: JobFilter) -> None:
        super().__init__()
        self._where = where
        self._sent: dict[str, int] = {}  # version last told of each job that may still change
        self._pending: dict[str, tuple[int, bytes]] = {}  # version, message

    def begin(self, jobs: Collection[Job]) -> None:
        """Pass over what was sent already, from the store. What was offered meanwhile may be older."""
        for job in jobs:
            if job.version >= self._pending.get(job.id, (job.version,))[0]:
                self._sent[job.id] = job.version
                self._pending.pop(job.id, None)

    def offer(self, change: JobChange) -> None:
        """Take a change if it matches, and once more if it has just ceased to."""
        job = change.job
        matches = self._where.matches(job)
        if job.version <= self._sent.get(job.id, -1) or not (matches or job.id in self._sent):
            return
        if matches and not job.status.is_final:
            self._sent[job.id] = job.version
        else:
            self._sent.pop(job.id, None)
        self._pending[job.id] = job.version, change.message
        if len(self._pending) > MAX_JOBS:
            self._pending.clear()
            self.close()
        self._filled.set()

    def take(self) -> list[bytes]:
        pending, self._pending = self._pending, {}
        return [message for _, message in pending.values()]
