"""Figures of one kept size, of token bands and of bootstrap intervals, against slow loops over full logits."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from headroom.contract.compress import Method
from service.compression.drift.bands import ENDS, bands_of_tokens, drift_by_band
from service.compression.drift.sweep import SweepHead, prepare
from service.compression.drift.token_drift import TOP, TokenDrift, figures, token_drift, token_drift_of
from service.compression.heads.basis import build_basis
from service.compression.heads.slicing import slice_head
from service.compression.numerics.bootstrap import interval_of_means
from service.compression.numerics.tiles import Tiles
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead, Transform
from service.compression.states.statistics import calibrate
from service.compression.text.examples import next_token_examples

VOCAB, HIDDEN, WINDOWS, WINDOW, KEPT = 300, 16, 6, 21, 6
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Measured:
    hidden: HiddenStates
    head: SweepHead
    alpha: Tensor
    mean_hidden: Tensor
    before: Tensor  # (positions, vocab) log-probabilities from the definition
    after: Tensor
    drift: TokenDrift


@pytest.fixture(scope="module", params=[Transform(), Transform(soft_cap=12.0)], ids=str)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(HIDDEN, HIDDEN, generator=generator)
    h = torch.randn(WINDOWS * (WINDOW - 1), HIDDEN, generator=generator) @ mix * 0.3
    path = tmp_path_factory.mktemp("hidden") / "h.bin"
    path.write_bytes(h.numpy().tobytes())
    windows = torch.randint(VOCAB, (WINDOWS, WINDOW), generator=generator)
    hidden = HiddenStates(path, torch.float32, HIDDEN, next_token_examples(windows))
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    head = LmHead(weight, None, request.param, "lm_head", "embed", False, 1.0)
    statistics = calibrate(hidden, head, with_fisher=False, device=CPU, progress=lambda fraction: None)
    basis = build_basis(Method.PROBABILITY, weight, statistics, seed=0)
    prepared = prepare(head, basis, statistics.mean_hidden, repair=True, device=CPU)
    before, after = (slow_log_p(h, prepared, kept) for kept in (HIDDEN, KEPT))
    drift = token_drift(hidden, prepared, KEPT, tiles=Tiles(rows=17, columns=64))
    return Measured(hidden, prepared, statistics.alpha, statistics.mean_hidden, before, after, drift)


def slow_log_p(h: Tensor, head: SweepHead, kept: int) -> Tensor:
    x = (head.basis.coordinates(h) - head.center).double()
    logits = x[:, :kept] @ head.columns[:, :kept].double().T + head.constant.double()
    return head.head.transform(logits).log_softmax(1)


def slow_figures(measured: Measured, where: list[int]) -> dict[str, float]:
    """A loop over positions, one at a time."""
    before, after, kls, same, overlaps, deltas = [], [], [], [], [], []
    for position in where:
        p, q, target = measured.before[position], measured.after[position], measured.hidden.targets[position]
        before.append(-float(p[target]))
        after.append(-float(q[target]))
        kls.append(float((p.exp() * (p - q)).sum()))
        same.append(float(p.argmax() == q.argmax()))
        overlaps.append(len(set(p.topk(TOP).indices.tolist()) & set(q.topk(TOP).indices.tolist())) / TOP)
        deltas.append(float(q[target].exp() - p[target].exp()))
    kl_p50, kl_p95, kl_p99 = np.quantile(kls, [0.5, 0.95, 0.99], method="inverted_cdf")
    delta_p05, delta_p50, delta_p95 = np.quantile(deltas, [0.05, 0.5, 0.95], method="inverted_cdf")
    return {
        "positions": len(where),
        "perplexity_before": math.exp(np.mean(before)),
        "perplexity_drift": math.exp(np.mean(after)) / math.exp(np.mean(before)) - 1,
        "kl_mean": np.mean(kls),
        "kl_p50": kl_p50,
        "kl_p95": kl_p95,
        "kl_p99": kl_p99,
        "top1_agreement": np.mean(same),
        "top5_overlap": np.mean(overlaps),
        "delta_p_mean": np.mean(deltas),
        "delta_p_rms": math.sqrt(np.mean(np.square(deltas))),
        "delta_p_p05": delta_p05,
        "delta_p_p50": delta_p50,
        "delta_p_p95": delta_p95,
    }


def test_every_figure_of_every_band_agrees_with_a_slow_loop(measured: Measured) -> None:
    ranked = sorted(range(VOCAB), key=lambda token: -float(measured.alpha[token]))
    bands = [set(range(VOCAB)), set(ranked[:3]), set(ranked[3:30]), set(ranked[30:])]
    found = drift_by_band(measured.drift, measured.alpha, seed=0)
    assert [band.band for band in found] == ["all", *ENDS]
    for band, tokens in zip(found, bands, strict=True):
        assert band.tokens == len(tokens)
        where = [position for position, target in enumerate(measured.hidden.targets.tolist()) if target in tokens]
        if not where:
            assert band.positions == 0
            continue
        for name, expected in slow_figures(measured, where).items():
            assert getattr(band, name) == pytest.approx(expected, rel=1e-3, abs=1e-5), (band.band, name)
    assert sum(band.positions for band in found[1:]) == found[0].positions == measured.hidden.positions
    assert abs(found[0].perplexity_drift) > 0.01  # or the figures above would say little
    assert 0 < found[0].top5_overlap < 1


def test_a_head_measured_by_itself_has_the_figures_of_the_nested_one(measured: Measured) -> None:
    head = measured.head
    factors = slice_head(head.head, head.basis, KEPT, measured.mean_hidden, repair=True)
    found = token_drift_of(factors, measured.hidden, head.head, CPU)
    for name in ("before", "after", "divergence", "overlap"):
        torch.testing.assert_close(getattr(found, name), getattr(measured.drift, name), rtol=1e-3, atol=1e-4)
    assert torch.equal(found.agreement, measured.drift.agreement)
    assert torch.equal(found.window, measured.drift.window)
    assert torch.equal(found.target, measured.drift.target)


def test_nothing_removed_moves_nothing(measured: Measured) -> None:
    same = figures(token_drift(measured.hidden, measured.head, HIDDEN), torch.ones(measured.hidden.positions).bool(), 0)
    assert same.top1_agreement == same.top5_overlap == 1.0
    moved = [value for name, value in same if name.startswith(("kl_", "delta_p_", "perplexity_drift"))]
    assert len(moved) == 3 * 3 + 3 + 4
    assert set(moved) == {0.0}


def test_the_most_probable_tokens_do_not_depend_on_the_tiles(measured: Measured) -> None:
    whole = token_drift(measured.hidden, measured.head, KEPT, tiles=Tiles(rows=1000, columns=1000))
    assert torch.equal(whole.overlap, measured.drift.overlap)
    assert torch.equal(whole.agreement, measured.drift.agreement)


def test_a_band_without_positions_has_no_figures(measured: Measured) -> None:
    nothing = dict(figures(measured.drift, torch.zeros(measured.hidden.positions).bool(), seed=0))
    assert nothing.pop("positions") == 0
    assert set(nothing.values()) == {None}
    everything = figures(measured.drift, torch.ones(measured.hidden.positions).bool(), seed=0)
    assert None not in dict(everything).values()


def test_bands_are_shares_of_the_vocabulary_by_probability() -> None:
    alpha = torch.rand(1000, dtype=torch.float64)
    bands = bands_of_tokens(alpha)
    assert torch.bincount(bands).tolist() == [10, 90, 900]
    assert alpha[bands == 0].min() > alpha[bands == 1].max()
    assert alpha[bands == 1].min() > alpha[bands == 2].max()
    assert torch.bincount(bands_of_tokens(alpha[:7]), minlength=3).tolist() == [1, 0, 6]  # never half a token


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.5, 40)
    low, high = interval_of_means(torch.tensor(values)[:, None], torch.ones(40), seed=0)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_longer_windows_weigh_more_and_windows_without_positions_nothing() -> None:
    sums, counts = torch.tensor([[3.0], [0.0], [30.0]]).double(), torch.tensor([1, 0, 10])
    low, high = interval_of_means(sums, counts, seed=0)
    assert (float(low), float(high)) == (3.0, 3.0)
    low, high = interval_of_means(torch.zeros(2, 1).double(), torch.zeros(2), seed=0)
    assert math.isnan(low)
    assert math.isnan(high)
