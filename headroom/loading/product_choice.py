"""Which of several ways to the same logits is quickest on this machine, measured once for a size. Needs torch only.

A head smaller than SMALL is not measured: whichever way, it takes microseconds, and a choice that does not depend on
a clock gives the same bits in every process.
"""

import time
from collections.abc import Callable, Mapping

import torch

SMALL = 1 << 22  # entries of a head
MOST_POSITIONS = 64  # with more, a block of widened rows serves so many that widening it costs little
ROWS_MEASURED = 16_384  # of the head; the others take as long
ROUNDS = 3


def bucket_of(positions: int) -> int:
    """The power of two from `positions` on: sizes that share a choice."""
    return 1 << (positions - 1).bit_length()


def has_int4_kernel() -> bool:
    """Whether torch's 4-bit product has vector instructions for bfloat16 on this CPU; else it is a plain loop."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def least_seconds(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The best of ROUNDS of each way after a warm-up, taken in turn: another load on the machine only adds to a run."""
    for way in ways.values():
        way()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - started)
    return best
