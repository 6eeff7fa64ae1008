"""Files over real connections: sent by the kernel, and in chunks where that cannot be."""

import asyncio
import errno
import http.client
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import uvicorn

from api.answers import downloads, http_protocol
from api.answers.bounded_threads import BoundedThreads
from api.answers.zero_copy import ZeroCopyProtocol
from api.app import create_app
from api.dependencies import Services
from headroom.contract.answers.job import Status
from tests.factories import add_running_job

CONTENT = os.urandom(5 << 20) * 2 + b"the end"


class Published:
    """A file of a job, whose every opening is kept."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        job = add_running_job(services.store)
        (services.artifacts.staging(job.id, 1) / "model.safetensors").write_bytes(CONTENT)
        services.artifacts.publish(job.id, 1)
        services.store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
        self.url = f"/v1/jobs/{job.id}/files/model.safetensors"
        self.opened: list[BinaryIO] = []
        self.wrap: Callable[[BinaryIO], BinaryIO] = lambda file: file
        self._open = services.artifacts.open
        monkeypatch.setattr(services.artifacts, "open", self._keep)
        with self._open(job.id, "model.safetensors") as file:
            self.path = Path(file.name)

    def _keep(self, *arguments: Any) -> BinaryIO:
        self.opened.append(self.wrap(self._open(*arguments)))
        return self.opened[-1]


@pytest.fixture
def published(services: Services, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.setattr(downloads, "PART_BYTES", 4 << 20)
    return Published(services, monkeypatch)


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What os.sendfile has sent, call by call."""
    sent: list[int] = []
    sendfile = os.sendfile

    def counted(*arguments: int) -> int:
        sent.append(sendfile(*arguments))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", counted)
    return sent


@contextmanager
def serving(application: Any, **options: Any) -> Iterator[int]:
    """The port of a server in a thread."""
    options = {"http": ZeroCopyProtocol, "timeout_graceful_shutdown": 1, "log_level": logging.WARNING} | options
    server = uvicorn.Server(uvicorn.Config(application, port=0, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    _wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def port(services: Services) -> Iterator[int]:
    with serving(create_app(services)) as port:
        yield port


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    """One that fills soon, if `receive_buffer` is small."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    return connection


def ask(connection: socket.socket, path: str, *headers: str) -> None:
    connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        with answer:
            return answer, answer.read()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_is_sent_by_the_kernel(port: int, published: Published, by_kernel: list[int]) -> None:
    answer, content = get(port, published.url)
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(CONTENT)))
    assert content == CONTENT
    _wait_until(lambda: sum(by_kernel) == len(CONTENT))  # the last count may come after the last byte
    _wait_until(lambda: published.opened[0].closed)


def test_a_range_is_sent_by_the_kernel(port: int, published: Published, by_kernel: list[int]) -> None:
    first, last = downloads.PART_BYTES - 5, 2 * downloads.PART_BYTES + 5
    answer, content = get(port, published.url, range=f"bytes={first}-{last}")
    assert answer.status == 206
    assert content == CONTENT[first : last + 1]
    _wait_until(lambda: sum(by_kernel) == last + 1 - first)


def test_head_opens_nothing(port: int, published: Published) -> None:
    answer, content = get(port, published.url, "HEAD")
    assert (answer.headers["content-length"], content, published.opened) == (str(len(CONTENT)), b"", [])


def test_requests_sent_at_once_on_one_connection_are_answered_in_turn(port: int, published: Published) -> None:
    with connect(port) as connection:
        ask(connection, published.url)
        ask(connection, published.url, "Range: bytes=3-7")
        ask(connection, "/livez")
        with connection.makefile("rb") as stream:
            bodies = [_read_answer(stream) for _ in range(3)]
    assert bodies[:2] == [CONTENT, CONTENT[3:8]]
    assert bodies[2].startswith(b"{")


def _read_answer(stream: BinaryIO) -> bytes:
    assert stream.readline().startswith(b"HTTP/1.1 20")
    headers = http.client.parse_headers(stream)
    return stream.read(int(headers["content-length"]))


def test_a_download_that_was_cut_goes_on_where_it_ended(port: int, published: Published) -> None:
    with connect(port) as connection:
        ask(connection, published.url)
        with connection.makefile("rb") as stream:
            http.client.parse_headers(stream)
            begun = stream.read(3 << 20)
    etag = get(port, published.url, "HEAD")[0].headers["etag"]
    answer, rest = get(port, published.url, **{"range": f"bytes={len(begun)}-", "if-range": etag})
    assert answer.status == 206
    assert begun + rest == CONTENT


@pytest.mark.parametrize("has_left", ["closed", "reset", "reset with a request waiting", "half closed"])
def test_a_client_that_leaves_in_the_middle_leaves_no_open_file_and_no_error(
    port: int, published: Published, caplog: pytest.LogCaptureFixture, has_left: str
) -> None:
    connection = connect(port, receive_buffer=1 << 16)
    ask(connection, published.url)
    connection.recv(1000)
    _wait_until(lambda: len(published.opened) == 1)
    time.sleep(0.05)  # until the socket is full
    assert not published.opened[0].closed
    if has_left == "reset with a request waiting":
        ask(connection, "/livez")
        time.sleep(0.05)
    if has_left.startswith("reset"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if has_left == "half closed":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    _wait_until(lambda: published.opened[0].closed)
    connection.close()
    assert get(port, "/livez")[0].status == 200
    assert caplog.records == []


def test_what_was_sent_is_counted(port: int, published: Published) -> None:
    get(port, published.url)
    name = 'headroom_http_sent_bytes_total{route="/v1/jobs/{job_id}/files/{path:path}"} '

    def is_counted() -> bool:
        lines = get(port, "/metrics")[1].decode().splitlines()
        return [float(line.removeprefix(name)) for line in lines if line.startswith(name)] == [len(CONTENT)]

    _wait_until(is_counted)


def test_a_file_that_shrank_breaks_the_connection(
    port: int, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    published.path.chmod(0o644)
    os.truncate(published.path, downloads.PART_BYTES + 10)
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(port, published.url)
    assert cut.value.partial == CONTENT[: downloads.PART_BYTES + 10]
    assert "shorter" in caplog.text
    _wait_until(lambda: published.opened[0].closed)


def test_eight_downloads_at_once_are_all_whole_while_others_are_answered(port: int, published: Published) -> None:
    with ThreadPoolExecutor(8) as pool:
        whole = [pool.submit(lambda: get(port, published.url)[1] == CONTENT) for _ in range(16)]
        while not all(each.done() for each in whole):
            assert get(port, "/v1/jobs")[0].status == 200
        assert all(each.result() for each in whole)
    _wait_until(lambda: all(file.closed for file in published.opened))


def test_many_clients_that_do_not_read_take_no_thread_from_others(port: int, published: Published) -> None:
    connections = [connect(port, receive_buffer=1 << 16) for _ in range(60)]
    for connection in connections:
        ask(connection, published.url)
    _wait_until(lambda: len(published.opened) == 60)
    assert get(port, "/v1/jobs")[0].status == 200  # a route that runs in a thread
    assert get(port, published.url)[1] == CONTENT
    for connection in connections:
        connection.close()
    _wait_until(lambda: all(file.closed for file in published.opened))


def test_a_stopped_server_lets_go_of_a_client_that_does_not_read(
    services: Services, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(create_app(services)) as port:
        connection = connect(port, receive_buffer=1 << 16)
        ask(connection, published.url)
        connection.recv(1000)
    connection.close()
    assert published.opened[0].closed
    assert "never retrieved" not in caplog.text


def test_a_file_system_without_sendfile_is_read(
    port: int, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, "not by this file system")

    monkeypatch.setattr(os, "sendfile", refuse)
    assert get(port, published.url)[1] == CONTENT


def test_another_fault_of_a_file_breaks_the_connection(
    port: int, published: Published, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.EIO, "a bad disk")

    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(http.client.IncompleteRead):
        get(port, published.url)
    assert "a bad disk" in caplog.text
    _wait_until(lambda: published.opened[0].closed)


def test_under_a_server_without_the_extension_chunks_are_sent(
    services: Services, published: Published, by_kernel: list[int]
) -> None:
    with serving(create_app(services), http="h11") as port:
        assert get(port, published.url)[1] == CONTENT
        assert get(port, published.url, range="bytes=-9")[1] == CONTENT[-9:]
    assert by_kernel == []
    assert all(file.closed for file in published.opened)


def test_an_object_of_a_bucket_is_sent_in_chunks(port: int, published: Published, by_kernel: list[int]) -> None:
    def without_descriptor(file: BinaryIO) -> BinaryIO:
        with file:
            return io.BytesIO(file.read())

    published.wrap = without_descriptor
    assert get(port, published.url)[1] == CONTENT
    assert by_kernel == []
    _wait_until(lambda: published.opened[0].closed)


def test_under_uvicorn_s_own_protocol_the_same_bytes_are_read_and_sent(
    services: Services, published: Published, by_kernel: list[int]
) -> None:
    with serving(create_app(services), http="auto") as port:
        assert get(port, published.url)[1] == CONTENT
        answer, content = get(port, published.url, Range="bytes=5-99")
    assert (answer.status, content) == (206, CONTENT[5:100])
    assert by_kernel == []


def test_an_application_may_leave_out_what_the_extension_lets_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    before = b"a" * (16 << 20)  # more than a socket takes at once

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with (tmp_path / "file").open("rb") as file:
            file.seek(3)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": before, "more_body": True})
            await send({"type": http_protocol.EXTENSION, "file": file})

    with serving(application, lifespan="off") as port:
        answer, content = get(port, "/")
    assert (answer.headers["transfer-encoding"], content) == ("chunked", before + b"3456789")


def test_who_is_cancelled_waits_for_the_thread_that_works_for_it() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(20)
        ended.set()
        raise OSError("nobody asks any more")

    async def cancel_in_the_middle() -> list[dict[str, Any]]:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        task = asyncio.create_task(BoundedThreads("test", 1).run(work))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        return unhandled

    assert asyncio.run(cancel_in_the_middle()) == []


def test_no_more_calls_run_at_once_than_were_said() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    async def many() -> None:
        threads = BoundedThreads("test", 2)
        await asyncio.gather(*(threads.run(work) for _ in range(8)))

    asyncio.run(many())
    assert most == 2
