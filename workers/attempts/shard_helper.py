"""Help with the shards of a job that another worker runs: in a process of its own, watched from here. No tensors.

The process (workers/processes/shard_process.py) claims and does shards until there are none to be had for a while. What
it held when it died is given back at once; if this process dies too, the leases tell.
"""

import logging
import os
import time
from collections.abc import Callable

from headroom.contract.answers.job import Status
from service.foundation.errors import JobNotFound, StoreUnavailable
from service.records.shards import in_order_of_choice
from workers.attempts.attempt import POLL_SECONDS, JobProcess, worker_name
from workers.attempts.forked_group import start_module
from workers.attempts.process_group import Group, describe_exit
from workers.shards.claims import is_local
from workers.wiring import Parts

logger = logging.getLogger(__name__)


def help_with_shards(
    job_id: str, parts: Parts, is_stopping: Callable[[], bool], start: Callable[[str, str], JobProcess]
) -> bool:
    """False, and nothing done, if the job has no shards that this worker should do. `start`: job and holder."""
    shards = parts.store.shards.of(job_id)
    if not in_order_of_choice(shards, parts.clock(), lambda one: is_local(one, parts), is_parent=False):
        return False
    holder, parent = worker_name(), os.getppid()
    process = start(job_id, holder)
    logger.info("helping with the shards of %s", job_id)
    due = time.monotonic() + parts.settings.heartbeat_seconds
    while process.wait(POLL_SECONDS) is None:
        if is_stopping() or os.getppid() != parent:
            process.end(parts.settings.cancel_grace_seconds)
            break
        if time.monotonic() >= due:
            due = time.monotonic() + parts.settings.heartbeat_seconds
            if not _goes_on(job_id, parts):
                process.end(parts.settings.cancel_grace_seconds)
                break
    returncode = process.kill()  # what it left running goes too
    exited = describe_exit(returncode)
    if _release(job_id, holder, parts, f"its process {exited}"):
        logger.warning("the process that did shards of %s %s", job_id, exited)
    return True


def _goes_on(job_id: str, parts: Parts) -> bool:
    """A job that lost its own attempt goes on: what is done of it is kept."""
    try:
        return parts.store.get(job_id).status in (Status.RUNNING, Status.QUEUED)
    except JobNotFound:
        return False
    except StoreUnavailable:
        return True


def _release(job_id: str, holder: str, parts: Parts, said: str) -> int:
    try:
        return parts.store.shards.release(job_id, holder, said)
    except StoreUnavailable as error:
        logger.warning("what was held of %s is left to its lease: %s", job_id, error)
        return 0


def start_shard_process(job_id: str, holder: str) -> Group:
    return start_module("workers.processes.shard_process", [job_id, holder], os.environ)
