"""Rate limits, quotas and deleting jobs, over HTTP."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from service.adapters.remote.rate_limits import RateLimits
from service.records.callers import Key, Scope, digest_of, new_secret
from service.records.quotas import Quotas
from tests.hub_server import publish

TEXT = {"text": "It was a dark and stormy night."}
BODY = {"model": "acme/tiny", "ratio": 0.5, "corpus": TEXT}
PLAIN = {"Content-Type": "text/plain"}


@pytest.fixture
def services(services: Services) -> Services:
    limiter = RateLimits("5/hour", "redis://127.0.0.1:9/0")
    return replace(services, is_open=False, limiter=limiter, quotas=Quotas(max_jobs=2, max_bytes=100))


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://localhost") as client:
        yield client


def key(services: Services, owner: str) -> dict[str, str]:
    key_id, secret = new_secret()
    scopes = frozenset(Scope) - {Scope.ADMIN}
    services.keys.add(Key(key_id, "test", owner, scopes, services.clock()), digest_of(secret))
    return {"Authorization": f"Bearer {secret}"}


class TestRateLimits:
    def test_every_answer_tells_what_is_left_and_then_it_is_a_429(self, client: TestClient, services: Services) -> None:
        header = key(services, "a")
        answers = [client.get("/v1/jobs", headers=header) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[0].headers["ratelimit-policy"] == '"owner";q=5;w=3600'
        assert answers[0].headers["ratelimit"].startswith('"owner";r=4;t=')
        last = answers[5]
        assert last.json()["code"] == "rate_limited"
        assert last.headers["content-type"] == "application/problem+json"
        assert last.headers["ratelimit"] == f'"owner";r=0;t={last.headers["retry-after"]}'
        assert 0 < int(last.headers["retry-after"]) <= 3600
        assert client.get("/v1/jobs", headers=key(services, "b")).status_code == 200
        assert client.get("/v1/jobs", headers=key(services, "a")).status_code == 429  # another key of the same owner

    def test_health_and_refused_requests_are_not_counted(self, client: TestClient, services: Services) -> None:
        header = key(services, "a")
        for _ in range(9):
            assert "ratelimit" not in client.get("/livez", headers=header).headers
            assert "ratelimit" not in client.get("/v1/jobs").headers
        assert client.get("/v1/jobs", headers=header).status_code == 200

    def test_the_first_question_of_hub_clients_is_not_counted_and_the_others_are(
        self, client: TestClient, services: Services, tmp_path: Path
    ) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/config.json").write_text("{}")
        publish(services, tmp_path / "source", owner="a", publish={"repo": "acme/slim"})
        header = key(services, "a")
        info = "/hub/api/models/acme/slim"
        assert {client.get(info, headers=header).status_code for _ in range(9)} == {200}
        assert {client.get(f"{info}/revision/main", headers=header).status_code for _ in range(9)} == {200}
        trees = [client.get(f"{info}/tree/main", headers=header) for _ in range(6)]
        assert [tree.status_code for tree in trees] == [200] * 5 + [429]
        assert int(trees[5].headers["retry-after"]) > 0
        assert "error" in trees[5].json()

    def test_huggingface_hub_understands_what_is_left(self, client: TestClient, services: Services) -> None:
        from huggingface_hub.utils import parse_ratelimit_headers

        told = parse_ratelimit_headers(client.get("/v1/jobs", headers=key(services, "a")).headers)
        assert told is not None
        assert (told.remaining, told.limit, told.window_seconds) == (4, 5, 3600)


class TestQuotas:
    @pytest.fixture
    def services(self, services: Services) -> Services:
        return replace(services, limiter=None)

    def test_as_many_jobs_as_allowed_wait_and_one_more_is_refused(self, client: TestClient, services: Services) -> None:
        header = key(services, "a")
        jobs = [client.post("/v1/jobs", json=BODY, headers=header) for _ in range(3)]
        assert [job.status_code for job in jobs] == [202, 202, 409]
        assert jobs[2].json()["code"] == "quota_exceeded"
        assert "cancel" in jobs[2].json()["detail"]
        assert client.post("/v1/jobs", json=BODY, headers=key(services, "b")).status_code == 202
        client.post(f"{jobs[0].headers['location']}/cancel", headers=header)
        assert client.post("/v1/jobs", json=BODY, headers=header).status_code == 202

    def test_a_corpus_over_the_quota_is_refused_and_not_kept(self, client: TestClient, services: Services) -> None:
        header = key(services, "a") | PLAIN

        def upload(size: int, sign: str) -> httpx.Response:
            return client.post("/v1/corpora", content=sign * size, headers=header)

        first = upload(60, "a")
        assert first.status_code == 201
        refused = upload(41, "b")
        assert (refused.status_code, refused.json()["code"]) == (409, "quota_exceeded")
        assert len(services.corpora.all()) == 1
        assert upload(40, "c").status_code == 201
        assert upload(1, "d").json()["code"] == "quota_exceeded"
        assert (
            client.post("/v1/jobs", json=BODY, headers=header | {"Content-Type": "application/json"}).status_code == 409
        )
        assert client.delete(first.headers["location"], headers=header).status_code == 204
        assert upload(1, "d").status_code == 201

    def test_deleting_a_job_makes_room(self, client: TestClient, services: Services, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/config.json").write_text("{}" * 100)
        job = publish(services, tmp_path / "source", owner="a", publish={"repo": "acme/slim"})
        header, other = key(services, "a"), key(services, "b")
        assert client.post("/v1/jobs", json=BODY, headers=header).json()["code"] == "quota_exceeded"
        assert client.delete(f"/v1/jobs/{job.id}", headers=other).json()["code"] == "job_not_found"
        assert client.get("/hub/api/models/acme/slim", headers=header).status_code == 200

        assert client.delete(f"/v1/jobs/{job.id}", headers=header).status_code == 204
        assert client.get(f"/v1/jobs/{job.id}", headers=header).status_code == 404
        assert client.get("/hub/api/models/acme/slim", headers=header).headers["x-error-code"] == "RepoNotFound"
        assert services.artifacts.files(job.id) == []
        assert client.delete(f"/v1/jobs/{job.id}", headers=header).status_code == 404
        posted = client.post("/v1/jobs", json=BODY, headers=header)
        assert posted.status_code == 202
        kept = client.delete(posted.headers["location"], headers=header)
        assert (kept.status_code, kept.json()["code"]) == (409, "job_not_finished")

    def test_an_upload_of_unknown_length_that_does_not_fit_leaves_nothing(
        self, client: TestClient, services: Services
    ) -> None:
        parts = (b"word " * 10 for _ in range(50))
        refused = client.post("/v1/corpora", content=parts, headers=key(services, "a") | PLAIN)
        assert (refused.status_code, refused.json()["code"]) == (409, "quota_exceeded")
        assert services.corpora.all() == []
        assert services.holds.bytes("a") == 0
