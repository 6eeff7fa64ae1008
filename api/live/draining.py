"""A server that is told to stop says so first: it goes on answering, /readyz with 503, and only then it ends."""

import socket
import threading
from types import FrameType

import uvicorn

from api.live.live_jobs import LiveJobs


class DrainingServer(uvicorn.Server):
    """`draining` is set at the first signal; `seconds` later no connection is taken any more, and requests that are
    being answered are finished within uvicorn's own grace. A second signal ends the waiting. Streams of events never
    end by themselves: they are ended first, since waiting for them would use up that grace.
    """

    def __init__(self, config: uvicorn.Config, draining: threading.Event, seconds: float, live: LiveJobs) -> None:
        super().__init__(config)
        self._live = live
        self._draining = draining
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining.is_set():
            super().handle_exit(sig, frame)
            return
        self._draining.set()
        timer = threading.Timer(self._seconds, self._stop)
        timer.daemon = True
        timer.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._live.close()
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True
