"""Signing in with a browser: the cookie, where it comes from, and how it ends."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from service.records.callers import Key, Scope, digest_of, new_secret

SAME = {"Sec-Fetch-Site": "same-origin"}
TEXT = {"content": "words", "headers": {"Content-Type": "text/plain"}}


@pytest.fixture
def closed(services: Services) -> Services:
    return replace(services, is_open=False)


@pytest.fixture
def browser(closed: Services) -> Iterator[TestClient]:
    with TestClient(create_app(closed)) as client:
        yield client


@pytest.fixture
def secret(services: Services) -> str:
    key_id, secret = new_secret()
    scopes = frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE})
    services.keys.add(Key(key_id, "test", "team-a", scopes, services.clock()), digest_of(secret))
    return secret


def upload(client: TestClient, **headers: str) -> int:
    return client.post("/v1/corpora", content="words", headers={"Content-Type": "text/plain"} | headers).status_code


def test_a_browser_signs_in_and_out(browser: TestClient, secret: str) -> None:
    assert browser.get("/session").json() == {"open": False, "owner": None, "key_id": None, "scopes": []}
    assert browser.get("/v1/jobs").status_code == 401

    answer = browser.post("/session", json={"key": secret}, headers=SAME)
    assert answer.json()["owner"] == "team-a"
    assert answer.json()["scopes"] == ["jobs:read", "jobs:write"]
    assert browser.get("/session").json() == answer.json()
    assert browser.get("/v1/jobs").status_code == 200
    token = browser.cookies["headroom_session"]
    assert token not in secret
    assert secret not in str(answer.headers)

    assert browser.delete("/session", headers=SAME).status_code == 204
    assert "headroom_session" not in browser.cookies
    assert browser.get("/v1/jobs", headers={"Cookie": f"headroom_session={token}"}).status_code == 401


def test_the_cookie_is_for_this_site_and_no_script(closed: Services, secret: str) -> None:
    for base, secure in (("http://host", False), ("https://host", True)):
        with TestClient(create_app(closed), base_url=base) as browser:
            answer = browser.post("/session", json={"key": secret})
        cookie = [part.strip().lower() for part in answer.headers["set-cookie"].split(";")]
        assert {"httponly", "samesite=strict", "path=/"} <= set(cookie)
        assert ("secure" in cookie) is secure
        assert answer.headers["cache-control"] == "no-store"
        assert any(part.startswith("max-age=431") for part in cookie)


def test_a_wrong_key_opens_no_session(browser: TestClient, secret: str) -> None:
    answer = browser.post("/session", json={"key": secret + "x"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "set-cookie" not in answer.headers
    assert browser.post("/session", json={"key": secret, "more": 1}).status_code == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME, 201),
        ({"Origin": "http://testserver"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://testserver:8000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({}, 403),
    ],
)
def test_a_cookie_changes_things_only_from_our_own_pages(
    browser: TestClient, secret: str, headers: dict[str, str], status: int
) -> None:
    browser.post("/session", json={"key": secret}, headers=SAME)
    assert upload(browser, **headers) == status
    assert browser.get("/v1/jobs", headers=headers).status_code == 200


def test_a_key_in_the_header_needs_no_origin_and_goes_before_the_cookie(browser: TestClient, secret: str) -> None:
    assert upload(browser, Authorization=f"Bearer {secret}", Origin="http://elsewhere") == 201
    browser.post("/session", json={"key": secret}, headers=SAME)
    assert browser.get("/v1/jobs", headers={"Authorization": "Bearer hr_bad"}).status_code == 401


def test_no_page_of_another_site_signs_a_browser_in_or_out(browser: TestClient, secret: str) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert browser.post("/session", json={"key": secret}, headers=elsewhere).status_code == 403
    assert browser.delete("/session", headers=elsewhere).status_code == 403


def test_an_open_server_needs_no_session_and_still_refuses_other_sites(client: TestClient) -> None:
    everything = ["admin", "artifacts:read", "jobs:read", "jobs:write"]
    local = {"open": True, "owner": "local", "key_id": None, "scopes": everything}
    assert client.get("/session").json() == local
    answer = client.post("/session", json={"key": "anything"})
    assert (answer.json(), "set-cookie" in answer.headers) == (local, False)
    assert client.get("/v1/jobs", headers={"Authorization": "Bearer hf_of_another_hub"}).status_code == 200
    assert upload(client) == 201
    assert upload(client, **SAME) == 200
    assert upload(client, Origin="http://evil.example") == 403
