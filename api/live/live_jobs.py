"""Jobs as they change, for all open streams of this process, from one look at the store a tick.

The store is the only source, so that any number of API processes tell the same, and a restart loses nothing. The loop
runs while somebody listens. Numbers and versions come from the store; a stream sees by them what it has missed.
"""

import asyncio
import contextvars
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import groupby

from anyio import CapacityLimiter, to_thread

from api.live.event_stream import event_message, job_message, progress_message
from api.live.watches import JobChange, JobWatch, ListWatch, Watch
from service.foundation.errors import ServiceError, StoreUnavailable
from service.ports.jobs import Clock, JobFilter, JobStore
from service.records.job import Job

TICK_SECONDS = 0.5  # also how often a job is told at most
RECHECK_SECONDS = 15.0  # watched jobs are looked at whatever the clocks of other hosts say
OVERLAP = timedelta(seconds=60)  # how far back "changed lately" looks: transactions take time, clocks differ
PRIME_SECONDS = 5.0

logger = logging.getLogger(__name__)


class LiveJobs:
    """Watches of changing jobs, of one event loop; the store is asked in a thread."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._looks = StoreLooks(store, clock)
        self._thread = CapacityLimiter(1)
        self._lists: set[ListWatch] = set()
        self._jobs: defaultdict[str, set[JobWatch]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._primed = asyncio.Event()
        self._closed = False
        self._trouble = ""

    @asynccontextmanager
    async def watch_job(self, job_id: str) -> AsyncIterator[JobWatch]:
        """A watch of one job from now on. StoreUnavailable if the store does not answer."""
        watch = JobWatch()
        self._jobs[job_id].add(watch)
        try:
            await self._begin(watch)
            yield watch
        finally:
            self._jobs[job_id].discard(watch)
            if not self._jobs[job_id]:
                del self._jobs[job_id]

    @asynccontextmanager
    async def watch_list(self, where: JobFilter) -> AsyncIterator[ListWatch]:
        """A watch of the jobs of a filter from now on. StoreUnavailable if the store does not answer."""
        watch = ListWatch(where)
        self._lists.add(watch)
        try:
            await self._begin(watch)
            yield watch
        finally:
            self._lists.discard(watch)

    def close(self) -> None:
        """End every stream, now and later ones: the server stops."""
        self._closed = True
        for watch in self._watches():
            watch.close()

    async def stop(self) -> None:
        """Close, and wait until the store is left alone."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _watches(self) -> list[Watch]:
        return [*self._lists, *(watch for watches in self._jobs.values() for watch in watches)]

    async def _begin(self, watch: Watch) -> None:
        if self._closed:
            watch.close()
            return
        if self._task is None or self._task.done():
            self._primed.clear()
            self._looks.forget()
            # In a context of its own: the log lines of the loop belong to no request.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        try:
            async with asyncio.timeout(PRIME_SECONDS):
                await self._primed.wait()
        except TimeoutError:
            raise StoreUnavailable("the database does not answer; try again in a few seconds") from None

    async def _run(self) -> None:
        next_check = 0.0
        while self._watches():
            now = asyncio.get_running_loop().time()
            is_check = now >= next_check
            await self._look(is_check)
            if is_check:
                next_check = now + RECHECK_SECONDS
            await asyncio.sleep(TICK_SECONDS)

    async def _look(self, is_check: bool) -> None:
        try:
            grown, checked = await to_thread.run_sync(self._looks.look, set(self._jobs), is_check, limiter=self._thread)
        except ServiceError as error:
            self._tell(error.message)
            return
        except Exception as error:
            if repr(error) != self._trouble:
                logger.exception("the streams of events could not be fed")
            self._tell(repr(error))
            return
        self._tell("")
        self._primed.set()
        for change in grown:
            for listener in self._lists:
                listener.offer(change)
        for change in [*grown, *checked]:
            for watch in self._jobs.get(change.job.id, ()):
                watch.offer(change)

    def _tell(self, trouble: str) -> None:
        """What is wrong for an hour is said once, not at every tick."""
        if trouble != self._trouble:
            logger.warning("streams of events: %s", trouble or "go on")
        self._trouble = trouble


class StoreLooks:
    """Looks at the store that remember what the last one saw. One look at a time, in any thread."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._versions: dict[str, int] | None = None
        self._told: dict[str, int] = {}  # watched job -> number of the last event that was handed out

    def forget(self) -> None:
        self._versions, self._told = None, {}

    def look(self, watched: Collection[str], is_check: bool) -> tuple[list[JobChange], list[JobChange]]:
        """The jobs that grew since the look before, none at the first; and, if asked, the watched ones that did not."""
        before = self._versions
        versions = self._store.versions(self._clock() - OVERLAP)
        grown = {id_ for id_, version in versions.items() if before is not None and version > before.get(id_, -1)}
        others = set(watched) - grown if is_check else set()
        jobs = {job.id: job for job in self._store.several(grown | others)} if grown or others else {}
        self._told = {id_: number for id_, number in self._told.items() if id_ in watched}
        events = self._new_events([id_ for id_ in watched if id_ in jobs])
        changes = {id_: _change(job, events.get(id_, ())) for id_, job in jobs.items()}
        self._versions = versions | {id_: jobs[id_].version for id_ in grown & jobs.keys()}
        return [changes[id_] for id_ in grown & jobs.keys()], [changes[id_] for id_ in others & jobs.keys()]

    def _new_events(self, watched: list[str]) -> dict[str, tuple[tuple[int, bytes], ...]]:
        if not watched:
            return {}
        found = self._store.new_events({id_: self._told.get(id_, 0) for id_ in watched})
        grouped = groupby(found, lambda event: event.job_id)
        messages = {id_: tuple((event.number, event_message(event)) for event in events) for id_, events in grouped}
        self._told |= {id_: events[-1][0] for id_, events in messages.items()}
        return messages


def _change(job: Job, events: tuple[tuple[int, bytes], ...]) -> JobChange:
    return JobChange(job, job_message(job), progress_message(job), events)
