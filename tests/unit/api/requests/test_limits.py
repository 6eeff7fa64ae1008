import http.client
import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.app import create_app
from api.dependencies import Services
from service.foundation.errors import DiskFull

JSON = {"content-type": "application/json"}


def test_a_body_over_the_cap_is_refused_when_it_is_announced(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/jobs", content=b" " * (services.max_body_bytes + 1), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_chunked_body_over_the_cap_is_refused_while_it_comes(client: TestClient, services: Services) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for number in range(100):
            sent.append(number)
            yield b" " * 1000

    answer = client.post("/v1/jobs", content=chunks(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_body_at_the_cap_is_read(client: TestClient, services: Services) -> None:
    body = json.dumps({"model": "acme/tiny", "corpus": {"text": "a b"}}).encode()
    answer = client.post("/v1/jobs", content=body.ljust(services.max_body_bytes), headers=JSON)
    assert answer.status_code == 202


def test_an_upload_has_a_cap_of_its_own(client: TestClient, services: Services) -> None:
    headers = {"content-type": "text/plain"}
    big = b"word " * (services.max_body_bytes // 2)
    assert client.post("/v1/corpora", content=big, headers=headers).status_code == 201
    answer = client.post("/v1/corpora", content=b"x" * (services.max_corpus_bytes + 1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("asked", ["abc", "a.b_c-9", "x" * 128])
def test_a_request_id_is_echoed(client: TestClient, asked: str) -> None:
    assert client.get("/livez", headers={"x-request-id": asked}).headers["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "a b", "x" * 129, "a\tb", "<script>"])
def test_a_request_id_that_is_not_plain_is_replaced(client: TestClient, asked: str) -> None:
    given = client.get("/livez", headers={"x-request-id": asked}).headers["x-request-id"]
    assert given != asked
    assert len(given) == 32


def test_what_nobody_expected_is_a_500_with_a_request_id_and_no_insides(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(services.store, "several", broken)
    answer = client.get("/v1/jobs/job_1", headers={"x-request-id": "trace-me"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "trace-me"
    assert "secret" not in answer.text
    assert "trace-me" in caplog.text
    assert "secret detail" in caplog.text


def test_a_full_disk_is_told_as_such(client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no space left on the disk while storing the corpus; free some and try again")

    monkeypatch.setattr(services.corpora, "add", full)
    answer = client.post("/v1/corpora", content=b"a", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")


@pytest.fixture
def address(services: Services) -> Iterator[tuple[str, int]]:
    """A real server on loopback."""
    server = uvicorn.Server(uvicorn.Config(create_app(services), port=0, log_level=logging.WARNING))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


def test_a_real_server_refuses_an_endless_upload(address: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.putrequest("POST", "/v1/corpora")
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(1000):
            connection.send(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
    except OSError:
        pass  # the server has hung up, as it should
    else:
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "body_too_large")
    connection.close()
    assert _get(address, "/livez") == 200


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(address: tuple[str, int], services: Services) -> None:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.putrequest("POST", "/v1/corpora")
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", "50000")
    connection.endheaders()
    connection.send(b"only the beginning")
    incoming = services.data_dir / "corpora/incoming"
    _wait_until(lambda: any(incoming.glob("*")))
    connection.close()
    _wait_until(lambda: not any(incoming.glob("*")))
    assert services.corpora.all() == []
    assert _get(address, "/livez") == 200


def _wait_until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _get(address: tuple[str, int], path: str) -> int:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status
