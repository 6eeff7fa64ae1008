"""Spans of what happens to a job, as the domain sees them. Exports nothing itself: see adapters/otlp_tracing.py."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

# W3C trace context: `traceparent`, and `tracestate` where a vendor wants one. Empty: no trace.
TraceContext: TypeAlias = dict[str, str]
Attributes: TypeAlias = Mapping[str, str | int | float]


def as_variables(context: TraceContext) -> dict[str, str]:
    """The context for the environment of a process, as OpenTelemetry names it there."""
    return {name.upper(): value for name, value in context.items()}


def from_variables(environment: Mapping[str, str]) -> TraceContext:
    """The inverse."""
    names = ("traceparent", "tracestate")
    return {name: environment[name.upper()] for name in names if name.upper() in environment}


class Span(Protocol):
    """One timed step of a trace."""

    def set(self, attributes: Attributes) -> None:
        """Say more about it."""

    def fail(self, code: str, message: str) -> None:
        """Mark it as failed, with a code of service/foundation/errors.py."""


class Tracer(Protocol):
    """Makes spans. Never raises and never waits long: a collector that is away costs no job."""

    def span(
        self, name: str, attributes: Attributes, parent: TraceContext | None = None
    ) -> AbstractContextManager[Span]:
        """A span around a block, below `parent` or else below the span that the block is in already."""

    def context(self) -> TraceContext:
        """The context of the span that the caller is in."""

    def close(self) -> None:
        """Export what has not left yet. No spans may follow."""


class NoSpan:
    def set(self, attributes: Attributes) -> None:
        pass

    def fail(self, code: str, message: str) -> None:
        pass


class NoTracer:
    """Nobody collects traces."""

    @contextmanager
    def span(self, name: str, attributes: Attributes, parent: TraceContext | None = None) -> Iterator[Span]:
        yield NoSpan()

    def context(self) -> TraceContext:
        return {}

    def close(self) -> None:
        pass
