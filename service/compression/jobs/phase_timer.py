"""How long each phase of a job took, and the way to report progress inside one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from headroom.contract.answers.job import Phase
from headroom.contract.report.report import JobReport
from service.ports.engine import Progress

ReportT = TypeVar("ReportT", bound=JobReport)


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

    def timed(self, report: ReportT) -> ReportT:
        """The report with the seconds of each phase so far, and in total."""
        return report.model_copy(update={"timing": self.seconds | {"total": sum(self.seconds.values())}})
