"""Server-sent events on the wire: which messages there are, and the answer that carries them. It reads nothing."""

from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel

from api.answers.job_views import job_view, progress_view
from headroom.contract.answers.job import EventView
from service.records.job import Event, Job

PING_SECONDS = 15.0  # proxies cut what is silent for longer than about 30
PING = KEEPALIVE_COMMENT
RETRY = format_sse_event(retry=2000)  # how long a client that lost its stream waits, in milliseconds


def event_message(event: Event) -> bytes:
    """A message of one event, under its number as id: what a client that comes back sends as Last-Event-ID."""
    return _message(event.type, EventView.model_validate(event), str(event.number))


def progress_message(job: Job) -> bytes:
    """A message of progress, without an id: only the latest counts, and none is sent twice."""
    return _message("progress", progress_view(job))


def job_message(job: Job) -> bytes:
    return _message("job", job_view(job))


def stream(messages: AsyncIterator[bytes]) -> EventSourceResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
    return EventSourceResponse(messages, headers=headers)


def _message(type_: str, view: BaseModel, id_: str | None = None) -> bytes:
    return format_sse_event(event=type_, data_str=view.model_dump_json(), id=id_)
