"""Which basis the head is written in, and in what order: every method of docs/methods.md.

One form covers all: an invertible P (hidden, hidden) whose rows are ordered by importance; W h = (W P^-1)(P h) = U x,
and keeping the first k columns of U is the pruned head. Nothing is removed here, and no head is touched.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headroom.contract.compress import Method
from service.compression.encoding.token_probability import regress
from service.compression.numerics.rank_correlation import spearman
from service.compression.states.statistics import Statistics, neg_log_alpha

# Eigenvalues of the second moment below this share of the largest are lifted to it: LayerNorm makes a direction void.
WHITENING_FLOOR = 1e-9


@dataclass(frozen=True, eq=False)
class Basis:
    """U = W @ synthesis, x = analysis @ h, synthesis @ analysis = 1; for a permutation both are `order`."""

    method: Method
    importance: Tensor  # (hidden,) descending
    order: Tensor | None = None  # (hidden,) int64: column j of U is column order[j] of W
    synthesis: Tensor | None = None  # (hidden, hidden) float64
    analysis: Tensor | None = None  # (hidden, hidden) float64

    @property
    def is_permutation(self) -> bool:
        return self.order is not None

    def columns(self, weight: Tensor) -> Tensor:
        """U: (rows, hidden) -> (rows, hidden), float32, on the weight's device."""
        order, synthesis = self.order, self.synthesis
        if order is not None:
            order = order.to(weight.device)
            return _by_rows(weight, lambda rows: rows[:, order])
        assert synthesis is not None
        synthesis = synthesis.to(weight.device)
        return _by_rows(weight, lambda rows: rows.double() @ synthesis)  # the product in float64

    def coordinates(self, hidden: Tensor) -> Tensor:
        """x: (positions, hidden) -> (positions, hidden), in the dtype of `hidden`, at least float32."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        if self.order is not None:
            return wide[:, self.order.to(hidden.device)]
        assert self.analysis is not None
        return wide @ self.analysis.T.to(hidden.device, wide.dtype)

    def hidden_from(self, x: Tensor) -> Tensor:
        """Hidden states from coordinates: (positions, hidden) -> (positions, hidden), in the dtype of x; W h = U x."""
        if self.order is not None:
            return x[:, self.order.argsort().to(x.device)]
        assert self.synthesis is not None
        return x @ self.synthesis.T.to(x.device, x.dtype)


def _by_rows(weight: Tensor, turn: Callable[[Tensor], Tensor], rows_at_once: int = 8192) -> Tensor:
    """`turn` of all rows in float32, a block at a time, so that the result is held once."""
    turned = torch.empty(weight.shape, device=weight.device)
    for rows, into in zip(weight.split(rows_at_once), turned.split(rows_at_once), strict=True):
        into.copy_(turn(rows))
    return turned


def build_basis(method: Method, weight: Tensor, statistics: Statistics, seed: int, *, tau: float = 1.0) -> Basis:
    """The basis of a method. weight: (vocab, hidden), any float dtype. Equal importance keeps the lower column first.

    `fisher` needs statistics that were taken with it. `probability` weighs a token by alpha^tau: 1 cares for frequent
    tokens only, 0 for all alike. Cost: at most one product vocab x hidden x hidden in float64.
    """
    weight = weight.detach().cpu()
    if method is Method.PCA:
        values, vectors = torch.linalg.eigh(_gram(weight))
        vectors = vectors.flip(1)
        return Basis(method, values.flip(0).clamp_min(0), synthesis=vectors, analysis=vectors.T.contiguous())
    if method is Method.ACTIVATION:
        return _whitened(method, _gram(weight), statistics)
    if method is Method.PROBABILITY:
        return _whitened(method, _gram(weight, statistics.alpha**tau), statistics)
    scores = _column_scores(method, weight, statistics, seed)
    importance, order = scores.sort(descending=True, stable=True)
    return Basis(method, importance, order=order)


def _column_scores(method: Method, weight: Tensor, statistics: Statistics, seed: int) -> Tensor:
    """(hidden,) float64, higher = keep."""
    hidden = weight.shape[1]
    if method is Method.RANDOM:
        return torch.rand(hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if method is Method.MAGNITUDE:
        norms = sum(rows.double().square().sum(0) for rows in weight.split(8192))
        assert isinstance(norms, Tensor)
        return norms * statistics.second_moment.diagonal()
    if method is Method.FISHER:
        assert statistics.fisher.numel() == hidden, "statistics were taken without fisher"
        return statistics.fisher
    target, _ = neg_log_alpha(statistics.alpha)
    if method is Method.SLOPE:
        return regress(weight, target).slope.abs()
    assert method is Method.SPEARMAN, method
    return spearman(weight, target).abs()


def _gram(weight: Tensor, alpha: Tensor | None = None, rows_at_once: int = 8192) -> Tensor:
    """W'W, or with alpha the Fisher-weighted W' (diag(alpha) - alpha alpha') W; (hidden, hidden) float64."""
    hidden = weight.shape[1]
    gram = torch.zeros(hidden, hidden, dtype=torch.float64)
    mean = torch.zeros(hidden, dtype=torch.float64)
    weights = None if alpha is None else (alpha / alpha.sum()).split(rows_at_once)
    for index, rows in enumerate(weight.split(rows_at_once)):
        exact = rows.double()
        if weights is None:
            gram += exact.T @ exact
        else:
            gram += exact.T @ (weights[index][:, None] * exact)
            mean += weights[index] @ exact
    return gram - torch.outer(mean, mean)


def _whitened(method: Method, gram: Tensor, statistics: Statistics) -> Basis:
    """Basis of the singular vectors of G^(1/2) C^(1/2): keeping k columns is the best rank-k head in that norm.

    With R the eigenvectors of C^(1/2) G C^(1/2): synthesis = C^(1/2) R, analysis = R' C^(-1/2).
    """
    values, vectors = torch.linalg.eigh(statistics.second_moment)
    values = values.clamp_min(values[-1] * WHITENING_FLOOR)
    root = (vectors * values.sqrt()) @ vectors.T
    inverse_root = (vectors * values.rsqrt()) @ vectors.T
    energy, rotation = torch.linalg.eigh(root @ gram @ root)
    rotation = rotation.flip(1)
    return Basis(method, energy.flip(0).clamp_min(0), synthesis=root @ rotation, analysis=rotation.T @ inverse_root)
