import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from api.routes import health
from headroom.contract.answers.job import Status
from tests.factories import make_job


def test_liveness_asks_nobody(client: TestClient, services: Services) -> None:
    services.store.away = services.queue.away = True  # type: ignore[attr-defined]
    assert client.get("/livez").json() == {"status": "ok"}


def test_a_service_whose_parts_all_answer_is_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 1)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert set(answer.json()["checks"]) == {"database", "broker", "storage", "disk", "workers"}


@pytest.mark.parametrize("part", ["database", "broker", "disk", "workers"])
def test_a_service_with_a_part_missing_is_not_ready_and_says_which(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 10**18 if part == "disk" else 1)
    services.store.away = part == "database"  # type: ignore[attr-defined]
    services.queue.away = part == "broker"  # type: ignore[attr-defined]
    if part == "workers":
        services.queue._workers = 0  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    checks = answer.json()["checks"]
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert not checks[part]["ok"]
    assert all(check["ok"] for name, check in checks.items() if name not in (part, "workers"))


def test_a_load_balancer_leaves_out_what_jobs_can_wait_for(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MIN_FREE_BYTES", 1)
    services.queue.away = True  # type: ignore[attr-defined]
    answer = client.get("/readyz?exclude=broker&exclude=workers")
    assert (answer.status_code, set(answer.json()["checks"])) == (200, {"database", "storage", "disk"})
    services.store.away = True  # type: ignore[attr-defined]
    assert client.get("/readyz?exclude=broker&exclude=workers").status_code == 503
    assert client.get("/readyz?exclude=everything").status_code == 422


def test_a_process_that_was_told_to_stop_is_not_ready_but_alive(client: TestClient, services: Services) -> None:
    services.draining.set()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["checks"]["draining"]["ok"]
    assert client.get("/livez").status_code == 200


def test_models_are_those_at_hand_and_those_made(client: TestClient, services: Services) -> None:
    job = make_job()
    services.store.add(job)
    services.store.claim(job.id, "w", 60)
    services.store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
    assert client.get("/v1/models").json() == {
        "data": [
            {"id": "acme/tiny", "kind": "local", "job_id": None, "repository": None},
            {"id": "acme/tiny", "kind": "output", "job_id": job.id, "repository": job.repository},
        ]
    }


def test_the_openapi_document_describes_jobs_and_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"Problem", "CompressRecipe", "JobView"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    submit = document["paths"]["/v1/jobs"]["post"]
    assert set(submit["responses"]) == {"200", "202", "default"}
    assert "application/problem+json" in document["components"]["responses"]["Problem"]["content"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]


def test_every_reference_of_the_openapi_document_resolves(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    for reference in references(document):
        section, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][section], reference


def test_the_store_is_closed_when_the_server_stops(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(services.store, "close", lambda: closed.append(True))
    with TestClient(create_app(services), base_url="http://localhost"):
        assert not closed
    assert closed


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("10.0.0.7:8000", 403),
        ("[::1", 403),
    ],
)
def test_an_open_server_answers_to_names_of_this_machine_alone(client: TestClient, host: str, status: int) -> None:
    assert client.get("/v1/jobs", headers={"Host": host}).status_code == status
    assert client.get("/livez", headers={"Host": host}).status_code == 200
