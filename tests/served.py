"""`headroom serve` as a process of its own, killed and started again, and what a user does with it over HTTP."""

import itertools
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

TEXTS = itertools.count()
FINAL = {"succeeded", "failed", "canceled", "rejected"}

Json = dict[str, Any]


class Service:
    """What a user does with a server, over HTTP only."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def post(self, options: Json, words: int = 30_000) -> str:
        """A job on the tiny model that passes any gate, on a text of its own: nothing of it is cached."""
        text = " ".join(random.Random(next(TEXTS)).choices(["the", "head", "of", "a", "model", "is", "wide"], k=words))
        corpus = self.http.post("/v1/corpora", content=text, headers={"Content-Type": "text/plain"})
        body = {
            "model": "acme/tiny",
            "ratio": 0.5,
            "corpus": corpus.json()["id"],
            "drift": {"perplexity": 10, "kl": None},
            "options": options,
        }
        posted = self.http.post("/v1/jobs", json=body)
        assert posted.status_code == 202, posted.text
        return str(posted.json()["id"])

    def job(self, job_id: str) -> Json:
        job: Json = self.http.get(f"/v1/jobs/{job_id}").json()
        return job

    def wait(self, job_id: str, condition: Callable[[Json], bool], pause: float = 0.05) -> Json:
        deadline = time.monotonic() + 120
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"still {job}"
            time.sleep(pause)
        return job

    def wait_for_end(self, job_id: str) -> Json:
        return self.wait(job_id, lambda job: job["status"] in FINAL, pause=0.2)

    def ends(self, job_id: str) -> list[str]:
        """Every final status that the job's history tells of."""
        events = self.http.get(f"/v1/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
        told = [event["data"]["status"] for event in events if event["type"] == "status"]
        return [status for status in told if status in FINAL]


class Served:
    """A `headroom serve` process."""

    def __init__(self, data_dir: Path, models_dir: Path) -> None:
        command = [sys.executable, "-m", "headroom.cli", "serve", "--port", "0"]
        command += ["--data-dir", str(data_dir), "--models-dir", str(models_dir)]
        self.process = psutil.Popen(command, stdout=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        found = re.search(r"http://\S+", line)
        if found is None:
            self.stop()
            raise AssertionError(f"no address in {line!r}")
        self.service = Service(found[0])

    def kill_everything(self) -> None:
        everything = [self.process, *self.process.children(recursive=True)]
        for process in everything:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(everything, timeout=10)

    def stop(self) -> None:
        if self.process.is_running():
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self.process.stdout.close()


class Restarted:
    """`headroom serve` on one data directory, again and again."""

    def __init__(self, data_dir: Path, models_dir: Path) -> None:
        self.data_dir = data_dir
        self._models_dir = models_dir
        self._all: list[Served] = []

    def running(self) -> Served:
        """The one that runs; a new one if the last was killed or stopped."""
        if not self._all or not self._all[-1].process.is_running():
            self._all.append(Served(self.data_dir, self._models_dir))
        return self._all[-1]

    def close(self) -> None:
        for served in self._all:
            served.stop()
            served.service.http.close()
