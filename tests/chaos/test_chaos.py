"""Many small jobs on two workers and two API processes, while the machine takes away what it can. `make chaos`.

Not part of `make test`. HEADROOM_CHAOS_SEED replays a run's order of faults, HEADROOM_CHAOS_JOBS and
HEADROOM_CHAOS_SECONDS bound it. Taken away are any process (API, worker, a job's own, sweeper, broker), the messages
of the broker, the room on the disk, and a worker's time, so that its leases lapse. Prints one JSON object at its end.
"""

import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from sqlalchemy import func, select

from headroom.local import broker
from service.adapters.migrate import upgrade
from service.adapters.sql.database import Database
from service.adapters.sql.tables import jobs as jobs_table
from tests.fleet import Fleet, children_of, free_port
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.chaos, pytest.mark.postgresql, pytest.mark.timeout(3000)]

JOBS = int(os.environ.get("HEADROOM_CHAOS_JOBS", "200"))
SECONDS = float(os.environ.get("HEADROOM_CHAOS_SECONDS", "1500"))
SEED = int(os.environ.get("HEADROOM_CHAOS_SEED", str(secrets.randbelow(10**6))))
LEASE_SECONDS = 6.0
PAUSE_SECONDS = (1.0, 6.0)  # between two faults
FULL_SECONDS = 4.0
DISK_BYTES = (300 << 20) + JOBS * (8 << 20)  # a job publishes 5 MB, most of them its page: only faults may fill it
FINAL = {"succeeded", "failed", "canceled", "rejected"}
# What a fault may end a job with. Anything else is a defect.
EXCUSED = {"worker_lost", "disk_full"}
TIMES = {
    "HEADROOM_LEASE_SECONDS": str(LEASE_SECONDS),
    "HEADROOM_HEARTBEAT_SECONDS": "1",
    "HEADROOM_RETRY_PAUSE_SECONDS": "0.2",
    "HEADROOM_SWEEP_SECONDS": "0.5",
    "HEADROOM_RESEND_AFTER_SECONDS": "5",
    "HEADROOM_MAX_ATTEMPTS": "6",
    "HEADROOM_THREADS": "1",
    "HEADROOM_HUB_ENDPOINT": "",
}
OPTIONS = {"calibration_tokens": 256, "evaluation_tokens": 256, "window": 32, "continuations": 0, "compare": []}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class World:
    """The service as a team runs it, and the faults that befall it."""

    def __init__(self, folder: Path, disk: Path, database_url: str) -> None:
        self.data, self.disk = disk / "data", disk
        self.database_url = database_url
        make_tiny_checkpoint(self.data / "models" / "acme" / "tiny")
        self.socket = broker.socket_path(folder)
        self.broker_folder = folder / "redis"
        self.broker_folder.mkdir()
        environment = TIMES | {
            "HEADROOM_DATABASE_URL": database_url,
            "HEADROOM_BROKER_URL": broker.broker_url(self.socket),
        }
        self.fleet = Fleet(folder, environment, shared=self.data)
        self.ports = {"api-a": free_port(), "api-b": free_port()}
        self.faults: Counter[str] = Counter()
        for name in ("broker", *self.ports, "worker-a", "worker-b", "sweeper"):
            self.start(name)

    def start(self, name: str) -> None:
        if name == "broker":
            self.fleet.start(name, broker.command(broker.find_program(), self.socket, self.broker_folder))
        elif name in self.ports:
            self.fleet.module(name, "api.main", "--port", str(self.ports[name]))
        elif name == "sweeper":
            self.fleet.module(name, "workers.sweeper")
        else:
            self.fleet.module(name, "workers.main", "--hostname", f"{name}-{secrets.token_hex(3)}@%h")

    def kill(self, name: str) -> None:
        """Kill a program with all that it started, and start it again."""
        process = self.fleet.processes[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        self.start(name)

    def kill_a_job(self, chance: random.Random) -> None:
        """One process that computes a job, if any does."""
        found = []
        for name in ("worker-a", "worker-b"):
            for process in children_of(self.fleet.processes[name]):
                try:
                    if "workers.processes.job_process" in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.Error:
                    continue
        if found:
            chance.choice(found).kill()

    def empty_broker(self) -> None:
        redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5).flushall()

    def fill_disk(self) -> None:
        """Full for a while, then free again."""
        ballast = self.disk / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                while file.write(b"x" * 65536):
                    pass
        except OSError:
            pass
        time.sleep(FULL_SECONDS)
        ballast.unlink(missing_ok=True)

    def stop_the_clock(self, name: str) -> None:
        """A worker that does nothing for longer than its lease, and then goes on as if nothing had been."""
        everything = [self.fleet.processes[name], *children_of(self.fleet.processes[name])]
        for process in everything:
            _tell(process, signal.SIGSTOP)
        time.sleep(1.5 * LEASE_SECONDS)
        for process in everything:
            _tell(process, signal.SIGCONT)

    def befall(self, chance: random.Random) -> str:
        workers = ("worker-a", "worker-b")
        faults: dict[str, Callable[[], None]] = {
            "api killed": lambda: self.kill(chance.choice(list(self.ports))),
            "worker killed": lambda: self.kill(chance.choice(workers)),
            "job killed": lambda: self.kill_a_job(chance),
            "sweeper killed": lambda: self.kill("sweeper"),
            "broker killed": lambda: self.kill("broker"),
            "broker emptied": self.empty_broker,
            "disk full": self.fill_disk,
            "lease lapsed": lambda: self.stop_the_clock(chance.choice(workers)),
        }
        name = chance.choice(list(faults))
        try:
            faults[name]()
        except redis.RedisError:
            name = f"{name} (the broker was away)"
        self.faults[name] += 1
        return name


def _tell(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def world(tmp_path: Path, disk: Path, empty_postgresql_url: str) -> Iterator[World]:
    upgrade(empty_postgresql_url)
    made = World(tmp_path, disk, empty_postgresql_url)
    try:
        wait_until_answering(made)
        yield made
    finally:
        made.fleet.stop()
        broker.remove_socket(made.socket, tmp_path)


def wait_until_answering(world: World) -> None:
    """Workers too. The disk is smaller than a server wants one to be."""
    deadline = time.monotonic() + 120
    with client_of(world, "api-a") as http:
        while True:
            try:
                if http.get("/readyz", params={"exclude": "disk"}).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, world.fleet.logs()
            time.sleep(0.2)


def client_of(world: World, name: str) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{world.ports[name]}", timeout=30, trust_env=False)


def asked(world: World, chance: random.Random, method: str, path: str, **given: Any) -> httpx.Response:
    """Ask either API until one answers with anything but that something is away. A POST has its Idempotency-Key."""
    deadline = time.monotonic() + 240
    while True:
        name = chance.choice(list(world.ports))
        try:
            with client_of(world, name) as http:
                answer = http.request(method, path, **given)
            if answer.status_code not in (409, 503, 507) or path.endswith("/cancel"):
                return answer
            assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
        except httpx.TransportError:
            pass  # killed while it answered
        assert time.monotonic() < deadline, world.fleet.logs()
        time.sleep(0.3)


def post_all(world: World, corpus: str, posted: list[str]) -> None:
    chance = random.Random(SEED + 1)
    for number in range(JOBS):
        options = OPTIONS | {"seed": number}
        body = {
            "model": "acme/tiny",
            "ratio": 0.5,
            "corpus": corpus,
            "drift": {"perplexity": 10, "kl": None},
            "options": options,
        }
        headers = {"Idempotency-Key": f"chaos-{SEED}-{number}"}
        answer = asked(world, chance, "POST", "/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        posted.append(answer.json()["id"])
        time.sleep(chance.uniform(0.0, 0.5 * SECONDS / JOBS))


def all_jobs(world: World, chance: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    after: str | None = None
    while True:
        page = asked(
            world, chance, "GET", "/v1/jobs", params={"limit": 100} | ({"after": after} if after else {})
        ).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        after = page["data"][-1]["id"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system and stops processes as Linux does")
def test_every_job_ends_once_whatever_is_taken_away(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    begun, chance, posted = time.monotonic(), random.Random(SEED), list[str]()
    with capsys.disabled():
        sys.stdout.write(f"\nHEADROOM_CHAOS_SEED={SEED} HEADROOM_CHAOS_JOBS={JOBS}\n")
    text = " ".join(random.Random(0).choices(["the", "head", "of", "a", "model", "is", "wide"], k=4_000))
    made = asked(world, chance, "POST", "/v1/corpora", content=text, headers={"Content-Type": "text/plain"})
    poster = threading.Thread(target=post_all, args=(world, made.json()["id"], posted), daemon=True)
    poster.start()
    while poster.is_alive() and time.monotonic() - begun < SECONDS:
        world.befall(chance)
        time.sleep(chance.uniform(*PAUSE_SECONDS))
    poster.join(300)
    assert len(posted) == JOBS

    jobs = wait_for_all(world, random.Random(SEED + 2), begun)
    assert jobs.keys() == set(posted), "a job was lost, or made twice"
    for job_id, job in jobs.items():
        assert_ended_once(world, job_id, job)
    assert_nothing_is_held(world)
    files = sum(assert_files_are_whole(world, job_id) for job_id, job in jobs.items() if job["status"] == "succeeded")
    figures = {
        "seed": SEED,
        "jobs": JOBS,
        "seconds": round(time.monotonic() - begun),
        "statuses": Counter(job["status"] for job in jobs.values()),
        "errors": Counter(job["error"]["code"] for job in jobs.values() if job["error"]),
        "attempts": sum(len(job["attempts"]) for job in jobs.values()),
        "faults": world.faults,
        "files_checked": files,
    }
    with capsys.disabled():
        sys.stdout.write(f"{json.dumps(figures)}\n")
    errors = {job_id: job["error"] for job_id, job in jobs.items() if job["error"]}
    ours = {job_id: error for job_id, error in errors.items() if error["code"] not in EXCUSED}
    assert not ours, f"{ours}\n{world.fleet.logs()}"
    assert figures["statuses"]["succeeded"] >= 0.8 * JOBS


def wait_for_all(world: World, chance: random.Random, begun: float) -> dict[str, Any]:
    while True:
        jobs = all_jobs(world, chance)
        if all(job["status"] in FINAL for job in jobs.values()):
            return jobs
        states = Counter(job["status"] for job in jobs.values())
        assert time.monotonic() - begun < SECONDS + 900, f"{states}\n{world.fleet.logs()}"
        time.sleep(1.0)


def assert_ended_once(world: World, job_id: str, job: dict[str, Any]) -> None:
    """Events are numbered from 1 without gap or repetition, and exactly one of them is an end: the job's own."""
    chance = random.Random(job_id)
    events = asked(world, chance, "GET", f"/v1/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    ends = [
        event["data"]["status"] for event in events if event["type"] == "status" and event["data"]["status"] in FINAL
    ]
    assert ends == [job["status"]], f"{job_id}: {ends}"


def assert_nothing_is_held(world: World) -> None:
    database = Database(world.database_url)
    try:
        with database.reading() as connection:
            held = connection.execute(select(func.count()).where(jobs_table.c.lease_until.is_not(None))).scalar_one()
    finally:
        database.close()
    assert held == 0
    deadline = time.monotonic() + 60  # the sweeper removes what the dead left
    while left := list(world.data.glob("artifacts/staging/*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def assert_files_are_whole(world: World, job_id: str) -> int:
    chance = random.Random(job_id)
    listed = asked(world, chance, "GET", f"/v1/jobs/{job_id}/files").json()["data"]
    assert {"config.json", "model.safetensors", "headroom.json"} <= {file["path"] for file in listed}
    for file in listed:
        content = asked(world, chance, "GET", f"/v1/jobs/{job_id}/files/{file['path']}").content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    return len(listed)
