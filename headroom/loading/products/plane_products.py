"""Logits of all rows of a head in planes, from as much of them as a preview reads. Needs torch; no modules, no files.

Two products give the same logits: torch's 4-bit weight-only product on a CPU, over a copy of the planes in its own
order, and rows widened a block at a time. PlaneProducts adds what may be quicker than any preview with many positions
at once, a wide copy of all 8 bits, and takes what product_choice.py measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from headroom.loading import plane_codes
from headroom.loading.plane_codes import GROUP
from headroom.loading.products.plane_rescoring import rescore
from headroom.loading.products.plane_table import Table, codes_of, entries_of, first_rows, scales_of
from headroom.loading.products.product_choice import (
    BLOCKS,
    COPY,
    KERNEL,
    MOST_POSITIONS,
    SMALL,
    HeadProducts,
    ProductChoice,
    Ways,
    has_int4_kernel,
    rows_measured,
)
from headroom.operator_threads import single_threaded_operators

KERNEL_ROWS = 16  # torch's 4-bit product wants a multiple of them
POSITIONS_UNMEASURED = 8  # up to which the kernel is taken where nothing may be measured


@dataclass(frozen=True)
class Reading:
    """What a head reads: `bits` of the columns in planes, the first `columns` of all, `rescored` rows whole."""

    bits: int
    columns: int
    rescored: int = 0

    def is_preview(self, stored_columns: int) -> bool:
        return self.bits < 8 or self.columns < stored_columns

    def previews_as(self, other: "Reading | None") -> bool:
        return other is not None and (self.bits, self.columns) == (other.bits, other.columns)


@dataclass(frozen=True, eq=False)
class Arranged:
    """A table in the order of torch's 4-bit product, with (groups, rows, 2) bfloat16 scales and zeros."""

    packed: Tensor
    scales: Tensor

    def first(self, rows: int) -> "Arranged":
        return Arranged(self.packed[:rows], self.scales[:, :rows].contiguous())


class PlaneProducts:
    """Products of one head, arranged and measured. Memory: the kernel's copy of what a preview reads; a wide copy."""

    def __init__(self) -> None:
        self.choice = ProductChoice()
        self._arranged: Arranged | None = None
        self._reading: Reading | None = None

    def way(self, table: Table, h: Tensor, reading: Reading) -> str:
        """The name of the product that gives the logits of h (positions, hidden)."""
        if h.device.type != "cpu":
            return BLOCKS
        self._drop_what_changed(table, reading)
        unmeasured = self._unmeasured(table, h, reading)
        return self.choice.way(h, entries_of(table), unmeasured, partial(self._ways, table, h, reading))

    def logits(self, table: Table, x: Tensor, reading: Reading, way: str) -> Tensor:
        """(positions, columns) -> (positions, vocab), a preview without a bias."""
        if way == KERNEL:
            return by_kernel(x, table, self._for_kernel(table, reading), reading)
        return by_blocks(x, table, reading)

    def prepare(self, table: Table, reading: Reading) -> None:
        """Arrange for the kernel where there is one."""
        if table.whole.device.type == "cpu" and has_int4_kernel():
            self._for_kernel(table, reading)

    def described(self) -> HeadProducts:
        made = self._arranged
        return self.choice.described(0 if made is None else made.packed.nbytes + made.scales.nbytes)

    def forget(self) -> None:
        self.choice.forget()
        self._arranged = self._reading = None

    def _unmeasured(self, table: Table, h: Tensor, reading: Reading) -> str:
        is_small = entries_of(table) <= SMALL
        is_ready = self._arranged is not None and reading.previews_as(self._reading)
        if is_small and not torch.compiler.is_compiling():  # in a graph nothing is arranged
            is_ready = has_int4_kernel()
        few = h.shape[0] <= (MOST_POSITIONS if is_small else POSITIONS_UNMEASURED)
        narrow = h.dtype == torch.bfloat16 or (reading.bits < 8 and not is_small)
        return KERNEL if is_ready and few and narrow else BLOCKS

    def _drop_what_changed(self, table: Table, reading: Reading) -> None:
        if torch.compiler.is_compiling():
            return
        if self.choice.watch(table.whole, table.high, table.low, table.scales, table.basis):
            self._arranged = None
        if reading != self._reading:
            if not reading.previews_as(self._reading):
                self._arranged = None
            self._reading = reading
            self.choice.forget_times()

    def _for_kernel(self, table: Table, reading: Reading) -> Arranged:
        self._drop_what_changed(table, reading)
        if self._arranged is None:
            with torch.inference_mode(False), torch.no_grad():
                self._arranged = arranged(table, reading, 0, table.whole.shape[0])
        return self._arranged

    def _ways(self, table: Table, h: Tensor, reading: Reading) -> Ways:
        """On the first rows of the head, of which as great a part is rescored."""
        vocab = table.whole.shape[0]
        rows = rows_measured(vocab, h.shape[1], h.dtype)
        part = first_rows(table, rows)
        x = torch.randn(h.shape[0], table.columns, dtype=h.dtype)
        most = -(-reading.rescored * rows // vocab) if reading.is_preview(table.columns) else 0

        def answered(logits: Tensor) -> None:
            if most:
                rescore(x, part, logits, most, None)

        ways: dict[str, Callable[[], object]] = {BLOCKS: lambda: answered(by_blocks(x, part, reading))}
        # Rows of 8 bits in a wide dtype keep its precision; a preview of fewer bits loses nothing to bfloat16.
        if has_int4_kernel() and (reading.bits < 8 or h.dtype == torch.bfloat16):
            planes = self._for_kernel(table, reading).first(rows)
            ways[KERNEL] = lambda: answered(by_kernel(x, part, planes, reading))
        if self.choice.copy_allowed:
            wide = h.new_ones(rows, h.shape[1])
            ways[COPY] = partial(F.linear, h, wide)
        return ways


def by_blocks(x: Tensor, table: Table, reading: Reading) -> Tensor:
    """Logits (positions, vocab) of a preview, its rows widened in blocks that stay in the cache."""
    vocab = table.whole.shape[0]
    step = plane_codes.ROWS_AT_ONCE if x.device.type == "cpu" else plane_codes.ROWS_AT_ONCE_ON_GPU
    logits = x.new_empty(x.shape[0], vocab)
    for rows in plane_codes.blocks_of(vocab, step):
        logits[:, rows] = F.linear(x[:, : reading.columns], preview_rows(table, rows, reading, x.dtype))
    return logits


def preview_rows(table: Table, rows: slice, reading: Reading, dtype: torch.dtype) -> Tensor:
    """(rows, columns read) as numbers of `dtype`."""
    rows = slice(*rows.indices(table.whole.shape[0]))
    codes, scales = codes_of(table, rows)[:, : reading.columns], scales_of(table, rows)
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
    first = _filled(read[:, :twice])
    operand = _filled(torch.cat([first, first, read[:, twice:]], dim=1))
    product = torch._weight_int4pack_mm_for_cpu(operand, planes.packed, GROUP, planes.scales)
    return product[:, : table.whole.shape[0]].to(x.dtype)


def _filled(columns: Tensor) -> Tensor:
    return F.pad(columns, (0, -columns.shape[1] % GROUP)) if columns.shape[1] % GROUP else columns


def columns_in_two_planes(whole_columns: int, reading: Reading) -> int:
    """Columns that the kernel reads in full: an 8-bit number is two of 4 bits, (high - 7.5) 16 s + (low - 7.5) s."""
    return reading.columns if reading.bits == 8 else min(whole_columns, reading.columns)


def arranged(table: Table, reading: Reading, start: int, stop: int) -> Arranged:
    """Rows start to stop for torch's 4-bit product, filled up with zeros; never stored, as CPUs differ in the order.

    It reads (q - 8) scale + zero. High plane: scale 16 s, and zero puts q into the middle of the codes that share its
    upper bits; low plane: scale s, zero s / 2. All of these are exact in bfloat16. A block of rows is wide at a time.
    """
    packed, scales = [], []
    twice = columns_in_two_planes(table.whole.shape[1], reading)
    with single_threaded_operators():
        for rows in plane_codes.blocks_of(stop - start, plane_codes.ROWS_AT_ONCE):
            block = slice(start + rows.start, start + rows.stop)
            codes = codes_of(table, block)[:, : reading.columns]
            parts, factors = in_nibbles(codes, scales_of(table, block), twice, reading.bits)
            filling = (0, 0, 0, -codes.shape[0] % KERNEL_ROWS)  # rows are the last dimension but one
            packed.append(torch._convert_weight_to_int4pack_for_cpu(F.pad(parts, filling).int(), 1))
            scales.append(F.pad(factors, filling))
    return Arranged(torch.cat(packed), torch.cat(scales, dim=1))


def in_nibbles(codes: Tensor, step: Tensor, twice: int, bits: int) -> tuple[Tensor, Tensor]:
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
