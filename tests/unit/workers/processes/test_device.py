"""The device asked for, or an error that names it; and what it has free."""

from pathlib import Path

import psutil
import pytest
import torch

from service.foundation.errors import InternalError
from workers.processes import device
from workers.processes.device import choose_device, free_memory


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


def limit_memory(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(content)
    monkeypatch.setattr(device, "CGROUP", folder)


def test_what_a_machine_has_free_is_free_for_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, tmp_path, max="max\n", current="1\n", stat="anon 1\n")
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


def test_a_container_has_what_its_limit_leaves_cached_files_counted_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, tmp_path, max="9000\n", current="5000\n", stat="anon 1000\ninactive_file 3500\n")
    assert free_memory("cpu") == 9000 - (5000 - 3500)


def test_a_container_over_its_limit_has_nothing_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, tmp_path, max="4000\n", current="5000\n", stat="anon 5000\n")
    assert free_memory("cpu") == 0


def test_a_gpu_has_what_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 if device.index == 1 else 0, 10))
    assert free_memory("cuda:1") == 7
