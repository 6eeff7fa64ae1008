"""The workers on one job, as its own attempt sees them: it asks, does shards like any other, and waits for the rest."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.foundation.errors import AttemptSuperseded, WorkerLost
from service.jobs.retries import patiently
from service.ports.engine import ShardWork
from service.records.job import Job
from service.records.shards import (
    GivenBack,
    Question,
    Shard,
    ShardState,
    answer_name,
    in_order_of_choice,
    mean_progress,
    parent_holder,
    step_of,
)
from workers.shards.claims import do_shard, is_local, temporary_folder
from workers.wiring import Parts

POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class StoreShardPool:
    """ports.ShardPool over the job store and the files that workers share."""

    def __init__(self, job: Job, shards: int, parts: Parts, pause: Callable[[float], None] = time.sleep) -> None:
        self.shards = shards
        self._job = job
        self._holder = parent_holder(job.attempt)
        self._parts = parts
        self._pause = pause

    @property
    def losses(self) -> int:
        return sum(shard.losses for shard in self._patiently(lambda: self._parts.store.shards.of(self._job.id)))

    def get(self, name: str) -> Path | None:
        return self._parts.shard_files.get(self._job.id, name)

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        if self.get(name) is not None:
            return
        with temporary_folder(self._parts) as folder:
            write(folder / "file")
            self._parts.shard_files.put(self._job.id, name, folder / "file")

    def share(self, name: str, file: Path) -> bool:
        return self._parts.shard_files.share(self._job.id, name, file)

    def drop(self, name: str) -> None:
        self._parts.shard_files.drop(self._job.id, name)

    def answer(self, question: Question, count: int, work: ShardWork, progress: Callable[[float], None]) -> list[Path]:
        store, job = self._parts.store.shards, self._job
        self._patiently(lambda: store.ask(job.id, job.attempt, question, count))
        while True:
            found = self._found(question)
            if len(found) < count:
                raise AttemptSuperseded(f"attempt {job.attempt} no longer owns job {job.id}: its shards are gone")
            progress(mean_progress(found))
            if all(shard.state is ShardState.DONE for shard in found):
                return [self._file_of(shard, work, progress) for shard in found]
            self._check_losses(found)
            if not self._do_one(question, found, work, progress):
                self._pause(POLL_SECONDS)

    def _do_one(
        self, question: Question, found: list[Shard], work: ShardWork, progress: Callable[[float], None]
    ) -> bool:
        """Whether there was one to do."""
        settings, now = self._parts.settings, self._parts.clock()
        for shard in in_order_of_choice(found, now, lambda one: is_local(one, self._parts), is_parent=True):
            mine = self._patiently(partial(self._parts.store.shards.claim, shard, self._holder, settings.lease_seconds))
            if mine is None:
                continue
            told = _Told(lambda: self._found(question), mine, progress)
            do_shard(mine, self._parts, work, GivenBack.STOPPED, told)
            return True
        return False

    def _check_losses(self, found: list[Shard]) -> None:
        for shard in found:
            losses = shard.losses_at(self._parts.clock())
            if losses >= self._parts.settings.max_attempts and shard.state is not ShardState.DONE:
                if shard.has_lapsed(self._parts.clock()):  # nobody else will claim it, and so tell that it lapsed
                    self._patiently(partial(self._parts.store.shards.give_back, shard, GivenBack.LOST))
                raise WorkerLost(
                    f"shard {shard.number + 1} of {len(found)} took {losses} workers with it; "
                    "they may be short of memory: ask for more shards, or give workers more memory"
                )

    def _file_of(self, shard: Shard, work: ShardWork, progress: Callable[[float], None]) -> Path:
        found = self.get(answer_name(shard))
        if found is not None:
            return found
        # Only after a restore of the database: the files of a job that runs are not backed up.
        logger.warning("the answer of shard %d of %s is not there: it is computed again", shard.number, shard.job_id)
        self.put(answer_name(shard), lambda path: work(shard.number, path, progress))
        again = self.get(answer_name(shard))
        assert again is not None, "what was put can be read"
        return again

    def _found(self, question: Question) -> list[Shard]:
        shards = self._patiently(lambda: self._parts.store.shards.of(self._job.id))
        return [shard for shard in shards if shard.step == step_of(question)]

    def _patiently(self, action: Callable[[], Result]) -> Result:
        return patiently(action, self._parts.settings.lease_seconds, self._pause)


class _Told:
    """Progress of all shards together, while this process does one of them."""

    def __init__(self, look: Callable[[], list[Shard]], own: Shard, progress: Callable[[float], None]) -> None:
        self._look = look
        self._own = own
        self._progress = progress
        self._shards = look()
        self._next = time.monotonic() + 1.0

    def __call__(self, fraction: float) -> None:
        if time.monotonic() >= self._next:
            self._shards = self._look()
            self._next = time.monotonic() + 1.0
        others = [shard.progress for shard in self._shards if shard.number != self._own.number]
        self._progress((sum(others) + fraction) / (len(others) + 1))
