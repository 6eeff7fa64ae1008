"""Which kept size a job gets, and whether it passes: the drift curve, `auto`, and the check of what was stored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from service.column_counts import checked_kept_columns, kept_columns
from service.compression.drift import (
    DriftPoint,
    baseline_perplexity,
    bootstrap_interval,
    drift_curve,
    largest_passing,
)
from service.compression.hidden_cache import HiddenStates
from service.compression.sweep import Sweep, SweepHead, sweep
from service.errors import ModelDrift
from service.recipes.compress import CompressRecipe, DriftBudget

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
# `auto` looks at this many sizes between the last that passed on the grid and the first that did not.
REFINED_SIZES = 16


@dataclass(frozen=True)
class Choice:
    """The curve and what follows from it. `candidates` are points that pass, fewest columns first."""

    curve: list[DriftPoint]
    baseline: float  # perplexity of the full head
    baseline_likelihood: Tensor  # (windows,) float64, summed nats of each evaluation window
    asked: DriftPoint | None  # the point of a fixed ratio, or None for `auto`
    candidates: list[DriftPoint]

    @property
    def largest_passing(self) -> DriftPoint | None:
        return self.candidates[0] if self.candidates else None

    @property
    def selected(self) -> DriftPoint:
        """What was asked for, passing or not; of `auto` the largest that passes, or the smallest when none does."""
        return self.asked or self.largest_passing or min(self.curve, key=lambda point: point.ratio)


def choose(hidden: HiddenStates, head: SweepHead, recipe: CompressRecipe, progress: Callable[[float], None]) -> Choice:
    """One sweep over the grid and the ratios asked for; for `auto` a second one near the edge of the budget."""
    size, multiple = head.head.hidden_size, recipe.options.column_multiple
    asked = None if recipe.ratio == "auto" else checked_kept_columns(size, recipe.ratio, multiple)
    # Later entries win: a ratio that was asked for names its size before the grid does.
    ratio_of = {kept_columns(size, ratio, multiple): ratio for ratio in (*GRID, *recipe.ratios)}
    if recipe.ratio != "auto" and asked is not None:
        ratio_of[asked] = recipe.ratio
    ratio_of.pop(size, None)
    refining = recipe.ratio == "auto"
    swept = sweep(hidden, head, sorted(ratio_of), progress=lambda done: progress(done / 2 if refining else done))
    if not torch.isfinite(swept.negative_log_likelihood[:, -1]).all():
        raise ModelDrift("the model's own loss on this corpus is not a number: the weights are damaged")
    curve = drift_curve(swept, ratio_of, recipe.options.seed)
    if refining:
        finer = _sizes_at_the_edge(curve, recipe.drift, size, multiple)
        if finer:
            curve = _merged(curve, hidden, head, finer, recipe, lambda done: progress(0.5 + done / 2))
    passing = sorted((p for p in curve if p.passes(recipe.drift)), key=lambda point: point.kept_columns)
    return Choice(
        curve=curve,
        baseline=baseline_perplexity(swept),
        baseline_likelihood=swept.negative_log_likelihood[:, -1],
        asked=next((point for point in curve if point.kept_columns == asked), None),
        candidates=passing,
    )


def _sizes_at_the_edge(curve: list[DriftPoint], budget: DriftBudget, hidden_size: int, multiple: int) -> list[int]:
    """Sizes below the smallest that passed (or the full one) and above the next that was measured, spread evenly."""
    best = largest_passing(curve, budget)
    upper = hidden_size if best is None else best.kept_columns
    below = max((point.kept_columns for point in curve if point.kept_columns < upper), default=0)
    between = list(range(below + multiple, upper, multiple))
    stride = -(-len(between) // REFINED_SIZES) if between else 1
    return between[::stride]


def _merged(
    curve: list[DriftPoint],
    hidden: HiddenStates,
    head: SweepHead,
    finer: list[int],
    recipe: CompressRecipe,
    progress: Callable[[float], None],
) -> list[DriftPoint]:
    swept: Sweep = sweep(hidden, head, finer, progress=progress)
    ratio_of = {size: 1 - size / head.head.hidden_size for size in finer}
    return sorted([*curve, *drift_curve(swept, ratio_of, recipe.options.seed)], key=lambda point: point.ratio)


@dataclass(frozen=True)
class StoredDrift:
    """Drift of the checkpoint as stored, storage rounding and a turned input table included."""

    drift: float
    low: float
    high: float

    def passes(self, budget: DriftBudget) -> bool:
        return self.high <= budget.perplexity


def stored_drift(stored: Tensor, baseline: Tensor, lengths: Tensor, seed: int) -> StoredDrift:
    """Each (windows,): summed negative log-likelihood of the same windows, float64; their predicted positions."""
    paired = torch.stack([stored, baseline], dim=1)
    low, high = bootstrap_interval(paired, lengths, seed)
    difference = (stored.sum() - baseline.sum()) / lengths.sum()
    return StoredDrift(float(torch.expm1(difference)), float(low[0]), float(high[0]))
