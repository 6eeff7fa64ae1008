"""8-bit codes of a head in bit planes, as pure functions of tensors. Needs torch; no modules, no files, no fitting.

An entry is a code u of 0..255 times the scale s of its row and GROUP columns: (u - 127.5) s. Its upper four bits, the
high plane, are a number of their own: the centre of the 16 codes that share them, (16 high + 7.5 - 127.5) s. There is
no zero point: codes lie symmetrically about 0, which itself is none of them. A last group may be short.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 32  # columns that share a scale
CENTRE = 127.5  # the code that would stand for 0
ROWS_AT_ONCE = 2048  # widened, they stay in the cache
ROWS_AT_ONCE_ON_GPU = 32_768  # it wants large products
PREVIEW_BITS = (8, 4, 3, 2)  # how many of the upper bits of a code can be read


@dataclass(frozen=True, eq=False)
class Planes:
    """Codes of a matrix as stored: the first columns whole, of the others two nibbles per byte in each plane."""

    whole: Tensor  # (rows, whole_columns) uint8
    high: Tensor  # (rows, ceil(rest / 2)) uint8: the upper four bits, the even column in the low half of a byte
    low: Tensor  # (rows, ceil(rest / 2)) uint8: the lower four bits


def groups_of(columns: int) -> int:
    """Scales of a row."""
    return -(-columns // GROUP)


def round_to_codes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) floats -> codes (rows, columns) uint8, scales (rows, groups) bfloat16; each to the nearest code.

    The scale of a group is its largest entry by amount over 127.5, rounded to bfloat16 before codes are counted in it.
    A group of zeros gets scale 0. Memory: a few times the matrix in float32.
    """
    grouped = _grouped(matrix.float())
    scales = (grouped.abs().amax(2) / CENTRE).to(torch.bfloat16)
    return codes_for(matrix, scales), scales


def codes_for(matrix: Tensor, scales: Tensor) -> Tensor:
    """(rows, columns) uint8: the nearest codes, for scales (rows, groups) that are given."""
    step = scales.float()[..., None]
    counted = _grouped(matrix.float()) / torch.where(step > 0, step, torch.ones_like(step))
    return (counted + CENTRE).round_().clamp_(0, 255).flatten(1)[:, : matrix.shape[1]].to(torch.uint8)


def values(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(rows, columns) of `dtype`: what codes (rows, columns) stand for, with scales (rows, groups)."""
    return _scaled_in_place(codes.to(dtype).sub_(CENTRE), scales.to(dtype))


def preview_values(
    codes: Tensor, scales: Tensor, *, bits: int, whole_columns: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The numbers of a preview: as `values`, with only the upper `bits` known from column `whole_columns` on.

    What is known of a code stands for the mean of all codes that share it.
    """
    if bits == 8:
        return values(codes, scales, dtype)
    step = 1 << (8 - bits)
    known = codes.new_full((codes.shape[1],), 256 - step)
    known[:whole_columns] = 255
    centres = torch.full((codes.shape[1],), CENTRE - (step - 1) / 2, dtype=dtype, device=codes.device)
    centres[:whole_columns] = CENTRE
    return _scaled_in_place((codes & known).to(dtype).sub_(centres), scales.to(dtype))


def _scaled_in_place(numbers: Tensor, scales: Tensor) -> Tensor:
    """As `scaled`; where every group is whole in `numbers` themselves, which saves a pass over fresh memory."""
    if numbers.shape[1] % GROUP:
        return scaled(numbers, scales)
    numbers.view(numbers.shape[0], -1, GROUP).mul_(scales[..., None])
    return numbers


def scaled(numbers: Tensor, scales: Tensor) -> Tensor:
    """(rows, columns) numbers times (rows, groups) scales of their columns, in the dtype of the scales."""
    columns = numbers.shape[1]
    return (_grouped(numbers.to(scales.dtype)) * scales[..., None]).flatten(1)[:, :columns]


def split(codes: Tensor, whole_columns: int) -> Planes:
    """Cut codes (rows, columns) into the planes that are stored; `join` puts them together again."""
    rest = codes[:, whole_columns:]
    return Planes(codes[:, :whole_columns].contiguous(), pack_nibbles(rest >> 4), pack_nibbles(rest & 15))


def join(planes: Planes, columns: int) -> Tensor:
    """The codes (rows, columns) uint8 that `split` was given."""
    rest = columns - planes.whole.shape[1]
    upper, lower = unpack_nibbles(planes.high, rest), unpack_nibbles(planes.low, rest)
    return torch.cat([planes.whole, upper << 4 | lower], dim=1)


def pack_nibbles(nibbles: Tensor) -> Tensor:
    """(rows, columns) uint8 of 0..15 -> (rows, ceil(columns / 2)): the even column of a pair in the low half."""
    padded = F.pad(nibbles, (0, nibbles.shape[1] % 2))
    return padded[:, ::2] | padded[:, 1::2] << 4


def unpack_nibbles(packed: Tensor, columns: int) -> Tensor:
    """Undo `pack_nibbles`: (rows, ceil(columns / 2)) -> (rows, columns) uint8."""
    return torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)[:, :columns]


def _grouped(numbers: Tensor) -> Tensor:
    """(rows, groups, GROUP), a short last group filled up with zeros."""
    return F.pad(numbers, (0, -numbers.shape[1] % GROUP)).view(numbers.shape[0], -1, GROUP)


def blocks_of(rows: int, step: int) -> list[slice]:
    """Slices of `step` rows that cover `rows`."""
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
