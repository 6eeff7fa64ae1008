"""What Prometheus reads: counts of this process' requests, and the state of the service as the store has it.

Figures of jobs come from the database at each scrape, so every API process tells the same, and none is lost when a
process ends. They are gauges: those named `_last_hour` are over jobs and attempts that ended in the last hour.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers.http_protocol import EXTENSION
from api.dependencies import Services
from service.foundation.errors import ServiceError
from service.ports.jobs import StoreFigures

LATELY = timedelta(hours=1)
# From a status answered by ETag to a large file: seconds.
BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0)


class RequestFigures:
    """Counters of this process; a middleware feeds them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self.requests = Counter("headroom_http_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "headroom_http_request_seconds",
            "From the request to the last byte of the answer.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )
        self.sent = Counter("headroom_http_sent_bytes", "Bytes of bodies sent.", ("route",), registry=registry)

    def of(self, method: str, route: str, status: int) -> "OfRoute":
        return OfRoute(
            self.requests.labels(method, route, str(status)),
            self.seconds.labels(method, route),
            self.sent.labels(route),
        )


class OfRoute(NamedTuple):
    """The counters of one method, route and status."""

    requests: Counter
    seconds: Histogram
    sent: Counter


class CountRequests:
    """Feed RequestFigures. A request that matched no route is counted under an empty one: paths are endless."""

    def __init__(self, app: ASGIApp, figures: RequestFigures) -> None:
        self._app = app
        self._figures = figures
        self._of_route: dict[tuple[str, str, int], OfRoute] = {}  # to find them by their labels costs each time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, sent = time.perf_counter(), 500, 0

        async def send_counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            sent += message["count"] if message["type"] == EXTENSION else len(message.get("body", b""))

        try:
            await self._app(scope, receive, send_counted)
        finally:
            labels = scope["method"], getattr(scope.get("route"), "path", ""), status
            found = self._of_route.get(labels)
            if found is None:
                found = self._of_route[labels] = self._figures.of(*labels)
            found.requests.inc()
            found.seconds.observe(time.perf_counter() - started)
            found.sent.inc(sent)


class ServiceState(Collector):
    """Metrics of store, queue and disk, asked at each scrape. What is away has `headroom_up` 0 and no figures."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headroom_up", "Whether a part of the service answers.", labels=["part"])
        now = self._services.clock()
        try:
            figures = self._services.store.figures(now - LATELY)
        except ServiceError:
            up.add_metric(["database"], 0)
        else:
            up.add_metric(["database"], 1)
            yield from _of_jobs(figures)
            waited = (now - figures.oldest_due).total_seconds() if figures.oldest_due else 0.0
            yield GaugeMetricFamily(
                "headroom_webhook_backlog", "Deliveries of webhooks that wait.", value=figures.pending_deliveries
            )
            age = (now - figures.oldest_delivery).total_seconds() if figures.oldest_delivery else 0.0
            yield GaugeMetricFamily("headroom_webhook_oldest_seconds", "How long the first of them waits.", value=age)
            yield GaugeMetricFamily("headroom_oldest_queued_seconds", "How long the first waits.", value=waited)
        up.add_metric(["broker"], self._broker_answers())
        yield up
        yield GaugeMetricFamily("headroom_workers", "Workers that answered lately.", self._services.queue.workers())
        disk = shutil.disk_usage(self._services.data_dir)
        yield GaugeMetricFamily("headroom_disk_free_bytes", "Free space of the data directory.", disk.free)
        yield GaugeMetricFamily("headroom_disk_bytes", "Size of the volume of the data directory.", disk.total)

    def _broker_answers(self) -> int:
        try:
            self._services.queue.ping()
        except ServiceError:
            return 0
        return 1


def _of_jobs(figures: StoreFigures) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("headroom_jobs", "Jobs in the store.", labels=["kind", "status"])
    for (kind, status), count in figures.jobs.items():
        jobs.add_metric([kind, status.value], count)
    yield jobs
    yield GaugeMetricFamily("headroom_queue_depth", "Queued jobs that may run now.", value=figures.due)
    yield GaugeMetricFamily(
        "headroom_lost_attempts_last_hour", "Attempts whose worker was lost.", value=figures.lost_attempts
    )
    ended = GaugeMetricFamily("headroom_ended_jobs_last_hour", "Jobs that ended.", labels=["kind", "status"])
    seconds = GaugeMetricFamily(
        "headroom_phase_seconds_last_hour", "Mean duration of a phase in jobs that ended.", labels=["kind", "phase"]
    )
    counts: dict[tuple[str, str], int] = defaultdict(int)
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for job in figures.ended:
        counts[job.kind, job.status.value] += 1
        for phase, duration in job.phase_seconds.items():
            durations[job.kind, phase].append(duration)
    for labels, count in counts.items():
        ended.add_metric(labels, count)
    for labels, values in durations.items():
        seconds.add_metric(labels, sum(values) / len(values))
    yield ended
    yield seconds
