"""One kept size against the full head, position by position, and the figures of any set of those positions.

Cost: one product positions x hidden x vocabulary, two exponentials and two partial sorts per logit (docs/report.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headroom.contract.report.drift_parts import PartFigures
from service.compression.drift.drift_points import quantiles
from service.compression.drift.stored_form_drift import positions_of
from service.compression.drift.sweep import Positions, SweepHead, sweep_positions
from service.compression.heads.slicing import SlicedFactors
from service.compression.numerics.bootstrap import interval_of_means
from service.compression.numerics.tiles import Tiles
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

TOP = 5
WITH_INTERVAL = ("perplexity_drift", "kl_mean", "top1_agreement", "delta_p_mean")


@dataclass(frozen=True, eq=False)
class TokenDrift:
    """What one head changes at each position, in the order of the windows; each (positions,)."""

    window: Tensor  # int64, of each position
    target: Tensor  # int64, the token that came
    before: Tensor  # float64, its negative log-likelihood under the full head, nats
    after: Tensor  # float64, under the smaller one
    divergence: Tensor  # float32, KL(full || smaller), nats
    agreement: Tensor  # bool, the same most probable token
    overlap: Tensor  # float32, share of the full head's five most probable tokens among the smaller one's five


def token_drift(
    hidden: HiddenStates,
    head: SweepHead,
    kept: int,
    *,
    progress: Callable[[float], None] = lambda fraction: None,
    tiles: Tiles | None = None,
) -> TokenDrift:
    """Drift of every token when `kept` of 1..hidden columns stay. Memory: a few numbers a position."""
    sizes = sorted({kept, head.head.hidden_size})
    found = sweep_positions(hidden, head, sizes, top=TOP, progress=progress, tiles=tiles)
    return _joined(found, hidden, lambda done: None)


def token_drift_of(
    made: SlicedFactors,
    hidden: HiddenStates,
    head: LmHead,
    device: torch.device,
    progress: Callable[[float], None] = lambda fraction: None,
) -> TokenDrift:
    """The drift of a head that is not nested: rounded, or refined."""
    return _joined(positions_of(made, hidden, head, device, top=TOP), hidden, progress)


def _joined(found: Iterator[Positions], hidden: HiddenStates, progress: Callable[[float], None]) -> TokenDrift:
    """found: block after block, the smaller head first, the full one last."""
    blocks, done = [], 0
    for block in found:
        blocks.append(block)
        done += block.likelihood.shape[0]
        progress(done / hidden.positions)
    return token_drift_at(Positions.joined(blocks), hidden, 0)


def token_drift_at(found: Positions, hidden: HiddenStates, column: int) -> TokenDrift:
    """Drift of one of several heads measured together, the full one's likelihood last; with their `overlap`."""
    return TokenDrift(
        window=torch.arange(hidden.lengths.numel()).repeat_interleave(hidden.lengths),
        target=hidden.targets,
        before=found.likelihood[:, -1].double(),
        after=found.likelihood[:, column].double(),
        divergence=found.divergence[:, column],
        agreement=found.agreement[:, column],
        overlap=found.overlap[:, column],
    )


def figures(drift: TokenDrift, where: Tensor, seed: int) -> PartFigures:
    """Figures of the positions where `where`, (positions,) bool, is true; all but their number None when it nowhere is.

    delta_p: the probability of the token that came, after less before.
    """
    if not where.any():
        return PartFigures(positions=0, **dict.fromkeys(set(PartFigures.model_fields) - {"positions"}))
    window, kl = drift.window[where], drift.divergence[where]
    before, after = drift.before[where], drift.after[where]
    delta_p = torch.exp(-after) - torch.exp(-before)
    of_position = torch.stack([after - before, kl.double(), drift.agreement[where].double(), delta_p], dim=1)
    windows = int(drift.window[-1]) + 1
    sums = torch.zeros(windows, of_position.shape[1], dtype=torch.float64).index_add_(0, window, of_position)
    low, high = interval_of_means(sums, torch.bincount(window, minlength=windows), seed)
    with_ends: dict[str, float] = {}
    for name, values in zip(WITH_INTERVAL, zip(of_position.mean(0), low, high, strict=True), strict=True):
        ends = [torch.expm1(value) for value in values] if name == "perplexity_drift" else values
        with_ends |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
    kl_p50, kl_p95, kl_p99 = quantiles(kl, torch.tensor([0.5, 0.95, 0.99]))
    delta_p05, delta_p50, delta_p95 = quantiles(delta_p, torch.tensor([0.05, 0.5, 0.95]))
    return PartFigures(
        **with_ends,
        positions=window.numel(),
        perplexity_before=float(before.mean().exp()),
        kl_p50=kl_p50,
        kl_p95=kl_p95,
        kl_p99=kl_p99,
        top5_overlap=float(drift.overlap[where].double().mean()),
        delta_p_rms=float(delta_p.square().mean().sqrt()),
        delta_p_p05=delta_p05,
        delta_p_p50=delta_p50,
        delta_p_p95=delta_p95,
    )
