"""A job's stream of events as the client reads it: server-sent events, taken up again where it broke off."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource

from headroom.client.connection import Connection
from headroom.contract.answers.job import FINAL
from headroom.errors import HeadroomError, ServerUnreachable

SILENCE_SECONDS = 45.0  # the server says something every 15 s
LAST_SECONDS = 20.0  # so near to a deadline a stream may be silent for too long
RETRY_SECONDS = 1.0  # unless the server says otherwise
PATIENCE_SECONDS = 60.0  # how long a server that is away is waited for: it may be starting again
PING = "ping"


@dataclass(frozen=True)
class Message:
    """`number` is that of an event; None for `progress`. A ping has no data."""

    type: str
    data: dict[str, Any]
    number: int | None = None
    retry: int | None = None  # milliseconds


def is_away(error: HeadroomError) -> bool:
    """Whether it makes sense to ask again soon."""
    return isinstance(error, ServerUnreachable) or error.status in (502, 503, 504)


def is_last(message: Message) -> bool:
    """Whether it is the event with which a job ends."""
    return message.type == "status" and message.data["data"].get("status") in FINAL


def read_messages(response: httpx.Response, deadline: float | None = None) -> Iterator[Message]:
    """The messages of a stream, until it ends; also as soon as something comes, a ping too, while `deadline` is near.

    A message that was cut is not told.
    """

    def until_near() -> Iterator[bytes]:
        for piece in response.iter_bytes():
            yield piece
            if _is_near(deadline):
                return

    last = ""
    heard = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=until_near())
    for told in EventSource(heard).iter_sse():
        is_new, last = told.id != last, told.id  # the reader keeps the last id for messages that have none
        yield Message(
            type=told.event if told.data else PING,
            data=told.json() if told.data else {},
            number=int(told.id) if is_new and told.id.isdecimal() else None,
            retry=told.retry,
        )


def follow_job(connection: Connection, path: str, after: int, deadline: float | None = None) -> Iterator[Message]:
    """Messages with a number above `after`, and progress between them, up to the last event of the job.

    Also ends where polling is the better way: the server or a proxy gives no stream, or `deadline` (of time.monotonic)
    is near. A server that is away is waited for, and each number is told once.
    """
    away_since: float | None = None
    pause = RETRY_SECONDS
    while not _is_near(deadline):
        heard = False
        try:
            with _open(connection, path, after) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    return
                for message in read_messages(response, deadline):
                    heard, away_since = True, None
                    if message.retry is not None:
                        pause = message.retry / 1000
                    if message.data:
                        after = max(after, message.number or 0)
                        yield message
                    if is_last(message) or _is_near(deadline):
                        return
        except httpx.ReadTimeout:
            if not heard:
                return  # something on the way holds the stream back
        except (httpx.TransportError, HeadroomError) as raised:
            error = connection.unreachable(raised) if isinstance(raised, httpx.TransportError) else raised
            away_since = away_since or time.monotonic()
            if not is_away(error) or time.monotonic() - away_since > PATIENCE_SECONDS:
                raise error from raised
        time.sleep(pause)


def open_stream(connection: Connection, path: str) -> Iterator[Message]:
    """Messages of a stream as they come, without pings, until it ends or breaks (ServerUnreachable)."""
    try:
        with _open(connection, path, 0) as response:
            yield from (message for message in read_messages(response) if message.data)
    except httpx.TransportError as error:
        raise connection.unreachable(error) from error


def _open(connection: Connection, path: str, after: int) -> Any:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    return connection.stream(path, headers, httpx.Timeout(SILENCE_SECONDS, connect=5.0), must_succeed=True)


def _is_near(deadline: float | None) -> bool:
    return deadline is not None and deadline - time.monotonic() < LAST_SECONDS
