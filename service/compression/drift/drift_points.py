"""From a sweep to a drift curve and a verdict. Perplexity = exp(total negative log-likelihood / predicted tokens)."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from headroom.contract.compress import DriftBudget
from headroom.contract.report.curve import CurvePoint, JudgedPoint
from headroom.contract.report.part import Measured
from service.compression.drift.sweep import Sweep
from service.compression.numerics.bootstrap import interval_of_means

# Below this many evaluation windows a bootstrap over windows says little, and the report says so.
WINDOWS_FOR_INTERVAL = 8


def is_inside(budget: DriftBudget, perplexity: Measured, kl: Measured, top1: Measured, rare: Measured) -> bool:
    """Whether figures meet a budget; of growths of perplexity the upper ends. What was not measured never does."""
    return (
        _is_below(budget.perplexity, perplexity)
        and _is_below(budget.kl, kl)
        and (budget.top1 is None or (top1 is not None and top1 >= budget.top1))
        and _is_below(budget.rare_perplexity, rare)
    )


def _is_below(bound: float | None, found: Measured) -> bool:
    return bound is None or (found is not None and found <= bound)


@dataclass(frozen=True)
class DriftPoint:
    """Drift at one kept size, relative: 0.01 is one percent more perplexity than the full head."""

    ratio: float  # asked for
    kept_columns: int
    perplexity: float
    perplexity_drift: float
    perplexity_drift_low: float  # 95 % interval, paired bootstrap over windows
    perplexity_drift_high: float
    kl_mean: float  # KL(full || pruned), nats per token
    kl_p95: float
    kl_p99: float
    top1_agreement: float
    rare_perplexity_drift: float | None = None  # where the token that came is of the rarest band; None: not measured
    rare_perplexity_drift_high: float | None = None

    def passes(self, budget: DriftBudget) -> bool:
        return is_inside(
            budget, self.perplexity_drift_high, self.kl_mean, self.top1_agreement, self.rare_perplexity_drift_high
        )

    @property
    def told(self) -> CurvePoint:
        """The point as the report has it."""
        return CurvePoint(**asdict(self))

    def judged(self, passes: bool) -> JudgedPoint:
        return JudgedPoint(**asdict(self), passes=passes)


def drift_curve(swept: Sweep, ratio_of: dict[int, float], seed: int) -> list[DriftPoint]:
    """A point for every kept size in `ratio_of` (size -> the ratio asked for), by ascending ratio."""
    predicted = swept.lengths.sum()
    totals = swept.negative_log_likelihood.sum(0) / predicted
    low, high = bootstrap_interval(swept.negative_log_likelihood, swept.lengths, seed)
    rare, points = _rare_drift(swept, seed), []
    for index, size in enumerate(swept.kept):
        if size in ratio_of:
            kl = swept.divergence[:, index]
            p95, p99 = quantiles(kl, torch.tensor([0.95, 0.99]))
            points.append(
                DriftPoint(
                    ratio=ratio_of[size],
                    kept_columns=size,
                    perplexity=float(totals[index].exp()),  # a ruined head gives infinity, not an error
                    perplexity_drift=float(torch.expm1(totals[index] - totals[-1])),
                    perplexity_drift_low=float(low[index]),
                    perplexity_drift_high=float(high[index]),
                    kl_mean=float(kl.double().mean()),
                    kl_p95=p95,
                    kl_p99=p99,
                    top1_agreement=float(swept.agreement[:, index].sum() / predicted),
                    rare_perplexity_drift=None if rare is None else float(rare[0][index]),
                    rare_perplexity_drift_high=None if rare is None else float(rare[1][index]),
                )
            )
    return sorted(points, key=lambda point: point.ratio)


def _rare_drift(swept: Sweep, seed: int) -> tuple[Tensor, Tensor] | None:
    """Relative drift over the rare positions and the upper end of its interval, (sizes,) each; NaN without any."""
    if swept.rare is None:
        return None
    likelihood, counts = swept.rare
    drift = torch.expm1((likelihood - likelihood[:, -1:]).sum(0) / counts.sum())
    return drift, bootstrap_interval(likelihood, counts, seed)[1]


def quantiles(values: Tensor, shares: Tensor) -> list[float]:
    """Nearest-rank quantiles; torch.quantile refuses more than 16 million values."""
    ordered = values.sort().values
    ranks = (shares * values.numel()).ceil().long().clamp(1, values.numel()) - 1
    return [float(value) for value in ordered[ranks]]


def baseline_perplexity(swept: Sweep) -> float:
    return float((swept.negative_log_likelihood[:, -1].sum() / swept.lengths.sum()).exp())


def bootstrap_interval(likelihood: Tensor, lengths: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """95 % interval of each size's relative drift: windows are drawn with replacement, full and pruned together.

    likelihood: (windows, sizes) float64, the last column the full head; lengths: (windows,) predicted positions
    -> two (sizes,).
    """
    low, high = interval_of_means(likelihood - likelihood[:, -1:], lengths, seed)
    return torch.expm1(low), torch.expm1(high)
