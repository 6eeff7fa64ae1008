"""How far an attempt has got: told to the store now and then, and the place where cancellation is noticed.

Does not keep the lease (workers/attempts/lease.py does) and never blocks for long.
"""

import logging
from collections.abc import Callable

from headroom.contract.answers.job import Phase, Status
from service.foundation.errors import JobCanceled, StoreUnavailable
from service.ports.jobs import JobStore
from service.records.job import Job, overall_progress

MIN_SECONDS_BETWEEN_WRITES = 0.5

logger = logging.getLogger(__name__)


class ProgressReporter:
    """A `ports.Progress` over the store. Writes at every new phase, else at most twice a second.

    Raises JobCanceled once `is_stopping` says so or the store says that the job is canceling, and lets
    AttemptSuperseded through. A store that is away loses a figure, never the attempt.
    """

    def __init__(
        self, store: JobStore, job: Job, is_stopping: Callable[[], bool], monotonic: Callable[[], float]
    ) -> None:
        self._store = store
        self._job = job
        self._is_stopping = is_stopping
        self._monotonic = monotonic
        self._last_phase: Phase | None = None
        self._last_at = 0.0

    def __call__(self, phase: Phase, fraction: float) -> None:
        if self._is_stopping():
            raise JobCanceled
        now = self._monotonic()
        if phase is self._last_phase and now - self._last_at < MIN_SECONDS_BETWEEN_WRITES:
            return
        self._last_phase, self._last_at = phase, now
        try:
            overall = overall_progress(self._job.recipe.kind, phase, fraction)
            job = self._store.report_progress(self._job.id, self._job.attempt, phase, overall)
        except StoreUnavailable as error:
            logger.warning("progress of %s was not stored: %s", self._job.id, error)
            return
        if job.status is Status.CANCELING:
            raise JobCanceled
