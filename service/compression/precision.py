"""Kept columns as 8-bit integers: prepared so that rounding costs little, rounded, measured. Writes no files.

Each row of the head gets one scale, so a row's columns should be of one size. Column j of U is multiplied by
s_j = (sqrt(E[x_j^2]) / rms(U_j))^(1/2) and x_j divided by it, which evens out what an error in a column costs; then
the kept subspace is turned by a random orthogonal matrix, which spreads the large columns over all. Both are folded
into U and the projection: nothing is added at run time, but the result is not nested.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.compression.block_parallel import map_blocks
from service.compression.drift import DriftPoint, drift_curve
from service.compression.hidden_cache import HiddenStates
from service.compression.lm_head import LmHead
from service.compression.slicing import Rounded, SlicedFactors
from service.compression.statistics import Statistics
from service.compression.sweep import TIE, Sweep, per_window

LARGEST = 127
POSITIONS_AT_ONCE = 64
ROWS_AT_ONCE = 8192


def round_head(factors: SlicedFactors, head: LmHead, statistics: Statistics, seed: int) -> SlicedFactors:
    """The same head with int8 columns and a general basis; `weight` is what the integers stand for, in float32.

    A mean repair is set anew for the rounded head, so that it is exact for the mean again.
    """
    dtype, kept = head.weight.dtype, factors.kept
    weight, projection = factors.weight.float(), _projection(factors).double()
    size = (projection @ statistics.second_moment @ projection.T).diagonal().clamp_min(0).sqrt()
    rms = weight.square().mean(0, dtype=torch.float64).sqrt()
    wanted = (size / rms).sqrt()
    stretch = torch.where(wanted.isfinite() & (wanted > 0), wanted, 1.0)
    turn = torch.linalg.qr(_normal(kept, seed)).Q
    right, left = stretch[:, None] * turn, turn.T / stretch
    new_projection = (left @ projection).to(dtype)
    quantized, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    for rows in _parts(weight.shape[0]):
        quantized[rows], scale[rows] = round_rows(weight[rows].double() @ right)
    dense = quantized.float() * scale[:, None]
    bias = factors.bias
    if factors.mean_hidden is not None:
        assert bias is not None
        mean = statistics.mean_hidden
        before, after = projection @ mean, new_projection.double() @ mean
        moved = [weight[rows].double() @ before - dense[rows].double() @ after for rows in _parts(weight.shape[0])]
        bias = (bias.double() + torch.cat(moved)).to(dtype)
    return replace(
        factors,
        weight=dense,
        rest=weight[:, :0],
        bias=bias,
        projection=new_projection,
        rotation=None,
        order=None,
        triangle=None,
        mean_hidden=None,
        rounded=Rounded(quantized, scale),
    )


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """((rows, columns) int8, (rows,) float32): each row over its scale, the largest entry at 127."""
    scale = (rows.abs().amax(1) / LARGEST).float()
    scale = torch.where(scale > 0, scale, 1.0)  # a row of zeros
    return (rows / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def _projection(factors: SlicedFactors) -> Tensor:
    if factors.order is None:
        assert factors.projection is not None
        return factors.projection
    return torch.eye(factors.order.shape[0])[factors.order[: factors.kept]]


def _normal(size: int, seed: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + ROWS_AT_ONCE, count)) for start in range(0, count, ROWS_AT_ONCE)]


@dataclass(frozen=True, eq=False)
class _Both:
    """The original head and the rounded one, in float32 on one device."""

    head: LmHead
    projection: Tensor  # (kept, hidden)
    weight: Tensor  # (vocab, hidden)
    own_bias: Tensor  # (vocab,)
    columns: Tensor  # (vocab, kept)
    bias: Tensor  # (vocab,)

    def measure(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, hidden), (rows,) -> likelihood (rows, 2), rounded first, top-1 agreement and KL (rows, 1)."""
        full = self.head.logits_of(hidden.float() @ self.weight.T + self.own_bias).log_softmax(1)
        raw = self.head.logits_of(hidden.float() @ self.projection.T @ self.columns.T + self.bias)
        best = raw.gather(1, full.argmax(1, keepdim=True))
        top = raw.amax(1, keepdim=True)
        rounded = raw.log_softmax(1)
        likelihood = -torch.stack([rounded, full], 1).gather(2, targets[:, None, None].expand(-1, 2, 1))[..., 0]
        divergence = (full.exp() * (full - rounded)).sum(1, keepdim=True).clamp_min(0)
        return likelihood.cpu(), (best >= top - TIE * top.abs()).cpu(), divergence.cpu()


def measure_rounded(
    hidden: HiddenStates,
    head: LmHead,
    factors: SlicedFactors,
    ratio: float,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] = lambda fraction: None,
) -> DriftPoint:
    """The drift of a rounded head on the cached hidden states: full logits of a few positions at a time."""
    zeros = torch.zeros(head.vocab_size, device=device)
    both = _Both(
        head,
        _projection(factors).to(device, torch.float32),
        head.weight.to(device, torch.float32),
        zeros if head.module_bias is None else head.module_bias.to(device, torch.float32),
        factors.weight.to(device, torch.float32),
        zeros if factors.bias is None else factors.bias.to(device, torch.float32),
    )
    blocks = zip(hidden.blocks(POSITIONS_AT_ONCE, device), hidden.targets.split(POSITIONS_AT_ONCE), strict=True)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for block in map_blocks(lambda pair: both.measure(pair[0], pair[1].to(device)), blocks, device):
        found.append(block)
        progress(len(found) * POSITIONS_AT_ONCE / max(hidden.positions, 1))
    likelihood, agreement, divergence = (torch.cat(parts) for parts in zip(*found, strict=True))
    swept = Sweep(
        [factors.kept],  # the full head's column of the likelihood comes last, as in every sweep
        per_window(likelihood, hidden),
        per_window(agreement, hidden),
        divergence,
        hidden.lengths,
    )
    return drift_curve(swept, {factors.kept: ratio}, seed)[0]
