"""`python -m workers.main`: the Celery worker of this machine. Reads the settings from the environment."""

import sys

from service.adapters.remote.celery_settings import QUEUE_NAME
from service.foundation.settings import Settings
from workers.app import build_app

# One job at a time, as one device holds one model. Gossip and mingling only delay the start of a worker.
OPTIONS = f"--queues {QUEUE_NAME} --pool prefork --concurrency 1 --loglevel INFO --without-gossip --without-mingle"


def main(arguments: list[str]) -> None:
    """Further arguments are passed on to `celery worker`."""
    settings = Settings()
    build_app(settings).worker_main(["worker", *OPTIONS.split(), *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
