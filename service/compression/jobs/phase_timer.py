"""How long each phase of a job took, and the way to report progress inside one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.ports.jobs import Progress
from service.records.job import Phase


class PhaseTimer:
    """Seconds per phase, and the way to report progress inside one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[Callable[[float], None]]:
        started = time.monotonic()
        self._progress(phase, 0.0)
        yield lambda fraction: self._progress(phase, fraction)
        self.seconds[phase.value] = self.seconds.get(phase.value, 0.0) + time.monotonic() - started

    @property
    def timing(self) -> dict[str, float]:
        """Seconds of each phase so far, and in total: a report's `timing`."""
        return self.seconds | {"total": sum(self.seconds.values())}
