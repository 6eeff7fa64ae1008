"""The device asked for, or an error that names it."""

import pytest
import torch

from service.errors import InternalError
from workers.device import choose_device


def pretend_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("wanted", "count", "chosen"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_auto_takes_cuda_where_there_is_one(
    wanted: str, count: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_devices(monkeypatch, count)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(("wanted", "count"), [("cuda", 0), ("cuda:2", 2), ("tpu", 1), ("cuda:x", 1), ("", 1)])
def test_a_device_that_is_not_there_is_never_replaced(wanted: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_devices(monkeypatch, count)
    with pytest.raises(InternalError, match="HEADROOM_DEVICE"):
        choose_device(wanted)
