"""Streams of events, from a real server: numbered, resumed without gap or repeat, ended with the job."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.dependencies import Services
from api.live import event_stream
from api.live.draining import DrainingServer
from api.live.live_jobs import TICK_SECONDS
from api.live.watches import MAX_EVENTS, MAX_JOBS, JobChange, JobWatch, ListWatch
from api.routes import events as events_route
from headroom.contract.answers.job import Phase, Status
from service.ports.jobs import JobFilter
from service.records.callers import Key, Scope, digest_of, new_secret
from tests.factories import add_job, add_running_job, make_job, make_recipe
from tests.in_memory.job_store import MemoryJobStore

ACCEPT = {"Accept": "text/event-stream"}


@contextmanager
def serving(services: Services) -> Iterator[tuple[str, DrainingServer]]:
    app = create_app(services)
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=10)
    server = DrainingServer(config, services.draining, 0.0, app.state.live)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    with serving(services) as (url, _):
        yield url


def messages(url: str, **headers: str) -> Iterator[dict[str, Any]]:
    """Messages as a browser would read them; `comment` of those that are none."""
    quick = httpx.Client(verify=False, trust_env=False, timeout=10)  # loads no certificates
    with quick, quick.stream("GET", url, headers=ACCEPT | headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        message: dict[str, Any] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                message[name or "comment"] = json.loads(value) if name == "data" else value
            elif message:
                yield message
                message = {}


def numbered(found: list[dict[str, Any]]) -> list[int]:
    return [int(message["id"]) for message in found if "id" in message]


def test_a_finished_job_is_told_whole_and_then_ends(url: str, services: Services) -> None:
    job = add_running_job(services.store)
    services.store.report_progress(job.id, 1, Phase.FETCHING, 0.1)
    services.store.finish(job.id, 1, Status.SUCCEEDED, None, None)

    found = list(messages(f"{url}/v1/jobs/{job.id}/events"))

    assert found[0] == {"retry": "2000"}
    listed = httpx.get(f"{url}/v1/jobs/{job.id}/events").json()["data"]
    assert [message["data"] for message in found[1:]] == listed
    assert [message["event"] for message in found[1:]] == ["status", "status", "phase", "attempt", "status"]
    assert numbered(found) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("resume", ["header", "query", "both"])
def test_a_stream_is_resumed_after_the_last_number(url: str, services: Services, resume: str) -> None:
    job = add_running_job(services.store)
    services.store.finish(job.id, 1, Status.SUCCEEDED, None, None)
    query = {"header": "", "query": "?after=2", "both": "?after=1"}[resume]
    headers = {} if resume == "query" else {"Last-Event-ID": "2"}

    assert numbered(list(messages(f"{url}/v1/jobs/{job.id}/events{query}", **headers))) == [3, 4]


def test_after_the_end_there_is_nothing_and_a_browser_stops(url: str, services: Services) -> None:
    job = add_job(services.store)
    services.store.request_cancel(job.id)

    assert httpx.get(f"{url}/v1/jobs/{job.id}/events", headers=ACCEPT | {"Last-Event-ID": "2"}).status_code == 204


def test_what_cannot_be_streamed_is_a_problem(url: str, services: Services) -> None:
    missing = httpx.get(f"{url}/v1/jobs/job_none/events", headers=ACCEPT)
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")
    job = add_job(services.store)
    odd = httpx.get(f"{url}/v1/jobs/{job.id}/events", headers=ACCEPT | {"Last-Event-ID": "x"})
    assert (odd.status_code, odd.json()["code"]) == (422, "invalid_request")
    assert httpx.get(f"{url}/v1/events?state=queued", headers=ACCEPT).status_code == 422
    services.store.away = True  # type: ignore[attr-defined]
    assert httpx.get(f"{url}/v1/events", headers=ACCEPT).status_code == 503


def test_events_and_progress_arrive_while_the_job_runs(url: str, services: Services) -> None:
    store, job = services.store, add_job(services.store)
    stream = messages(f"{url}/v1/jobs/{job.id}/events")
    assert [next(stream).get("event") for _ in range(3)] == [None, "status", "progress"]

    store.claim(job.id, "w", 30)
    store.report_progress(job.id, 1, Phase.FETCHING, 0.02)
    found = [next(stream)]
    while found[-1]["data"].get("phase") != "fetching":
        found.append(next(stream))
    assert numbered(found) == [2, 3]
    progress = found[-1]
    assert progress["event"] == "progress"
    assert "id" not in progress
    assert progress["data"] | {"estimated_finish": None} == {
        "status": "running",
        "phase": "fetching",
        "progress": 0.02,
        "attempt": 1,
        "version": store.get(job.id).version,
        "estimated_finish": None,
    }
    for step in range(5):  # faster than a stream tells: the last one counts
        store.report_progress(job.id, 1, Phase.FETCHING, 0.03 + step / 1000)
    told = next(stream)["data"]["progress"]
    while told != 0.034:
        told = next(stream)["data"]["progress"]
    store.finish(job.id, 1, Status.SUCCEEDED, None, None)
    assert numbered(list(stream)) == [4, 5]


def test_a_stream_never_goes_back_to_an_older_look(
    url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job changes after the look with which a stream begins, and before the stream reads it."""
    store, job = services.store, add_running_job(services.store)
    store.report_progress(job.id, 1, Phase.FETCHING, 0.01)
    get, reads = store.get, iter(range(100))

    def changing(*args: Any) -> Any:
        if next(reads) == 1:  # the first was to see whether the caller may
            store.report_progress(job.id, 1, Phase.FETCHING, 0.02)
        return get(*args)

    monkeypatch.setattr(store, "get", changing)
    stream = messages(f"{url}/v1/jobs/{job.id}/events")
    found = [next(stream) for _ in range(5)]
    assert found[-1]["data"]["progress"] == 0.02
    store.report_progress(job.id, 1, Phase.FETCHING, 0.03)
    assert next(stream)["data"]["progress"] == 0.03
    stream.close()  # type: ignore[attr-defined]


def test_no_event_is_lost_or_repeated_from_process_to_process(services: Services) -> None:
    """A client that is thrown about between two servers while a hand writes as fast as it can."""
    store, job = services.store, add_running_job(services.store)
    phases, last = [Phase.FETCHING, Phase.ENCODING], 0

    def write() -> None:
        for step in range(300):
            store.report_progress(job.id, 1, phases[step % 2], 0.1)
            time.sleep(0.01)
        store.finish(job.id, 1, Status.SUCCEEDED, None, None)

    found: list[int] = []
    with serving(services) as (one, _), serving(services) as (two, _):
        writer = threading.Thread(target=write)
        writer.start()
        for turn in range(1000):
            stream = messages(f"{(one, two)[turn % 2]}/v1/jobs/{job.id}/events", **{"Last-Event-ID": str(last)})
            for message in stream:
                if "id" in message:
                    last = int(message["id"])
                    found.append(last)
                    if last % 50 == 0:
                        break
            else:
                break
            stream.close()  # type: ignore[attr-defined]
        writer.join()
    assert found == list(range(1, 305))


def test_an_idle_stream_is_kept_open(url: str, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_route, "PING_SECONDS", 0.05)
    job = add_job(services.store)
    for path in ("/v1/events", f"/v1/jobs/{job.id}/events"):
        stream = messages(url + path)
        while "comment" not in (message := next(stream)):
            pass
        assert message == {"comment": "ping"}
        stream.close()  # type: ignore[attr-defined]
    assert event_stream.PING_SECONDS == 15.0


def test_a_server_that_stops_ends_its_streams_at_once(services: Services) -> None:
    job = add_job(services.store)
    with serving(services) as (url, server):
        streams = [messages(f"{url}{path}") for path in ("/v1/events", f"/v1/jobs/{job.id}/events") * 3]
        for stream in streams:
            next(stream)
        begun = time.monotonic()
        server.should_exit = True
        rest = [list(stream) for stream in streams]
    assert time.monotonic() - begun < 9  # sooner than the connections would be cut
    assert all(len(left) <= 2 for left in rest)


def test_a_store_that_is_away_for_a_while_interrupts_no_stream(url: str, services: Services) -> None:
    store: Any = services.store
    job = add_job(store)
    stream = messages(f"{url}/v1/jobs/{job.id}/events")
    for _ in range(3):
        next(stream)
    store.away = True
    time.sleep(0.8)
    store.away = False
    store.request_cancel(job.id)
    assert numbered(list(stream)) == [2]


# Many jobs


def test_the_live_view_begins_with_the_newest_and_tells_each_change(url: str, services: Services) -> None:
    store = services.store
    old, new = add_job(store), add_job(store)
    stream = messages(f"{url}/v1/events?limit=1")
    next(stream)
    first = next(stream)
    assert first["event"] == "job"
    assert first["data"] == httpx.get(f"{url}/v1/jobs/{new.id}").json()

    store.claim(old.id, "w", 30)  # older than what was shown: told all the same
    changed = next(stream)
    assert (changed["data"]["id"], changed["data"]["status"]) == (old.id, "running")
    latest = add_job(store)
    assert next(stream)["data"]["id"] == latest.id
    stream.close()  # type: ignore[attr-defined]


def test_the_live_view_coalesces(url: str, services: Services) -> None:
    store, job = services.store, add_running_job(services.store)
    stream = messages(f"{url}/v1/events")
    next(stream), next(stream)
    begun = time.monotonic()
    for step in range(100):
        store.report_progress(job.id, 1, Phase.FETCHING, step / 100)
        time.sleep(0.01)
    store.finish(job.id, 1, Status.SUCCEEDED, None, None)
    seen = [next(stream)["data"]]
    while seen[-1]["status"] != "succeeded":
        seen.append(next(stream)["data"])
    assert len(seen) <= 2 + (time.monotonic() - begun) / TICK_SECONDS
    stream.close()  # type: ignore[attr-defined]


def test_the_live_view_is_filtered_like_the_list(url: str, services: Services) -> None:
    store = services.store
    mine = add_job(store, recipe=make_recipe(labels={"team": "a"}))
    add_job(store, recipe=make_recipe(labels={"team": "b"}))
    stream = messages(f"{url}/v1/events?labels[team]=a&status=queued")
    next(stream)
    assert next(stream)["data"]["id"] == mine.id
    other = add_job(store, recipe=make_recipe(labels={"team": "b"}))
    store.request_cancel(other.id)
    store.claim(mine.id, "w", 30)

    left = next(stream)["data"]  # it matches no longer, and is told once more so that a view can let it go
    assert (left["id"], left["status"]) == (mine.id, "running")
    store.report_progress(mine.id, 1, Phase.FETCHING, 0.5)
    again = add_job(store, recipe=make_recipe(labels={"team": "a"}))
    assert next(stream)["data"]["id"] == again.id
    stream.close()  # type: ignore[attr-defined]


def test_streams_show_an_owner_nothing_of_others(services: Services) -> None:
    secured = replace(services, is_open=False)
    key_id, secret = new_secret()
    services.keys.add(Key(key_id, "test", "ann", frozenset({Scope.JOBS_READ}), services.clock()), digest_of(secret))
    key = {"Authorization": f"Bearer {secret}"}
    theirs, mine = add_job(services.store, owner="ben"), add_job(services.store, owner="ann")
    with serving(secured) as (url, _):
        assert httpx.get(f"{url}/v1/events", headers=ACCEPT).status_code == 401
        foreign = httpx.get(f"{url}/v1/jobs/{theirs.id}/events", headers=ACCEPT | key)
        assert (foreign.status_code, foreign.json()["code"]) == (404, "job_not_found")

        stream = messages(f"{url}/v1/events", **key)
        next(stream)
        assert next(stream)["data"]["id"] == mine.id
        services.store.request_cancel(theirs.id)
        services.store.request_cancel(mine.id)
        assert next(stream)["data"]["id"] == mine.id
        stream.close()  # type: ignore[attr-defined]


def test_a_long_stream_ends_so_that_its_key_is_looked_at_again(
    url: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_route, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(events_route, "PING_SECONDS", 0.1)
    job = add_job(services.store)
    for path in ("/v1/events", f"/v1/jobs/{job.id}/events"):
        assert len(list(messages(url + path))) < 20


class CountingStore(MemoryJobStore):
    """Counts what the loop asks."""

    def __init__(self, clock: Callable[[], Any]) -> None:
        super().__init__(clock)
        self.asked: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("versions", "several", "new_events", "events", "get", "page"):
            self.asked.append(name)
        return super().__getattribute__(name)


def test_many_streams_ask_the_store_no_more_than_one(services: Services) -> None:
    store = CountingStore(services.clock)
    jobs = [add_job(store) for _ in range(20)]
    with serving(replace(services, store=store)) as (url, _):
        streams = [messages(f"{url}/v1/events?limit=1") for _ in range(20)]
        streams += [messages(f"{url}/v1/jobs/{job.id}/events") for job in jobs]
        for stream in streams:
            next(stream), next(stream)
        while store.asked[-2:] != ["versions"] * 2:  # all streams have begun
            time.sleep(0.1)
        store.asked.clear()
        begun = time.monotonic()
        while len(store.asked) < 3:
            time.sleep(0.1)
        asked = list(store.asked)
        assert set(asked) == {"versions"}
        assert len(asked) <= 1 + (time.monotonic() - begun) / TICK_SECONDS
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        deadline, is_quiet = time.monotonic() + 20, False
        while not is_quiet and time.monotonic() < deadline:
            store.asked.clear()
            time.sleep(1)
            is_quiet = store.asked == []
        assert is_quiet  # nobody listens, nobody asks


# Mailboxes


def change(job: Any, *numbers: int) -> JobChange:
    return JobChange(job, b"job", b"progress", tuple((number, b"event") for number in numbers))


def test_a_slow_stream_of_one_job_keeps_a_bounded_tail() -> None:
    watch, job = JobWatch(), make_job()
    for number in range(1, 2 * MAX_EVENTS):
        watch.offer(change(job, number))
    taken = watch.take()
    assert taken is not None
    assert len(taken.events) == MAX_EVENTS
    assert taken.events[-1][0] == 2 * MAX_EVENTS - 1
    assert watch.take() is None


def test_a_slow_view_keeps_the_latest_of_each_job_and_is_cut_when_there_are_too_many() -> None:
    watch, job = ListWatch(JobFilter()), make_job()
    for version in range(1, 1000):
        watch.offer(change(replace(job, version=version)))
    assert watch.take() == [b"job"]
    assert not watch.closed
    for _ in range(MAX_JOBS + 1):
        watch.offer(change(make_job()))
    assert watch.closed
    assert watch.take() == []


def test_a_view_does_not_go_back_to_what_changed_before_it_began() -> None:
    job = make_job()
    watch = ListWatch(JobFilter())
    watch.offer(change(replace(job, version=1)))
    watch.begin([replace(job, version=2)])
    assert watch.take() == []
    watch = ListWatch(JobFilter())
    watch.offer(change(replace(job, version=3)))
    watch.begin([replace(job, version=2)])
    assert watch.take() == [b"job"]
    watch.offer(change(replace(job, version=3)))
    assert watch.take() == []
