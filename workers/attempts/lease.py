"""Keep an attempt's claim on its job alive, and hear through it what the store wants. Ends no process."""

import logging
import time
from collections.abc import Callable
from enum import Enum, auto

from headroom.contract.answers.job import Status
from service.foundation.errors import AttemptSuperseded, StoreUnavailable
from service.ports.jobs import JobStore
from service.records.job import Job

logger = logging.getLogger(__name__)


class LeaseState(Enum):
    """The state of a lease as the last heartbeat told it."""

    HELD = auto()
    CANCELING = auto()
    SUPERSEDED = auto()  # the job has ended, or belongs to another attempt
    LAPSED = auto()  # the store has been away for longer than the lease: another attempt may have begun


class Lease:
    """The lease of one attempt. Counts time by this machine's own clock, from before each renewal was sent."""

    def __init__(
        self,
        store: JobStore,
        job: Job,
        seconds: float,
        interval: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._job = job
        self._seconds = seconds
        self._interval = interval
        self._monotonic = monotonic
        self._next = monotonic() + interval
        self._until = monotonic() + seconds
        self._state = LeaseState.HELD

    def check(self) -> LeaseState:
        """Send a heartbeat if one is due. Cheap enough to call many times a second."""
        now = self._monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._state = self._beat(now)
        return self._state

    def _beat(self, now: float) -> LeaseState:
        try:
            job = self._store.heartbeat(self._job.id, self._job.attempt, self._seconds)
        except AttemptSuperseded:
            return LeaseState.SUPERSEDED
        except StoreUnavailable as error:
            logger.warning("no heartbeat for %s: %s", self._job.id, error)
            return LeaseState.LAPSED if self._monotonic() >= self._until else self._state
        self._until = now + self._seconds
        return LeaseState.CANCELING if job.status is Status.CANCELING else LeaseState.HELD
