"""OtlpTracer: spans to an OpenTelemetry collector over OTLP/HTTP, as the OTEL_* variables of the process say.

OpenTelemetry is imported only where a collector is named.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from service.foundation.errors import AttemptSuperseded, JobCanceled
from service.foundation.tracing import Attributes, NoTracer, Span, TraceContext, Tracer

if TYPE_CHECKING:
    from opentelemetry import trace

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
PROTOCOL = "http/protobuf"
EXPORT_SECONDS = 2.0  # unless a variable says otherwise: how long the end of a process waits for its collector
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.fastapi")

logger = logging.getLogger(__name__)


def collector(environment: Mapping[str, str]) -> str | None:
    """The address that spans go to; None if there is none, or the SDK was switched off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    return next((environment[name] for name in ENDPOINTS if environment.get(name)), None)


def is_installed() -> bool:
    try:
        return all(find_spec(name) for name in NEEDED)
    except ModuleNotFoundError:  # the parent of one of them
        return False


def open_tracer(process: str) -> Tracer:
    """A tracer for a process that calls itself `process`. Close it at the end."""
    if collector(os.environ) is None:
        return NoTracer()
    if not is_installed():
        logger.warning("a collector of traces is named, but OpenTelemetry is not installed: there will be no traces")
        return NoTracer()
    return OtlpTracer(process)


class OtlpTracer:
    """service.foundation.tracing.Tracer. Spans are sent by a thread, in batches."""

    def __init__(self, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        is_named = bool(os.environ.get("OTEL_SERVICE_NAME"))
        resource = Resource.create({} if is_named else {"service.namespace": "headroom", "service.name": process})
        is_timed = any(os.environ.get(name) for name in TIMEOUTS)
        exporter = OTLPSpanExporter(timeout=None if is_timed else EXPORT_SECONDS)
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("headroom")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, attributes: Attributes, parent: TraceContext | None = None) -> Iterator[Span]:
        context = self._propagator.extract(parent) if parent else None
        with self._tracer.start_as_current_span(
            name, context, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
        ) as span:
            started = _OtlpSpan(span)
            try:
                yield started
            except (JobCanceled, AttemptSuperseded) as stopped:
                started.set({"headroom.stopped": type(stopped).__name__})  # it was asked to: nothing is wrong
                raise
            except Exception as error:
                started.fail(getattr(error, "code", type(error).__name__), str(error))
                raise

    def context(self) -> TraceContext:
        carrier: TraceContext = {}
        self._propagator.inject(carrier)
        return carrier

    def close(self) -> None:
        self.provider.shutdown()


class _OtlpSpan:
    def __init__(self, span: "trace.Span") -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def fail(self, code: str, message: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR, message)
