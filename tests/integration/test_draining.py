"""What a process that is told to stop does first: real processes, real signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from headroom.contract.answers.job import Status
from headroom.local import broker
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.adapters.migrate import upgrade
from service.adapters.remote.celery_queue import CeleryQueue
from service.adapters.sql.job_store import SqlJobStore
from service.foundation.settings import Settings
from service.records.job import Job
from tests.factories import make_job, make_recipe
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data directory with a schema, and a broker that is not there."""
    monkeypatch.setenv("HEADROOM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADROOM_BROKER_URL", broker.broker_url(tmp_path / "broker.sock"))
    monkeypatch.setenv("HEADROOM_HUB_ENDPOINT", "")
    monkeypatch.setenv("HEADROOM_THREADS", "1")
    settings = Settings()
    upgrade(settings.database)
    return settings


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts programs; those that still run at the end are killed."""
    with ExitStack() as stack:

        def start_one(*command: str, **environment: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, env=dict(os.environ) | environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start_one


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def wait_until(happened: Callable[[], Any], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_an_api_told_to_stop_says_so_answers_on_and_finishes_what_it_has(
    settings: Settings, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    port = free_port()
    server = start(*python("api.main", "--port", str(port)), HEADROOM_DRAIN_SECONDS="3")
    wait_until(lambda: is_open(port))
    url = f"http://127.0.0.1:{port}"
    begun, told = [], []

    def slow_text() -> Iterator[bytes]:
        """Told to stop in the middle of an upload that goes on for longer than the drain."""
        yield b"the head "
        begun.append(time.monotonic())
        server.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=url, trust_env=False) as other:
            wait_until(lambda: "draining" in other.get("/readyz").json()["checks"], 2.5)
            told.append((other.get("/readyz").status_code, other.get("/v1/jobs").status_code))
        wait_until(lambda: not is_open(port), 20)
        yield b"of a model"

    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        uploaded = client.post("/v1/corpora", content=slow_text(), headers={"Content-Type": "text/plain"})

    assert told == [(503, 200)]
    assert (uploaded.status_code, uploaded.json()["size"]) == (201, len("the head of a model"))
    assert server.wait(20) == 0
    assert time.monotonic() - begun[0] >= 3


def test_a_sweeper_told_to_stop_ends_at_once(
    settings: Settings, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    store = SqlJobStore(settings.database, lambda: datetime.now(UTC))
    store.add(make_job())
    start(*broker.command(broker.find_program(), tmp_path / "broker.sock", tmp_path))
    sweeper = start(*python("workers.sweeper"), HEADROOM_RESEND_AFTER_SECONDS="3600", HEADROOM_SWEEP_SECONDS="0.1")
    wait_until(lambda: store.due_outbox(3600, 10) == [])  # its message left, so the sweeper is in its rounds
    store.close()

    sweeper.send_signal(signal.SIGTERM)

    assert sweeper.wait(10) == 0


@pytest.mark.parametrize(("drain", "outcomes"), [("120", ["succeeded"]), ("0", ["worker_stopped"])])
def test_a_worker_told_to_stop_finishes_its_job_within_the_drain_or_gives_it_back(
    drain: str,
    outcomes: list[str],
    settings: Settings,
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    make_tiny_checkpoint(tmp_path / "models/acme/tiny")
    text = b"the head of a model is wide " * 5000
    corpus = DirectoryCorpora(settings.corpora_dir, 10**6, lambda: datetime.now(UTC)).add(iter([text]), "text", None)
    # About a second of encoding: the worker is told to stop in the middle of it.
    options = {"calibration_tokens": 98_304, "evaluation_tokens": 2048, "window": 64, "continuations": 0, "compare": []}
    first, second = (
        make_job(recipe=make_recipe(corpus=corpus.id, drift={"perplexity": 10, "kl": None}, options=options))
        for _ in range(2)
    )
    start(*broker.command(broker.find_program(), tmp_path / "broker.sock", tmp_path))
    wait_until(lambda: broker.answers(tmp_path / "broker.sock"))
    store, queue = SqlJobStore(settings.database, lambda: datetime.now(UTC)), CeleryQueue(settings.broker_url)
    for job in (first, second):
        store.add(job)
        queue.send(job.id)
    worker = start(*python("workers.main"), HEADROOM_DRAIN_SECONDS=drain)
    wait_until(lambda: store.get(first.id).phase)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(300) == 0
    now: Job = store.get(first.id)
    assert [record.outcome for record in now.attempts] == outcomes
    assert now.status is (Status.SUCCEEDED if drain != "0" else Status.QUEUED)
    assert (store.get(second.id).status, store.get(second.id).attempt) == (Status.QUEUED, 0)
    store.close()
