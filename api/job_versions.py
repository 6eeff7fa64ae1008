"""Versions of jobs for conditional requests: many clients ask for them again and again, and most learn nothing new."""

import asyncio
import contextvars

from anyio import to_thread

from service.ports import JobStore


class JobVersions:
    """Asks the store once, in one thread, for all requests that came while it was asked the last time.

    Belongs to one event loop. Nothing is remembered: what is told was read after the request came.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._asked: set[str] = set()
        self._next: asyncio.Task[dict[str, tuple[str, int]]] | None = None

    async def find(self, job_id: str, owner: str | None) -> int | None:
        """None: there is no such job, or none of this owner. StoreUnavailable."""
        self._asked.add(job_id)
        if self._next is None:
            # In a context of its own: it belongs to no one request.
            self._next = asyncio.get_running_loop().create_task(self._look(), context=contextvars.Context())
        found = await asyncio.shield(self._next)  # a client that goes away takes no answer from others
        owned = found.get(job_id)
        return owned[1] if owned and owner in (None, owned[0]) else None

    async def _look(self) -> dict[str, tuple[str, int]]:
        async with self._turn:
            asked, self._asked, self._next = self._asked, set(), None
            return await to_thread.run_sync(self._store.owned_versions, asked)
