"""`headroom serve` on a file system that fills up: it answers all the while, and goes on by itself."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.test_embedded_server import SHORT, TIMES, Served
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

TEXT = {"Content-Type": "text/plain"}
FULL_SECONDS = 12.0  # a supervisor that gives up after five deaths had done so by then
PATIENCE_SECONDS = 60.0  # more than the longest pause before a dead program is started again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            os.fsync(file.fileno())
    return ballast


def test_a_server_on_a_full_disk_answers_and_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TIMES.items():
        monkeypatch.setenv(name, value)
    make_tiny_checkpoint(tmp_path / "models" / "acme" / "tiny")
    served = Served(small_disk / "data", tmp_path / "models")
    try:
        http = served.service.http
        assert served.service.wait_for_end(served.service.post(SHORT))["status"] == "succeeded"
        ballast = fill(small_disk)
        statuses = set()
        until = time.monotonic() + FULL_SECONDS
        while time.monotonic() < until:
            assert http.get("/livez").status_code == 200
            body = {"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "the head of a model " * 2000}}
            statuses.add(http.post("/v1/jobs", json=body).status_code)
            statuses.add(http.post("/v1/corpora", content=os.urandom(3000).hex(), headers=TEXT).status_code)
            time.sleep(0.5)
        assert statuses & {503, 507}
        assert statuses <= {201, 202, 503, 507}, statuses

        ballast.unlink()

        job_id = _post_when_possible(served)
        assert served.service.wait_for_end(job_id)["status"] == "succeeded"
        assert http.get("/readyz", params={"exclude": "disk"}).status_code == 200
    finally:
        served.service.http.close()
        served.stop()


def _post_when_possible(served: Served) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return served.service.post(SHORT)
        except (AssertionError, KeyError, httpx.HTTPError):
            assert time.monotonic() < deadline, "no job could be posted although there is room"
            time.sleep(0.5)
