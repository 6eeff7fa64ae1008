"""Who may do what over HTTP. Keys are real; the stores are in memory."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.routing import Mount

from api.app import create_app
from api.dependencies import Services
from service.foundation.errors import StoreUnavailable
from service.records.callers import Key, Scope, digest_of, new_secret
from service.records.job import Job
from tests.hub_server import publish

TEXT = {"text": "It was a dark and stormy night."}
USER = frozenset(Scope) - {Scope.ADMIN}
# What anybody may ask: each of these needs a reason in docs/operations.md.
PUBLIC = {"/livez", "/readyz", "/metrics", "/session", "/openapi.json", "/docs"} | {
    *("/", "/new", "/models", "/jobs/{job_id}", "/login")  # pages without data, whose scripts ask /v1
}


@pytest.fixture
def services(services: Services) -> Services:
    return replace(services, is_open=False)


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://localhost") as client:
        yield client


def key(services: Services, owner: str, scopes: frozenset[Scope] = USER) -> dict[str, str]:
    """The header of a new key."""
    key_id, secret = new_secret()
    services.keys.add(Key(key_id, "test", owner, scopes, services.clock()), digest_of(secret))
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text("{}")
    return tmp_path / "source"


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route, also of routers within routers."""
    for route in app.routes:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router)
        elif not isinstance(route, Mount):  # files of the package's own
            yield from ((method, route.path) for method in getattr(route, "methods", None) or {"GET"})


def ask(client: TestClient, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    json_body = {"json": {}} if method in {"POST", "PUT", "PATCH"} else {}
    return client.request(method, re.sub(r"\{[^}]*\}", "x", path), headers=headers, **json_body)


def test_every_route_that_is_not_public_wants_a_key(client: TestClient) -> None:
    found = set(routes(client.app))
    assert PUBLIC <= {path for _, path in found}
    wanting = {(method, path) for method, path in found if path not in PUBLIC}
    assert {("POST", "/v1/jobs"), ("DELETE", "/v1/corpora/{corpus_id}"), ("GET", "/hub/api/whoami-v2")} <= wanting
    for method, path in sorted(wanting):
        answer = ask(client, method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)


def test_every_route_of_the_api_wants_a_scope_too(client: TestClient, services: Services) -> None:
    bare = key(services, "a", frozenset())
    for method, path in sorted(routes(client.app)):
        if path.startswith("/v1/"):
            answer = ask(client, method, path, bare)
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or answer.json()["code"] == "forbidden", (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer hr_0123456789abcdef_" + "A" * 43},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Cookie": "headroom_session=unknown"},
    ],
)
def test_without_a_valid_key_the_answer_is_401(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/v1/jobs", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="headroom"'


def test_a_missing_scope_is_named(client: TestClient, services: Services) -> None:
    reader = key(services, "a", frozenset({Scope.JOBS_READ}))
    assert client.get("/v1/jobs", headers=reader).status_code == 200
    answer = client.post("/v1/jobs", headers=reader, json={"model": "acme/tiny", "corpus": TEXT})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "jobs:write" in answer.json()["detail"]


def test_a_revoked_key_is_refused_at_once(client: TestClient, services: Services) -> None:
    header = key(services, "a")
    assert client.get("/v1/jobs", headers=header).status_code == 200
    services.keys.revoke(services.keys.all()[0].id)
    assert client.get("/v1/jobs", headers=header).status_code == 401


def test_a_database_that_is_away_is_no_refusal(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    header = key(services, "a")
    monkeypatch.setattr(services.keys, "find", away)
    assert client.get("/v1/jobs", headers=header).status_code == 503


def test_what_others_have_is_answered_like_what_is_not_there(
    client: TestClient, services: Services, folder: Path
) -> None:
    theirs, mine = key(services, "a"), key(services, "b")
    corpus = client.post("/v1/corpora", content="words", headers=theirs | {"Content-Type": "text/plain"}).json()["id"]
    job = publish(services, folder, owner="a", publish={"repo": "acme/slim"})
    etag = client.get(f"/v1/jobs/{job.id}", headers=theirs).headers["etag"]
    gone = {job.id: "job_" + "f" * 32, corpus: "corpus_" + "f" * 32, "acme/slim": "acme/gone"}
    asked = [
        ("GET", f"/v1/jobs/{job.id}"),
        ("POST", f"/v1/jobs/{job.id}/cancel"),
        ("GET", f"/v1/jobs/{job.id}/events"),
        ("GET", f"/v1/jobs/{job.id}/report"),
        ("GET", f"/v1/jobs/{job.id}/files"),
        ("GET", f"/v1/jobs/{job.id}/files/config.json"),
        ("GET", f"/v1/jobs?after={job.id}"),
        ("GET", f"/v1/corpora/{corpus}"),
        ("DELETE", f"/v1/corpora/{corpus}"),
        ("GET", "/hub/api/models/acme/slim"),
        ("GET", "/hub/api/models/acme/slim/tree/main"),
        ("GET", "/hub/acme/slim/resolve/main/config.json"),
    ]
    starred = {"If-None-Match": "*", "X-Request-Id": "r"} | mine
    assert client.get(f"/v1/jobs/{job.id}", headers=starred).status_code == 404
    for method, path in asked:
        answers = []
        for foreign, missing in [("", ""), *gone.items()]:
            answer = client.request(
                method, path.replace(foreign, missing), headers=mine | {"If-None-Match": etag, "X-Request-Id": "r"}
            )
            text = answer.text
            for name, other in gone.items():
                text = text.replace(other, name)
            told = {key: value for key, value in answer.headers.items() if "length" not in key}
            told = {key: value.replace("acme/gone", "acme/slim") for key, value in told.items()}
            answers.append((answer.status_code, text, told))
        assert answers[0][0] == 404, path
        assert answers.count(answers[0]) == len(answers), path
        expected = 404 if method == "GET" and "report" in path else 200
        assert method != "GET" or client.get(path, headers=theirs).status_code == (
            409 if "report" in path else expected
        ), path
    assert client.get("/v1/jobs", headers=mine).json()["data"] == []
    assert client.get("/v1/corpora", headers=mine).json() == {"data": []}
    outputs = client.get("/v1/models", headers=mine).json()["data"]
    assert [model["kind"] for model in outputs] == ["local"]
    posted = client.post("/v1/jobs", headers=mine, json={"model": "acme/tiny", "ratio": 0.5, "corpus": corpus})
    assert (posted.status_code, posted.json()["code"]) == (404, "corpus_not_found")


def test_an_admin_sees_everything_and_jobs_tell_their_owner(
    client: TestClient, services: Services, folder: Path
) -> None:
    job = publish(services, folder, owner="a", publish={"repo": "acme/slim"})
    admin = key(services, "root", frozenset({Scope.ADMIN}))
    assert [found["owner"] for found in client.get("/v1/jobs", headers=admin).json()["data"]] == ["a"]
    assert client.get(f"/v1/jobs/{job.id}/files/config.json", headers=admin).status_code == 200
    assert client.get("/hub/acme/slim/resolve/main/config.json", headers=admin).status_code == 200


def test_two_owners_of_one_text_do_not_take_it_from_each_other(client: TestClient, services: Services) -> None:
    owners = [key(services, name) for name in ("a", "b")]
    plain = {"Content-Type": "text/plain"}
    first, second = (client.post("/v1/corpora", content="words", headers=owner | plain) for owner in owners)
    assert (first.status_code, second.status_code) == (201, 201)  # the second hears nothing of the first
    again = client.post("/v1/corpora", content="words", headers=owners[0] | plain)
    assert (again.status_code, again.json()) == (200, first.json())
    address = first.headers["location"]

    assert client.delete(address, headers=owners[0]).status_code == 204
    assert client.get(address, headers=owners[0]).status_code == 404
    assert client.get(address, headers=owners[1]).json() == second.json()
    assert client.delete(address, headers=owners[1]).status_code == 204
    assert services.corpora.all() == []


def test_ones_own_job_keeps_a_text_and_anothers_does_not(client: TestClient, services: Services) -> None:
    owners = [key(services, name) for name in ("a", "b")]
    posted = client.post(
        "/v1/jobs", json={"model": "acme/tiny", "ratio": 0.5, "corpus": TEXT}, headers=owners[0]
    ).json()
    address = f"/v1/corpora/{posted['corpus']}"
    client.post("/v1/corpora", content=TEXT["text"], headers=owners[1] | {"Content-Type": "text/plain"})

    assert client.delete(address, headers=owners[1]).status_code == 204
    assert client.delete(address, headers=owners[0]).json()["code"] == "corpus_in_use"
    assert client.post(f"{posted['links']['self']}/cancel", headers=owners[0]).status_code == 202
    assert client.delete(address, headers=owners[0]).status_code == 204


def test_an_admin_takes_a_text_from_everybody(client: TestClient, services: Services) -> None:
    user, admin = key(services, "a"), key(services, "root", frozenset({Scope.ADMIN}))
    plain = {"Content-Type": "text/plain"}
    address = client.post("/v1/corpora", content="words", headers=user | plain).headers["location"]
    assert client.delete(address, headers=admin).status_code == 204
    assert client.get(address, headers=user).status_code == 404
    assert services.corpora.all() == []


@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_a_repository_of_another_owner_is_refused_at_submission(
    client: TestClient, services: Services, folder: Path, query: str
) -> None:
    publish(services, folder, owner="a", publish={"repo": "acme/slim"})
    body = {"model": "acme/tiny", "ratio": 0.5, "corpus": TEXT, "publish": {"repo": "acme/slim"}}
    answer = client.post(f"/v1/jobs{query}", json=body, headers=key(services, "b"))
    assert (answer.status_code, answer.json()["code"]) == (409, "repository_taken")
    assert services.corpora.all() == []
    assert client.post(f"/v1/jobs{query}", json=body, headers=key(services, "a")).status_code in (200, 202)


def test_the_hub_refuses_in_its_own_words(client: TestClient, services: Services, job_in_hub: Job) -> None:
    info = "/hub/api/models/acme/slim"
    bad = client.get(info, headers={"Authorization": "Bearer hf_unknown"})
    assert (bad.status_code, bad.headers["x-error-code"]) == (401, "RepoNotFound")
    assert bad.headers["x-error-message"] == "Invalid credentials in Authorization header"
    assert bad.headers["www-authenticate"].startswith("Bearer")
    assert "error" in bad.json()
    none = client.get(info)
    assert (none.status_code, none.headers["x-error-code"]) == (401, "RepoNotFound")
    lacking = client.get(info, headers=key(services, "a", frozenset({Scope.JOBS_READ})))
    assert lacking.status_code == 403
    assert "artifacts:read" in lacking.headers["x-error-message"]
    good = key(services, "a", frozenset({Scope.ARTIFACTS_READ}))
    assert client.get(info, headers=good).status_code == 200
    assert client.get("/hub/api/whoami-v2", headers=good).json()["name"] == "a"


@pytest.fixture
def job_in_hub(services: Services, folder: Path) -> Job:
    return publish(services, folder, owner="a", publish={"repo": "acme/slim"})


def test_no_key_stands_in_an_answer_or_a_record(client: TestClient, services: Services) -> None:
    header = key(services, "a")
    secret = header["Authorization"].split()[1]
    answers = [client.get("/v1/jobs", headers=header), client.get("/session", headers=header)]
    assert all(secret not in answer.text + json.dumps(dict(answer.headers)) for answer in answers)
    assert secret not in repr(services.keys.all()) + repr(services.keys.find(services.keys.all()[0].id))
