"""The Celery app. Nothing happens on import: `app` is made when it is first asked for (`celery -A workers.app`)."""

import os
import signal
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutting_down
from celery.worker import state

from service.adapters.remote.celery_settings import celery_settings
from service.foundation.logs import configure_logging
from service.foundation.settings import Settings

if TYPE_CHECKING:
    app: Celery


def build_app(settings: Settings) -> Celery:
    """An app whose worker, when told to stop, gives its running job back to the queue instead of finishing it."""
    built = Celery("headroom")
    built.conf.update(celery_settings(settings.broker_url))
    built.conf.update(imports=("workers.tasks",))
    setup_logging.connect(
        lambda **_: configure_logging(settings.log_format), weak=False, dispatch_uid="headroom.logging"
    )
    worker_init.connect(_end_attempts_on_shutdown, weak=False, dispatch_uid="headroom.end_attempts")
    return built


def _end_attempts_on_shutdown(sender: Any, **_: Any) -> None:
    worker_shutting_down.connect(lambda **_: tell_running_tasks(sender), weak=False, dispatch_uid="headroom.tell_tasks")


def tell_running_tasks(worker: Any) -> None:
    """Celery's warm shutdown waits for the running task, which may take hours: tell it to end (workers/tasks.py)."""
    if not state.active_requests:
        return  # an idle pool process ends by itself
    for pid in worker.pool.info["processes"]:
        os.kill(pid, signal.SIGTERM)


def __getattr__(name: str) -> Celery:
    if name == "app":
        return build_app(Settings())
    raise AttributeError(name)
