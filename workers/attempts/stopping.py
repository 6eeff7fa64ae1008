"""When an attempt must end because its worker was told to stop: at once, or after the time that it is given."""

import math
import time
from collections.abc import Callable


class Stopping:
    """`tell` may be called from a signal handler, and again; the first time counts."""

    def __init__(self, drain_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._drain_seconds = drain_seconds
        self._monotonic = monotonic
        self._due = math.inf

    def tell(self) -> None:
        self._due = min(self._due, self._monotonic() + self._drain_seconds)

    def is_due(self) -> bool:
        return self._monotonic() >= self._due
