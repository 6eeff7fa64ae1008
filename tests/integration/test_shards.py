"""A job that is spread over two real workers, one of which is killed in the middle of a shard."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headroom.contract.answers.job import EventView
from headroom.local import broker
from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.records.shards import EncodeQuestion, Shard, ShardState
from tests.fleet import Fleet, children_of, free_port, wait_until_ready
from tests.reports import assert_same_figures
from tests.tiny_models import make_tiny_checkpoint
from workers.wiring import utc_now

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pool processes outlive the worker for a while"),
]

WORKERS = ("worker-a", "worker-b")
SECONDS = 240.0
ENVIRONMENT = {
    "HEADROOM_LEASE_SECONDS": "10",
    "HEADROOM_HEARTBEAT_SECONDS": "0.25",
    "HEADROOM_SWEEP_SECONDS": "0.2",
    "HEADROOM_THREADS": "1",
    "HEADROOM_HUB_ENDPOINT": "",
}
# A job alone takes longer than a helper needs to start: about 5 s of encoding on an idle core.
MODEL = {"family": "llama", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
OPTIONS = {"window": 64, "calibration_tokens": 12_288, "evaluation_tokens": 4096, "compare": [], "continuations": 0}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    make_tiny_checkpoint(folder / "models" / "acme" / "tiny", **MODEL)
    return folder


@pytest.fixture
def fleet(tmp_path: Path, data: Path) -> Iterator[Fleet]:
    upgrade(f"sqlite:///{data}/headroom.db")
    path = broker.socket_path(tmp_path)
    started = Fleet(tmp_path, ENVIRONMENT | {"HEADROOM_BROKER_URL": broker.broker_url(path)}, shared=data)
    (tmp_path / "redis").mkdir()
    started.start("broker", broker.command(broker.find_program(), path, tmp_path / "redis"))
    yield started
    started.stop()
    broker.remove_socket(path, tmp_path)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[httpx.Client]:
    port = free_port()
    fleet.module("api", "api.main", "--port", str(port))
    for name in WORKERS:
        fleet.module(name, "workers.main", "--hostname", f"{name}@%h")
    fleet.module("sweeper", "workers.sweeper")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as opened:
        wait_until_ready(opened, fleet)
        yield opened


@pytest.fixture
def store(data: Path) -> Iterator[SqlJobStore]:
    opened = SqlJobStore(f"sqlite:///{data}/headroom.db", utc_now)
    yield opened
    opened.close()


def post(client: httpx.Client, corpus: str, shards: int, seed: int) -> str:
    options = OPTIONS | {"shards": shards, "seed": seed}
    body = {
        "model": "acme/tiny",
        "ratio": 0.5,
        "corpus": corpus,
        "drift": {"perplexity": 10, "kl": None},
        "options": options,
    }
    posted = client.post("/v1/jobs", json=body)
    assert posted.status_code == 202, posted.text
    return str(posted.json()["id"])


def wait(client: httpx.Client, fleet: Fleet, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["finished"] is not None:
            return job
        assert time.monotonic() < deadline, fleet.logs()
        time.sleep(0.2)


def kill_a_helper(fleet: Fleet, store: SqlJobStore, job_id: str) -> Shard | None:
    """The worker that does not run the job itself, in the middle of a shard; None if it came too late to get one."""
    deadline = time.monotonic() + SECONDS
    while not store.get(job_id).status.is_final:
        for shard in store.shards.of(job_id):
            is_helped = shard.state is ShardState.RUNNING and not shard.holder.startswith("attempt")
            if isinstance(shard.question, EncodeQuestion) and is_helped and 0 < shard.progress < 1:
                name = worker_of(fleet, shard.holder)
                os.killpg(fleet.processes[name].pid, signal.SIGKILL)
                fleet.processes.pop(name).wait(10)
                return shard
        assert time.monotonic() < deadline, fleet.logs()
        time.sleep(0.02)
    return None


def worker_of(fleet: Fleet, holder: str) -> str:
    pid = int(holder.rpartition(":")[2])
    (name,) = [name for name in WORKERS if pid in [child.pid for child in children_of(fleet.processes[name])]]
    return name


def claims_when_all_are_done(fleet: Fleet, store: SqlJobStore, job_id: str, step: str) -> dict[int, Shard]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        shards = {shard.number: shard for shard in store.shards.of(job_id) if shard.step == step}
        if shards and all(shard.state is ShardState.DONE for shard in shards.values()):
            return shards
        time.sleep(0.02)
    raise AssertionError(fleet.logs())


def test_a_shard_whose_worker_is_killed_is_done_again_alone_and_the_figures_are_those_of_one_worker(
    fleet: Fleet, client: httpx.Client, store: SqlJobStore, data: Path
) -> None:
    words = ["the", "head", "of", "a", "model", "is", "wide", "and", "its", "columns", "are", "many"]
    text = " ".join(random.Random(0).choices(words, k=20_000))
    corpus = client.post("/v1/corpora", content=text, headers={"Content-Type": "text/plain"}).json()["id"]
    killed = None
    for seed in range(3):  # a busy machine may start the helper too late
        spread = post(client, corpus, shards=8, seed=seed)
        killed = kill_a_helper(fleet, store, spread)
        if killed is not None:
            break
    assert killed is not None, fleet.logs()
    done = claims_when_all_are_done(fleet, store, spread, killed.step)

    assert done[killed.number].losses == 1
    assert done[killed.number].attempt == 2
    assert done[killed.number].holder != killed.holder
    others = [shard for number, shard in done.items() if number != killed.number]
    assert {(shard.losses, shard.attempt) for shard in others} == {(0, 1)}

    job = wait(client, fleet, spread)
    assert job["status"] == "succeeded", fleet.logs()
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"]
    report = client.get(f"/v1/jobs/{spread}/report").json()
    assert report["shards"] == {"asked": 8, "lost": 1}
    history = client.get(f"/v1/jobs/{spread}/events").json()["data"]
    told = [EventView.read(event).shard_loss for event in history if event["type"] == "shard"]
    assert [(one.operation, one.shard, one.shards, one.worker, one.why) for one in told if one is not None] == [
        ("encode", killed.number + 1, 8, killed.holder, "lost")
    ]

    alone = wait(client, fleet, post(client, corpus, 1, seed))
    assert alone["status"] == "succeeded", fleet.logs()
    assert_same_figures(report, client.get(alone["links"]["report"]).json())
    assert store.shards.of(spread) == []
    deadline = time.monotonic() + 10
    while list((data / "shards").glob("job_*")):
        assert time.monotonic() < deadline, "the sweeper left files of shards"
        time.sleep(0.1)
