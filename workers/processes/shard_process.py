"""`python -m workers.processes.shard_process JOB HOLDER`: does shards of a job that another worker runs, if any wait.

Started by workers/attempts/shard_helper.py, and ends with it (see workers/processes/job_process.py). An error is for
the job's own attempt to have or not to have: the shard is given back, and this process ends.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from headroom.contract.job_recipe import JobRecipe
from service.adapters.remote.chained_models import open_models
from service.foundation.errors import JobCanceled, ServiceError
from service.jobs.failures import as_service_error
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import ModelSource
from service.records.job import Job
from service.records.shards import GivenBack, Question, Shard, in_order_of_choice
from workers.processes.job_process import on_this_device, prepare_process
from workers.shards.claims import do_shard, is_local, temporary_folder
from workers.wiring import Parts, open_parts

POLL_SECONDS = 0.5
# One question follows another within seconds: a process that stays has the model's head at hand.
LINGER_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Answering(Protocol):
    """An engine that answers for shards: what is needed of service/compression/sharding/shard_helper.py."""

    def work(self, question: Question, number: int, into: Path, progress: Callable[[float], None]) -> None: ...


class Helper:
    """Claims shards of one job and does them. `open_engine` is called for the first of them."""

    def __init__(
        self,
        job_id: str,
        holder: str,
        parts: Parts,
        is_stopping: Callable[[], bool],
        open_engine: Callable[[Shard], Answering],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._job_id = job_id
        self._holder = holder
        self._parts = parts
        self._is_stopping = is_stopping
        self._open_engine = open_engine
        self._pause = pause
        self._engine: Answering | None = None

    def help(self) -> int:
        """Do shards until none is left; how many were done. JobCanceled when told to stop."""
        done, idle = 0, 0.0
        while idle < LINGER_SECONDS:
            shard = self._claim()
            if shard is None:
                self._check()
                self._pause(POLL_SECONDS)
                idle += POLL_SECONDS
            else:
                done, idle = done + self._do(shard), 0.0
        return done

    def _claim(self) -> Shard | None:
        store, seconds = self._parts.store.shards, self._parts.settings.lease_seconds
        found, now = store.of(self._job_id), self._parts.clock()
        for shard in in_order_of_choice(found, now, lambda one: is_local(one, self._parts), is_parent=False):
            mine = store.claim(shard, self._holder, seconds)
            if mine is not None:
                return mine
        return None

    def _do(self, shard: Shard) -> bool:
        def work(number: int, into: Path, progress: Callable[[float], None]) -> None:
            if self._engine is None:
                self._engine = self._open_engine(shard)  # under the lease: fetching a model may take minutes
            self._engine.work(shard.question, number, into, progress)

        try:
            return do_shard(shard, self._parts, work, GivenBack.FAILED, lambda fraction: self._check())
        except JobCanceled:
            raise
        except Exception as raised:
            error = as_service_error(raised)
            if error is raised:
                raise
            logger.error("shard %d failed here", shard.number, exc_info=raised)
            raise error from raised

    def _check(self) -> None:
        if self._is_stopping():
            raise JobCanceled


def main(arguments: list[str]) -> None:
    job_id, holder = arguments
    settings, stopping = prepare_process()
    structlog.contextvars.bind_contextvars(job_id=job_id)
    parts, models = open_parts(settings), open_models(settings)
    try:
        job = parts.store.get(job_id)
        with temporary_folder(parts) as staging:
            helper = Helper(
                job_id, holder, parts, stopping.is_set, lambda shard: open_engine(job, shard, parts, models, staging)
            )
            logger.info("did %d shards", helper.help())
    except JobCanceled:
        logger.info("stopped, as was asked for")
    except ServiceError as error:
        logger.warning("helps no longer: %s", error)
    finally:
        parts.close()


def open_engine(job: Job, shard: Shard, parts: Parts, models: ModelSource, staging: Path) -> Answering:
    """The engine, loaded only now, with the model's files that the job's own attempt has."""
    settings, reference = parts.settings, job.recipe.model
    model = models.fetch(reference.id, shard.question.revision or reference.revision, lambda fraction: None)
    no_text = CorpusFile(Path(os.devnull), "text", None)  # the windows are handed out with the shards
    task: EngineTask[JobRecipe] = EngineTask(
        job.id, job.recipe, (model,), (no_text,), settings.cache_dir, staging, settings.device
    )
    prepared = on_this_device(task)
    from service.compression.sharding.shard_helper import ShardHelper

    return ShardHelper(prepared, partial(parts.shard_files.get, job.id))


if __name__ == "__main__":
    main(sys.argv[1:])
    logging.shutdown()
    os._exit(0)  # as of workers/processes/job_process.py
