"""Files go by the kernel where uvicorn is as we know it, and in chunks, byte for byte the same, where it is not."""

import logging

import pytest
from uvicorn.protocols.http import h11_impl
from uvicorn.protocols.http.flow_control import FlowControl

from api.answers import http_protocol as protocols
from api.answers.http_protocol import http_protocol
from api.answers.zero_copy import ZeroCopyProtocol


def test_with_the_uvicorn_that_is_installed_the_kernel_sends() -> None:
    assert http_protocol() is ZeroCopyProtocol


class WithoutFlow(ZeroCopyProtocol):
    """Of a release that calls it otherwise."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        del self.flow


class OtherArguments(ZeroCopyProtocol):
    def __init__(self, *, config: object) -> None: ...


@pytest.mark.parametrize(
    ("changed", "told"),
    [("flow", "flow"), ("drain", "drain"), ("cycle", "disconnected"), ("arguments", "TypeError"), ("gone", "Import")],
)
def test_a_uvicorn_whose_parts_have_moved_is_met_by_its_own_protocol(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changed: str, told: str
) -> None:
    match changed:
        case "flow":
            monkeypatch.setattr("api.answers.zero_copy.ZeroCopyProtocol", WithoutFlow)
        case "drain":
            monkeypatch.delattr(FlowControl, "drain")
        case "cycle":
            monkeypatch.setattr(h11_impl, "RequestResponseCycle", type("Renamed", (), {"__init__": lambda self: None}))
        case "arguments":
            monkeypatch.setattr("api.answers.zero_copy.ZeroCopyProtocol", OtherArguments)
        case "gone":
            monkeypatch.delattr(h11_impl, "RequestResponseCycle")
    with caplog.at_level(logging.WARNING, protocols.__name__):
        assert http_protocol() == "auto"
    assert told in caplog.text
    assert "they are copied" in caplog.text
