"""Retries and failures, against a server of scripted answers."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headroom.client.connection import Connection
from headroom.errors import FieldError, HeadroomError, InvalidArgument, ServerUnreachable

PROBLEM = {
    "type": "about:blank",
    "title": "Invalid request",
    "status": 422,
    "detail": "One field is wrong.",
    "code": "invalid_request",
    "request_id": "req_1",
    "errors": [{"field": "ratio", "message": "must be below 1"}],
}


@dataclass
class Script:
    """Answers in order; None breaks the connection instead."""

    url: str = ""
    answers: list[tuple[int, str] | None] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def script() -> Iterator[Script]:
    state = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append({key.lower(): value for key, value in self.headers.items()})
            answer = state.answers.pop(0)
            if answer is None:
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def connection(script: Script) -> Iterator[Connection]:
    connection = Connection(script.url + "/", "secret", timeout=5.0, pauses=(0.001, 0.001))
    yield connection
    connection.close()


def test_a_broken_get_is_sent_again(script: Script, connection: Connection) -> None:
    script.answers = [None, None, (200, "{}")]
    assert connection.json("GET", "/v1/jobs") == {}


def test_a_get_that_stays_broken_is_told(script: Script, connection: Connection) -> None:
    script.answers = [None, None, None]
    with pytest.raises(ServerUnreachable, match="broke"):
        connection.json("GET", "/v1/jobs")


def test_a_broken_post_is_not_sent_twice(script: Script, connection: Connection) -> None:
    script.answers = [None, (200, "{}")]
    with pytest.raises(ServerUnreachable):
        connection.json("POST", "/v1/jobs")
    assert len(script.seen) == 1


def test_a_post_with_a_key_is_sent_again_until_it_is_answered(script: Script, connection: Connection) -> None:
    script.answers = [None, (409, '{"code": "request_in_flight", "title": "wait"}'), (202, "{}")]
    assert connection.json("POST", "/v1/jobs", headers={"Idempotency-Key": "k"}) == {}
    assert [seen["idempotency-key"] for seen in script.seen] == ["k"] * 3

    script.answers = [(409, '{"code": "job_finished", "title": "over"}')]
    with pytest.raises(HeadroomError, match="job_finished"):
        connection.json("POST", "/v1/jobs", headers={"Idempotency-Key": "k"})


def test_nobody_listening_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    connection = Connection(f"http://127.0.0.1:{port}", None, timeout=5.0, pauses=())
    with pytest.raises(ServerUnreachable, match=str(port)):
        connection.json("GET", "/livez")
    connection.close()


def test_a_problem_becomes_an_error_with_its_code_and_fields(script: Script, connection: Connection) -> None:
    script.answers = [(422, json.dumps(PROBLEM))]
    with pytest.raises(HeadroomError) as caught:
        connection.json("POST", "/v1/jobs")
    error = caught.value
    assert (error.code, error.message, error.status) == ("invalid_request", "One field is wrong.", 422)
    assert (error.request_id, error.errors) == ("req_1", (FieldError("ratio", "must be below 1"),))


@pytest.mark.parametrize("answer", [(404, "<html>"), (502, ""), (400, "[]"), (500, "null"), (200, "<html>")])
def test_a_server_of_another_kind_is_recognised(
    script: Script, connection: Connection, answer: tuple[int, str]
) -> None:
    script.answers = [answer]
    with pytest.raises(HeadroomError) as caught:
        connection.json("GET", "/v1/jobs")
    assert caught.value.code == "unexpected_response"
    assert not caught.value.is_bad_input


def test_the_key_is_sent_as_a_bearer_token(script: Script, connection: Connection) -> None:
    script.answers = [(200, "{}")]
    connection.json("GET", "/v1/jobs")
    assert script.seen[0]["authorization"] == "Bearer secret"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    script.answers = [(200, "{}")]
    connection = Connection(script.url, None, timeout=5.0, pauses=())
    assert connection.json("GET", "/livez") == {}
    connection.close()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "not a url"])
def test_what_is_no_http_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidArgument, match="http://127"):
        Connection(url, None, timeout=5.0)
