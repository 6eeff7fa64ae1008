"""How token probability is encoded in the output embedding: multiple linear regression and rank correlation.

Source: arXiv 2406.01468, section 3: -log alpha_w = A . W_w + B + error over the vocabulary. All in float64.
No N x V matrix and no Python loop over columns; nothing is edited here (that is steering).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Columns are ranked this many values at a time: bounds the memory of sorting to a few hundred MB.
RANKED_VALUES_AT_ONCE = 16_000_000


@dataclass(frozen=True, eq=False)
class Regression:
    """Least squares of y on the rows of W with an intercept."""

    slope: Tensor  # (hidden,) A, minimum norm if W is rank-deficient
    intercept: float  # B
    rank: int  # of the centred W
    r2: float
    adjusted_r2: float


@dataclass(frozen=True, eq=False)
class Encoding:
    """The regression on all rows and what it is worth."""

    regression: Regression
    r2_held_out: float  # fitted on 80 % of the rows, seeded, measured on the others
    spearman: float  # of fitted against true -log alpha
    slope_cosine_mean_hidden: float  # cos(A, -E[h]); first-order theory says 1
    sparsity: list[tuple[int, float]]  # (columns used, R^2), largest standardised |slope| first


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over rows: enough for every regression on a subset of columns."""

    rows: int
    w: Tensor  # (hidden,)
    y: Tensor  # ()
    yy: Tensor  # ()
    ww: Tensor  # (hidden, hidden)
    wy: Tensor  # (hidden,)

    def centered(self) -> tuple[Tensor, Tensor, Tensor]:
        """(W'W, W'y, y'y) of centred columns."""
        mean_w, mean_y = self.w / self.rows, self.y / self.rows
        return (
            self.ww - self.rows * torch.outer(mean_w, mean_w),
            self.wy - self.rows * mean_w * mean_y,
            self.yy - self.rows * mean_y**2,
        )


def _moments(weight: Tensor, y: Tensor, rows_at_once: int = 8192) -> _Moments:
    hidden = weight.shape[1]
    w, wy = torch.zeros(hidden, dtype=torch.float64), torch.zeros(hidden, dtype=torch.float64)
    ww = torch.zeros(hidden, hidden, dtype=torch.float64)
    for rows, part in zip(weight.split(rows_at_once), y.split(rows_at_once), strict=True):
        exact = rows.double()
        w += exact.sum(0)
        ww += exact.T @ exact
        wy += exact.T @ part
    return _Moments(weight.shape[0], w, y.sum(), y.square().sum(), ww, wy)


def _solve(moments: _Moments) -> Regression:
    ww, wy, yy = moments.centered()
    slope, rank = minimum_norm_solution(ww, wy)
    intercept = float((moments.y - moments.w @ slope) / moments.rows)
    r2 = 1.0 - float((yy - 2 * slope @ wy + slope @ ww @ slope) / yy) if yy > 0 else 1.0
    freedom = moments.rows - rank - 1
    adjusted = 1.0 - (1.0 - r2) * (moments.rows - 1) / freedom if freedom > 0 else float("nan")
    return Regression(slope, intercept, rank, r2, adjusted)


def minimum_norm_solution(gram: Tensor, right: Tensor) -> tuple[Tensor, int]:
    """Least-squares solution of smallest norm from normal equations, and the rank found.

    gram: (d, d) symmetric, right: (d,). Eigenvalues below d * eps of the largest count as zero.
    """
    values, vectors = torch.linalg.eigh(gram)
    keep = values > values[-1].clamp_min(0) * gram.shape[0] * torch.finfo(gram.dtype).eps
    coordinates = (vectors.T @ right)[keep] / values[keep]
    return vectors[:, keep] @ coordinates, int(keep.sum())


def regress(weight: Tensor, y: Tensor) -> Regression:
    """weight: (vocab, hidden) of any float dtype; y: (vocab,) float64."""
    return _solve(_moments(weight.cpu(), y.cpu()))


def encode(weight: Tensor, y: Tensor, mean_hidden: Tensor, seed: int) -> Encoding:
    """weight: (vocab, hidden); y: (vocab,) -log alpha, float64; mean_hidden: (hidden,) float64."""
    weight, y = weight.cpu(), y.cpu()
    moments = _moments(weight, y)
    regression = _solve(moments)
    fitted = predict(weight, regression)
    cosine = torch.nn.functional.cosine_similarity(regression.slope, -mean_hidden.cpu(), dim=0)
    return Encoding(
        regression=regression,
        r2_held_out=_held_out_r2(weight, y, seed),
        spearman=float(spearman(fitted[:, None], y)[0]),
        slope_cosine_mean_hidden=float(cosine),
        sparsity=_sparsity(moments, regression),
    )


def predict(weight: Tensor, regression: Regression, rows_at_once: int = 65536) -> Tensor:
    """(vocab,) fitted y."""
    parts = [rows.double() @ regression.slope for rows in weight.split(rows_at_once)]
    return torch.cat(parts) + regression.intercept


def _held_out_r2(weight: Tensor, y: Tensor, seed: int) -> float:
    order = torch.randperm(weight.shape[0], generator=torch.Generator().manual_seed(seed))
    cut = int(0.8 * weight.shape[0])
    train, held_out = order[:cut].sort().values, order[cut:].sort().values
    if train.numel() < 2 or held_out.numel() < 2:
        return float("nan")
    regression = regress(weight[train], y[train])
    residual = y[held_out] - predict(weight[held_out], regression)
    return 1.0 - float(residual.square().sum() / (y[held_out] - y[held_out].mean()).square().sum())


def _sparsity(moments: _Moments, regression: Regression) -> list[tuple[int, float]]:
    """R^2 with only the columns of largest |slope x deviation|, at about ten numbers of columns."""
    ww, wy, yy = moments.centered()
    hidden = ww.shape[0]
    order = (regression.slope.abs() * ww.diagonal().clamp_min(0).sqrt()).argsort(descending=True, stable=True)
    counts = sorted({max(1, round(hidden * share)) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)})
    points = []
    for count in counts:
        kept = order[:count]
        slope, _ = minimum_norm_solution(ww[kept][:, kept], wy[kept])
        points.append((count, float((slope @ wy[kept]) / yy) if yy > 0 else 1.0))
    return points


def spearman(columns: Tensor, y: Tensor) -> Tensor:
    """Rank correlation of each column with y, ties given their average rank.

    columns: (n, m), y: (n,) -> (m,) float64. A constant column correlates with nothing: 0.
    """
    target = _average_ranks(y[:, None].double())
    target = target - target.mean(0)
    at_once = max(1, RANKED_VALUES_AT_ONCE // columns.shape[0])
    parts = []
    for some in columns.split(at_once, dim=1):
        ranks = _average_ranks(some.double())
        ranks = ranks - ranks.mean(0)
        norm = ranks.square().sum(0).sqrt() * target.square().sum().sqrt()
        parts.append(torch.where(norm > 0, (target * ranks).sum(0) / norm.clamp_min(1e-300), 0.0))
    return torch.cat(parts)


def _average_ranks(columns: Tensor) -> Tensor:
    """(n, m) -> (n, m) ranks from 0, equal values sharing the mean of their ranks."""
    count = columns.shape[0]
    ordered, order = columns.sort(dim=0)
    starts_run = torch.ones_like(ordered, dtype=torch.bool)
    starts_run[1:] = ordered[1:] != ordered[:-1]
    position = torch.arange(count, device=columns.device)[:, None].expand_as(ordered)
    first = torch.where(starts_run, position, 0).cummax(dim=0).values
    ends_run = torch.ones_like(starts_run)
    ends_run[:-1] = starts_run[1:]
    last = torch.where(ends_run, position, count - 1).flip(0).cummin(dim=0).values.flip(0)
    return torch.empty_like(columns).scatter_(0, order, (first + last).double() / 2)
