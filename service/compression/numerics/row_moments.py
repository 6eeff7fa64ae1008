"""Sums over the rows of the head and of what is regressed on them: enough for every regression on some of the columns.

One read of W, blocks of rows in float64; cost V d^2 multiplications, half of what the full product would take.
"""

from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import torch
from torch import Tensor

from service.compression.numerics.block_parallel import map_blocks

ROWS_SUMMED = 16_384  # by one thread
ROWS_AT_ONCE = 512  # as float64 they stay in the cache
COLUMNS_AT_ONCE = 384


@dataclass(frozen=True, eq=False)
class RowMoments:
    """float64 on the CPU. Parts of the rows add up (`+`)."""

    rows: int
    w: Tensor  # (hidden,)
    y: Tensor  # ()
    yy: Tensor  # ()
    ww: Tensor  # (hidden, hidden)
    wy: Tensor  # (hidden,)

    def __add__(self, other: "RowMoments") -> "RowMoments":
        return RowMoments(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def hidden_size(self) -> int:
        return self.w.numel()

    def centered(self) -> tuple[Tensor, Tensor, Tensor]:
        """(W'W, W'y, y'y) of centred columns. What varies less than the rounding of its sum is constant: zeros."""
        mean_w, mean_y = self.w / self.rows, self.y / self.rows
        ww = self.ww - self.rows * torch.outer(mean_w, mean_w)
        yy = self.yy - self.rows * mean_y**2
        rounding = self.rows * torch.finfo(torch.float64).eps
        varies = ww.diagonal() > rounding * self.ww.diagonal()
        return (
            ww.mul_(varies).mul_(varies[:, None]),
            (self.wy - self.rows * mean_w * mean_y) * varies,
            yy * (yy > rounding * self.yy),
        )

    def deviations(self) -> tuple[Tensor, Tensor]:
        """(hidden,) standard deviation of each column, and () that of y."""
        ww, _, yy = self.centered()
        return (ww.diagonal().clamp_min(0) / self.rows).sqrt(), (yy.clamp_min(0) / self.rows).sqrt()


def row_moments(weight: Tensor, y: Tensor, rows: Tensor | None = None) -> RowMoments:
    """Sums over rows. weight: (vocab, hidden), any float dtype; y: (vocab,) float64; rows: indices of some."""
    rows = torch.arange(weight.shape[0]) if rows is None else rows
    parts = map_blocks(lambda some: _moments_of(weight, y, some), rows.split(ROWS_SUMMED), torch.device("cpu"))
    return reduce(add, parts)


def _moments_of(weight: Tensor, y: Tensor, rows: Tensor) -> RowMoments:
    hidden = weight.shape[1]
    w, wy = torch.zeros(hidden, dtype=torch.float64), torch.zeros(hidden, dtype=torch.float64)
    ww = torch.zeros(hidden, hidden, dtype=torch.float64)
    for some in rows.split(ROWS_AT_ONCE):
        exact = weight[some].double()
        w += exact.sum(0)
        wy += exact.T @ y[some]
        for start in range(0, hidden, COLUMNS_AT_ONCE):  # on and right of the diagonal; the rest is its mirror
            stop = min(start + COLUMNS_AT_ONCE, hidden)
            ww[start:stop, start:].addmm_(exact[:, start:stop].T, exact[:, start:])
    of_rows = y[rows]
    return RowMoments(rows.numel(), w, of_rows.sum(), of_rows.square().sum(), ww.triu() + ww.triu(1).T, wy)


def with_other_target(moments: RowMoments, weight: Tensor, y: Tensor, rows_at_once: int = 8192) -> RowMoments:
    """The moments of the same rows and another y; costs V d instead of V d^2."""
    wy = torch.zeros(moments.hidden_size, dtype=torch.float64)
    for rows, part in zip(weight.split(rows_at_once), y.split(rows_at_once), strict=True):
        wy += rows.double().T @ part
    return RowMoments(moments.rows, moments.w, y.sum(), y.square().sum(), moments.ww, wy)
