"""Heads of which no smaller one is a part, rounded or refined ones: measured one by one on the cached hidden states.

Cost: one product positions x hidden x vocabulary for the full head, one for the other; memory: full logits of a few
positions at a time, in each thread.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.sweep import TIE, Positions, swept_of
from service.compression.heads.precision import projection_of
from service.compression.heads.slicing import SlicedFactors
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

POSITIONS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class _Both:
    """The original head and the other one, in float32 on one device."""

    head: LmHead
    projection: Tensor  # (kept, hidden)
    weight: Tensor  # (vocab, hidden)
    own_bias: Tensor  # (vocab,)
    columns: Tensor  # (vocab, kept)
    bias: Tensor  # (vocab,)

    def measure(self, hidden: Tensor, targets: Tensor, top: int) -> Positions:
        """(rows, hidden), (rows,) -> likelihood (rows, 2), the full head last, and the rest of one column."""
        full = self.head.logits_of(hidden.float() @ self.weight.T + self.own_bias)
        raw = self.head.logits_of(hidden.float() @ self.projection.T @ self.columns.T + self.bias)
        return positions_between(full, raw, targets, top)


def positions_between(full: Tensor, raw: Tensor, targets: Tensor, top: int = 0) -> Positions:
    """Logits (rows, vocab) float32 of the source and of another model, (rows,) -> the full head's likelihood last."""
    best = raw.gather(1, full.argmax(1, keepdim=True))
    largest = raw.amax(1, keepdim=True)
    expected, found = full.log_softmax(1), raw.log_softmax(1)
    both = torch.stack([each.gather(1, targets[:, None])[:, 0] for each in (found, expected)], 1)
    return Positions(
        likelihood=-both.cpu(),
        agreement=(best >= largest - TIE * largest.abs()).cpu(),
        divergence=(expected.exp() * (expected - found)).sum(1, keepdim=True).clamp_min(0).cpu(),
        overlap=_overlap(full, raw, min(top, raw.shape[1])).cpu(),
    )


def _overlap(full: Tensor, raw: Tensor, top: int) -> Tensor:
    """(rows, 1) share of the full head's `top` most probable tokens that are among the other's; no column for none."""
    if not top:
        return torch.empty(raw.shape[0], 0)
    ours, theirs = raw.topk(top).indices, full.topk(top).indices
    return (theirs[:, :, None] == ours[:, None, :]).any(2).float().mean(1, keepdim=True)


def positions_of(
    factors: SlicedFactors, hidden: HiddenStates, head: LmHead, device: torch.device, *, top: int = 0
) -> Iterator[Positions]:
    """Figures of a head that is not nested, as sweep_positions gives them: full logits of a few positions at a time."""
    zeros = torch.zeros(head.vocab_size, device=device)
    both = _Both(
        head,
        projection_of(factors).to(device, torch.float32),
        head.weight.to(device, torch.float32),
        zeros if head.module_bias is None else head.module_bias.to(device, torch.float32),
        factors.weight.to(device, torch.float32),
        zeros if factors.bias is None else factors.bias.to(device, torch.float32),
    )
    blocks = zip(hidden.blocks(POSITIONS_AT_ONCE, device), hidden.targets.split(POSITIONS_AT_ONCE), strict=True)
    yield from map_blocks(lambda pair: both.measure(pair[0], pair[1].to(device), top), blocks, device)


def measure_unnested(
    hidden: HiddenStates,
    head: LmHead,
    factors: SlicedFactors,
    ratio: float,
    seed: int,
    device: torch.device,
    rare: Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> DriftPoint:
    """The drift of a rounded or refined head on the cached hidden states. rare: (positions,) bool."""
    found: list[Positions] = []
    for block in positions_of(factors, hidden, head, device):
        found.append(block)
        progress(len(found) * POSITIONS_AT_ONCE / max(hidden.positions, 1))
    swept = swept_of(
        [factors.kept],  # the full head's column of the likelihood comes last, as in every sweep
        torch.cat([block.likelihood for block in found]),
        torch.cat([block.agreement for block in found]),
        torch.cat([block.divergence for block in found]),
        hidden,
        rare,
    )
    return drift_curve(swept, {factors.kept: ratio}, seed)[0]
