"""`python -m workers.main`: the Celery worker of this machine. Reads the settings from the environment."""

import os
import sys

from service.adapters.remote.celery_settings import QUEUE_NAME
from service.foundation.settings import Settings
from workers.app import build_app
from workers.attempts.forked_group import SOCKET_VARIABLE, ForkServer

# One job at a time, as one device holds one model. Gossip and mingling only delay the start of a worker.
OPTIONS = f"--queues {QUEUE_NAME} --pool prefork --concurrency 1 --loglevel INFO --without-gossip --without-mingle"


def main(arguments: list[str]) -> None:
    """Further arguments are passed on to `celery worker`."""
    settings = Settings()
    server = ForkServer() if settings.preload and sys.platform == "linux" else None
    try:
        if server is not None:
            os.environ[SOCKET_VARIABLE] = server.path
        build_app(settings).worker_main(["worker", *OPTIONS.split(), *arguments])
    finally:
        if server is not None:
            server.close()


if __name__ == "__main__":
    main(sys.argv[1:])
