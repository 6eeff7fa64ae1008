"""How token probability is encoded in the output embedding: multiple linear regression on the rows of the head.

Source: arXiv 2406.01468, section 3: -log alpha_w = A . W_w + B + error over the vocabulary. All in float64.
No N x V matrix and no Python loop over columns; nothing is edited here (that is steering).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.rank_correlation import spearman
from service.compression.numerics.row_moments import RowMoments, row_moments
from service.compression.numerics.sparsity import SparsityFigures, sparsity_of

TRAINING_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class Regression:
    """Least squares of y on the rows of W with an intercept."""

    slope: Tensor  # (hidden,) A, minimum norm if W is rank-deficient
    intercept: float  # B
    rank: int  # of the centred W
    r2: float
    adjusted_r2: float


@dataclass(frozen=True, eq=False)
class FittedEncoding:
    """The regression on all rows and what it is worth."""

    regression: Regression
    moments: RowMoments
    spectrum: tuple[Tensor, Tensor]  # eigenvalues (hidden,), rising, and -vectors (hidden, hidden) of the centred W'W
    target: Tensor  # (vocab,) float64, y
    fitted: Tensor  # (vocab,) float64
    r2_held_out: float  # fitted on 80 % of the rows, seeded, measured on the others
    spearman: float  # of fitted against true -log alpha
    slope_cosine_mean_hidden: float  # cos(A, -E[h]); first-order theory says 1
    sparsity: SparsityFigures  # of the raw columns

    @property
    def standardised_slope(self) -> Tensor:
        """(hidden,) in deviations of y per deviation of the column."""
        of_columns, of_y = self.moments.deviations()
        return self.regression.slope * of_columns / of_y.clamp_min(1e-300)


def encode(weight: Tensor, y: Tensor, mean_hidden: Tensor, seed: int) -> FittedEncoding:
    """Fit the encoding. weight: (vocab, hidden); y: (vocab,) -log alpha, float64; mean_hidden: (hidden,) float64."""
    weight, y = weight.cpu(), y.cpu()
    training, held_out = _split_moments(weight, y, seed)
    moments = training + held_out
    spectrum = torch.linalg.eigh(moments.centered()[0])
    regression = solve(moments, spectrum)
    fitted = predict(weight, regression)
    cosine = torch.nn.functional.cosine_similarity(regression.slope, -mean_hidden.cpu(), dim=0)
    return FittedEncoding(
        regression=regression,
        moments=moments,
        spectrum=spectrum,
        target=y,
        fitted=fitted,
        r2_held_out=_held_out_r2(training, held_out, is_full_rank=regression.rank == moments.hidden_size),
        spearman=float(spearman(fitted[:, None], y)[0]),
        slope_cosine_mean_hidden=float(cosine),
        sparsity=sparsity_of(*moments.centered(), regression.slope),
    )


def regress(weight: Tensor, y: Tensor) -> Regression:
    """Regression of y on the rows. weight: (vocab, hidden) of any float dtype; y: (vocab,) float64."""
    return solve(row_moments(weight.cpu(), y.cpu()))


def solve(moments: RowMoments, spectrum: tuple[Tensor, Tensor] | None = None) -> Regression:
    """Regression from moments. `spectrum`: eigenvalues and -vectors of the centred W'W, where they are known."""
    ww, wy, yy = moments.centered()
    values, vectors = spectrum or torch.linalg.eigh(ww)
    slope, rank = minimum_norm_solution(values, vectors, wy)
    intercept = float((moments.y - moments.w @ slope) / moments.rows)
    r2 = 1.0 - float((yy - 2 * slope @ wy + slope @ ww @ slope) / yy) if yy > 0 else 1.0
    freedom = moments.rows - rank - 1
    adjusted = 1.0 - (1.0 - r2) * (moments.rows - 1) / freedom if freedom > 0 else float("nan")
    return Regression(slope, intercept, rank, r2, adjusted)


def minimum_norm_solution(values: Tensor, vectors: Tensor, right: Tensor) -> tuple[Tensor, int]:
    """Least-squares solution of smallest norm from normal equations, and the rank found.

    values: (d,) eigenvalues, rising, vectors: (d, d), of the matrix; right: (d,). Values below d * eps of the largest
    count as zero.
    """
    keep = values > values[-1].clamp_min(0) * right.numel() * torch.finfo(values.dtype).eps
    coordinates = (vectors.T @ right)[keep] / values[keep]
    return vectors[:, keep] @ coordinates, int(keep.sum())


def predict(weight: Tensor, regression: Regression, rows_at_once: int = 512) -> Tensor:
    """(vocab,) fitted y."""

    fitted = torch.empty(weight.shape[0], dtype=torch.float64)

    def fit(block: tuple[Tensor, Tensor]) -> None:
        rows, out = block
        torch.mv(rows.double(), regression.slope, out=out)  # kept results between large blocks would spread these out

    blocks = zip(weight.split(rows_at_once), fitted.split(rows_at_once), strict=True)
    for _ in map_blocks(fit, blocks, torch.device("cpu")):
        pass
    return fitted + regression.intercept


def _split_moments(weight: Tensor, y: Tensor, seed: int) -> tuple[RowMoments, RowMoments]:
    order = torch.randperm(weight.shape[0], generator=torch.Generator().manual_seed(seed))
    cut = int(TRAINING_SHARE * weight.shape[0])
    training, held_out = (part.sort().values for part in (order[:cut], order[cut:]))
    return row_moments(weight, y, rows=training), row_moments(weight, y, rows=held_out)


def _held_out_r2(training: RowMoments, held_out: RowMoments, is_full_rank: bool) -> float:
    """`is_full_rank`: of all rows together; the faster factorisation is then tried first."""
    if min(training.rows, held_out.rows) < 2:
        return float("nan")
    ww, wy, _ = training.centered()
    factor, broke = torch.linalg.cholesky_ex(ww)
    if is_full_rank and not broke:
        slope = torch.cholesky_solve(wy[:, None], factor)[:, 0]
    else:
        values, vectors = torch.linalg.eigh(ww)
        slope, _ = minimum_norm_solution(values, vectors, wy)
    intercept, m = (training.y - training.w @ slope) / training.rows, held_out
    explained = slope @ m.ww @ slope + 2 * intercept * (m.w @ slope) + m.rows * intercept**2
    residual = m.yy - 2 * (slope @ m.wy) - 2 * intercept * m.y + explained
    _, _, total = m.centered()
    return 1.0 - float(residual / total) if total > 0 else float("nan")
