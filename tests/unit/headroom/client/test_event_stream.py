"""The client follows streams: as the standard reads them, across breaks, and not where there are none."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest

from api.routes import events as events_route
from headroom.client import event_stream, job_handle
from headroom.client.client import Client
from headroom.client.event_stream import Message, read_messages
from headroom.contract.answers.job import Phase

Soon = Callable[[Callable[[], None]], None]


STREAM = """retry: 10

:ping

event:status
data: {"a":
data: 1}
id: 7

event: progress
data: {"b": 2}

:ping

data: {}
id: 8
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_messages_are_read_as_the_standard_says(ends: str, size: int) -> None:
    content = STREAM.replace("\n", ends).encode()
    pieces = (content[start : start + size] for start in range(0, len(content), size))
    told = [message for message in read_messages(httpx.Response(200, content=pieces)) if message.data or message.retry]
    assert told == [
        Message("ping", {}, retry=10),
        Message("status", {"a": 1}, number=7),
        Message("progress", {"b": 2}),
    ]  # the last was cut


def test_waiting_asks_for_a_job_only_when_it_has_changed(
    client: Client, hand: Any, corpus: Path, soon: Soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    refreshes: list[float] = []
    refresh = type(job).refresh
    monkeypatch.setattr(type(job), "refresh", lambda self: refreshes.append(time.monotonic()) or refresh(self))
    told: SimpleQueue[float] = SimpleQueue()
    seen: list[float] = []
    hand.start(job.id)
    hand.advance(job.id, Phase.ENCODING, 0.1)

    def work() -> None:
        for step in range(1, 5):
            hand.advance(job.id, Phase.ENCODING, step / 10)
            seen.append(told.get(timeout=60))
        hand.succeed(job.id)

    soon(work)
    job.wait(timeout=60, on_update=lambda job: told.put(job.record.progress))
    seen += [told.get_nowait() for _ in range(told.qsize())]
    assert seen == [0.1, 0.2, 0.3, 0.4, 1.0]
    assert job.record == client.job(job.id).record
    assert len(refreshes) == 3  # at first, after the events so far, and after the last one


def test_progress_that_is_older_than_what_was_read_is_not_told(
    client: Client, hand: Any, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    hand.advance(job.id, Phase.ENCODING, 0.2)
    version = client.job(job.id).record.version

    def late(*_: Any) -> Iterator[Message]:
        yield Message("progress", {"progress": 0.1, "version": version - 1})
        yield Message("progress", {"progress": 0.3, "version": version + 1})
        hand.succeed(job.id)

    monkeypatch.setattr(job_handle, "follow_job", late)
    seen: list[float] = []
    job.wait(timeout=60, on_update=lambda job: seen.append(job.record.progress))
    assert seen == [0.2, 0.3, 1.0]


def test_a_stream_that_breaks_is_taken_up_after_its_last_number(
    client: Client, hand: Any, corpus: Path, soon: Soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(response: httpx.Response, deadline: float | None) -> Iterator[Message]:
        yield from islice(read_messages(response, deadline), 3)
        raise httpx.RemoteProtocolError("cut")

    monkeypatch.setattr(event_stream, "read_messages", cut)
    monkeypatch.setattr(events_route, "RETRY", b"retry: 1\n\n")
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    for number in range(3):
        hand.advance(job.id, list(Phase)[number], 0.1)
    hand.succeed(job.id)
    assert [event.number for event in job.events()] == list(range(1, 8))


@pytest.mark.parametrize("way", ["no stream", "held back"])
def test_where_no_stream_comes_through_the_client_polls(
    client: Client, hand: Any, corpus: Path, soon: Soon, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "no stream":
        monkeypatch.setattr(events_route, "prefers", lambda *_: False)
    else:
        monkeypatch.setattr(event_stream, "read_messages", lambda *_: _silence())
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    soon(lambda: (time.sleep(0.3), hand.succeed(job.id))[1])
    assert [event.number for event in job.events()] == [1, 2, 3, 4]
    assert job.wait().status == "succeeded"


def _silence() -> Any:
    raise httpx.ReadTimeout("nothing came")


def test_a_deadline_is_kept_while_a_stream_is_silent(
    client: Client, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "LAST_SECONDS", 0.3)
    monkeypatch.setattr(events_route, "PING_SECONDS", 0.1)
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        job.wait(timeout=1.0)
    assert 1.0 <= time.monotonic() - begun < event_stream.SILENCE_SECONDS / 2


def test_events_survive_a_server_that_stops_in_between(
    client: Client, services: Any, hand: Any, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.5)
    hand.start(job.id)
    events = job.events()
    assert [next(events).number for _ in range(2)] == [1, 2]
    services.store.away = True
    time.sleep(1.5)
    services.store.away = False
    hand.succeed(job.id)
    assert [event.number for event in events] == [3, 4]
