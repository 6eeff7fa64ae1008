"""`python -m workers.sweeper`: sends what was not sent, takes back jobs whose worker is gone, and removes what is no
longer kept. Runs no job.

Any number of sweepers may run: every step is fenced, and a message sent twice does nothing the second time.
"""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.adapters.remote.late_queue import LateQueue
from service.adapters.remote.outward_http import OutwardHttp
from service.adapters.sql.audit import SqlAudit
from service.adapters.sql.database import Database
from service.adapters.sql.holds import SqlHolds
from service.foundation.errors import AttemptSuperseded, ServiceError, WorkerLost
from service.foundation.logs import configure_logging
from service.foundation.settings import Settings
from service.jobs.retries import retry_or_fail
from service.ports.access import AuditLog, CorpusHolds
from service.ports.jobs import JobQueue
from service.publishing.retention import Retirement
from service.records.receipts import KEPT_FOR
from workers.sweeping.dead_attempts import discard_stale
from workers.sweeping.webhook_sender import WebhookSender
from workers.wiring import Parts, open_parts, utc_now

MESSAGES_PER_SWEEP = 1000
REMOTE_SECONDS = 30.0  # every look into an object store is paid for
RETIRING_SECONDS = 600.0

logger = logging.getLogger(__name__)


@dataclass
class Step:
    """One thing that a round does, and when it is due again."""

    run: Callable[[], None]
    seconds: float = 0.0  # how often; 0: in each round
    due: float = 0.0


class Sweeper:
    """Rounds of steps. A step that fails is logged, and neither stops the other steps nor the next round."""

    def __init__(
        self,
        parts: Parts,
        queue: JobQueue,
        holds: CorpusHolds,
        audit: AuditLog,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        is_remote = bool(parts.settings.storage_url)
        retirement = Retirement(parts.store, holds, parts.artifacts, parts.corpora, audit)
        self._steps = {
            "sending": Step(lambda: send_outbox(parts, queue)),
            "waking": Step(lambda: send_shards(parts, queue)),
            "reclaiming": Step(lambda: reclaim_lapsed(parts)),
            "discarding": Step(lambda: discard_stale(parts), REMOTE_SECONDS if is_remote else 0.0),
            "forgetting": Step(lambda: forget_requests(parts)),
            "retiring": Step(lambda: retirement.retire(parts.retention, parts.clock()), RETIRING_SECONDS),
        }
        self._monotonic = monotonic
        self._said: dict[str, str] = {}  # what is wrong for an hour is said once, not at every round

    def sweep(self) -> None:
        for name, step in self._steps.items():
            if self._monotonic() < step.due:
                continue
            step.due = self._monotonic() + step.seconds
            try:
                step.run()
                trouble = ""
            except ServiceError as error:
                trouble = error.message
            except Exception as error:
                trouble = repr(error)
                if trouble != self._said.get(name):
                    logger.exception("%s failed", name)
            if trouble != self._said.get(name, ""):
                logger.warning("%s: %s", name, trouble or "goes on")
            self._said[name] = trouble


def send_outbox(parts: Parts, queue: JobQueue) -> None:
    """Send queued jobs that are due and whose message never left, or left long ago without being claimed."""
    for job_id in parts.store.due_outbox(parts.settings.resend_after_seconds, MESSAGES_PER_SWEEP):
        queue.send(job_id)
        parts.store.mark_sent(job_id)


def send_shards(parts: Parts, queue: JobQueue) -> None:
    """Wake a worker for each shard that waits: the id of its job is enough, since it looks for shards itself."""
    for shard in parts.store.shards.unsent(parts.settings.resend_after_seconds, MESSAGES_PER_SWEEP):
        queue.send(shard.job_id)
        parts.store.shards.mark_sent(shard)


def reclaim_lapsed(parts: Parts) -> None:
    """Jobs whose lease is over go back to the queue, or fail; canceling ones are canceled."""
    for job in parts.store.lapsed():
        where = f"in phase {job.phase.value}" if job.phase else "before its first phase"
        error = WorkerLost(f"the worker stopped answering {where}; it was killed, or cut off from the database")
        try:
            ended = retry_or_fail(parts.store, parts.artifacts, job, error, parts.retry, parts.clock())
        except AttemptSuperseded:
            continue  # it has just ended, or another sweeper was faster
        logger.warning("attempt %d of %s lost its lease: now %s", job.attempt, job.id, ended.status.value)


def forget_requests(parts: Parts) -> None:
    """Requests with an Idempotency-Key are known for a day."""
    parts.store.forget_requests(parts.clock() - KEPT_FOR)


def main(arguments: list[str]) -> None:
    """Sweep until SIGTERM or SIGINT. Reads the settings from the environment."""
    parser = argparse.ArgumentParser(prog="python -m workers.sweeper", description="The sweeper of Headroom.")
    parser.add_argument("--alive-file", type=Path, help="touched at every round, for whoever watches this process")
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = Settings()
    configure_logging(settings.log_format)
    parts = open_parts(settings)
    database = Database(settings.database)
    sweeper = Sweeper(parts, LateQueue(settings.broker_url), SqlHolds(database, utc_now), SqlAudit(database))
    sender = WebhookSender(parts.store.webhooks, OutwardHttp(settings.allowed_networks).post, parts.clock)
    sending = threading.Thread(target=sender.run, args=(stopping,), name="webhooks")
    sending.start()
    try:
        while not stopping.wait(settings.sweep_seconds):
            sweeper.sweep()
            if options.alive_file is not None:
                options.alive_file.touch()
    finally:
        stopping.set()
        sending.join()
        database.close()
        parts.close()


if __name__ == "__main__":
    main(sys.argv[1:])
