"""CeleryQueue: sends job ids to Celery workers by the name of their task. Imports no worker and waits for no result.

Everything here gives up quickly: what is not sent now is sent by the sweeper.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery
from celery.app.control import Control
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox
from redis.exceptions import RedisError

from service.adapters.remote.celery_settings import QUEUE_NAME, TASK_NAME, celery_settings
from service.foundation.errors import QueueUnavailable

PATIENCE_SECONDS = 0.75  # a send to a hung broker waits twice: with the connection it has, and with a new one
PING_SECONDS = 0.5  # workers that take longer are not counted
LATELY_SECONDS = 5.0  # how long a count of workers is good for
MAX_CONNECTIONS = 100  # as many senders can wait for a hung broker at once without waiting for each other

logger = logging.getLogger(__name__)


class CeleryQueue:
    """ports.JobQueue over a Redis or Valkey broker: `redis://`, `rediss://` or `redis+socket://`.

    The id of the message is the job's, so that it can be revoked; a job that is sent twice has two such messages,
    of which the second does nothing.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("headroom.sender", set_as_current=False, control=_ControlOnce)
        self._app.conf.update(_sender_settings(broker_url))
        self._counting = threading.Lock()
        self._count = 0
        self._counted_at = 0.0

    def send(self, job_id: str) -> None:
        with _away_is_typed():
            self._app.send_task(TASK_NAME, args=[job_id], task_id=job_id, queue=QUEUE_NAME, retry=False)

    def revoke(self, job_id: str) -> None:
        """Only a hint, so a broker that is away is no error."""
        with suppress(QueueUnavailable), _away_is_typed():
            self._app.control.revoke(job_id)

    def ping(self) -> None:
        with _away_is_typed(), self._app.connection_for_write() as connection:
            connection.default_channel.client.ping()

    def workers(self) -> int:
        """Asks the workers themselves, so that a hung one does not count. The answer 0 is not kept."""
        with self._counting:
            if not self._count or time.monotonic() - self._counted_at > LATELY_SECONDS:
                self._count = self._ask_workers()
                self._counted_at = time.monotonic()
            return self._count

    def _ask_workers(self) -> int:
        try:
            with _away_is_typed():
                return len(self._app.control.ping(timeout=PING_SECONDS))
        except QueueUnavailable:
            return 0


class _ProducerOnce:
    """A producer that does not try again, although it is told to."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def publish(self, *args: Any, **options: Any) -> Any:
        return self._producer.publish(*args, **(options | {"retry": False}))


class _MailboxOnce(Mailbox):  # type: ignore[misc]
    """Where control messages leave from; its own `publish` asks for endless retries."""

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[_ProducerOnce]:
        with super().producer_or_acquire(producer, channel) as found:
            yield _ProducerOnce(found)


class _ControlOnce(Control):  # type: ignore[misc]
    """Celery's remote control with the mailbox above."""

    Mailbox = _MailboxOnce


def _sender_settings(broker_url: str) -> dict[str, Any]:
    settings = celery_settings(broker_url, PATIENCE_SECONDS)
    once = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    return settings | {
        "broker_transport_options": settings["broker_transport_options"] | once,
        "broker_pool_limit": MAX_CONNECTIONS,
    }


@contextmanager
def _away_is_typed() -> Iterator[None]:
    try:
        yield
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("the broker is away: %s", error)  # for the log only: it names hosts
        raise QueueUnavailable("the broker does not answer; queued jobs are sent once it does") from error
