"""Logits of all rows of a head in planes, from as much of them as a preview reads. Needs torch; no modules, no files.

Three products give the same logits: torch's 4-bit weight-only product on a CPU, over a copy of the planes in its own
order; rows widened a block at a time; a widened copy of all rows, which costs the memory of a full head and as much
time. A head that is not small takes the quickest, measured once for a number of positions and a dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from headroom.loading import plane_codes
from headroom.loading.plane_codes import GROUP
from headroom.loading.product_choice import (
    MOST_POSITIONS,
    ROWS_MEASURED,
    SMALL,
    bucket_of,
    has_int4_kernel,
    least_seconds,
)
from headroom.operator_threads import single_threaded_operators

KERNEL_ROWS = 16  # torch's 4-bit product wants a multiple of them
KERNEL_ZERO = 8  # it reads four bits as value + 8
POSITIONS_UNMEASURED = 8  # up to which the kernel is taken where nothing may be measured
# What rescoring costs beside a preview, of a full head's time: a preview that saves less is not worth its bits.
WORTH = 0.85


@dataclass(frozen=True)
class Reading:
    """How much a preview reads: `bits` of the columns that are in planes, and the first `columns` of all."""

    bits: int
    columns: int


class Table(Protocol):
    """What planes_head.py's tables are to a product."""

    whole: Tensor
    high: Tensor
    low: Tensor
    scales: Tensor

    def codes_of(self, rows: slice) -> Tensor: ...
    def scales_of(self, rows: slice) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Arranged:
    """Codes in the order of torch's 4-bit product, and (groups, rows, 2) bfloat16 scales and zeros."""

    packed: Tensor
    scales: Tensor


class PreviewProducts:
    """What was arranged and measured for one head. Memory: the kernel's copy of what a preview reads."""

    def __init__(self) -> None:
        self._state: object = None
        self._arranged: Arranged | None = None
        self._widened: dict[torch.dtype, Tensor] = {}
        self._choices: dict[tuple[int, torch.dtype, Reading], str] = {}
        self._may_measure = True

    @contextmanager
    def unmeasured(self) -> Iterator[None]:
        """Inside, what is arranged already is taken for few positions: for a check that runs once."""
        self._may_measure = False
        try:
            yield
        finally:
            self._may_measure = True

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]

    def prepare(self, table: Table, reading: Reading) -> None:
        """Arrange for the kernel where there is one."""
        if table.whole.device.type == "cpu" and has_int4_kernel():
            self._for_kernel(table, reading)

    def logits(self, table: Table, x: Tensor, reading: Reading) -> Tensor:
        """(positions, columns) -> (positions, vocab), without a bias."""
        if torch.compiler.is_compiling() or not self._may_measure:  # nothing is measured or arranged inside a graph
            arranged = self._arranged if x.shape[0] <= POSITIONS_UNMEASURED and x.device.type == "cpu" else None
            kernel = arranged is not None and (x.dtype == torch.bfloat16 or not _is_small(table))
            return by_kernel(x, table, arranged, reading) if kernel and arranged else by_blocks(x, table, reading)
        self._drop_what_changed(table, reading)
        way = self._way(table, x, reading)
        if way == "kernel":
            return by_kernel(x, table, self._for_kernel(table, reading), reading)
        if way == "widened":
            return F.linear(x[:, : reading.columns], self._wide(table, x.dtype, reading))
        return by_blocks(x, table, reading)

    def _drop_what_changed(self, table: Table, reading: Reading) -> None:
        state = (reading, *(_state(part) for part in (table.whole, table.high, table.low, table.scales)))
        if state != self._state:
            self._arranged, self._state = None, state
            self._widened.clear()

    @torch.no_grad()
    def _for_kernel(self, table: Table, reading: Reading) -> Arranged:
        self._drop_what_changed(table, reading)
        if self._arranged is None:
            self._arranged = arranged(table, reading, 0, table.whole.shape[0])
        return self._arranged

    @torch.no_grad()
    def _wide(self, table: Table, dtype: torch.dtype, reading: Reading) -> Tensor:
        if dtype not in self._widened:
            blocks = plane_codes.blocks_of(table.whole.shape[0], plane_codes.ROWS_AT_ONCE)
            self._widened[dtype] = torch.cat([preview_rows(table, rows, reading, dtype) for rows in blocks])
        return self._widened[dtype]

    def _way(self, table: Table, x: Tensor, reading: Reading) -> str:
        has_kernel = x.device.type == "cpu" and has_int4_kernel()
        if x.device.type != "cpu":
            return "blocks"
        if _is_small(table):
            return "kernel" if has_kernel and x.dtype == torch.bfloat16 and x.shape[0] <= MOST_POSITIONS else "blocks"
        if x.shape[0] > MOST_POSITIONS:
            return "widened" if x.dtype in self._widened else "blocks"
        key = (bucket_of(x.shape[0]), x.dtype, reading)
        if key not in self._choices:
            self._choices[key] = measured(table, x, reading, has_kernel=has_kernel)
        return self._choices[key]


@torch.inference_mode()
def measured(table: Table, x: Tensor, reading: Reading, *, has_kernel: bool) -> str:
    """The quickest way for as many positions as x has, on the first rows of the head."""
    part = _FirstRows(table)
    wide = preview_rows(part, slice(None), reading, x.dtype)
    ways = {
        "widened": partial(F.linear, x[:, : reading.columns], wide),
        "blocks": partial(by_blocks, x, part, reading),
    }
    # Rows of 8 bits in a wide dtype keep its precision; a preview of fewer bits loses nothing to bfloat16's rounding.
    if has_kernel and (reading.bits < 8 or x.dtype == torch.bfloat16):
        ways["kernel"] = partial(by_kernel, x, part, arranged(part, reading, 0, part.whole.shape[0]), reading)
    seconds = least_seconds(ways)
    saving = min((name for name in ways if name != "widened"), key=lambda name: seconds[name])
    return saving if seconds[saving] <= WORTH * seconds["widened"] else "widened"


class _FirstRows:
    """The beginning of a table."""

    def __init__(self, table: Table) -> None:
        self.whole, self.high = table.whole[:ROWS_MEASURED], table.high[:ROWS_MEASURED]
        self.low, self.scales = table.low[:ROWS_MEASURED], table.scales[:ROWS_MEASURED]
        self.codes_of, self.scales_of = table.codes_of, table.scales_of


def by_blocks(x: Tensor, table: Table, reading: Reading) -> Tensor:
    """Rows widened in blocks that stay in the cache."""
    vocab = table.whole.shape[0]
    step = plane_codes.ROWS_AT_ONCE if x.device.type == "cpu" else plane_codes.ROWS_AT_ONCE_ON_GPU
    logits = x.new_empty(x.shape[0], vocab)
    for rows in plane_codes.blocks_of(vocab, step):
        logits[:, rows] = F.linear(x[:, : reading.columns], preview_rows(table, rows, reading, x.dtype))
    return logits


def preview_rows(table: Table, rows: slice, reading: Reading, dtype: torch.dtype) -> Tensor:
    """(rows, columns read) as numbers of `dtype`."""
    rows = slice(*rows.indices(table.whole.shape[0]))
    codes, scales = table.codes_of(rows)[:, : reading.columns], table.scales_of(rows)
    return plane_codes.preview_values(
        codes,
        scales[:, : plane_codes.groups_of(reading.columns)],
        bits=reading.bits,
        whole_columns=table.whole.shape[1],
        dtype=dtype,
    )


def by_kernel(x: Tensor, table: Table, planes: Arranged, reading: Reading) -> Tensor:
    """torch's 4-bit product over both planes of the whole columns and the high plane of the others, in bfloat16."""
    twice = columns_in_two_planes(table.whole.shape[1], reading)
    read = x[:, : reading.columns].to(torch.bfloat16)
    first = F.pad(read[:, :twice], (0, -twice % GROUP))
    operand = F.pad(torch.cat([first, first, read[:, twice:]], dim=1), (0, -(reading.columns - twice) % GROUP))
    product = torch._weight_int4pack_mm_for_cpu(operand, planes.packed, GROUP, planes.scales)
    return product[:, : table.whole.shape[0]].to(x.dtype)


def columns_in_two_planes(whole_columns: int, reading: Reading) -> int:
    """Columns that the kernel reads in full: an 8-bit number is two of 4 bits, (high - 7.5) 16 s + (low - 7.5) s."""
    return reading.columns if reading.bits == 8 else min(whole_columns, reading.columns)


def arranged(table: Table, reading: Reading, start: int, stop: int) -> Arranged:
    """For torch's 4-bit product, filled up with zeros. The order depends on the CPU's instructions: it is never stored.

    It reads (q - 8) scale + zero. High plane: scale 16 s, and zero puts q into the middle of the codes that share its
    upper bits; low plane: scale s, zero s / 2. All of these are exact in bfloat16. A block of rows is wide at a time.
    """
    packed, scales = [], []
    twice = columns_in_two_planes(table.whole.shape[1], reading)
    with single_threaded_operators():
        for rows in plane_codes.blocks_of(stop - start, plane_codes.ROWS_AT_ONCE):
            codes = table.codes_of(slice(start + rows.start, start + rows.stop))[:, : reading.columns]
            step = table.scales_of(slice(start + rows.start, start + rows.stop))
            parts, factors = _in_nibbles(codes, step, twice, reading.bits)
            filling = (0, 0, 0, -codes.shape[0] % KERNEL_ROWS)  # rows are the last dimension but one
            packed.append(torch._convert_weight_to_int4pack_for_cpu(F.pad(parts, filling).int(), 1))
            scales.append(F.pad(factors, filling))
    return Arranged(torch.cat(packed), torch.cat(scales, dim=1))


def _in_nibbles(codes: Tensor, step: Tensor, twice: int, bits: int) -> tuple[Tensor, Tensor]:
    """(rows, K) nibbles of first high, first low, rest high, each filled up to GROUP; (K / GROUP, rows, 2) factors."""
    first, rest = codes[:, :twice], codes[:, twice:]
    first, rest = (F.pad(part, (0, -part.shape[1] % GROUP)) for part in (first, rest))
    of_first = step[:, : first.shape[1] // GROUP]
    of_rest = step[:, first.shape[1] // GROUP :][:, : rest.shape[1] // GROUP]
    shared = 1 << (8 - bits)  # codes that share the bits that are read
    nibbles = torch.cat([first >> 4, first & 15, (rest & (256 - shared)) >> 4], dim=1)
    scales = torch.cat([16 * of_first, of_first, 16 * of_rest], dim=1)
    zeros = torch.cat([8 * of_first, of_first / 2, of_rest * (shared / 2)], dim=1)
    return nibbles, torch.stack([scales, zeros], dim=2).transpose(0, 1).contiguous()


def _is_small(table: Table) -> bool:
    return table.whole.shape[0] * (table.whole.shape[1] + 2 * table.high.shape[1]) <= SMALL


def _state(tensor: Tensor) -> tuple[int, int]:
    """Differs once the tensor was replaced or written to."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
