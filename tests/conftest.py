"""Markers that need something this machine may lack are skipped in plain sight."""

import signal
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart() -> None:
    # A shell that starts the tests in the background has them ignore interrupts, and so would every child.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("shared") and not (SHARED / "models").is_dir():
            item.add_marker(pytest.mark.skip(reason="no ../shared with reference models"))
    items.sort(key=_speed)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _speed(item: pytest.Item) -> int:
    """Fast tests first: a broken build is seen early."""
    return 2 * bool(item.get_closest_marker("processes")) + bool(item.get_closest_marker("slow"))


@pytest.fixture
def shared() -> Path:
    return SHARED
