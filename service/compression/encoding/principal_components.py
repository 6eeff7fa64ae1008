"""Principal components of the rows of the head, and how each tells of the token probability.

Everything but the rank correlations comes from the moments. These take one product RANKED_ROWS x d x d at most, whose
result is kept as 16-bit floats.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.encoding.token_probability import FittedEncoding
from service.compression.numerics.rank_correlation import binned_spearman
from service.compression.numerics.sparsity import SparsityFigures, sparsity_of

# Of a larger vocabulary every second, third .. row: the standard error of a rank correlation of so many is 0.004.
RANKED_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of the head in order of explained variance; float64."""

    explained_variance: Tensor  # (d,) share of the variance of W
    slope: Tensor  # (d,) of y on the scores, standardised
    spearman: Tensor  # (d,) of the scores with y
    ranked_rows: int  # that `spearman` is of, evenly spaced
    sparsity: SparsityFigures


def principal_components(weight: Tensor, y: Tensor, encoding: FittedEncoding) -> Components:
    """Regression of y on the scores of W's principal components.

    weight: (vocab, d); y: (vocab,) float64, as `encoding` has them.
    The sign of a component, and with it of its slope and correlation, is such that its scores rise with y.
    """
    moments = encoding.moments
    _, wy, yy = moments.centered()
    values, vectors = encoding.spectrum
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    products = vectors.T @ wy
    vectors = torch.where(products < 0, -vectors, vectors)
    deviations = (values / moments.rows).sqrt()
    slopes = vectors.T @ encoding.regression.slope
    step = -(-weight.shape[0] // RANKED_ROWS)
    ranked, ranked_y = weight[::step], y[::step]
    return Components(
        explained_variance=values / values.sum().clamp_min(1e-300),
        slope=slopes * deviations / moments.deviations()[1].clamp_min(1e-300),
        spearman=_spearman_of_scores(ranked, moments.w / moments.rows, vectors, deviations, ranked_y),
        ranked_rows=ranked_y.numel(),
        sparsity=sparsity_of(torch.diag(values), products.abs(), yy, slopes),
    )


def _spearman_of_scores(weight: Tensor, mean: Tensor, vectors: Tensor, deviations: Tensor, y: Tensor) -> Tensor:
    """(d,). A component without variance correlates with nothing: 0."""
    has_variance = deviations > deviations.max() * 1e-6
    scaled = torch.where(has_variance, vectors / deviations.clamp_min(1e-300), 0.0)
    projection, offset = scaled.float(), (mean @ scaled).float()
    scores = torch.empty(scaled.shape[1], weight.shape[0], dtype=torch.float16)  # a row each: they are read so
    for start in range(0, weight.shape[0], 8192):
        rows = weight[start : start + 8192].float()
        scores[:, start : start + 8192] = torch.addmm(-offset[:, None], projection.T, rows.T)
    return binned_spearman(scores.T, y)
