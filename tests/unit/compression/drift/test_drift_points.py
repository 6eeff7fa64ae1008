"""Curve, interval and verdict on numbers that can be checked by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headroom.contract.compress import CalibratedDriftBudget, DriftBudget
from service.compression.drift.drift_points import DriftPoint, bootstrap_interval, drift_curve
from service.compression.drift.evaluation_sets import EvaluationSet
from service.compression.drift.gate import stored_drift
from service.compression.drift.sweep import Positions, Sweep
from service.compression.states.hidden_cache import HiddenStates
from service.compression.text.examples import next_token_examples


def make_point(kept: int, high: float, kl: float = 0.0) -> DriftPoint:
    return DriftPoint(1 - kept / 100, kept, 10.0, high, high, high, kl, kl, kl, 1.0)


def make_sweep(windows: int = 20, spread: float = 0.0) -> Sweep:
    generator = torch.Generator().manual_seed(0)
    base = 10 + torch.rand(windows, generator=generator, dtype=torch.float64)
    extra = 0.05 + spread * torch.randn(windows, generator=generator, dtype=torch.float64)
    kl = torch.linspace(0, 1, windows * 5)
    return Sweep(
        kept=[4, 8],
        negative_log_likelihood=torch.stack([base + extra, base], dim=1),
        agreement=torch.full((windows, 2), 4.0, dtype=torch.float64),
        divergence=torch.stack([kl, torch.zeros_like(kl)], dim=1),
        lengths=torch.full((windows,), 5),
    )


def test_perplexity_is_token_weighted_and_drift_is_relative() -> None:
    swept = make_sweep()
    (point,) = drift_curve(swept, {4: 0.5}, seed=0)
    assert point.perplexity == pytest.approx(math.exp(float(swept.negative_log_likelihood[:, 0].sum()) / 100))
    assert point.perplexity_drift == pytest.approx(math.exp(0.05 / 5) - 1)
    assert point.top1_agreement == 0.8
    assert point.kl_mean == pytest.approx(0.5)
    assert (point.kl_p95, point.kl_p99) == pytest.approx((94 / 99, 98 / 99))


def test_the_interval_is_a_point_when_every_window_drifts_alike_and_covers_the_drift_otherwise() -> None:
    low, high = bootstrap_interval(make_sweep().negative_log_likelihood, torch.full((20,), 5), seed=0)
    assert float(low[0]) == pytest.approx(float(high[0]))
    spread = make_sweep(spread=0.05)
    low, high = bootstrap_interval(spread.negative_log_likelihood, torch.full((20,), 5), seed=0)
    (point,) = drift_curve(spread, {4: 0.5}, seed=0)
    assert low[0] < point.perplexity_drift < high[0]
    expected = 1.96 * 0.05 / math.sqrt(20) / 5  # normal theory, by hand
    assert float(high[0] - low[0]) == pytest.approx(2 * expected, rel=0.35)


def test_the_upper_end_of_the_interval_decides() -> None:
    budget = DriftBudget(perplexity=0.01)
    assert make_point(50, 0.01).passes(budget)
    assert not make_point(50, 0.0101).passes(budget)
    assert not make_point(50, math.nan).passes(budget)


def test_a_kl_budget_counts_too() -> None:
    assert not make_point(50, 0.0, kl=0.2).passes(DriftBudget(kl=0.1))
    assert make_point(50, 0.0, kl=0.1).passes(DriftBudget(kl=0.1))


def test_a_budget_on_the_most_probable_token_is_a_floor_and_one_on_rare_tokens_refuses_what_was_not_measured() -> None:
    point = replace(make_point(50, 0.0), top1_agreement=0.97, rare_perplexity_drift_high=0.03)
    assert point.passes(DriftBudget(top1=0.97, rare_perplexity=0.03))
    assert not point.passes(DriftBudget(top1=0.98))
    assert not point.passes(DriftBudget(rare_perplexity=0.02))
    assert not make_point(50, 0.0).passes(DriftBudget(rare_perplexity=0.02))
    assert not replace(point, rare_perplexity_drift_high=math.nan).passes(DriftBudget(rare_perplexity=0.03))


def test_a_bound_that_is_none_bounds_nothing() -> None:
    assert make_point(50, 5.0, kl=5.0).passes(DriftBudget(perplexity=None, kl=None))


def test_the_drift_of_rare_tokens_is_that_of_their_positions_alone() -> None:
    rare = torch.tensor([[1.0, 0.5], [2.0, 1.5]], dtype=torch.float64), torch.tensor([1, 1])
    swept = replace(make_sweep(windows=2), rare=rare)
    (point,) = drift_curve(swept, {4: 0.5}, seed=0)
    assert point.rare_perplexity_drift == pytest.approx(math.expm1(0.5))
    assert point.rare_perplexity_drift_high == pytest.approx(math.expm1(0.5))
    assert point.perplexity_drift != pytest.approx(math.expm1(0.5))


def test_stored_drift_is_paired_with_the_source_and_judged_in_kl_too(tmp_path: Path) -> None:
    before = torch.rand(50) + 10
    examples = next_token_examples(torch.randint(9, (10, 6)))
    hidden = HiddenStates(tmp_path / "none", torch.float32, 4, examples)
    stored = Positions(
        torch.stack([before + 0.02, before], 1), torch.ones(50, 1).bool(), torch.full((50, 1), 0.5), torch.empty(50, 0)
    )
    found = stored_drift(stored, EvaluationSet("corpus", "", hidden, CalibratedDriftBudget()), seed=0)
    assert found.drift == pytest.approx(math.expm1(0.02), rel=1e-4)
    assert (found.kl, found.top1) == (pytest.approx(0.5), 1.0)
    assert found.passes(CalibratedDriftBudget(perplexity=0.021, kl=0.51))
    assert not found.passes(CalibratedDriftBudget(perplexity=0.020, kl=0.51))
    assert not found.passes(CalibratedDriftBudget(perplexity=0.021, kl=0.49))
