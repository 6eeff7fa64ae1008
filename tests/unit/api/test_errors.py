import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from api.errors import CATALOGUE, CODE_OF_STATUS, problem
from service.foundation.errors import ServiceError


def every_error(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


@pytest.mark.parametrize("error", sorted(set(every_error()), key=lambda error: error.__name__))
def test_every_error_of_the_service_has_a_row(error: type[ServiceError]) -> None:
    assert CATALOGUE[error.code].status >= 400
    assert CATALOGUE[error.code].title


def test_no_two_errors_share_a_code() -> None:
    leaves = [error for error in every_error() if not error.__subclasses__()]
    assert len({error.code for error in leaves}) == len(leaves)


def test_every_row_is_used() -> None:
    known = {error.code for error in every_error()} | set(CODE_OF_STATUS.values()) | {"http_error"}
    assert set(CATALOGUE) == known


def test_a_problem_carries_what_rfc_9457_and_we_promise(client: TestClient) -> None:
    answer = client.get("/v1/jobs/job_gone", headers={"x-request-id": "abc-1"})
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told == {
        "type": "urn:headroom:error:job_not_found",
        "title": "There is no such job",
        "status": 404,
        "detail": told["detail"],
        "instance": "/v1/jobs/job_gone",
        "code": "job_not_found",
        "request_id": "abc-1",
        "errors": [],
    }
    assert "job_gone" in told["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/v1/corpora", 405, "method_not_allowed"),
    ],
)
def test_http_errors_are_problems_too(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_text_that_utf_8_cannot_carry_is_replaced() -> None:
    scope = {"type": "http", "method": "GET", "path": "/a\ud800", "headers": [], "query_string": b"", "app": FastAPI()}
    answer = problem(Request(scope), "not_found", "b\udfff")
    assert json.loads(bytes(answer.body))["detail"] == "b?"
