"""Deliveries reach what is public or allowed, and nothing else, however it is disguised."""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import pytest

from service.adapters.remote import outward_http
from service.adapters.remote.outward_http import AddressRefused, OutwardHttp, check_address
from service.records.webhooks import Outcome

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    seen: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, body))
            if self.path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
                return
            self.send_response(int(self.path.strip("/")))
            self.send_header("Location", "/200")
            self.end_headers()
            if self.path == "/200":
                try:
                    for _ in range(1000):
                        self.wfile.write(bytes(1 << 20))  # an answer without end is not read
                except OSError:
                    seen.append(("cut", b""))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.DELIVERED),
        (204, Outcome.DELIVERED),
        (302, Outcome.FAILED),
        (404, Outcome.FAILED),
        (410, Outcome.GONE),
        (500, Outcome.FAILED),
    ],
)
def test_the_status_decides_and_redirects_are_not_followed(receiver: Any, status: int, outcome: Outcome) -> None:
    url, seen = receiver
    attempt = OutwardHttp(LOOPBACK).post(f"{url}/{status}", {"webhook-id": "msg_1"}, "é".encode())
    assert (attempt.outcome, attempt.response_status) == (outcome, status)
    assert seen[0] == (f"/{status}", "é".encode())
    assert "/200" not in [path for path, _ in seen[1:]]


def test_a_receiver_that_trickles_is_left_at_the_deadline(receiver: Any) -> None:
    url, _ = receiver
    begun = time.monotonic()
    attempt = OutwardHttp(LOOPBACK, seconds=0.5).post(f"{url}/slow", {}, b"{}")
    assert (attempt.outcome, attempt.response_status) == (Outcome.FAILED, None)
    assert time.monotonic() - begun < 2


def test_nobody_listening_is_a_failed_attempt() -> None:
    attempt = OutwardHttp(LOOPBACK).post("http://127.0.0.1:9/", {}, b"{}")
    assert (attempt.outcome, attempt.response_status) == (Outcome.FAILED, None)
    assert attempt.error


REFUSED = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),
    *("224.0.0.1", "255.255.255.255", "192.0.0.192", "168.63.129.16", "198.18.0.1", "240.0.0.1"),
    *("::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(address, [], is_plain=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_reached_by_tls_only(address: str) -> None:
    check_address(address, [], is_plain=False)
    with pytest.raises(AddressRefused, match="https"):
        check_address(address, [], is_plain=True)


def test_an_allowed_network_is_reached_also_in_disguise() -> None:
    allowed = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        check_address(address, allowed, is_plain=True)
    with pytest.raises(AddressRefused):
        check_address("192.168.1.1", allowed, is_plain=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_not_reached_under_any_spelling(receiver: Any, host: str) -> None:
    url, seen = receiver
    port = url.rpartition(":")[2]
    for scheme in ("http", "https"):
        attempt = OutwardHttp([]).post(f"{scheme}://{host}:{port}/200", {}, b"{}")
        assert attempt.outcome is Outcome.REFUSED, attempt
    assert seen == []


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers something public first and loopback after that gains nothing."""
    answers = iter(["8.8.8.8", "127.0.0.1"])
    connected: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(_: Any, host: str, *__: Any) -> Any:
        connected.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(outward_http.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    attempt = OutwardHttp([]).post("https://rebinding.example/", {}, b"{}")
    assert attempt.outcome is Outcome.FAILED
    assert connected == ["8.8.8.8"]


def test_one_refused_address_makes_the_whole_name_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(outward_http.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", lambda *_: pytest.fail("it connects"))
    assert OutwardHttp([]).post("https://mixed.example/", {}, b"{}").outcome is Outcome.REFUSED
