"""What docker-compose.yml starts works together: its own commands and health checks, on real stores, with keys."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headroom.local import broker
from tests.compose_stack import ROOT, ComposeStack
from tests.debian_packages import ensure_installed
from tests.postgresql_server import PostgresqlServer, find_programs
from tests.s3_server import S3Server
from tests.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

JOB: dict[str, Any] = {
    "model": "acme/tiny",
    "ratio": 0.5,
    "corpus": {"text": "the head of a model is wide " * 3000},
    "drift": {"perplexity": 10, "kl": None},
    "options": {"calibration_tokens": 2048, "evaluation_tokens": 2048, "window": 64},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine")
    if not ensure_installed("redis-tools"):
        pytest.skip("no redis-cli on this machine, which the broker's health check runs")
    broker.find_program()
    folder = tmp_path_factory.mktemp("compose")
    make_tiny_checkpoint(folder / "models/acme/tiny")
    with PostgresqlServer(programs) as postgres, S3Server(folder / "objects.log") as objects:
        running = ComposeStack(folder, folder / "models", postgres, objects)
        try:
            running.up()
            yield running
        finally:
            running.down()


@pytest.fixture(scope="module")
def client(stack: ComposeStack) -> Iterator[httpx.Client]:
    """With a key made as the head of the compose file says."""
    (command,) = [line for line in (ROOT / "docker-compose.yml").read_text().splitlines() if "keys create" in line]
    words = command.partition("exec api ")[2].rstrip(")").split()
    made = stack.execute("api", *words)
    assert made.returncode == 0, made.stderr
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30, trust_env=False) as running:
        yield running


def finish(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 450
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["finished"]:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


def test_every_service_becomes_healthy_by_its_own_check(stack: ComposeStack) -> None:
    for name in ("postgres", "redis", "api", "worker", "sweeper"):
        stack.wait_until_healthy(name)


def test_the_settings_of_a_service_pass_the_check(stack: ComposeStack) -> None:
    checked = stack.execute("api", "headroom", "config", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    secret = (Path(stack.environment("api")["HEADROOM_DATABASE_PASSWORD_FILE"])).read_text()
    assert len(secret) == 48
    assert secret not in checked.stdout


def test_nobody_gets_in_without_a_key(stack: ComposeStack) -> None:
    assert httpx.get(f"{stack.url}/v1/jobs", trust_env=False).status_code == 401


def test_a_job_goes_through_and_its_files_can_be_had(stack: ComposeStack, client: httpx.Client) -> None:
    posted = client.post("/v1/jobs", json=JOB)
    assert posted.status_code == 202, posted.text
    ended = finish(client, posted.json()["id"])
    assert ended["status"] == "succeeded", ended
    listed = client.get(f"/v1/jobs/{ended['id']}/files").json()["data"]
    assert "headroom.json" in {file["path"] for file in listed}
    assert client.get(f"/v1/jobs/{ended['id']}/files/headroom.json").status_code == 200
    requests = stack.log("objects")
    assert re.search(rf"PUT /headroom/\S*{ended['id']}", requests), "it was published to the object store"


def test_a_health_check_fails_once_its_service_is_gone(stack: ComposeStack) -> None:
    for name in ("worker", "sweeper"):
        assert stack.stop(name) == 0
    assert not stack.is_healthy("worker")
    long_ago = time.time() - 120
    os.utime(Path(stack.environment("sweeper")["TMPDIR"]) / "alive", (long_ago, long_ago))
    assert not stack.is_healthy("sweeper")


def test_an_api_that_is_told_to_stop_ends_in_order(stack: ComposeStack) -> None:
    assert stack.is_healthy("api")
    assert stack.stop("api") == 0
    assert not stack.is_healthy("api")
