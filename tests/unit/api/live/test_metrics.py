from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.dependencies import Services
from headroom.contract.answers.job import Phase, Status
from tests.factories import add_job, add_running_job
from tests.in_memory.job_store import MemoryJobStore


def scraped(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(client: TestClient, name: str, **labels: str) -> float | None:
    return scraped(client).get((name, frozenset(labels.items())))


def test_requests_are_counted_by_route_not_by_path(client: TestClient) -> None:
    client.get("/v1/jobs/job_1")
    client.get("/v1/jobs/job_2")
    client.get("/nowhere/at/all")

    labels = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    assert value(client, "headroom_http_requests_total", **labels, status="404") == 2
    assert value(client, "headroom_http_request_seconds_count", **labels) == 2
    assert value(client, "headroom_http_requests_total", method="GET", route="", status="404") == 1


def test_bytes_sent_are_counted(client: TestClient) -> None:
    sent = len(client.get("/livez").content)
    assert value(client, "headroom_http_sent_bytes_total", route="/livez") == sent


def test_the_queue_and_the_jobs_are_told(client: TestClient, services: Services) -> None:
    add_job(services.store)
    held = add_running_job(services.store)
    services.store.report_progress(held.id, 1, Phase.FETCHING, 1.0)
    services.store.finish(held.id, 1, Status.REJECTED, {}, None)

    assert value(client, "headroom_jobs", kind="compress", status="queued") == 1
    assert value(client, "headroom_queue_depth") == 1
    assert (value(client, "headroom_oldest_queued_seconds") or 0) > 0
    assert value(client, "headroom_ended_jobs_last_hour", kind="compress", status="rejected") == 1
    assert value(client, "headroom_phase_seconds_last_hour", kind="compress", phase="fetching") is not None
    assert (value(client, "headroom_disk_free_bytes") or 0) > 0


def test_a_database_that_is_away_is_told_and_does_not_break_the_page(client: TestClient, services: Services) -> None:
    assert value(client, "headroom_up", part="database") == 1
    assert isinstance(services.store, MemoryJobStore)
    services.store.away = True
    assert value(client, "headroom_up", part="database") == 0
    assert value(client, "headroom_up", part="broker") == 1
