"""From the end of a job to a receiver that verifies what it gets, through the sweeper's own parts."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from headroom.contract.answers.job import Status
from service.adapters.remote.outward_http import OutwardHttp
from service.foundation.errors import StoreUnavailable
from service.records.job import Job
from service.records.webhooks import DeliveryStatus
from tests.factories import add_job, claim_job, make_recipe
from tests.in_memory.job_store import MemoryJobStore
from workers.sweeping.webhook_sender import WebhookSender

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = [ip_network("127.0.0.0/8")]


def now() -> datetime:
    return datetime.now(UTC)


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent; answers with `status` after `pause` seconds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.pause = 200, 0.0
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), body))
        time.sleep(self.server.pause)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store() -> MemoryJobStore:
    return MemoryJobStore(now)


def ended_job(store: MemoryJobStore, url: str) -> Job:
    job = add_job(store, recipe=make_recipe(webhook={"url": url, "secret": SECRET}))
    claim_job(store, job.id)
    return store.finish(job.id, 1, Status.SUCCEEDED, {"note": "größer 日本"}, None)


def round_of(store: MemoryJobStore) -> int:
    sender = WebhookSender(store.webhooks, OutwardHttp(LOOPBACK).post, now)
    with ThreadPoolExecutor(4) as pool:
        return sender.send_due(pool)


def test_what_arrives_passes_the_verification_of_the_specification(store: MemoryJobStore, receiver: Receiver) -> None:
    job = ended_job(store, receiver.url)
    assert round_of(store) == 1

    ((headers, body),) = receiver.seen
    told = Oracle(SECRET).verify(body, headers)
    assert (told["type"], told["data"]["id"]) == ("job.succeeded", job.id)
    assert told["data"]["result"] == {"note": "größer 日本"}
    assert headers["Content-Type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Oracle("whsec_" + "A" * 32).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Oracle(SECRET).verify(body.replace(b"succeeded", b"failed"), headers)
    (delivery,) = store.webhooks.deliveries(job.id)
    assert (delivery.status, delivery.attempts, delivery.response_status) == (DeliveryStatus.DELIVERED, 1, 200)
    assert round_of(store) == 0


def test_a_replay_is_the_same_message_signed_anew(store: MemoryJobStore, receiver: Receiver) -> None:
    job = ended_job(store, receiver.url)
    receiver.status = 410
    round_of(store)
    assert store.webhooks.deliveries(job.id)[0].status is DeliveryStatus.DISABLED
    receiver.status = 200
    store.webhooks.replay(job.id, 1)
    round_of(store)

    (first, body), (second, again) = receiver.seen
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    Oracle(SECRET).verify(again, second)
    assert [one.status for one in store.webhooks.deliveries(job.id)] == [
        DeliveryStatus.DISABLED,
        DeliveryStatus.DELIVERED,
    ]


def test_a_receiver_that_fails_is_noted_and_tried_again_later(store: MemoryJobStore, receiver: Receiver) -> None:
    job = ended_job(store, receiver.url)
    receiver.status = 503
    round_of(store)

    (delivery,) = store.webhooks.deliveries(job.id)
    assert (delivery.status, delivery.response_status) == (DeliveryStatus.PENDING, 503)
    assert "503" in (delivery.error or "")
    assert delivery.next_attempt is not None
    assert 3 < (delivery.next_attempt - now()).total_seconds() < 8


def test_a_refused_address_is_given_up_at_once(store: MemoryJobStore, receiver: Receiver) -> None:
    job = ended_job(store, "https://127.0.0.1:1/")
    with ThreadPoolExecutor(1) as pool:
        WebhookSender(store.webhooks, OutwardHttp([]).post, now).send_due(pool)
    (delivery,) = store.webhooks.deliveries(job.id)
    assert delivery.status is DeliveryStatus.FAILED
    assert "no public address" in (delivery.error or "")


def test_slow_receivers_are_served_at_once_and_the_thread_ends_when_told(
    store: MemoryJobStore, receiver: Receiver
) -> None:
    receiver.pause = 0.5
    for _ in range(6):
        ended_job(store, receiver.url)
    stopping = threading.Event()
    sender = WebhookSender(store.webhooks, OutwardHttp(LOOPBACK).post, now)
    thread = threading.Thread(target=sender.run, args=(stopping,))
    begun = time.monotonic()
    thread.start()
    while store.webhooks.pending():
        assert time.monotonic() - begun < 10
        time.sleep(0.02)
    assert time.monotonic() - begun < 2.5
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_store_that_is_away_stops_no_sender(store: MemoryJobStore, caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        def claim_due(self, *_: Any) -> Any:
            raise StoreUnavailable("away")

    sender = WebhookSender(Away(), lambda *_: pytest.fail("it sends"), now)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        assert [sender.send_due(pool) for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("away") == 1


def test_the_verification_in_the_documents_runs(store: MemoryJobStore, receiver: Receiver) -> None:
    document = (Path(__file__).parents[4] / "docs/webhooks.md").read_text()
    names: dict[str, Any] = {}
    exec(document.split("```python\n")[1].split("```")[0], names)
    ended_job(store, receiver.url)
    round_of(store)

    ((headers, body),) = receiver.seen
    lower = {name.lower(): value for name, value in headers.items()}
    assert names["is_genuine"](SECRET, lower, body)
    assert not names["is_genuine"](SECRET, lower, body + b" ")
    assert not names["is_genuine"]("whsec_" + "A" * 32, lower, body)
    assert not names["is_genuine"](SECRET, lower | {"webhook-timestamp": "1"}, body)
