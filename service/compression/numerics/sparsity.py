"""How many columns carry the regression: R^2 of the first n columns in an order, and how unequal slopes are.

Source: arXiv 2406.01468, section 3.3 (few dimensions encode the probability). Works on moments; reads no rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Of a column's own variance: keeps the factorisation of dependent columns, below what is reported. The larger ones are
# for columns so far from zero that rounding of their sums is more.
RIDGES = (1e-11, 1e-8, 1e-5)
SHARES = (0.90, 0.95, 0.99)
CURVE_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class SparsityFigures:
    """How much columns explain in one order, largest |standardised slope| first."""

    gini: float  # of |standardised slope|: 0 all equal, 1 all in one column
    needed: dict[float, int]  # share of the full R^2 -> fewest columns of the order that reach it
    curve: list[tuple[int, float]]  # (columns, R^2) at about ten numbers of columns


def sparsity_of(ww: Tensor, wy: Tensor, yy: Tensor, slope: Tensor) -> SparsityFigures:
    """Figures from moments. ww: (d, d), wy: (d,), yy: () of centred columns, float64; slope: (d,) of the regression."""
    size = slope.abs() * ww.diagonal().clamp_min(0).sqrt()
    r2 = prefix_r2(ww, wy, yy, size.argsort(descending=True, stable=True))
    counts = sorted({max(1, round(r2.numel() * share)) for share in CURVE_SHARES})
    needed = {share: int((r2 < share * r2[-1]).sum()) + 1 for share in SHARES}
    return SparsityFigures(gini(size), needed, [(count, float(r2[count - 1])) for count in counts])


def prefix_r2(ww: Tensor, wy: Tensor, yy: Tensor, order: Tensor) -> Tensor:
    """(d,) R^2 of the regression on the first 1, 2, .. d columns of `order`, from one Cholesky factorisation.

    With G = L L' of the ordered, standardised columns, column i adds (L^-1 g)_i^2; one that depends on those before
    it, or is constant, adds nothing.
    """
    if not yy > 0:
        return torch.ones_like(wy)
    scale = ww.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale.clamp_min(1e-300), 0.0)
    gram = (ww * inverse[:, None] * inverse)[order][:, order]
    for ridge in RIDGES:
        gram.diagonal().fill_(1 + ridge)
        factor, broke = torch.linalg.cholesky_ex(gram)
        if not broke:
            break
    added: Tensor = torch.linalg.solve_triangular(factor, (wy * inverse)[order][:, None], upper=False)[:, 0]
    r2: Tensor = (added.square().cumsum(0) / yy).clamp_max(1.0)
    return r2


def gini(sizes: Tensor) -> float:
    """Gini coefficient of non-negative numbers; 0 when all are zero."""
    ordered = sizes.double().sort().values
    total, count = float(ordered.sum()), ordered.numel()
    if total == 0:
        return 0.0
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    return float((2 * ranks - count - 1) @ ordered) / (count * total)
