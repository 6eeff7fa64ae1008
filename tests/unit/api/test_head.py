"""HEAD is GET without a body, wherever there is GET."""

import pytest
from fastapi.testclient import TestClient

from tests.unit.api.test_jobs import body


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/", "/v1/jobs", "/v1/models", "/metrics", "/openapi.json", "/v1/jobs/job_0"]
)
def test_head_says_what_get_says_and_sends_nothing(client: TestClient, path: str) -> None:
    got, asked = client.get(path), client.head(path)

    assert asked.status_code == got.status_code
    assert asked.content == b""
    assert asked.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # it counts requests
        assert asked.headers.get("content-length") == got.headers.get("content-length")


def test_head_of_a_job_has_its_etag_and_of_its_events_ends(client: TestClient) -> None:
    job = client.post("/v1/jobs", json=body()).json()["id"]
    client.post(f"/v1/jobs/{job}/cancel")

    asked = client.head(f"/v1/jobs/{job}")
    events = client.head(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})

    assert asked.headers["etag"] == client.get(f"/v1/jobs/{job}").headers["etag"]
    assert client.head(f"/v1/jobs/{job}", headers={"If-None-Match": asked.headers["etag"]}).status_code == 304
    assert (events.status_code, events.content) == (200, b"")


def test_head_where_nothing_can_be_got_stays_refused(client: TestClient) -> None:
    assert client.head("/v1/nothing").status_code == 404
    assert client.head("/v1/jobs/job_0/cancel").status_code == 405
