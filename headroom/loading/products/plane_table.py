"""What a head in planes is to a product: its tensors, and the number of their columns. Needs torch only."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headroom.loading import plane_codes


class Table(Protocol):
    """Shapes: as PlanesTable of planes_head.py."""

    @property
    def whole(self) -> Tensor: ...
    @property
    def high(self) -> Tensor: ...
    @property
    def low(self) -> Tensor: ...
    @property
    def scales(self) -> Tensor: ...
    @property
    def basis(self) -> Tensor: ...
    @property
    def columns(self) -> int: ...


@dataclass(frozen=True, eq=False)
class FirstRows:
    """The beginning of a table, as one of its own."""

    whole: Tensor
    high: Tensor
    low: Tensor
    scales: Tensor
    basis: Tensor
    columns: int


def first_rows(table: Table, rows: int) -> FirstRows:
    whole, high, low, scales = (tensor[:rows] for tensor in (table.whole, table.high, table.low, table.scales))
    return FirstRows(whole, high, low, scales, table.basis, table.columns)


def codes_of(table: Table, rows: Tensor | slice) -> Tensor:
    """(rows, columns) uint8."""
    return plane_codes.join(plane_codes.Planes(table.whole[rows], table.high[rows], table.low[rows]), table.columns)


def scales_of(table: Table, rows: Tensor | slice) -> Tensor:
    """(rows, groups) bfloat16."""
    return table.scales[rows].view(torch.bfloat16)


def entries_of(table: Table) -> int:
    return table.whole.shape[0] * table.columns
