"""Timing that survives a noisy machine: alternating runs, the median of each, compared as a ratio."""

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ratio(new: Callable[[], object], old: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """(median new / median old, median new, median old), the two taken in turn after one warm-up each."""
    new()
    old()
    pairs = [(seconds(new), seconds(old)) for _ in range(rounds)]
    first, second = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    return first / second, first, second
