"""A server that is told to stop says so first: it goes on answering, /readyz with 503, and only then it ends."""

import threading
from types import FrameType

import uvicorn


class DrainingServer(uvicorn.Server):
    """`draining` is set at the first signal; `seconds` later no connection is taken any more, and requests that are
    being answered are finished within uvicorn's own grace. A second signal ends the waiting.
    """

    def __init__(self, config: uvicorn.Config, draining: threading.Event, seconds: float) -> None:
        super().__init__(config)
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

    def _stop(self) -> None:
        self.should_exit = True
