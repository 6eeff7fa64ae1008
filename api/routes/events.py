"""What happens to jobs: the numbered history of one, as a list or as a stream, and a live view of many.

A stream reads numbered events from the store, never from memory alone: whoever comes back with the last number misses
none and gets none twice, from any API process. Between them go `progress` messages, which need no replay.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.answers.conditions import prefers
from api.dependencies import AppServices, JobsReader, Live, Services, VisibleJob, needs
from api.live.event_stream import PING, PING_SECONDS, RETRY, event_message, job_message, progress_message, stream
from api.live.live_jobs import LiveJobs
from api.routes.jobs import FilterOptions
from headroom.contract.answers.job import EventList, EventView
from service.foundation.errors import ServiceError
from service.ports.jobs import JobFilter
from service.records.callers import Scope
from service.records.job import Job

router = APIRouter(prefix="/v1", tags=["events"])

PORTION = 100  # events read at once
LONGEST_SECONDS = 600.0  # of a stream: a key that was revoked opens no other

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
STREAMED = {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventList,
    responses={
        200: STREAMED | {"description": "As JSON, or as a stream"},
        204: {"description": "Of a stream: the job has ended, and there is nothing after that number"},
    },
    dependencies=[needs(Scope.JOBS_READ)],
)
async def events(
    job: VisibleJob,
    request: Request,
    services: AppServices,
    live: Live,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53)] = None,
) -> Response:
    """The numbered history of a job, from the event after `after` on. `Accept: text/event-stream` follows it live."""
    if not prefers(request.headers.get("accept", ""), EVENT_STREAM):
        found = await run_in_threadpool(services.store.events, job.id, after, limit + 1)
        page = EventList(data=[EventView.model_validate(event) for event in found[:limit]], has_more=len(found) > limit)
        return Response(page.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"})
    if last_event_id is not None:
        after = last_event_id
    if job.status.is_final and not await run_in_threadpool(services.store.events, job.id, after, 1):
        return Response(status_code=204)
    return stream(_at_length(_job_messages(services, live, job.id, after)))


@router.get(
    "/events", response_class=Response, responses={200: STREAMED | {"description": "`job` messages, each a job"}}
)
async def live_view(
    options: Annotated[FilterOptions, Query()], services: AppServices, live: Live, caller: JobsReader
) -> Response:
    """A stream: the newest `limit` jobs that match, then each job again whenever it changes."""
    where = options.filter(caller)
    await run_in_threadpool(services.store.page, where, 1, None)  # a database that is away is a 503
    return stream(_at_length(_list_messages(services, live, where, options.limit)))


async def _job_messages(services: Services, live: LiveJobs, job_id: str, after: int) -> AsyncGenerator[bytes]:
    """Ends with the last event of a job that has ended."""
    yield RETRY
    async with live.watch_job(job_id) as watch:
        job: Job = await run_in_threadpool(services.store.get, job_id)
        told = b""
        found: tuple[tuple[int, bytes], ...] | None = None
        progress = progress_message(job)
        while not watch.closed:
            if found is None or (found and found[0][0] > after + 1):  # the beginning, or a gap: the store knows
                async for number, message in _stored(services, job_id, after):
                    after = number
                    yield message
            for number, message in found or ():
                if number > after:
                    after = number
                    yield message
            if job.status.is_final:
                return
            if progress != told:
                told = progress
                yield progress
            while not await watch.wait(PING_SECONDS):
                yield PING
            if change := watch.take():
                found = change.events
                if change.job.version > job.version:  # a look may be older than what the store said at the beginning
                    job, progress = change.job, change.progress


async def _stored(services: Services, job_id: str, after: int) -> AsyncIterator[tuple[int, bytes]]:
    while events := await run_in_threadpool(services.store.events, job_id, after, PORTION):
        for event in events:
            yield event.number, event_message(event)
        after = events[-1].number


async def _list_messages(services: Services, live: LiveJobs, where: JobFilter, limit: int) -> AsyncGenerator[bytes]:
    yield RETRY
    async with live.watch_list(where) as watch:
        jobs, messages = await run_in_threadpool(_newest, services, where, limit)
        watch.begin(jobs)
        for message in messages:
            yield message
        while not watch.closed:
            if not await watch.wait(PING_SECONDS):
                yield PING
            for message in watch.take():
                yield message


def _newest(services: Services, where: JobFilter, limit: int) -> tuple[list[Job], list[bytes]]:
    jobs = services.store.page(where, limit, None).jobs
    return jobs, [job_message(job) for job in jobs]


async def _at_length(messages: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Ends in time for the caller to be authenticated anew, and when the store is away: its client comes back."""
    end = time.monotonic() + LONGEST_SECONDS
    try:
        async with aclosing(messages):
            async for message in messages:
                yield message
                if time.monotonic() >= end:
                    return
    except ServiceError as error:
        logger.warning("a stream of events ended early: %s", error.message)
