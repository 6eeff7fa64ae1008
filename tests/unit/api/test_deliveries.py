"""Webhooks over HTTP: what is accepted, that a secret is shown once at most, and what is told of deliveries."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from headroom.contract.answers.job import Status
from service.ports.models import LocalModel
from service.publishing.manifest import describe_artifact
from tests.factories import add_job, claim_job, make_recipe

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def body(**webhook: Any) -> dict[str, Any]:
    text = {"text": "It was a dark and stormy night."}
    return {"model": "acme/tiny", "ratio": 0.5, "corpus": text, "webhook": {"url": "https://example.org/x"} | webhook}


def test_a_secret_that_was_made_is_shown_once(client: TestClient) -> None:
    posted = client.post("/v1/jobs", json=body()).json()
    secret = posted["webhook"].pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert posted["webhook"]["events"] == ["job.succeeded", "job.failed", "job.rejected", "job.canceled"]
    assert client.get(f"/v1/jobs/{posted['id']}").json() == posted
    assert secret not in client.get("/v1/jobs").text


def test_a_secret_of_the_clients_own_is_never_shown(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/jobs", json=body(secret=SECRET))
    job = answer.json()
    client.post(f"/v1/jobs/{job['id']}/cancel")
    pages = [client.get(f"/v1/jobs/{job['id']}{path}").text for path in ("", "/events", "/deliveries")]
    assert SECRET not in "".join([answer.text, *pages])
    ((_, webhook),) = services.store.webhooks.claim_due(1, 60)
    assert webhook.secret == SECRET


def test_no_file_of_an_artifact_names_the_webhook(tmp_path: Any, services: Services) -> None:
    job = add_job(services.store, recipe=make_recipe(webhook={"url": "https://example.org/x", "secret": SECRET}))
    told = describe_artifact(job, LocalModel("acme/tiny", None, tmp_path), {"report.json": "0"})
    assert "example.org" not in str(told)


@pytest.mark.parametrize(
    "webhook",
    [
        {"url": "ftp://example.org/"},
        {"url": "https://user:pass@example.org/"},
        {"url": "https://example.org/#x"},
        {"url": "https:///x"},
        {"url": "https://example.org:99999/"},
        {"url": "https://exa mple.org/"},
        {"url": "https://example.org/\u00e9"},
        {"url": "https://example.org/a\r\nX: y"},
        {"secret": "whsec_short"},
        {"secret": "whsec_" + "!" * 40},
        {"secret": SECRET.removeprefix("whsec_")},
        {"events": []},
        {"events": ["job.exploded"]},
        {"token": "x"},
    ],
)
def test_a_webhook_that_is_wrong_is_refused(client: TestClient, webhook: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json=body(**webhook))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"].startswith("webhook")


def test_a_webhook_without_tls_needs_a_network_that_is_allowed(client: TestClient, services: Services) -> None:
    for query in ("", "?validate_only=true"):
        answer = client.post(f"/v1/jobs{query}", json=body(url="http://example.org/x"))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_webhook")
    with TestClient(create_app(replace(services, may_tell_plainly=True)), base_url="http://localhost") as other:
        assert other.post("/v1/jobs", json=body(url="http://example.org/x")).status_code == 202


def test_deliveries_are_listed_and_sent_once_more(client: TestClient, services: Services) -> None:
    job = add_job(services.store, recipe=make_recipe(webhook={"url": "https://example.org/x", "secret": SECRET}))
    address = f"/v1/jobs/{job.id}/deliveries"
    assert client.get(address).json() == {"data": []}
    claim_job(services.store, job.id)
    services.store.finish(job.id, 1, Status.SUCCEEDED, None, None)

    (delivery,) = client.get(address).json()["data"]
    assert (delivery["number"], delivery["type"], delivery["status"]) == (1, "job.succeeded", "pending")
    assert (delivery["attempts"], delivery["error"], delivery["replay_of"]) == (0, None, None)
    again = client.post(f"{address}/1/replay")
    assert again.status_code == 202
    assert (again.json()["number"], again.json()["replay_of"]) == (2, 1)
    assert again.json()["message_id"] == delivery["message_id"]
    missing = client.post(f"{address}/9/replay")
    assert (missing.status_code, missing.json()["code"]) == (404, "delivery_not_found")
    assert client.get("/v1/jobs/job_none/deliveries").json()["code"] == "job_not_found"


def test_the_backlog_is_in_the_metrics(client: TestClient, services: Services) -> None:
    job = add_job(services.store, recipe=make_recipe(webhook={"url": "https://example.org/x", "secret": SECRET}))
    services.store.request_cancel(job.id)
    assert "headroom_webhook_backlog 1.0" in client.get("/metrics").text
