import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.dependencies import Services
from headroom.contract.answers.job import JobError, Phase, Status
from service.records.job import Job
from tests.factories import make_job, make_recipe
from tests.in_memory.job_store import MemoryJobStore
from tests.reports import make_report

TEXT = {"text": "It was a dark and stormy night."}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "acme/tiny", "ratio": 0.5, "corpus": TEXT} | fields


def running(services: Services, **fields: Any) -> Job:
    job = make_job(**fields)
    services.store.add(job)
    claimed = services.store.claim(job.id, "worker-1", 60)
    assert claimed is not None
    return claimed


def test_a_posted_job_is_queued_and_told_with_its_address(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/jobs", json=body(labels={"team": "a"}))

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job["status"] == "queued"
    assert job["model"] == {"id": "acme/tiny", "revision": None}
    assert job["corpus"].startswith("corpus_")
    assert (job["ratio"], job["method"], job["labels"]) == (0.5, "probability", {"team": "a"})
    assert job["drift"] == {"perplexity": 0.01, "kl": 0.01} | dict.fromkeys(("top1", "rare_perplexity", "group_gap"))
    assert job["created"].endswith("Z")
    assert services.queue.sent == [job["id"]]  # type: ignore[attr-defined]
    assert client.get(job["links"]["self"]).json() == job


def test_inline_text_is_stored_as_a_corpus(client: TestClient, services: Services) -> None:
    corpus_id = client.post("/v1/jobs", json=body()).json()["corpus"]
    assert services.corpora.path(corpus_id).read_text() == TEXT["text"]
    assert client.post("/v1/jobs", json=body(corpus=corpus_id)).status_code == 202


def test_a_job_is_accepted_while_the_broker_is_away(client: TestClient, services: Services) -> None:
    services.queue.away = True  # type: ignore[attr-defined]
    answer = client.post("/v1/jobs", json=body())
    assert answer.status_code == 202
    assert services.store.due_outbox(60, 10) == [answer.json()["id"]]


def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back(client: TestClient, services: Services) -> None:
    services.store.away = True  # type: ignore[attr-defined]
    answer = client.post("/v1/jobs", json=body())
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ratio": 0}, "body"),
        ({"ratio": 1}, "ratio"),
        ({"ratio": -0.5}, "ratio"),
        ({"ratio": "0.3"}, "ratio"),
        ({"ratio": True}, "ratio"),
        ({"ratio": None}, "ratio"),
        ({"model": "acme/../tiny"}, "model.id"),
        ({"model": "../tiny"}, "model.id"),
        ({"model": "tiny"}, "model.id"),
        ({"model": {"id": "acme/tiny", "path": "/etc"}}, "model.path"),
        ({"corpus": "corpus_x"}, "corpus"),
        ({"corpus": {"text": ""}}, "corpus.text"),
        ({"bogus": 1}, "bogus"),
        ({"kind": "melt"}, "kind"),
        ({"method": "magic"}, "method"),
        ({"labels": {"a b": "x"}}, "body"),
        ({"options": {"window": 7}}, "options.window"),
        ({"ratios": [0.1, 7]}, "ratios.1"),
        ({"drift": {"perplexity": "1%"}}, "drift.perplexity"),
    ],
)
def test_a_field_that_is_wrong_is_named(client: TestClient, fields: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/jobs", json=body(**fields))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in {error["field"] for error in problem["errors"]}
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "acme/tiny", "ratio": NaN, "corpus": {"text": "a"}}',
        b'{"model": "acme/tiny", "ratio": Infinity, "corpus": {"text": "a"}}',
        b'{"model": "acme/tiny", "ratio": -Infinity, "corpus": {"text": "a"}}',
        b'{"model": "acme/tiny", "ratio": 1e999, "corpus": {"text": "a"}}',
        b'{"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "\\u0000"}}',
        b'{"model": "acme/tiny", "ratio": 0.5, "corpus": {"text": "\\ud800"}}',
        b'{"model": "acme/\\udfff", "ratio": 0.5, "corpus": {"text": "a"}}',
        b'{"\\ud800": 1}',
        b'{"model": "acme/tiny", "model": "acme/tiny"}',
        b"[" * 5000,
        b'{"a":' * 2000,
        b'{"ratio": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
    ],
)
def test_a_hostile_body_is_the_clients_fault_never_ours(client: TestClient, raw: bytes) -> None:
    answer = client.post("/v1/jobs", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed_body", "invalid_request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_does_not_say_it_is_json_is_not_read(client: TestClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post("/v1/jobs", content=json.dumps(body()), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "acme/gone"}, 404, "model_not_found"),
        ({"model": {"id": "acme/tiny", "revision": "v1"}}, 404, "model_not_found"),
        ({"corpus": "corpus_" + "0" * 32}, 404, "corpus_not_found"),
        ({"corpus": {"text": " \n "}}, 422, "corpus_empty"),
    ],
)
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_what_a_job_names_must_exist_also_in_a_dry_run(
    client: TestClient, services: Services, fields: dict[str, Any], status: int, code: str, query: str
) -> None:
    answer = client.post(f"/v1/jobs{query}", json=body(**fields))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert services.queue.sent == []  # type: ignore[attr-defined]
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_dry_run_tells_what_a_job_would_take_and_stores_nothing(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/jobs?validate_only=true", json=body())
    assert answer.status_code == 200
    told = answer.json()
    assert told["valid"] is True
    assert told["model"]["id"] == "acme/tiny"
    assert told["model"]["dtype"] == "float32"
    assert told["head"] == {"vocab_size": 32, "hidden_size": 16, "tied": False, "bytes": 2048}
    assert told["estimate"]["kept_columns"] == 8
    assert told["estimate"]["seconds"] > 0
    assert told["estimate"]["memory_bytes"] > told["model"]["bytes"]
    assert 0 < told["estimate"]["least_memory_bytes"] < told["estimate"]["memory_bytes"]
    assert client.get("/v1/jobs").json()["data"] == []
    assert services.corpora.all() == []


def test_a_misspelt_option_starts_no_job(client: TestClient) -> None:
    answer = client.post("/v1/jobs?validateonly=true", json=body())
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "validateonly"
    assert client.get("/v1/jobs").json()["data"] == []


def test_an_unchanged_job_costs_no_body_and_a_changed_one_does(client: TestClient, services: Services) -> None:
    job = running(services)
    first = client.get(f"/v1/jobs/{job.id}")
    etag = first.headers["etag"]
    assert not etag.startswith("W/")

    again = client.get(f"/v1/jobs/{job.id}", headers={"if-none-match": f'"other", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)

    services.store.report_progress(job.id, job.attempt, Phase.ENCODING, 0.3)
    changed = client.get(f"/v1/jobs/{job.id}", headers={"if-none-match": etag})
    assert (changed.status_code, changed.json()["phase"]) == (200, "encoding")
    assert changed.headers["etag"] != etag


def test_a_condition_opens_no_job_that_is_away_or_not_there(client: TestClient, services: Services) -> None:
    job = running(services)
    for condition in ("*", f'"{"job_" + "f" * 32}.0"'):
        missing = client.get("/v1/jobs/job_" + "f" * 32, headers={"if-none-match": condition})
        assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")
    assert client.get(f"/v1/jobs/{job.id}", headers={"if-none-match": "*"}).status_code == 304
    assert isinstance(services.store, MemoryJobStore)
    services.store.away = True
    assert client.get(f"/v1/jobs/{job.id}", headers={"if-none-match": "*"}).status_code == 503


def test_a_heartbeat_is_no_change(client: TestClient, services: Services) -> None:
    job = running(services)
    etag = client.get(f"/v1/jobs/{job.id}").headers["etag"]
    services.store.heartbeat(job.id, job.attempt, 60)
    assert client.get(f"/v1/jobs/{job.id}", headers={"if-none-match": etag}).status_code == 304


def test_a_failed_job_tells_why_and_which_attempt(client: TestClient, services: Services) -> None:
    job = running(services)
    error = JobError("unsupported_head", "The head scales its logits.", Phase.ENCODING)
    services.store.finish(job.id, job.attempt, Status.FAILED, None, error)
    told = client.get(f"/v1/jobs/{job.id}").json()
    assert told["error"] == {
        "code": "unsupported_head",
        "message": "The head scales its logits.",
        "phase": "encoding",
    }
    assert told["attempts"][0]["worker"] == "worker-1"
    assert told["finished"] is not None


def test_the_end_is_estimated_once_a_phase_has_ended(client: TestClient, services: Services) -> None:
    job = running(services)
    assert client.get(f"/v1/jobs/{job.id}").json()["estimated_finish"] is None
    services.store.report_progress(job.id, job.attempt, Phase.FETCHING, 0.5)
    services.store.report_progress(job.id, job.attempt, Phase.ENCODING, 0.1)
    first = client.get(f"/v1/jobs/{job.id}").json()
    assert first["estimated_finish"] > first["started"]
    assert client.get(f"/v1/jobs/{job.id}").json() == first


@pytest.mark.parametrize("path", ["", "/events", "/report", "/files", "/files/config.json"])
@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nope", "%00", "%ff%fe", "a" * 5000, "%2e%2e", "%ED%A0%80"])
def test_a_job_that_is_not_there_is_not_found(client: TestClient, job_id: str, path: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}{path}")
    assert (answer.status_code, answer.json()["code"]) in ((404, "job_not_found"), (404, "not_found"))


def test_jobs_are_listed_newest_first_in_pages(client: TestClient) -> None:
    ids = [client.post("/v1/jobs", json=body()).json()["id"] for _ in range(5)]
    first = client.get("/v1/jobs?limit=3").json()
    assert [job["id"] for job in first["data"]] == ids[:1:-1]
    assert first["has_more"] is True
    second = client.get(f"/v1/jobs?limit=3&after={first['data'][-1]['id']}").json()
    assert [job["id"] for job in second["data"]] == ids[1::-1]
    assert second["has_more"] is False


def test_jobs_are_filtered(client: TestClient, services: Services) -> None:
    blue = make_job(recipe=make_recipe(labels={"team": "blue", "env": "x"}))
    red = make_job(recipe=make_recipe(labels={"team": "red"}, model="acme/other"))
    for job in (blue, red):
        services.store.add(job)
    services.store.claim(red.id, "w", 60)

    def found(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/v1/jobs?{query}").json()["data"]]

    assert found("labels[team]=blue") == [blue.id]
    assert found("labels[team]=blue&labels[env]=y") == []
    assert found("labels%5Bteam%5D=red") == [red.id]
    assert found("status=running") == [red.id]
    assert found("model=acme/tiny") == [blue.id]
    assert found("kind=steer") == []
    assert len(found("kind=compress")) == 2


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "status=melted", "stauts=running", "labels[a b]=x", "labels=x"]
)
def test_a_filter_that_makes_no_sense_lists_nothing(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_page_after_an_unknown_job_is_not_found(client: TestClient) -> None:
    assert client.get("/v1/jobs?after=job_gone").status_code == 404


def test_a_queued_job_is_canceled_at_once_and_asking_again_is_fine(client: TestClient, services: Services) -> None:
    job_id = client.post("/v1/jobs", json=body()).json()["id"]
    first = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["status"]) == (202, "canceled")
    assert services.queue.revoked == [job_id]  # type: ignore[attr-defined]
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "canceled")


def test_a_running_job_is_told_to_stop(client: TestClient, services: Services) -> None:
    job = running(services)
    assert client.post(f"/v1/jobs/{job.id}/cancel").json()["status"] == "canceling"
    assert client.post(f"/v1/jobs/{job.id}/cancel").status_code == 200


def test_a_finished_job_cannot_be_canceled(client: TestClient, services: Services) -> None:
    job = running(services)
    services.store.finish(job.id, job.attempt, Status.SUCCEEDED, {}, None)
    answer = client.post(f"/v1/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")


def test_events_are_numbered_and_read_in_pieces(client: TestClient, services: Services) -> None:
    job = running(services)
    services.store.report_progress(job.id, job.attempt, Phase.FETCHING, 0.1)
    services.store.report_progress(job.id, job.attempt, Phase.ENCODING, 0.2)
    everything = client.get(f"/v1/jobs/{job.id}/events").json()
    assert [event["number"] for event in everything["data"]] == list(range(1, len(everything["data"]) + 1))
    assert everything["has_more"] is False
    piece = client.get(f"/v1/jobs/{job.id}/events?after=1&limit=1").json()
    assert piece == {"data": everything["data"][1:2], "has_more": True}
    assert client.get(f"/v1/jobs/{job.id}/events?after=-1").status_code == 422


def test_the_report_is_there_once_measured_also_for_a_rejected_job(client: TestClient, services: Services) -> None:
    job = running(services)
    early = client.get(f"/v1/jobs/{job.id}/report")
    assert (early.status_code, early.json()["code"]) == (409, "report_not_ready")
    services.store.save_report(job.id, job.attempt, {"curve": [1, 2]})
    services.store.finish(job.id, job.attempt, Status.REJECTED, None, None)
    assert client.get(f"/v1/jobs/{job.id}/report").json() == {"curve": [1, 2]}


def test_a_browser_gets_the_report_as_a_page_that_may_load_nothing(client: TestClient, services: Services) -> None:
    job = running(services)
    services.store.save_report(job.id, job.attempt, make_report(drifts={0.5: 0.004}, chosen=0.5))

    page = client.get(f"/v1/jobs/{job.id}/report", headers={"Accept": "text/html,*/*;q=0.8"})

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "acme/tiny" in page.text
    assert client.get(f"/v1/jobs/{job.id}/report").json()["kind"] == "compress"
