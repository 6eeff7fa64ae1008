from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.dependencies import Services
from service.foundation.errors import RequestInFlight
from service.ports.jobs import JobFilter
from service.records.receipts import KeyedRequest
from tests.in_memory.job_store import MemoryJobStore

BODY = {"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "It was a dark and stormy night."}}


def post(client: TestClient, key: str, query: str = "", **fields: Any) -> httpx.Response:
    return client.post(f"/v1/jobs{query}", json=BODY | fields, headers={"Idempotency-Key": key})


def count(services: Services) -> int:
    return len(services.store.page(JobFilter(), 100, None).jobs)


def test_the_same_request_again_is_answered_as_the_first_time(client: TestClient, services: Services) -> None:
    first = post(client, "k")
    services.store.request_cancel(first.json()["id"])
    again = client.post(
        "/v1/jobs",
        content=b'{"corpus": {"text": "It was a dark and stormy night."}, "ratio":0.50, "model": {"id": "acme/tiny"}}',
        headers={"Idempotency-Key": "k", "Content-Type": "application/json"},
    )

    assert (first.status_code, "idempotent-replayed" in first.headers) == (202, False)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert count(services) == 1


def test_another_request_with_the_key_is_refused(client: TestClient, services: Services) -> None:
    post(client, "k")
    answer = post(client, "k", ratio=0.4)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert post(client, "k-2", ratio=0.4).status_code == 202
    assert count(services) == 2


def test_a_request_in_flight_is_a_409(client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: KeyedRequest) -> None:
        raise RequestInFlight("wait")

    monkeypatch.setattr(services.store, "reserve", busy)
    answer = post(client, "k")
    assert (answer.status_code, answer.json()["code"]) == (409, "request_in_flight")


def test_a_refusal_is_not_kept(client: TestClient, services: Services) -> None:
    assert post(client, "k", model="acme/gone").status_code == 404
    assert post(client, "k").status_code == 202


def test_a_database_that_goes_away_keeps_nothing(client: TestClient, services: Services) -> None:
    assert isinstance(services.store, MemoryJobStore)
    services.store.away = True
    assert post(client, "k").status_code == 503
    services.store.away = False
    assert post(client, "k").status_code == 202
    assert count(services) == 1


def test_a_dry_run_uses_no_key_up(client: TestClient) -> None:
    assert post(client, "k", "?validate_only=true").status_code == 200
    assert post(client, "k", ratio=0.4).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "two words"])
def test_an_odd_key_is_refused(client: TestClient, key: str) -> None:
    assert post(client, key).status_code == 422
