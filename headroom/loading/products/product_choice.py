"""Which of several ways to a head's logits is quickest on this machine, measured once for a size. Needs torch only.

All ways read the same stored head: a kernel over its integers, rows widened a block at a time, or a wide copy of all
rows, which costs the memory of a full head and takes as long. A head smaller than SMALL is not measured: whichever way,
it takes microseconds, and a choice that does not depend on a clock gives the same bits in every process.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1 << 22  # entries of a head
MOST_POSITIONS = 64  # with more, a block of widened rows serves so many that widening it costs little
BYTES_MEASURED = 1 << 26  # of the wide rows: more than a cache holds, as in a whole decode step
ROWS_IN_STEP = 2048  # of what is measured
ROUNDS, MOST_ROUNDS, SECONDS = 3, 20, 0.1  # at least three; more while they take no longer in all
HOPELESS = 2.0  # times as long as another way in a first run: not measured again

WORTH = 0.9  # of a copy's time: what is not as quick on its own is slower between the layers of a model

KERNEL, BLOCKS, COPY = "kernel", "blocks", "copy"

Ways = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class HeadProducts:
    """How a head computes, as measured so far: (positions up to, dtype) -> "kernel", "blocks" or "copy"."""

    ways: Mapping[tuple[int, str], str]
    wide_copy_allowed: bool
    wide_copy_nbytes: int  # of memory, beside what is stored
    kernel_nbytes: int  # of what is kept in a kernel's own order


class ProductChoice:
    """The quickest product of one head for a number of positions, as measured, and the wide copies that it keeps."""

    def __init__(self) -> None:
        self.copy_allowed = True
        self._copies: dict[torch.dtype, Tensor] = {}
        self._chosen: dict[tuple[int, torch.dtype], str] = {}
        self._stored: object = None
        self._may_measure = True

    def way(self, x: Tensor, entries: int, unmeasured: str, ways: Callable[[], Ways]) -> str:
        """The name of the product for x (positions, hidden) on a CPU, of a head of so many entries.

        ways: what to measure, asked for once for a number of positions and a dtype. unmeasured: the way where nothing
        may be measured, as inside a graph that is compiled.
        """
        if torch.compiler.is_compiling() or not self._may_measure or entries <= SMALL or x.shape[0] > MOST_POSITIONS:
            return unmeasured
        key = (bucket_of(x.shape[0]), x.dtype)
        if key not in self._chosen:
            with torch.inference_mode():
                self._chosen[key] = quickest(ways())
        return self._chosen[key]

    def copy(self, dtype: torch.dtype, make: Callable[[], Tensor]) -> Tensor:
        """The wide rows in that dtype, made at their first use."""
        if dtype not in self._copies:
            with torch.inference_mode(False), torch.no_grad():
                self._copies[dtype] = make()
        return self._copies[dtype]

    def watch(self, *stored: Tensor) -> bool:
        """Forget what was made of tensors that were replaced or written to since the last call; whether any was."""
        if torch.compiler.is_compiling():
            return False
        now = tuple(state_of(tensor) for tensor in stored)
        changed = now != self._stored
        if changed:
            self._stored = now
            self._copies.clear()
        return changed

    def forget_times(self) -> None:
        self._chosen.clear()

    def forget(self) -> None:
        """Drop all that was measured and copied, not what was allowed: the head was moved or cast."""
        self._copies.clear()
        self._chosen.clear()
        self._stored = None

    def allow_copy(self, allowed: bool) -> None:
        if allowed is not self.copy_allowed:
            self.copy_allowed = allowed
            self._copies.clear()
            self._chosen.clear()

    @contextmanager
    def unmeasured(self) -> Iterator[None]:
        """A context in which nothing is measured and no copy made: for a check that runs once."""
        self._may_measure = False
        try:
            yield
        finally:
            self._may_measure = True

    def described(self, kernel_nbytes: int) -> HeadProducts:
        chosen = sorted(self._chosen.items(), key=lambda item: (str(item[0][1]), item[0][0]))
        return HeadProducts(
            {(size, str(dtype).removeprefix("torch.")): way for (size, dtype), way in chosen},
            self.copy_allowed,
            sum(copy.nbytes for copy in self._copies.values()),
            kernel_nbytes,
        )


def rows_measured(vocab: int, columns: int, dtype: torch.dtype) -> int:
    """How many rows of the head are timed; the others take as long."""
    steps = -(-BYTES_MEASURED // (columns * dtype.itemsize * ROWS_IN_STEP))
    return min(vocab, steps * ROWS_IN_STEP)


def bucket_of(positions: int) -> int:
    """The power of two from `positions` on: sizes that share a choice."""
    return 1 << (positions - 1).bit_length()


def has_int4_kernel() -> bool:
    """Whether torch's 4-bit product has vector instructions for bfloat16 on this CPU; else it is a plain loop."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def quickest(ways: Ways) -> str:
    """The name of the way that took the least seconds; with one way there is nothing to measure."""
    if len(ways) == 1:
        return next(iter(ways))
    seconds = least_seconds(ways)
    best = min(seconds, key=lambda name: seconds[name])
    return COPY if seconds[best] > WORTH * seconds.get(COPY, float("inf")) else best


def least_seconds(ways: Ways) -> dict[str, float]:
    """The best of some rounds of each way after a warm-up, in turn: another load on the machine only adds to a run."""
    best = {name: _seconds(way) for name, way in ways.items()}
    bound = HOPELESS * min(best.values())
    started = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= ROUNDS and time.perf_counter() - started > SECONDS:
            break
        for name, way in ways.items():
            if best[name] <= bound:
                best[name] = min(best[name], _seconds(way))
    return best


def _seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def state_of(tensor: Tensor) -> tuple[int, int]:
    """A mark of the tensor's memory and version, another one once it was replaced or written to."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
