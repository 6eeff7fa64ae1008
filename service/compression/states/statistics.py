"""What the calibration windows say about a head: averaged token probability, mean and second moment of h.

Everything is a sum over positions in float64, so parts of a corpus add up (`+`). Cost: a product positions x hidden x
vocabulary (three with `fisher`). Memory: the head in float32, two hidden x hidden matrices, and in each thread the
logits of a block of positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.running_lse import LOG2_E, RunningLogSumExp
from service.compression.numerics.tiles import Tiles, rows_at_once, tiles_for
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead, Transform


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over positions, float64. `fisher_sum` is empty unless it was asked for."""

    positions: Tensor  # () int64
    probability_sum: Tensor  # (vocab,)
    hidden_sum: Tensor  # (hidden,)
    second_moment_sum: Tensor  # (hidden, hidden)
    fisher_sum: Tensor  # (hidden,), or (0,) when not taken

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def alpha(self) -> Tensor:
        """(vocab,) averaged token probability."""
        return self.probability_sum / self.positions

    @property
    def mean_hidden(self) -> Tensor:
        """(hidden,) E[h]."""
        return self.hidden_sum / self.positions

    @property
    def second_moment(self) -> Tensor:
        """(hidden, hidden) C = E[h h']."""
        return self.second_moment_sum / self.positions

    @property
    def fisher(self) -> Tensor:
        """(hidden,) E[(h_i - E h_i)^2 Var_p(W_i)]."""
        return self.fisher_sum / self.positions


def neg_log_alpha(alpha: Tensor) -> tuple[Tensor, int]:
    """(-log alpha, rows at the floor). Zeros are lifted to the smallest positive value, never to log(0)."""
    positive = alpha[alpha > 0]
    floor = positive.min() if positive.numel() else torch.tensor(torch.finfo(torch.float64).tiny, dtype=alpha.dtype)
    return -torch.log(alpha.clamp_min(floor)), int((alpha <= 0).sum())


def calibrate(
    hidden: HiddenStates, head: LmHead, *, with_fisher: bool, device: torch.device, progress: Callable[[float], None]
) -> Statistics:
    """Sums over the calibration positions, read once, or twice with `with_fisher` (its centre E[h] comes first)."""
    weight = head.weight.to(device, torch.float32)
    bias = torch.zeros(head.vocab_size, device=device) if head.bias is None else head.bias.to(device, torch.float32)
    center, buffers = mean_of(hidden, device) if with_fisher else None, Buffers()

    def of_block(block: Tensor) -> Statistics:
        rows = block.float()
        probability = torch.empty(head.vocab_size, dtype=torch.float64, device=device)
        first, second = torch.zeros_like(rows), torch.zeros_like(rows)  # E_p[W], E_p[W^2]
        for part, p in _probabilities(rows, weight, bias, head.transform, buffers):
            probability[part] = p.sum(0, dtype=torch.float64)
            if center is not None:
                first.addmm_(p, weight[part])
                second.addmm_(p, weight[part].square())
        return _sums(block.double(), probability, center, (second - first.square()).clamp_min(0))

    total: Statistics | None = None
    for part in map_blocks(of_block, hidden.blocks(rows_at_once(head.vocab_size, device), device), device):
        total = part if total is None else total + part
        progress(int(total.positions) / hidden.positions)
    assert total is not None
    return Statistics(**{name: tensor.cpu() for name, tensor in vars(total).items()})


@torch.inference_mode()
def probability_sum(rows: Tensor, head: LmHead, device: torch.device) -> Tensor:
    """(vocab,) float64 on the CPU: the predicted distributions at a few positions, rows: (n, hidden), added up."""
    weight = head.weight.to(device, torch.float32)
    bias = torch.zeros(head.vocab_size, device=device) if head.bias is None else head.bias.to(device, torch.float32)
    total, buffers = torch.zeros(head.vocab_size, dtype=torch.float64, device=device), Buffers()
    for some in rows.float().split(rows_at_once(head.vocab_size, device)):
        for part, p in _probabilities(some, weight, bias, head.transform, buffers):
            total[part] += p.sum(0, dtype=torch.float64)
    return total.cpu()


def _probabilities(
    rows: Tensor, weight: Tensor, bias: Tensor, transform: Transform, buffers: Buffers
) -> Iterator[tuple[slice, Tensor]]:
    """softmax(f(W h + b)) at rows (n, hidden), a tile (n, tokens) after the other; each is gone at the next."""
    tiles = tiles_for(rows.device)
    logits = buffers.take("logits", rows.shape[0], weight.shape[0], rows.device)
    scratch = buffers.take("exponentials", rows.shape[0], tiles.columns, rows.device)
    running = RunningLogSumExp(rows.shape[0], rows.device)
    for part in tiles.vocabulary(weight.shape[0]):
        tile = logits[:, part]
        torch.mul(_logits(rows, weight, bias, transform, part), LOG2_E, out=tile)
        running.fold(tile, scratch[:, : tile.shape[1]])
    level = (running.largest + running.above(running.largest))[:, None]
    for part in tiles.vocabulary(weight.shape[0]):
        tile = logits[:, part]
        yield part, torch.sub(tile, level, out=scratch[:, : tile.shape[1]]).exp2_()


def _sums(hidden: Tensor, probability: Tensor, center: Tensor | None, variance: Tensor) -> Statistics:
    """hidden: (rows, hidden) float64; variance: (rows, hidden) Var_p(W_i), used with a centre only."""
    fisher = hidden.new_zeros(0) if center is None else ((hidden - center).square() * variance.double()).sum(0)
    return Statistics(torch.tensor(hidden.shape[0]), probability, hidden.sum(0), hidden.T @ hidden, fisher)


def mean_of(hidden: HiddenStates, device: torch.device) -> Tensor:
    """(hidden,) float64."""
    total = torch.zeros(hidden.hidden_size, dtype=torch.float64, device=device)
    for block in hidden.blocks(4096, device):
        total += block.sum(0, dtype=torch.float64)
    return total / hidden.positions


def _logits(rows: Tensor, weight: Tensor, bias: Tensor, transform: Transform, part: slice) -> Tensor:
    return transform(torch.addmm(bias[part], rows, weight[part].T))


def log_sum_exp(rows: Tensor, weight: Tensor, bias: Tensor, transform: Transform, tiles: Tiles) -> Tensor:
    """(n,) of f(W h + b) at rows (n, hidden), a tile of logits at a time; all in float32."""
    lse = torch.full((rows.shape[0],), -torch.inf, device=rows.device)
    for part in tiles.vocabulary(weight.shape[0]):
        lse = torch.logaddexp(lse, torch.logsumexp(_logits(rows, weight, bias, transform, part), dim=1))
    return lse
