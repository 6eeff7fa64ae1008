"""The full head's logits at a block of positions, and any other head measured against them, tile by tile.

Logits are carried in base 2, as in sweep.py. The full ones of the block are held; of another head a tile exists at a
time, unless it is to be kept. Tiles stay in the cache and buffers are used again: on fresh memory the same operators
take four times as long. With E_p[z - z_k] summed as such and every log-sum-exp counted from the full head's largest
logit, KL = E_p[z - z_k] - (lse - lse_k) loses no digits to logits that are large but close.

Cost: a product positions x columns x vocabulary for each head, two exponentials a logit of the others together, one of
each. Memory in each thread: BLOCK_ELEMENTS of logits in float32, once more for each head that is kept, and a few tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.drift.sweep import TIE, Positions
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.running_lse import LN_2, LOG2_E, RunningLogSumExp
from service.compression.numerics.tiles import tiles_for
from service.compression.states.lm_head import LmHead


@dataclass(frozen=True, eq=False)
class Form:
    """Another head: its module gives rows @ coordinates(h) + bias; what the model does after it is the full one's."""

    rows: Callable[[slice], Tensor]  # tokens -> (tokens, columns) float32
    bias: Tensor | None  # (vocab,), the module's own
    coordinates: Callable[[Tensor], Tensor]  # (positions, hidden) -> (positions, columns) float32


def form_of(head: LmHead, device: torch.device) -> Form:
    """The head itself; its rows are widened a tile at a time."""
    return Form(
        lambda part: head.weight[part].to(device, torch.float32), head.module_bias, lambda hidden: hidden.float()
    )


@dataclass(frozen=True, eq=False)
class Against:
    """A head beside the full one at a block of positions, each (rows,), in base 2."""

    largest: Tensor
    lse: Tensor  # above the full head's largest logit
    at_target: Tensor  # logit of the token that came
    at_best: Tensor  # of the full head's most probable one
    difference: Tensor  # E_p[z - z_k]
    kept: Tensor | None  # (rows, vocab) its logits, where they were asked for
    raw: Tensor | None  # likewise its module's outputs, up to a factor


class FullBlock:
    """Logits of the full head at hidden (rows, hidden), beside which others are measured; all on the head's device."""

    def __init__(self, hidden: Tensor, targets: Tensor, head: LmHead, buffers: Buffers) -> None:
        self.head, self.targets, self._buffers = head, targets, buffers
        self._tiles = tiles_for(hidden.device)
        self.rows = targets.numel()
        self._top: Tensor | None = None
        self.logits = self.buffer("full")  # (rows, vocab)
        outputs = _Outputs(form_of(head, hidden.device), hidden, head)
        running = RunningLogSumExp(hidden.shape[0], hidden.device)
        self.best = torch.zeros_like(targets)
        for part in self._parts():
            tile, before = outputs.logits(part, self.logits[:, part]), running.largest
            running.fold(tile, self.scratch("exponentials", tile))
            higher = (running.largest > before).nonzero()[:, 0]  # few rows after the first tiles: arg-max is slow
            self.best[higher] = tile[higher].argmax(1) + part.start
        self.largest, self.lse = running.largest, running.above(running.largest)
        self.at_target = self.logits.gather(1, targets[:, None])[:, 0]

    def against(self, forms: Sequence[tuple[Form | Tensor, Tensor, str | None]]) -> list[Against]:
        """Heads beside the full one. forms: a head, the states (rows, hidden) it gets, a name to keep its logits by.

        In place of a head its module's outputs (rows, vocab) may be given.
        """
        level = (self.largest + self.lse)[:, None]
        beside = [_Beside(self, form, hidden, keep) for form, hidden, keep in forms]
        for part in self._parts():
            full = self.logits[:, part]
            weights = torch.sub(full, level, out=self.scratch("weights", full)).exp2_()
            for one in beside:
                one.fold(part, full, weights)
        return [one.found() for one in beside]

    def positions(self, found: Sequence[Against], top: int = 0) -> Positions:
        """A column for each head, and the full one's likelihood last; `overlap` where `top` and all were kept."""
        columns = [self.figures(one.lse, one.largest, one.at_target, one.at_best, one.difference) for one in found]
        overlap = torch.empty(self.rows, 0)
        if top:
            overlap = torch.stack([self.shared(top, one.kept) for one in found], 1)
        return self.joined(columns, overlap)

    def figures(
        self, lse: Tensor, largest: Tensor, at_target: Tensor, at_best: Tensor, difference: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Negative log-likelihood, agreement and KL divergence in nats, (rows,), from sums (rows,) in base 2."""
        agreement = at_best >= largest - TIE * largest.abs()
        return (
            LN_2 * (lse + (self.largest - at_target)),
            agreement,
            (LN_2 * (difference - (self.lse - lse))).clamp_min(0),
        )

    def joined(self, columns: Sequence[tuple[Tensor, Tensor, Tensor]], overlap: Tensor) -> Positions:
        """The figures of several heads together. columns: of each head; overlap: (rows, heads), or (rows, 0)."""
        own = LN_2 * (self.lse + (self.largest - self.at_target))
        return Positions(
            likelihood=torch.stack([*(each[0] for each in columns), own], 1).cpu(),
            agreement=torch.stack([each[1] for each in columns], 1).cpu(),
            divergence=torch.stack([each[2] for each in columns], 1).cpu(),
            overlap=overlap.cpu(),
        )

    def shared(self, top: int, kept: Tensor | None) -> Tensor:
        """(rows,) share of the full head's `top` most probable tokens among the other's. kept: (rows, vocab)."""
        assert kept is not None
        return self.share_of(kept.topk(min(top, kept.shape[1])).indices, top)

    def share_of(self, tokens: Tensor, top: int) -> Tensor:
        """(rows,) share of the full head's `top` most probable tokens that are among `tokens` (rows, top)."""
        wanted = self._most_probable(top)
        return (wanted[:, :, None] == tokens[:, None, :]).any(2).float().mean(1)

    def _most_probable(self, top: int) -> Tensor:
        """(rows, top) tokens of the full head, sought once."""
        if self._top is None or self._top.shape[1] != min(top, self.logits.shape[1]):
            self._top = self.logits.topk(min(top, self.logits.shape[1])).indices
        return self._top

    def lse_of(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, vocab) -> log-sum-exp, above the full head's largest logit, and largest, (rows,), in base 2."""
        running = RunningLogSumExp(self.rows, logits.device)
        for part in self._parts():
            running.fold(logits[:, part], self.scratch("exponentials", logits[:, part]))
        return running.above(self.largest), running.largest

    def buffer(self, name: str) -> Tensor:
        """(rows, vocab) of any content, on the targets' device."""
        return self._buffers.take(name, self.rows, self.head.vocab_size, self.targets.device)

    def scratch(self, name: str, tile: Tensor) -> Tensor:
        """A buffer of the tile's shape, of any content."""
        return self._buffers.take(name, tile.shape[0], tile.shape[1], tile.device)

    def _parts(self) -> Iterator[slice]:
        return self._tiles.vocabulary(self.head.vocab_size)


class _Outputs:
    """Logits of one head at a block of positions, a tile at a time."""

    def __init__(self, form: Form | Tensor, hidden: Tensor, head: LmHead) -> None:
        self._transform = head.transform
        self._is_linear = head.transform.soft_cap is None
        factor = LOG2_E * head.transform.scale if self._is_linear else 1.0
        self._outside = None if head.outside is None else head.outside.to(hidden.device).float() * factor
        self._product: Callable[[slice, Tensor], Tensor]
        if isinstance(form, Tensor):
            self._product = lambda part, into: torch.mul(form[:, part], factor, out=into)
            return
        x, rows = form.coordinates(hidden) * factor, form.rows
        if form.bias is None:
            self._product = lambda part, into: torch.mm(x, rows(part).T, out=into)
        else:
            bias = form.bias.to(hidden.device).float() * factor
            self._product = lambda part, into: torch.addmm(bias[part], x, rows(part).T, out=into)

    @property
    def are_as_logits(self) -> bool:
        """Whether the module's largest outputs are the largest logits, and can be told from each other by them."""
        return self._outside is None and self._is_linear and self._transform.scale > 0

    def logits(self, part: slice, into: Tensor, raw: Tensor | None = None) -> Tensor:
        """`into`, in base 2. into, raw: (rows, tokens); `raw` gets the module's outputs, up to a factor."""
        self._product(part, into)
        if raw is not None:
            raw.copy_(into)
        if self._outside is not None:
            into += self._outside[part]
        if not self._is_linear:
            into.copy_(self._transform(into)).mul_(LOG2_E)
        return into


class _Beside:
    """What `Against` says, so far."""

    def __init__(self, block: FullBlock, form: Form | Tensor, hidden: Tensor, keep: str | None) -> None:
        self._block, self._outputs = block, _Outputs(form, hidden, block.head)
        self._kept = block.buffer(keep) if keep else None
        self._raw = block.buffer(f"{keep}, raw") if keep and not self._outputs.are_as_logits else None
        self._running = RunningLogSumExp(block.rows, hidden.device)
        self._wanted = torch.stack([block.targets, block.best], 1)
        self._at = torch.zeros(block.rows, 2, device=hidden.device)
        self._difference = torch.zeros(block.rows, device=hidden.device)

    def fold(self, part: slice, full: Tensor, weights: Tensor) -> None:
        """full, weights: (rows, tokens) the full head's logits and probabilities."""
        into = self._block.scratch("tile", full) if self._kept is None else self._kept[:, part]
        tile = self._outputs.logits(part, into, None if self._raw is None else self._raw[:, part])
        scratch = self._block.scratch("exponentials", tile)
        self._running.fold(tile, scratch)
        local = self._wanted - part.start
        inside = (local >= 0) & (local < tile.shape[1])
        self._at = torch.where(inside, tile.gather(1, local.clamp(0, tile.shape[1] - 1)), self._at)
        self._difference += torch.linalg.vecdot(weights, torch.sub(full, tile, out=scratch))

    def found(self) -> Against:
        running, raw = self._running, self._kept if self._raw is None else self._raw
        lse = running.above(self._block.largest)
        at_target, at_best = self._at.unbind(1)
        return Against(running.largest, lse, at_target, at_best, self._difference, self._kept, raw)
