"""Change the averaged probability of some tokens by editing their rows of the head, and measure what came of it.

Source: arXiv 2406.01468, section 4. With -log alpha_w = A . W_w + B, the edit W_w - log(m) u, for any u with A . u = 1,
makes the fitted alpha_w m times as large. Only the logits of edited rows change, so one walk over tiles, for the
log-sum-exp of all other tokens, gives every figure exactly, for any number of multipliers. No N x V matrix.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.tiles import tiles_for
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import log_sum_exp

# Wanted multipliers of the paper's figure: each token alone, at each of these.
MULTIPLIERS = (1 / 20, 1 / 10, 1 / 5, 1 / 2, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, eq=False)
class Edit:
    """Row token_ids[i] of W becomes W - log(multipliers[i]) * direction."""

    token_ids: Tensor  # (tokens,) int64
    multipliers: Tensor  # (tokens,) float64
    direction: Tensor  # (hidden,) float64, u

    def rows(self, weight: Tensor) -> Tensor:
        """(tokens, hidden) float64, edited."""
        return weight[self.token_ids].double() - torch.outer(self.multipliers.log(), self.direction)

    def apply(self, weight: Tensor) -> Tensor:
        """A copy of weight, (vocab, hidden), with the edited rows rounded to its dtype."""
        edited = weight.clone()
        edited[self.token_ids] = self.rows(weight).to(weight.dtype)
        return edited


def edit_direction(slope: Tensor, columns: int | None) -> Tensor:
    """u with slope . u = 1: of smallest norm, or of smallest norm among those on the `columns` largest |slope|.

    slope: (hidden,) float64, not all zero.
    """
    kept = slope
    if columns is not None:
        kept = torch.zeros_like(slope)
        largest = slope.abs().topk(min(columns, slope.numel())).indices
        kept[largest] = slope[largest]
    return kept / kept.square().sum()


@dataclass(frozen=True, eq=False)
class Effect:
    """What an edit does to token probabilities: means over positions, float64."""

    before: Tensor  # (tokens,) averaged probability
    after: Tensor  # (tokens,)
    alone: Tensor  # (tokens, len(MULTIPLIERS)) averaged probability when this token alone is edited by that much
    others_before: float  # probability of all tokens that were not edited
    others_after: float
    kl_mean: float  # KL(before || after), nats
    js_mean: float  # Jensen-Shannon divergence, nats
    loss_before: float  # nats per predicted token
    loss_after: float


def measure_effect(
    hidden: HiddenStates, head: LmHead, edit: Edit, device: torch.device, progress: Callable[[float], None]
) -> Effect:
    """What the edit does, in one product positions x hidden x vocabulary. Memory: the head in float32, a tile."""
    ids = edit.token_ids
    is_other = torch.ones(head.vocab_size, dtype=torch.bool)
    is_other[ids] = False
    bias = torch.zeros(head.vocab_size) if head.bias is None else head.bias.float().cpu()
    weight = head.weight.cpu()
    others, others_bias = weight[is_other].to(device, torch.float32), bias[is_other].to(device)
    parts = _Parts(
        weight[ids].to(device, torch.float64), bias[ids].to(device, torch.float64), edit, device, head.transform
    )
    full = (head.weight.to(device), bias.to(device))
    tiles = tiles_for(device)

    def of_block(block: tuple[Tensor, Tensor]) -> tuple[int, list[Tensor]]:
        rows, targets = block
        rest = log_sum_exp(rows.float(), others, others_bias, head.transform, tiles).double()
        wanted = head.transform((rows.double() * full[0][targets].double()).sum(1) + full[1][targets].double())
        return rows.shape[0], parts.sums(rows.double(), rest, wanted, targets)

    starts = range(0, hidden.positions, tiles.rows)
    targets = [hidden.targets[start : start + tiles.rows].to(device) for start in starts]
    blocks = zip(hidden.blocks(tiles.rows, device), targets, strict=True)
    done, totals = 0, None
    for count, sums in map_blocks(of_block, blocks, device):
        done += count
        totals = sums if totals is None else [mine + theirs for mine, theirs in zip(totals, sums, strict=True)]
        progress(done / hidden.positions)
    assert totals is not None
    before, after, alone, *scalars = [total.cpu() / hidden.positions for total in totals]
    return Effect(before, after, alone, *(float(value) for value in scalars))


@dataclass(frozen=True, eq=False)
class _Parts:
    """What the edited rows contribute at each position."""

    weight: Tensor  # (tokens, hidden) float64, before
    bias: Tensor  # (tokens,)
    edit: Edit
    device: torch.device
    transform: Callable[[Tensor], Tensor]

    def sums(self, rows: Tensor, rest: Tensor, wanted: Tensor, targets: Tensor) -> list[Tensor]:
        """Sums of Effect's fields over (n, hidden) positions. rest: (n,) log-sum-exp of all other tokens' logits;
        wanted: (n,) the target's logit before."""
        raw = rows @ self.weight.T + self.bias
        shift = rows @ self.edit.direction.to(self.device)
        old = self.transform(raw)
        new = self.transform(raw - torch.outer(shift, self.edit.multipliers.log().to(self.device)))
        lse, new_lse = (torch.logaddexp(rest, logits.logsumexp(1)) for logits in (old, new))
        log_p, log_q = old - lse[:, None], new - new_lse[:, None]
        others, new_others = (rest - lse).exp(), (rest - new_lse).exp()
        kl = others * (new_lse - lse) + (log_p.exp() * (log_p - log_q)).sum(1)
        js = _jensen_shannon(log_p.exp(), log_q.exp()).sum(1) + _jensen_shannon(others, new_others)
        hits = targets[:, None] == self.edit.token_ids.to(self.device)
        new_wanted = torch.where(hits.any(1), (new * hits).sum(1), wanted)
        fields = (others, new_others, kl, js, lse - wanted, new_lse - new_wanted)
        alone = self._alone(raw, shift, old, rest)
        return [log_p.exp().sum(0), log_q.exp().sum(0), alone, *(values.sum() for values in fields)]

    def _alone(self, raw: Tensor, shift: Tensor, old: Tensor, rest: Tensor) -> Tensor:
        """(tokens, multipliers) summed probability of each token when no other is edited."""
        tokens = raw.shape[1]
        without = (
            old[:, None, :]
            .expand(-1, tokens, -1)
            .masked_fill(torch.eye(tokens, dtype=torch.bool, device=old.device), -math.inf)
        )
        base = torch.logaddexp(rest[:, None], without.logsumexp(2))  # (n, tokens)
        found = []
        for multiplier in MULTIPLIERS:
            logit = self.transform(raw - math.log(multiplier) * shift[:, None])
            found.append((logit - torch.logaddexp(base, logit)).exp().sum(0))
        return torch.stack(found, dim=1)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Each pair's part of the divergence; for the tokens that were not edited, whose ratio is one number, in one."""
    middle = (p + q) / 2
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)) / 2
