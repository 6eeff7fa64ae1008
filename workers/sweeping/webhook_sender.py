"""Sends webhooks that are due, from threads of the sweeper's process. The database says what, when and how often.

Any number of processes may send: a delivery is claimed before it is tried. One that dies in between has its claim run
out, and the delivery is tried again, so a receiver may see a message twice, with the same webhook-id.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from headroom.contract.webhook import Webhook
from service.foundation.errors import ServiceError
from service.ports.jobs import Clock, WebhookStore
from service.records.webhooks import Attempt, Delivery, after_attempt, signed_headers

AT_ONCE = 8  # so that slow receivers do not hold up all others
CLAIM_SECONDS = 60.0  # longer than an attempt can take
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)

Post = Callable[[str, Mapping[str, str], bytes], Attempt]


class WebhookSender:
    """Sender of due webhooks: one round is `send_due`; `run` does rounds until it is told to stop."""

    def __init__(self, store: WebhookStore, post: Post, clock: Clock) -> None:
        self._store = store
        self._post = post
        self._clock = clock
        self._trouble = ""

    def run(self, stopping: threading.Event) -> None:
        """Attempts under way are finished first: at most as long as one may take."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
            while not stopping.is_set():
                if not self.send_due(pool):
                    stopping.wait(POLL_SECONDS)

    def send_due(self, pool: ThreadPoolExecutor) -> int:
        """Send what is due; how many were tried."""
        try:
            claimed = self._store.claim_due(AT_ONCE, CLAIM_SECONDS)
        except ServiceError as error:
            self._tell(error.message)
            return 0
        self._tell("")
        list(pool.map(self._try, claimed))
        return len(claimed)

    def _try(self, claimed: tuple[Delivery, Webhook]) -> None:
        delivery, webhook = claimed
        try:
            body = delivery.payload.encode()
            attempt = self._post(webhook.url, signed_headers(delivery, webhook, self._clock()), body)
            after = after_attempt(delivery, attempt, self._clock(), random.random)
            self._store.record(after)
        except Exception:
            logger.exception("delivery %d of %s: its claim will run out", delivery.number, delivery.job_id)
            return
        logger.info(
            "delivery %d of %s, attempt %d: %s", delivery.number, delivery.job_id, delivery.attempts, attempt.outcome
        )

    def _tell(self, trouble: str) -> None:
        """What is wrong for an hour is said once, not at every round."""
        if trouble != self._trouble:
            logger.warning("webhooks: %s", trouble or "go on")
        self._trouble = trouble
