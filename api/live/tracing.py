"""One span for each request, where traces are collected. Questions that only machines ask are left out."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from service.adapters.remote.otlp_tracing import OtlpTracer
from service.foundation.tracing import Tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

NOT_TRACED = "/livez$,/readyz$,/metrics$"


def trace_requests(app: FastAPI, tracer: Tracer) -> None:
    """Call it once, before the first request."""
    if not isinstance(tracer, OtlpTracer):
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=tracer.provider,
        excluded_urls=NOT_TRACED,
        exclude_spans=["receive", "send"],  # a download sends thousands of times
        server_request_hook=_tell_log,
    )


def _tell_log(span: "Span", scope: dict[str, Any]) -> None:
    """For api/requests/limits.py, which puts it on every line of the request's log."""
    scope.setdefault("state", {})["trace_id"] = f"{span.get_span_context().trace_id:032x}"
