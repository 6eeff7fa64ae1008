"""Blocking calls in threads of their own number, so that downloads never take the threads of all other requests."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")


class BoundedThreads:
    """Threads for blocking calls: at most `at_once` run at a time in one event loop; the others wait in turn."""

    def __init__(self, name: str, at_once: int) -> None:
        self._limiter: RunVar[CapacityLimiter] = RunVar(name)
        self._at_once = at_once

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What the function returns or raises. A caller that is cancelled is held until the function has returned:
        what it works on may be closed then, and nothing that it raised is left over."""
        call = asyncio.create_task(to_thread.run_sync(function, *arguments, limiter=self._of_this_loop()))
        try:
            await asyncio.wait([call])  # unlike awaiting the call, this does not pass a cancellation on to it
        finally:
            if not call.done():
                await asyncio.wait([call])
                call.exception()
        return call.result()

    def others_wait(self) -> bool:
        return self._of_this_loop().statistics().tasks_waiting > 0

    def _of_this_loop(self) -> CapacityLimiter:
        try:
            return self._limiter.get()
        except LookupError:
            limiter = CapacityLimiter(self._at_once)
            self._limiter.set(limiter)
            return limiter
