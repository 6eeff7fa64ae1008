"""MemoryShards: shards of running jobs, for tests and examples."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from headroom.contract.answers.shard_loss import ShardLoss
from service.foundation.errors import AttemptSuperseded, ServiceError
from service.ports.jobs import Clock
from service.records.shards import (
    NOT_HEARD_OF,
    GivenBack,
    Question,
    Shard,
    ShardState,
    claimed,
    finished,
    given_back,
    loss_of,
    new_shards,
    step_of,
)

Place = tuple[str, str, int]


class MemoryShards:
    """ports.ShardStore over a dictionary, under the mutex of the jobs.

    `check_held` raises unless an attempt owns a job; `is_running` knows whether one runs; `tell` adds to its history.
    """

    def __init__(
        self,
        clock: Clock,
        mutex: threading.RLock,
        check_held: Callable[[str, int], object],
        is_running: Callable[[str], bool],
        tell: Callable[[str, ShardLoss], object],
    ) -> None:
        self._clock = clock
        self._mutex = mutex
        self._check_held = check_held
        self._is_running = is_running
        self._tell = tell
        self._shards: dict[Place, Shard] = {}

    def ask(self, job_id: str, attempt: int, question: Question, count: int) -> None:
        with self._mutex:
            self._check_held(job_id, attempt)
            for one in self.of(job_id):
                if one.step != step_of(question) and one.state is not ShardState.DONE:
                    del self._shards[_place(one)]
            for one in new_shards(job_id, question, count, self._clock()):
                self._shards.setdefault(_place(one), one)

    def of(self, job_id: str) -> list[Shard]:
        with self._mutex:
            return [shard for place, shard in sorted(self._shards.items()) if shard.job_id == job_id]

    def claim(self, shard: Shard, holder: str, lease_seconds: float) -> Shard | None:
        with self._mutex:
            now, found = self._clock(), self._shards.get(_place(shard))
            if found is None or not found.is_open(now) or (found.attempt, found.state) != (shard.attempt, shard.state):
                return None
            if found.has_lapsed(now):
                self._tell_of(found, GivenBack.LOST, NOT_HEARD_OF)
            return self._keep(claimed(found, holder, now, lease_seconds))

    def heartbeat(self, shard: Shard, lease_seconds: float, progress: float) -> None:
        with self._mutex:
            lease_until = self._clock() + timedelta(seconds=lease_seconds)
            self._keep(replace(self._held(shard), lease_until=lease_until, progress=progress))

    def finish(self, shard: Shard) -> None:
        with self._mutex:
            self._keep(finished(self._held(shard)))

    def give_back(self, shard: Shard, why: GivenBack, said: ServiceError | str = NOT_HEARD_OF) -> None:
        with self._mutex:
            if self._is_held(shard):
                self._tell_of(shard, why, said)
                self._keep(given_back(shard, why))

    def release(self, job_id: str, holder: str, said: str, why: GivenBack = GivenBack.LOST) -> int:
        with self._mutex:
            held = [one for one in self.of(job_id) if (one.state, one.holder) == (ShardState.RUNNING, holder)]
            for one in held:
                self.give_back(one, why, said)
            return len(held)

    def unsent(self, older_than_seconds: float, limit: int) -> list[Shard]:
        with self._mutex:
            now = self._clock()
            before = now - timedelta(seconds=older_than_seconds)

            def is_due(shard: Shard) -> bool:
                told = shard.sent is not None and shard.sent > before
                lapsed_since = (
                    shard.lease_until is not None and shard.sent is not None and shard.sent <= shard.lease_until
                )
                return not told or lapsed_since

            found = [
                one
                for one in self._shards.values()
                if one.is_open(now) and not one.only_parent and self._is_running(one.job_id) and is_due(one)
            ]
            return sorted(found, key=lambda one: (one.created, one.number))[:limit]

    def mark_sent(self, shard: Shard) -> None:
        with self._mutex:
            if _place(shard) in self._shards:
                self._keep(replace(self._shards[_place(shard)], sent=self._clock()))

    def remove(self, job_id: str) -> None:
        """All of a job that has ended."""
        with self._mutex:
            for one in self.of(job_id):
                del self._shards[_place(one)]

    def _tell_of(self, shard: Shard, why: GivenBack, said: ServiceError | str) -> None:
        loss = loss_of(shard, why, said)
        if loss is not None:
            self._tell(shard.job_id, loss)

    def _keep(self, shard: Shard) -> Shard:
        self._shards[_place(shard)] = shard
        return shard

    def _is_held(self, shard: Shard) -> bool:
        found = self._shards.get(_place(shard))
        return found is not None and (found.state, found.attempt) == (ShardState.RUNNING, shard.attempt)

    def _held(self, shard: Shard) -> Shard:
        if not self._is_held(shard):
            raise AttemptSuperseded(f"claim {shard.attempt} no longer holds shard {shard.number} of job {shard.job_id}")
        return self._shards[_place(shard)]


def _place(shard: Shard) -> Place:
    return shard.job_id, shard.step, shard.number
