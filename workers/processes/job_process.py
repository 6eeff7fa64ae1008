"""`python -m workers.processes.job_process JOB ATTEMPT`: the process in which one attempt of one job is computed.

Started by workers/attempts/attempt.py with a pipe on standard input; when that closes, the parent is gone and the whole
process group ends at once. Keeps no lease. Exit code 0 means that the verdict is recorded, or that the attempt was
told to stop or is no longer wanted.
"""

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import structlog

from headroom.contract.answers.job import Status
from headroom.contract.job_recipe import JobRecipe
from service.adapters.remote.chained_models import open_models
from service.foundation.errors import AttemptSuperseded, JobCanceled
from service.foundation.logs import configure_logging
from service.foundation.settings import Settings
from service.foundation.tracing import from_variables
from service.jobs.execution import AttemptServices, execute
from service.jobs.progress import ProgressReporter
from service.ports.engine import EngineOutcome, EngineTask, Progress
from workers.attempts.phase_spans import PhaseSpans
from workers.processes.device import choose_device, free_memory, set_threads
from workers.shards.pool import StoreShardPool
from workers.wiring import Parts, open_parts

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    job_id, attempt = arguments[0], int(arguments[1])
    settings, stopping = prepare_process()
    structlog.contextvars.bind_contextvars(job_id=job_id, attempt=attempt)
    parts = open_parts(settings)
    try:
        _run(job_id, attempt, parts, stopping)
    except JobCanceled:
        logger.info("stopped, as was asked for")
    except AttemptSuperseded as error:
        logger.warning("stopped: %s", error)
    finally:
        parts.close()


def prepare_process() -> tuple[Settings, threading.Event]:
    """Ties this process to its parent; the event is set when it is told to stop."""
    threading.Thread(target=_end_with_parent, name="watchdog", daemon=True).start()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a log is no terminal
    settings = Settings()
    configure_logging(settings.log_format)
    return settings, stopping


def _run(job_id: str, attempt: int, parts: Parts, stopping: threading.Event) -> None:
    job = parts.store.get(job_id)
    if job.attempt != attempt or job.status is not Status.RUNNING:
        return
    progress = ProgressReporter(parts.store, job, stopping.is_set, time.monotonic)
    traced = replace(job, trace=from_variables(os.environ) or job.trace)
    with PhaseSpans(progress, parts.tracer, traced) as spans:
        ended = execute(job, _services(parts), spans.telling_sizes(run_on_device), spans)
        if ended.error is not None:
            spans.fail(ended.error.code, ended.error.message)
        elif ended.status is Status.SUCCEEDED:
            spans.tell_published([file.size for file in parts.artifacts.files(job_id)])
    logger.info("ended: %s", ended.status.value)


def _services(parts: Parts) -> AttemptServices:
    settings = parts.settings
    return AttemptServices(
        store=parts.store,
        artifacts=parts.artifacts,
        corpora=parts.corpora,
        models=open_models(settings),
        cache_dir=settings.cache_dir,
        device=settings.device,
        retry=parts.retry,
        clock=parts.clock,
        patience_seconds=settings.lease_seconds,
        pool_of=lambda job: StoreShardPool(job, job.recipe.shards, parts) if job.recipe.shards > 1 else None,
    )


def run_on_device(task: EngineTask[JobRecipe], progress: Progress) -> EngineOutcome:
    """The engine, loaded only now: a job whose model cannot be had never waits for torch."""
    prepared = on_this_device(task)
    from service.compression.jobs.engines import run_engine

    return run_engine(prepared, progress)


def on_this_device(task: EngineTask[JobRecipe]) -> EngineTask[JobRecipe]:
    """The task with this machine's device and its memory. From here on the process reaches no hub."""
    for name in ("HEADROOM_HUB_TOKEN", "HEADROOM_HUB_TOKEN_FILE"):
        os.environ.pop(name, None)
    from service.compression.states.model_loading import go_offline

    go_offline()  # the model has been fetched; what is in it must not make loading it fetch more
    settings, device = Settings(), choose_device(task.device)
    set_threads(settings.threads)
    return replace(task, device=device, memory_bytes=settings.memory_bytes or free_memory(device))


def _end_with_parent() -> None:
    """Wait for the parent's end of the pipe to close. The kernel closes it, however the parent went."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # started by hand, in somebody else's group


if __name__ == "__main__":
    main(sys.argv[1:])
    logging.shutdown()
    os._exit(0)  # taking torch down in good order takes seconds, and nothing is left to be written
