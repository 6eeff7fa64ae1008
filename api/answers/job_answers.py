"""Answers to those who ask after a job: many ask again and again, and most learn nothing new."""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from anyio import to_thread

from api.answers.job_views import job_view
from service.foundation.errors import JobNotFound
from service.ports.jobs import JobStore

V = TypeVar("V")

BODIES = 1000  # of a few kB each


class SharedLook(Generic[V]):
    """Asks `look` once, in one thread, for all keys that came while it was asked the last time.

    Belongs to one event loop. Nothing is remembered: what is told was read after the request came.
    """

    def __init__(self, look: Callable[[set[str]], Mapping[str, V]]) -> None:
        self._look = look
        self._turn = asyncio.Lock()
        self._asked: set[str] = set()
        self._next: asyncio.Task[Mapping[str, V]] | None = None

    async def find(self, key: str) -> V | None:
        """What the look told of a key; None if nothing. Raises what the look raises."""
        self._asked.add(key)
        if self._next is None:
            # In a context of its own: it belongs to no one request.
            self._next = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        found = await asyncio.shield(self._next)  # a client that goes away takes no answer from others
        return found.get(key)

    async def _run(self) -> Mapping[str, V]:
        async with self._turn:
            asked, self._asked, self._next = self._asked, set(), None
            return await to_thread.run_sync(self._look, asked)


class JobAnswers:
    """The version of a job as the store has it now, and the JSON of that version.

    JSON that was made before is used again: one version of a job has one body, and ids are never given out twice.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._versions = SharedLook(store.owned_versions)
        self._written = SharedLook(self._write)
        self._bodies: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    async def version(self, job_id: str, owner: str | None) -> int | None:
        """The version of a job; None if there is none, or none of this owner. StoreUnavailable."""
        owned = await self._versions.find(job_id)
        return owned[1] if owned and owner in (None, owned[0]) else None

    async def body(self, job_id: str, version: int) -> tuple[int, bytes] | None:
        """That version, or a newer one, and its JSON; None if it has just been deleted. RecipeUnknown as well."""
        known = self._bodies.get(job_id)
        if known is None or known[0] < version:
            known = await self._written.find(job_id)
            if known is None:
                await to_thread.run_sync(self._is_there, job_id)
                return None
            self._bodies[job_id] = known
        self._bodies.move_to_end(job_id)
        if len(self._bodies) > BODIES:
            self._bodies.popitem(last=False)
        return known

    def _is_there(self, job_id: str) -> bool:
        """RecipeUnknown for one that lists leave out."""
        try:
            self._store.get(job_id)
        except JobNotFound:
            return False
        return True

    def _write(self, job_ids: set[str]) -> dict[str, tuple[int, bytes]]:
        jobs = self._store.several(job_ids)
        return {job.id: (job.version, job_view(job).model_dump_json().encode()) for job in jobs}
