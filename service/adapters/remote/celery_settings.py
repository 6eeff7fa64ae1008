"""The Celery settings that the sender of jobs and the worker share. Makes no app and reads no environment."""

import sys
from typing import Any

TASK_NAME = "headroom.run_job"
QUEUE_NAME = "headroom"

WORKER_PATIENCE_SECONDS = 5.0  # more than the 1 s that a blocking pop waits for a message


def celery_settings(broker_url: str, patience_seconds: float = WORKER_PATIENCE_SECONDS) -> dict[str, Any]:
    """Settings for `app.conf.update`. Early acknowledgement: docs/decisions/0003 says why; the sweeper sends again.

    patience_seconds: how long a connection or an answer may take before the broker counts as away.
    There is no result backend: the job store holds every outcome.
    """
    return {
        "broker_url": broker_url,
        "broker_connection_timeout": patience_seconds,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker waits for its broker as long as it takes
        "broker_transport_options": {
            "socket_connect_timeout": patience_seconds,
            "socket_timeout": patience_seconds,
            "socket_keepalive": True,
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_default_queue": QUEUE_NAME,
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        # A forked pool process has what its worker has loaded; elsewhere the system's libraries do not bear forking.
        "worker_pool_start_method": "fork" if sys.platform == "linux" else "spawn",
        # Each job has a process of its own for its tensors, so the one that watches it need not be new for each job.
        "worker_max_tasks_per_child": 50,
        # Celery kills a pool process that is not up after 4 s: on a busy machine it is never up, and no job ever runs.
        "worker_proc_alive_timeout": 120.0,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "enable_utc": True,
        "timezone": "UTC",
    }
