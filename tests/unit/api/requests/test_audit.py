"""What stands in the audit log after requests, and who may read it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from api.requests.audit import Refusals
from service.foundation.errors import StoreUnavailable
from service.records.audit import AuditEntry, AuditFilter
from service.records.callers import Key, Scope, digest_of, new_secret
from tests.hub_server import publish

TEXT = {"text": "It was a dark and stormy night."}
BODY = {"model": "acme/tiny", "ratio": 0.5, "corpus": TEXT}


@pytest.fixture
def services(services: Services) -> Services:
    return replace(services, is_open=False)


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://localhost") as client:
        yield client


def key(services: Services, *scopes: Scope) -> dict[str, str]:
    key_id, secret = new_secret()
    services.keys.add(Key(key_id, "test", "a", frozenset(scopes), services.clock()), digest_of(secret))
    return {"Authorization": f"Bearer {secret}"}


def entries(services: Services) -> list[AuditEntry]:
    return services.audit.page(AuditFilter(), 100, None).entries


def test_what_changes_something_is_recorded_with_who_what_and_how_it_ended(
    client: TestClient, services: Services
) -> None:
    header = key(services, Scope.JOBS_WRITE, Scope.JOBS_READ) | {"X-Request-Id": "r-1"}
    job = client.post("/v1/jobs", json=BODY, headers=header).headers["location"]
    client.post(f"{job}/cancel", headers=header)
    client.post("/v1/jobs", json=BODY | {"model": "acme/gone"}, headers=header)
    plain = {"Content-Type": "text/plain"}
    corpus = client.post("/v1/corpora", content="words", headers=header | plain).headers["location"]
    client.delete(corpus, headers=header)
    client.delete(corpus, headers=header)
    client.get("/v1/jobs", headers=header)

    told = [(entry.action, entry.object, entry.outcome) for entry in reversed(entries(services))]
    assert told == [
        ("job.post", job, "ok"),
        ("job.cancel", f"{job}/cancel", "ok"),
        ("job.post", "/v1/jobs", "model_not_found"),
        ("corpus.upload", corpus, "ok"),
        ("corpus.delete", corpus, "ok"),
        ("corpus.delete", corpus, "corpus_not_found"),
    ]
    (key_id,) = (key.id for key in services.keys.all())
    assert {(entry.owner, entry.key_id, entry.request_id) for entry in entries(services)} == {("a", key_id, "r-1")}
    assert {entry.address for entry in entries(services)} == {"testclient"}


def test_a_download_is_recorded_once(client: TestClient, services: Services, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text("{}" * 50)
    job = publish(services, tmp_path / "source", owner="a", publish={"repo": "acme/slim"})
    header = key(services, Scope.ARTIFACTS_READ)
    file, in_hub = f"/v1/jobs/{job.id}/files/config.json", "/hub/acme/slim/resolve/main/config.json"
    etag = client.get(file, headers=header).headers["etag"]
    client.get(file, headers=header | {"If-None-Match": etag})
    client.get(file, headers=header | {"Range": "bytes=10-"})
    client.get(file + "x", headers=header)
    client.head(in_hub, headers=header)
    client.get(in_hub, headers=header | {"Range": "bytes=0-9"})
    lacking = key(services, Scope.JOBS_READ)
    assert client.get(in_hub, headers=lacking).status_code == client.get(file, headers=lacking).status_code == 403

    told = [(entry.action, entry.object, entry.outcome) for entry in reversed(entries(services))]
    expected = [(file, "ok"), (in_hub, "ok"), (in_hub, "forbidden"), (file, "forbidden")]
    assert told == [("file.download", *rest) for rest in expected]


def test_refused_authentications_are_recorded_and_bounded(client: TestClient, services: Services) -> None:
    for _ in range(10):
        assert client.get("/v1/jobs").status_code == 401
    (entry,) = entries(services)
    assert (entry.action, entry.outcome, entry.owner, entry.key_id) == ("authenticate", "unauthenticated", None, None)

    refusals = Refusals()
    assert sum(refusals.is_recorded(f"10.0.{n // 250}.{n % 250}", 100.0) for n in range(1000)) == 60
    assert not refusals.is_recorded("10.0.0.1", 119.0)
    assert refusals.is_recorded("10.0.0.1", 121.0)


def test_signing_in_is_recorded_without_the_key(client: TestClient, services: Services) -> None:
    header = key(services, Scope.JOBS_READ)
    secret = header["Authorization"].split()[1]
    client.post("/session", json={"key": secret})
    (entry,) = entries(services)
    assert (entry.action, entry.owner, entry.outcome) == ("session.open", "a", "ok")
    assert secret not in repr(entry)


def test_only_an_admin_reads_the_log(client: TestClient, services: Services) -> None:
    user = key(services, Scope.JOBS_WRITE, Scope.JOBS_READ, Scope.ARTIFACTS_READ)
    admin = key(services, Scope.ADMIN)
    posted = [client.post("/v1/jobs", json=BODY, headers=user).headers["location"] for _ in range(3)]
    assert client.get("/v1/audit", headers=user).status_code == 403

    page = client.get("/v1/audit?limit=2&action=job.post&owner=a", headers=admin).json()
    assert [entry["object"] for entry in page["data"]] == posted[:0:-1]
    assert page["has_more"]
    rest = client.get("/v1/audit", params={"after": page["data"][-1]["number"]}, headers=admin).json()
    assert [entry["object"] for entry in rest["data"]] == posted[:1]
    assert client.get("/v1/audit?owner=b", headers=admin).json() == {"data": [], "has_more": False}


def test_a_log_that_is_away_refuses_nobody_and_is_told(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: AuditEntry) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(services.audit, "append", away)
    assert client.post("/v1/jobs", json=BODY, headers=key(services, Scope.JOBS_WRITE)).status_code == 202
    assert "job.post" in caplog.text
