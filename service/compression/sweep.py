"""Every kept size from one read of the hidden states: perplexity, KL divergence and top-1 agreement.

Positions x vocabulary is walked in tiles. Within a tile the logits of the kept sizes are built by adding one segment
of columns after another, so all sizes together cost one full product; one more gives E_p[U], from which the cross
term of every KL is a suffix sum: KL_k = sum_{j>=k} E_p[U]_j x_j - (lse - lse_k). With a soft cap that is not linear,
and the cross terms are summed tile by tile instead.

Cost: 2 products positions x hidden x vocabulary, and sizes x positions x vocabulary exponentials.
Memory: the head in float32, a few tiles, and (positions x sizes) float32 for the KL quantiles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from service.compression.basis import Basis
from service.compression.block_parallel import map_blocks
from service.compression.hidden_cache import HiddenStates
from service.compression.lm_head import LmHead
from service.compression.tiles import Tiles, tiles_for

# Logits are carried in base 2 inside a block: torch's exp2 takes a third of the time of its exp on many CPUs.
LOG2_E, LN_2 = math.log2(math.e), math.log(2.0)
# Sums of the same products in another order differ in the last bits: logits this close (relative) count as equal.
TIE = 1e-5


@dataclass(frozen=True, eq=False)
class SweepHead:
    """A head ready to be cut anywhere: logits of size k = transform(columns[:, :k] @ (x - center)[:k] + constant).

    Mean repair is the centring: what the removed columns give on average is in `constant` whatever k is.
    """

    basis: Basis
    columns: Tensor  # (vocab, hidden) float32, U
    center: Tensor  # (hidden,) float32, E[x], or zeros without repair
    constant: Tensor  # (vocab,) float32, b + U E[x]
    head: LmHead


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was measured, per kept size; `kept[-1]` is always the full head."""

    kept: list[int]  # ascending
    negative_log_likelihood: Tensor  # (windows, sizes) float64, summed over each window, nats
    agreement: Tensor  # (windows, sizes) float64, positions whose most probable token is the full head's
    divergence: Tensor  # (positions, sizes) float32, KL(full || size), nats
    positions_per_window: int


def prepare(head: LmHead, basis: Basis, mean_hidden: Tensor, *, repair: bool, device: torch.device) -> SweepHead:
    """mean_hidden: (hidden,) float64. Holds the head in float32: vocab x hidden x 4 bytes."""
    columns = basis.columns(head.weight.to(device))
    bias = torch.zeros(head.vocab_size, device=device) if head.bias is None else head.bias.to(device).float()
    if not repair:
        return SweepHead(basis, columns, torch.zeros(head.hidden_size, device=device), bias, head)
    center = basis.coordinates(mean_hidden[None])[0].to(device, torch.float32)
    return SweepHead(basis, columns, center, bias + columns @ center, head)


def sweep(
    hidden: HiddenStates,
    head: SweepHead,
    kept: list[int],
    *,
    progress: Callable[[float], None] = lambda fraction: None,
    tiles: Tiles | None = None,
) -> Sweep:
    """kept: ascending sizes in 1..hidden; the full size is added when it is missing."""
    device = head.columns.device
    tiles = tiles or tiles_for(device)
    sizes = sorted({*kept, head.head.hidden_size})
    likelihood = torch.zeros(hidden.positions, len(sizes))
    agreement = torch.zeros(hidden.positions, len(sizes), dtype=torch.bool)
    divergence = torch.zeros(hidden.positions, len(sizes))
    walk = _walk_soft_capped if head.head.transform.soft_cap is not None else _walk
    blocks = hidden.blocks(tiles.rows, device)
    walked = map_blocks(lambda block: walk(block, head, sizes, tiles), blocks, device)
    start = 0
    for result, targets in zip(walked, hidden.targets.split(tiles.rows), strict=True):
        here = slice(start, start + targets.numel())
        target_logits = _logits_of(result.x, head, targets.to(device), sizes)
        best_logits = _logits_of(result.x, head, result.best, sizes)
        likelihood[here] = (result.lse - target_logits).cpu()
        agreement[here] = (best_logits >= result.largest - TIE * result.largest.abs()).cpu()
        divergence[here] = result.divergence.clamp_min(0).cpu()
        start = here.stop
        progress(start / hidden.positions)
    return Sweep(
        sizes, _per_window(likelihood, hidden), _per_window(agreement, hidden), divergence, hidden.positions_per_window
    )


def _per_window(values: Tensor, hidden: HiddenStates) -> Tensor:
    return values.view(-1, hidden.positions_per_window, values.shape[1]).sum(1, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Block:
    """Results for a block of positions."""

    x: Tensor  # (rows, hidden) centred coordinates
    lse: Tensor  # (rows, sizes)
    largest: Tensor  # (rows, sizes) the largest logit
    best: Tensor  # (rows,) the full head's most probable token
    divergence: Tensor  # (rows, sizes)


class _Running:
    """Running log-sum-exp of every size over the vocabulary, in base 2, and the full head's arg-max."""

    def __init__(self, rows: int, sizes: int, device: torch.device) -> None:
        self.largest = torch.full((sizes, rows), -torch.inf, device=device)
        self.total = torch.zeros(sizes, rows, device=device)
        self.best = torch.zeros(rows, dtype=torch.int64, device=device)
        self.rescale = torch.zeros(rows, device=device)

    def fold(self, index: int, logits: Tensor, scratch: Tensor) -> Tensor:
        """Take in a tile (rows, columns) of size `index`; returns 2^(logits - largest so far), in `scratch`."""
        before = self.largest[index]
        largest = torch.maximum(before, logits.amax(1))
        self.rescale = torch.exp2(before - largest)
        shifted = torch.sub(logits, largest[:, None], out=scratch).exp2_()
        self.total[index] = self.total[index] * self.rescale + shifted.sum(1)
        self.largest[index] = largest
        return shifted

    def fold_full(self, logits: Tensor, first_token: int, scratch: Tensor) -> Tensor:
        """As fold for the last size, and remember where the largest logit is."""
        values, where = logits.max(1)
        self.best = torch.where(values > self.largest[-1], where + first_token, self.best)
        return self.fold(-1, logits, scratch)

    @property
    def lse(self) -> Tensor:
        """(rows, sizes), natural"""
        return LN_2 * (self.largest + self.total.log2()).T

    @property
    def largest_logit(self) -> Tensor:
        """(rows, sizes), natural"""
        return LN_2 * self.largest.T


def _segments(sizes: list[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise([0, *sizes])]


def _walk(hidden: Tensor, head: SweepHead, sizes: list[int], tiles: Tiles) -> _Block:
    """All tiles of a block of positions, linear transform. hidden: (rows, hidden)."""
    scale = head.head.transform.scale * LOG2_E
    unscaled = head.basis.coordinates(hidden) - head.center
    x = unscaled * scale
    running = _Running(x.shape[0], len(sizes), x.device)
    expected = torch.zeros_like(x)  # (rows, hidden) E_p[U], up to the running normaliser
    for part in tiles.vocabulary(head.columns.shape[0]):
        columns = head.columns[part]
        logits = (head.constant[part] * scale).expand(x.shape[0], -1).clone()
        scratch = torch.empty_like(logits)
        for index, segment in enumerate(_segments(sizes[:-1])):
            logits.addmm_(x[:, segment], columns[:, segment].T)
            running.fold(index, logits, scratch)
        rest = slice(sizes[-2] if len(sizes) > 1 else 0, sizes[-1])
        logits.addmm_(x[:, rest], columns[:, rest].T)
        shifted = running.fold_full(logits, part.start, scratch)
        expected.mul_(running.rescale[:, None]).addmm_(shifted, columns)
    products = (expected / running.total[-1][:, None]) * x
    # Suffix sums: what the columns after k contribute to E_p[z - z_k].
    removed = products.flip(1).cumsum(1, dtype=torch.float64).flip(1)
    removed = torch.cat([removed, removed.new_zeros(x.shape[0], 1)], dim=1)[:, sizes]
    lse = running.lse
    return _Block(unscaled, lse, running.largest_logit, running.best, (LN_2 * removed - (lse[:, -1:] - lse)).float())


def _walk_soft_capped(hidden: Tensor, head: SweepHead, sizes: list[int], tiles: Tiles) -> _Block:
    """The same with f(z) = c tanh(s z / c): each size's capped tile is kept until the full head's weights are known."""
    transform = head.head.transform
    x = head.basis.coordinates(hidden) - head.center
    running = _Running(x.shape[0], len(sizes), x.device)
    cross = torch.zeros(len(sizes), x.shape[0], device=x.device)  # E_p[f(z) - f(z_k)], up to the normaliser
    for part in tiles.vocabulary(head.columns.shape[0]):
        columns = head.columns[part]
        logits = head.constant[part].expand(x.shape[0], -1).clone()
        scratch = torch.empty_like(logits)
        capped: list[Tensor] = []
        for index, segment in enumerate(_segments(sizes)):
            logits.addmm_(x[:, segment], columns[:, segment].T)
            capped.append(transform(logits).mul_(LOG2_E))
            if index < len(sizes) - 1:
                running.fold(index, capped[-1], scratch)
        shifted = running.fold_full(capped[-1], part.start, scratch)
        cross *= running.rescale
        for index, tile in enumerate(capped[:-1]):
            cross[index] += (shifted * (capped[-1] - tile)).sum(1)
    lse = running.lse
    divergence = LN_2 * (cross / running.total[-1]).T - (lse[:, -1:] - lse)
    return _Block(x, lse, running.largest_logit, running.best, divergence)


def _logits_of(x: Tensor, head: SweepHead, tokens: Tensor, sizes: list[int]) -> Tensor:
    """(rows, sizes) logit of one token per position, for every size, by prefix sums."""
    prefix = (x * head.columns[tokens]).cumsum(1, dtype=torch.float64)
    chosen = prefix[:, torch.tensor(sizes, device=x.device) - 1] + head.constant[tokens][:, None]
    return head.head.transform(chosen.float())
