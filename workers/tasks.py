"""The Celery task. It is light: no tensors here; the work is done by a process that it starts and watches."""

import logging
import os
import signal

from celery import shared_task

from service.adapters.remote.celery_settings import TASK_NAME
from service.foundation.errors import StoreUnavailable
from service.foundation.settings import Settings
from workers.attempts.attempt import run_attempt, start_job_process
from workers.attempts.forked_group import wait_until_loaded
from workers.attempts.shard_helper import help_with_shards, start_shard_process
from workers.attempts.stopping import Stopping
from workers.sweeping.caches import limit_caches
from workers.wiring import open_parts

logger = logging.getLogger(__name__)


@shared_task(name=TASK_NAME, ignore_result=True)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run a job if it is still to be had, or do shards of it if it runs elsewhere. SIGTERM to this pool process ends
    the attempt, after `drain_seconds`, and requeues the job or the shard."""
    settings = Settings()
    stopping = Stopping(settings.drain_seconds)
    before = signal.signal(signal.SIGTERM, lambda *_: stopping.tell())
    parts = open_parts(settings)
    try:
        wait_until_loaded(os.environ)
        if run_attempt(job_id, parts, stopping.is_due, start_job_process) or help_with_shards(
            job_id, parts, stopping.is_due, start_shard_process
        ):
            limit_caches(parts)  # a message of a job that was canceled or taken costs no more than the claim
    except StoreUnavailable as error:
        logger.warning("%s was not begun: %s; the sweeper sends it again", job_id, error)
    finally:
        parts.close()
        signal.signal(signal.SIGTERM, before)
