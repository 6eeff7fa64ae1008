"""The service as a team runs it: two API processes, two workers, a sweeper, over PostgreSQL, a broker and a bucket.

No process shares a folder with another: what one stores, another finds through the stores alone.
"""

import collections
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headroom import Client
from headroom.local import broker
from service.adapters.migrate import upgrade
from tests.fleet import Fleet, children_of, free_port, wait_until_ready
from tests.s3_server import S3Server
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.postgresql,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pool processes outlive the worker for a while"),
]

JOBS = 50
CANCELED = 30  # of them end before a worker takes them
WHOLE = 4  # of them run the engine
SECONDS = 540.0
FINAL = {"succeeded", "failed", "canceled", "rejected"}
TIMES = {
    "HEADROOM_LEASE_SECONDS": "10",
    "HEADROOM_HEARTBEAT_SECONDS": "1",
    "HEADROOM_RETRY_PAUSE_SECONDS": "0.2",
    "HEADROOM_SWEEP_SECONDS": "0.5",
    "HEADROOM_THREADS": "1",
    "HEADROOM_HUB_ENDPOINT": "",
}
# About half a second of encoding: long enough for a job to be found at it.
OPTIONS = {"calibration_tokens": 40_960, "evaluation_tokens": 1024, "window": 64, "continuations": 0, "compare": []}

Json = dict[str, Any]


@pytest.fixture
def fleet(tmp_path: Path, bucket_url: str, s3: S3Server, empty_postgresql_url: str) -> Iterator[Fleet]:
    upgrade(empty_postgresql_url)
    path = broker.socket_path(tmp_path)
    environment = TIMES | {
        "HEADROOM_DATABASE_URL": empty_postgresql_url,
        "HEADROOM_BROKER_URL": broker.broker_url(path),
        "HEADROOM_STORAGE_URL": bucket_url,
    }
    started = Fleet(tmp_path, environment)
    (tmp_path / "redis").mkdir()
    started.start("broker", broker.command(broker.find_program(), path, tmp_path / "redis"))
    yield started
    started.stop()
    broker.remove_socket(path, tmp_path)


@pytest.fixture
def clients(fleet: Fleet, tmp_path: Path) -> Iterator[list[httpx.Client]]:
    """Of both APIs, once everything answers. `acme/gone` lies where jobs are posted, but not where they run."""
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    for name in ("api-a", "api-b", "worker-a", "worker-b"):
        shutil.copytree(tiny, tmp_path / name / "models" / "acme" / "tiny")
    ports = [free_port(), free_port()]
    for name, port in zip(("api-a", "api-b"), ports, strict=True):
        shutil.copytree(tiny, tmp_path / name / "models" / "acme" / "gone")
        fleet.module(name, "api.main", "--port", str(port))
    for name in ("worker-a", "worker-b"):
        fleet.module(name, "workers.main", "--hostname", f"{name}@%h")
    fleet.module("sweeper", "workers.sweeper")
    opened = [httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) for port in ports]
    for client in opened:
        wait_until_ready(client, fleet)
    yield opened
    for client in opened:
        client.close()


def post(client: httpx.Client, corpus: str, model: str, seed: int) -> str:
    options = OPTIONS | {"seed": seed}
    body = {"model": model, "ratio": 0.5, "corpus": corpus, "drift": {"perplexity": 10, "kl": None}, "options": options}
    posted = client.post("/v1/jobs", json=body)
    assert posted.status_code == 202, posted.text
    return str(posted.json()["id"])


def all_jobs(client: httpx.Client) -> dict[str, Json]:
    page = client.get("/v1/jobs", params={"limit": 100}).json()
    assert not page["has_more"]
    return {job["id"]: job for job in page["data"]}


def test_fifty_jobs_over_two_apis_end_once_although_a_worker_dies(
    fleet: Fleet, clients: list[httpx.Client], tmp_path: Path
) -> None:
    text = " ".join(random.Random(0).choices(["the", "head", "of", "a", "model", "is", "wide"], k=16_000))
    corpus = clients[0].post("/v1/corpora", content=text, headers={"Content-Type": "text/plain"}).json()["id"]
    whole = [post(clients[number % 2], corpus, "acme/tiny", number) for number in range(WHOLE)]
    quick = [post(clients[number % 2], corpus, "acme/gone", number) for number in range(JOBS - WHOLE - CANCELED)]
    canceled = [post(clients[number % 2], corpus, "acme/tiny", number) for number in range(CANCELED)]
    for number, job_id in enumerate(canceled):
        assert clients[(number + 1) % 2].post(f"/v1/jobs/{job_id}/cancel").status_code in (200, 202)

    killed = kill_a_worker_in_the_middle(fleet, clients[1], whole)
    fleet.module("worker-a", "workers.main", "--hostname", "worker-a-again@%h")
    jobs = wait_for_all(fleet, clients)

    assert jobs.keys() == {*whole, *quick, *canceled}
    assert {jobs[job_id]["status"] for job_id in whole} == {"succeeded"}, fleet.logs()
    assert {jobs[job_id]["status"] for job_id in canceled} == {"canceled"}
    assert {jobs[job_id]["status"] for job_id in quick} == {"failed"}
    assert {jobs[job_id]["error"]["code"] for job_id in quick} == {"model_not_found"}
    for job_id, job in jobs.items():
        assert ends(clients[0], job_id) == [job["status"]]
    assert [attempt["outcome"] for attempt in jobs[killed]["attempts"]] == ["worker_lost", "succeeded"]
    assert list(tmp_path.glob("*/artifacts/staging/*")) == []
    assert list(tmp_path.glob("*/artifacts/published")) == []
    assert_same_files_everywhere(clients, whole, tmp_path)


def kill_a_worker_in_the_middle(fleet: Fleet, client: httpx.Client, job_ids: list[str]) -> str:
    """Kill worker-a and what it started, while it runs one of these jobs: which."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in children_of(fleet.processes["worker-a"]):
            running = [job_id for job_id in job_ids if job_id in " ".join(command_of(process))]
            if running and client.get(f"/v1/jobs/{running[0]}").json()["phase"] not in (None, "publishing"):
                os.killpg(fleet.processes["worker-a"].pid, signal.SIGKILL)
                fleet.processes["worker-a"].wait(10)
                return running[0]
        time.sleep(0.05)
    raise AssertionError(fleet.logs())


def command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def wait_for_all(fleet: Fleet, clients: list[httpx.Client]) -> dict[str, Json]:
    deadline = time.monotonic() + SECONDS
    while True:
        jobs = all_jobs(clients[0])
        if all(job["status"] in FINAL for job in jobs.values()):
            assert all_jobs(clients[1]) == jobs
            return jobs
        states = collections.Counter(job["status"] for job in jobs.values())
        assert time.monotonic() < deadline, f"{states}\n{fleet.logs()}"
        time.sleep(0.5)


def ends(client: httpx.Client, job_id: str) -> list[str]:
    events = client.get(f"/v1/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    told = [event["data"]["status"] for event in events if event["type"] == "status"]
    return [status for status in told if status in FINAL]


def assert_same_files_everywhere(clients: list[httpx.Client], job_ids: list[str], folder: Path) -> None:
    for job_id in job_ids:
        listed = [client.get(f"/v1/jobs/{job_id}/files").json()["data"] for client in clients]
        assert listed[0] == listed[1]
        assert {"config.json", "model.safetensors", "headroom.json"} <= {file["path"] for file in listed[0]}
        for file in listed[0]:
            for client in clients:
                content = client.get(f"/v1/jobs/{job_id}/files/{file['path']}").content
                assert hashlib.sha256(content).hexdigest() == file["sha256"]
    with Client(str(clients[1].base_url)) as client:
        assert (folder / "out" / "config.json") in client.job(job_ids[0]).download(folder / "out")
