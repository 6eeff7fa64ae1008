"""Many posts of one request at the same moment, to a real server over a real database."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from service.adapters.migrate import upgrade
from service.adapters.sql.job_store import SqlJobStore
from service.ports.jobs import JobFilter
from tests.factories import run_at_once, write_model_files
from tests.hub_server import HubServer, make_services

pytestmark = [pytest.mark.processes, pytest.mark.slow]

POSTS = 200
BODY = {"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "It was a dark and stormy night."}}


def test_two_hundred_posts_with_one_key_make_one_job(tmp_path: Path) -> None:
    write_model_files(tmp_path / "models/acme/tiny")
    url = f"sqlite:///{tmp_path}/jobs.db"
    upgrade(url)
    store = SqlJobStore(url, lambda: datetime.now(UTC))
    limits = httpx.Limits(max_connections=None)  # each post has one of its own
    with (
        HubServer(replace(make_services(tmp_path), store=store)) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=120, limits=limits, trust_env=False) as client,
    ):

        def post(_: int) -> httpx.Response:
            return client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "nightly"})

        answers = run_at_once(POSTS, post)
        jobs = SqlJobStore(url, lambda: datetime.now(UTC)).page(JobFilter(), 10, None).jobs
        last = post(0)

    assert len(jobs) == 1
    told = Counter((answer.status_code, answer.headers.get("idempotent-replayed")) for answer in answers)
    assert told[202, None] == 1
    assert set(told) <= {(202, None), (202, "true"), (409, None)}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"request_in_flight"}
    assert {answer.json()["id"] for answer in [*answers, last] if answer.status_code == 202} == {jobs[0].id}
    assert last.headers["idempotent-replayed"] == "true"
