"""Which kept size a job gets, and whether it passes: the drift curve, `auto`, and the check of what was stored."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from headroom.contract.compress import CalibratedDriftBudget, CompressRecipe
from headroom.contract.report.curve import StoredDriftFigures
from service.compression.drift.drift_points import DriftPoint, baseline_perplexity, drift_curve, is_inside
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.groups import Gap, group_drift
from service.compression.drift.sweep import Positions, SweepHead, sweep, swept_of
from service.foundation.errors import ModelDrift
from service.models.column_counts import checked_kept_columns, kept_columns

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
# `auto` looks at this many sizes between the last that passed on the grid and the first that did not.
REFINED_SIZES = 16


@dataclass(frozen=True, eq=False)
class Measured:
    """Drift of every size on one evaluation set."""

    set: EvaluationSet
    curve: list[DriftPoint]
    baseline: float  # perplexity of the full head
    gaps: dict[int, Gap | None]  # between groups, at each size; empty without groups

    def at(self, kept: int) -> DriftPoint:
        return next(point for point in self.curve if point.kept_columns == kept)

    def passes(self, kept: int) -> bool:
        return self.allows(self.at(kept))

    def allows(self, point: DriftPoint) -> bool:
        """Whether a head of this point passes: one of the curve, or another of as many columns."""
        return point.passes(self.set.budget) and self.is_close(point.kept_columns)

    def is_close(self, kept: int) -> bool:
        """Whether its groups stay as close as they must."""
        return _apart(self.gaps.get(kept), self.set.budget)


@dataclass(frozen=True)
class Choice:
    """The curves and what follows from them: the verdict is the worst of all sets."""

    sets: list[Measured]  # the calibrated corpus first; its points stand for the sizes below
    asked: DriftPoint | None  # the point of a fixed ratio, or None for `auto`
    candidates: list[DriftPoint]  # points that pass in every set, fewest columns first

    @property
    def curve(self) -> list[DriftPoint]:
        return self.sets[0].curve

    @property
    def baseline(self) -> float:
        return self.sets[0].baseline

    def allows(self, points: list[DriftPoint]) -> bool:
        """Whether a head of these points, one in every set, passes in all.

        Of groups only the unrounded gap is known before storing; a rounded head is judged by its own after it.
        """
        return all(one.allows(point) for one, point in zip(self.sets, points, strict=True))

    def may_store(self, other: list[DriftPoint], tried: list[DriftPoint], found: list["StoredDrift"]) -> bool:
        """Whether `other` still passes if storing moves its figures as it moved those of `tried`, in every set."""
        return all(
            is_inside(
                one.set.budget,
                point.perplexity_drift_high + (drift.high - before.perplexity_drift_high),
                point.kl_mean + (drift.kl - before.kl_mean),
                point.top1_agreement + (drift.top1 - before.top1_agreement),
                _moved_on(point.rare_perplexity_drift_high, before.rare_perplexity_drift_high, drift.rare_high),
            )
            for one, point, before, drift in zip(self.sets, other, tried, found, strict=True)
        )

    @property
    def largest_passing(self) -> DriftPoint | None:
        return self.candidates[0] if self.candidates else None

    def sizes_at_the_edge(self, multiple: int) -> list[int]:
        """Sizes between the smallest that passed (or the full one) and the next below that was measured, evenly."""
        passing = self.largest_passing
        upper = passing.kept_columns if passing else self.sets[0].set.hidden.hidden_size
        below = max((point.kept_columns for point in self.curve if point.kept_columns < upper), default=0)
        between = list(range(below + multiple, upper, multiple))
        stride = -(-len(between) // REFINED_SIZES) if between else 1
        return between[::stride]

    @property
    def selected(self) -> DriftPoint:
        """The point asked for, passing or not; of `auto` the largest that passes, or the smallest when none does."""
        return self.asked or self.largest_passing or min(self.curve, key=lambda point: point.ratio)


def choose(
    sets: list[EvaluationSet],
    head: SweepHead,
    recipe: CompressRecipe,
    progress: Callable[[float], None],
    further: Iterable[int] = (),
) -> Choice:
    """Measure the grid, the ratios asked for and `further` sizes in one sweep, and judge them."""
    size, multiple = head.head.hidden_size, recipe.options.column_multiple
    asked = None if recipe.ratio == "auto" else checked_kept_columns(size, recipe.ratio, multiple)
    published = sorted(recipe.options.publish_ratios)
    # Later entries win: a ratio that was asked for names its size before the grid does.
    ratio_of = {kept_columns(size, ratio, multiple): ratio for ratio in (*GRID, *recipe.ratios, *published)}
    if recipe.ratio != "auto" and asked is not None:
        ratio_of[asked] = recipe.ratio
    if recipe.ratio != 0:
        ratio_of.pop(size, None)
    ratio_of = {kept: 1 - kept / size for kept in further} | ratio_of
    measured = _measure(sets, head, ratio_of, recipe.options.seed, progress)
    point = next((point for point in measured[0].curve if point.kept_columns == asked), None)
    return Choice(measured, point, _passing(measured))


def choose_at_the_edge(
    choice: Choice, head: SweepHead, recipe: CompressRecipe, progress: Callable[[float], None]
) -> Choice:
    """A second sweep, for `auto`: the sizes between the smallest that passed and the next that did not."""
    finer = choice.sizes_at_the_edge(recipe.options.column_multiple)
    if not finer:
        return choice
    ratio_of = {kept: 1 - kept / head.head.hidden_size for kept in finer}
    more = _measure([one.set for one in choice.sets], head, ratio_of, recipe.options.seed, progress)
    measured = [_merged(one, other) for one, other in zip(choice.sets, more, strict=True)]
    return replace(choice, sets=measured, candidates=_passing(measured))


def _measure(
    sets: list[EvaluationSet],
    head: SweepHead,
    ratio_of: dict[int, float],
    seed: int,
    progress: Callable[[float], None],
) -> list[Measured]:
    measured: list[Measured] = []
    for one in sets:
        swept = sweep(
            one.hidden,
            head,
            sorted(ratio_of),
            rare=one.rare,
            progress=lambda done: progress((len(measured) + done) / len(sets)),
        )
        if not torch.isfinite(swept.negative_log_likelihood[:, -1]).all():
            raise ModelDrift("the model's own loss on this corpus is not a number: the weights are damaged")
        curve, gaps = drift_curve(swept, ratio_of, seed), {}
        if one.groups:
            by_group = group_drift(swept.negative_log_likelihood, swept.lengths, one.groups, swept.kept, seed)
            gaps = {kept: by_group.gap(kept) for kept in ratio_of}
        measured.append(Measured(one, curve, baseline_perplexity(swept), gaps))
    return measured


def _passing(measured: list[Measured]) -> list[DriftPoint]:
    """Points of the first set that pass in all, fewest columns first."""
    passing = (point for point in measured[0].curve if all(one.passes(point.kept_columns) for one in measured))
    return sorted(passing, key=lambda point: point.kept_columns)


def _merged(one: Measured, other: Measured) -> Measured:
    curve = sorted([*one.curve, *other.curve], key=lambda point: point.ratio)
    return replace(one, curve=curve, gaps=one.gaps | other.gaps)


def _apart(gap: Gap | None, budget: CalibratedDriftBudget) -> bool:
    """Whether groups stay as close as they must. One group alone is as close as can be."""
    return budget.group_gap is None or gap is None or gap.high <= budget.group_gap


def _moved_on(other: float | None, tried: float | None, stored: float | None) -> float | None:
    return None if other is None or tried is None or stored is None else other + (stored - tried)


@dataclass(frozen=True)
class StoredDrift:
    """Drift of the checkpoint as stored, storage rounding and a turned input table included."""

    drift: float
    low: float
    high: float
    kl: float  # KL(source || stored), nats per token
    top1: float
    rare: float | None = None  # drift where the token that came is of the rarest band, and the end of its interval
    rare_high: float | None = None
    gap: Gap | None = None

    def passes(self, budget: CalibratedDriftBudget) -> bool:
        return is_inside(budget, self.high, self.kl, self.top1, self.rare_high) and _apart(self.gap, budget)

    @property
    def told(self) -> StoredDriftFigures:
        """The stored drift as the report has it."""
        return StoredDriftFigures(
            perplexity_drift=self.drift,
            perplexity_drift_low=self.low,
            perplexity_drift_high=self.high,
            kl_mean=self.kl,
            top1_agreement=self.top1,
            rare_perplexity_drift=self.rare,
            rare_perplexity_drift_high=self.rare_high,
        )


def stored_drift(stored: Positions, one: EvaluationSet, seed: int) -> StoredDrift:
    """Drift of the checkpoint as stored. stored: all positions of `one`, the stored model first, the source last."""
    swept = swept_of([0], stored.likelihood, stored.agreement, stored.divergence, one.hidden, one.rare)
    (point,) = drift_curve(swept, {0: 1.0}, seed)
    gap = None
    if one.groups:
        gap = group_drift(swept.negative_log_likelihood, swept.lengths, one.groups, [0, 1], seed).gap(0)
    return StoredDrift(
        point.perplexity_drift,
        point.perplexity_drift_low,
        point.perplexity_drift_high,
        point.kl_mean,
        point.top1_agreement,
        point.rare_perplexity_drift,
        point.rare_perplexity_drift_high,
        gap,
    )
