import time

import pytest

from service.adapters.remote.otlp_tracing import collector, open_tracer
from service.foundation.errors import JobCanceled, ModelNotFound
from service.foundation.tracing import NoTracer, as_variables, from_variables
from tests.otlp_receiver import receiving

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "acme=7"}


def test_a_context_survives_the_environment_of_a_process() -> None:
    assert from_variables({"PATH": "/bin"} | as_variables(PARENT)) == PARENT
    assert from_variables({"PATH": "/bin"}) == {}


@pytest.mark.parametrize("off", [{}, {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}])
def test_without_a_collector_there_is_no_tracer(off: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert collector(off) is None
    assert isinstance(open_tracer("test"), NoTracer)


def test_spans_keep_the_context_of_their_parent_and_tell_errors_from_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tracer = open_tracer("headroom-test")
        with tracer.span("outer", {"n": 1}, PARENT):
            inside = tracer.context()
            with pytest.raises(ModelNotFound), tracer.span("bad", {}):
                raise ModelNotFound("no such model")
            with pytest.raises(JobCanceled), tracer.span("stopped", {}):
                raise JobCanceled
        assert tracer.context() == {}
        tracer.close()
    spans = {span.name: span for span in receiver.spans}
    assert inside["tracestate"] == "acme=7"
    assert inside["traceparent"] == f"00-{spans['outer'].trace}-{spans['outer'].id}-01"
    assert spans["outer"].parent == "b7ad6b7169203331"
    assert (spans["bad"].attributes["error.type"], spans["bad"].message) == ("model_not_found", "no such model")
    assert [spans[name].is_error for name in ("outer", "bad", "stopped")] == [False, True, False]


def test_a_collector_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = open_tracer("headroom-test")
    begun = time.monotonic()
    with tracer.span("lost", {}):
        pass
    tracer.close()
    assert time.monotonic() - begun < 10
