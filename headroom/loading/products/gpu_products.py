# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Products of a few positions with a head of integers on a GPU. Needs Triton, which torch's CUDA builds bring along.

The head is read once, as integers: a block of it is widened in registers. docs/decisions/0026 has what else was tried.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F
from triton import OutOfResources as OutOfResources  # what a GPU with too little shared memory answers

from headroom.loading.quantized_head import GROUP, OFFSET

MOST_POSITIONS = 64  # with more, widening the head for a plain product is quicker


@dataclass(frozen=True)
class Blocks:
    """What one program of a kernel computes: positions x rows of the head, so many columns at a time."""

    positions: int
    rows: int
    columns: int
    warps: int
    stages: int


def int8_product(x: Tensor, quantized: Tensor, scale: Tensor) -> Tensor:
    """Logits (positions, vocab) of x (positions, kept). quantized: (vocab, kept) int8; scale: (vocab,) float32."""
    positions, kept = x.shape
    vocab = quantized.shape[0]
    blocks = _int8_blocks(positions, x.dtype)
    logits = x.new_empty(positions, vocab)
    with torch.cuda.device_of(x):
        _int8_kernel[_grid(positions, vocab, blocks)](
            x.contiguous(),
            quantized,
            scale,
            logits,
            positions,
            vocab,
            kept,
            POSITIONS=blocks.positions,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return logits


def int4_product(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """Logits (positions, vocab) of x (positions, kept).

    packed: (vocab, ceil(kept / 2)) uint8; scale: (vocab, groups) bfloat16, as PackedHead has them.
    """
    positions, kept = x.shape
    vocab, groups = scale.shape
    blocks = _int4_blocks(positions)
    pairs = F.pad(x, (0, groups * GROUP - kept)).view(positions, groups, GROUP // 2, 2)
    even, odd = (part.contiguous() for part in pairs.unbind(3))
    logits = x.new_empty(positions, vocab)
    with torch.cuda.device_of(x):
        _int4_kernel[_grid(positions, vocab, blocks)](
            even,
            odd,
            pairs.float().sum((2, 3)),
            packed,
            scale,
            logits,
            positions,
            vocab,
            packed.shape[1],
            groups,
            POSITIONS=blocks.positions,
            ROWS=blocks.rows,
            HALF=blocks.columns // 2,
            OFFSET=OFFSET,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return logits


def _int8_blocks(positions: int, dtype: torch.dtype) -> Blocks:
    if dtype == torch.float32:  # twice the bytes in shared memory
        return Blocks(16, 64, 64, 4, 2)
    return Blocks(16, 32, 256, 4, 3) if positions <= 16 else Blocks(64, 128, 128, 4, 3)


def _int4_blocks(positions: int) -> Blocks:
    return Blocks(16, 64, GROUP, 4, 8) if positions <= 16 else Blocks(64, 128, GROUP, 4, 4)


def _grid(positions: int, vocab: int, blocks: Blocks) -> tuple[int, int]:
    return triton.cdiv(vocab, blocks.rows), triton.cdiv(positions, blocks.positions)


@triton.jit
def _int8_kernel(
    x,
    quantized,
    scale,
    logits,
    positions,
    vocab,
    kept,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    position = tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)
    is_row, is_position = row[None, :] < vocab, position[:, None] < positions
    sums = tl.zeros((POSITIONS, ROWS), tl.float32)
    for start in range(0, kept, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        integers = tl.load(
            quantized + row[None, :] * kept + column[:, None], mask=is_row & (column[:, None] < kept), other=0
        )
        wanted = tl.load(
            x + position[:, None] * kept + column[None, :], mask=is_position & (column[None, :] < kept), other=0
        )
        sums = tl.dot(wanted, integers.to(wanted.dtype), sums, input_precision="ieee")
    sums *= tl.load(scale + row, mask=row < vocab, other=0)[None, :]
    tl.store(
        logits + position[:, None].to(tl.int64) * vocab + row[None, :],
        sums.to(logits.dtype.element_ty),
        mask=is_position & is_row,
    )


@triton.jit
def _int4_kernel(
    even,
    odd,
    x_sums,
    packed,
    scale,
    logits,
    positions,
    vocab,
    row_bytes,
    groups,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
    OFFSET: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    position = tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS)
    is_row, is_position = row < vocab, position < positions
    sums = tl.zeros((POSITIONS, ROWS), tl.float32)
    for group in range(groups):
        byte = group * HALF + tl.arange(0, HALF)
        pair = tl.load(
            packed + row[None, :] * row_bytes + byte[:, None],
            mask=is_row[None, :] & (byte[:, None] < row_bytes),
            other=0,
        )
        place = position[:, None] * (groups * HALF) + byte[None, :]
        of_even = tl.load(even + place, mask=is_position[:, None], other=0)
        of_odd = tl.load(odd + place, mask=is_position[:, None], other=0)
        # Converting integers runs at a quarter of the rate of other instructions. Set into the low bits of the float
        # 128 (bfloat16) or 1024 (float16), four bits are that number plus their value; it is taken off with OFFSET.
        if of_even.dtype == tl.bfloat16:
            low = ((pair & 15).to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
            high = ((pair >> 4).to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
            added = 128 + OFFSET
        elif of_even.dtype == tl.float16:
            low = ((pair & 15).to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
            high = ((pair >> 4).to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
            added = 1024 + OFFSET
        else:
            low, high = (pair & 15).to(tl.float32), (pair >> 4).to(tl.float32)
            added = OFFSET
        products = tl.dot(of_even, low, input_precision="ieee")
        products = tl.dot(of_odd, high, products, input_precision="ieee")
        of_group = tl.load(x_sums + position * groups + group, mask=is_position, other=0)
        of_rows = tl.load(scale + row * groups + group, mask=is_row, other=0).to(tl.float32)
        sums += (products - added * of_group[:, None]) * of_rows[None, :]
    tl.store(
        logits + position[:, None].to(tl.int64) * vocab + row[None, :],
        sums.to(logits.dtype.element_ty),
        mask=is_position[:, None] & is_row[None, :],
    )
