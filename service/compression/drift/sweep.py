"""Every kept size from one read of the hidden states: perplexity, KL divergence and top-1 agreement.

Positions x vocabulary is walked in tiles. Within a tile the logits of the kept sizes are built by adding one segment
of columns after another, so all sizes together cost one full product. The tiles of all sizes are kept until the full
head's probabilities p of the tile are known; the cross term of every KL is then a dot product a row:
KL_k = E_p[z - z_k] - (lse - lse_k).

Cost: one product positions x hidden x vocabulary, and sizes x positions x vocabulary exponentials and products.
Memory: the head in float32, a tile for each size (64 MB a thread on a CPU), (positions x sizes) float32 for quantiles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from service.compression.heads.basis import Basis
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.running_lse import LN_2, LOG2_E
from service.compression.numerics.tiles import Tiles, tiles_for
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

# Sums of the same products in another order differ in the last bits: logits this close (relative) count as equal.
TIE = 1e-5
SAMPLED = 512  # tokens, whose largest logit is near enough to the largest of all
SAFE_EXPONENT = 80  # float32 holds 2^127: a vocabulary of 2^80 each, and 2^-46 beside a largest of 2^-80


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
    """Sums over windows for every kept size; `kept[-1]` is always the full head."""

    kept: list[int]  # ascending
    negative_log_likelihood: Tensor  # (windows, sizes) float64, summed over each window, nats
    agreement: Tensor  # (windows, sizes) float64, positions whose most probable token is the full head's
    divergence: Tensor  # (positions, sizes) float32, KL(full || size), nats
    lengths: Tensor  # (windows,) predicted positions of each window
    rare: tuple[Tensor, Tensor] | None = None  # likelihood and lengths, as above, of the positions of rare tokens alone


def prepare(head: LmHead, basis: Basis, mean_hidden: Tensor, *, repair: bool, device: torch.device) -> SweepHead:
    """The head ready to be cut, in float32: vocab x hidden x 4 bytes. mean_hidden: (hidden,) float64."""
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
    rare: Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    tiles: Tiles | None = None,
) -> Sweep:
    """Measure every size. kept: ascending, 1..hidden; the full size is added when missing. rare: (positions,) bool."""
    sizes = sorted({*kept, head.head.hidden_size})
    likelihood = torch.zeros(hidden.positions, len(sizes))
    agreement = torch.zeros(hidden.positions, len(sizes), dtype=torch.bool)
    divergence = torch.zeros(hidden.positions, len(sizes))
    start = 0
    for block in sweep_positions(hidden, head, sizes, progress=progress, tiles=tiles):
        here = slice(start, start + block.likelihood.shape[0])
        likelihood[here], agreement[here], divergence[here] = block.likelihood, block.agreement, block.divergence
        start = here.stop
    return swept_of(sizes, likelihood, agreement, divergence, hidden, rare)


def swept_of(
    sizes: list[int],
    likelihood: Tensor,
    agreement: Tensor,
    divergence: Tensor,
    hidden: HiddenStates,
    rare: Tensor | None,
) -> Sweep:
    """Sums over windows of what was measured at every position, (positions, sizes) each. rare: (positions,) bool."""
    of_rare = None
    if rare is not None:
        counts = per_window(rare[:, None], hidden)[:, 0].long()
        of_rare = per_window(likelihood.where(rare[:, None], 0.0), hidden), counts
    return Sweep(
        sizes, per_window(likelihood, hidden), per_window(agreement, hidden), divergence, hidden.lengths, of_rare
    )


@dataclass(frozen=True, eq=False)
class Positions:
    """Figures of a block of positions, each (positions, sizes), on the CPU."""

    likelihood: Tensor  # float32, negative log-likelihood of the target, nats
    agreement: Tensor  # bool, the full head's most probable token is this size's
    divergence: Tensor  # float32, KL(full || size), nats
    overlap: Tensor  # float32, share of the full head's `top` most probable tokens that are among this size's

    @classmethod
    def joined(cls, blocks: Sequence["Positions"]) -> "Positions":
        """The blocks one after another."""
        return cls(*(torch.cat([getattr(one, field.name) for one in blocks]) for field in fields(cls)))


def sweep_positions(
    hidden: HiddenStates,
    head: SweepHead,
    sizes: list[int],
    *,
    top: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
    tiles: Tiles | None = None,
) -> Iterator[Positions]:
    """Block after block, in order. sizes: ascending, the last the full one. top: 0 leaves `overlap` without columns."""
    if hidden.spread is not None:
        yield from hidden.spread(head, sizes, top, progress)
        return
    device = head.columns.device
    tiles = (tiles or tiles_for(device)).shared_by(len(sizes) + 1)
    blocks = hidden.blocks(tiles.rows, device)
    walked = map_blocks(lambda block: _walk(block, head, sizes, tiles, top), blocks, device)
    done = 0
    for result, targets in zip(walked, hidden.targets.split(tiles.rows), strict=True):
        target_logits = _logits_of(result.x, head, targets.to(device), sizes)
        best_logits = _logits_of(result.x, head, result.best, sizes)
        yield Positions(
            likelihood=(result.lse - target_logits).cpu(),
            agreement=(best_logits >= result.largest - TIE * result.largest.abs()).cpu(),
            divergence=result.divergence.clamp_min(0).cpu(),
            overlap=result.overlap.cpu(),
        )
        done += targets.numel()
        progress(done / hidden.positions)


def per_window(values: Tensor, hidden: HiddenStates) -> Tensor:
    return torch.stack([window.sum(0, dtype=torch.float64) for window in values.split(hidden.lengths.tolist())])


@dataclass(frozen=True, eq=False)
class _Block:
    """Results for a block of positions."""

    x: Tensor  # (rows, hidden) centred coordinates
    lse: Tensor  # (rows, sizes)
    largest: Tensor  # (rows, sizes) the largest logit
    best: Tensor  # (rows,) the full head's most probable token
    divergence: Tensor  # (rows, sizes)
    overlap: Tensor  # (rows, sizes), or (rows, 0)


class _Sums:
    """Sum of exponentials and largest logit of every size over the vocabulary, in base 2, and E_p[z_k] of each.

    offsets: (sizes, rows) what is taken off each size's logits before they are exponents; None: they are small enough.
    """

    def __init__(self, rows: int, sizes: int, device: torch.device, offsets: Tensor | None) -> None:
        self._offsets = offsets
        self.largest = torch.full((sizes, rows), -torch.inf, device=device)
        self.total = torch.zeros(sizes, rows, device=device)
        self.best = torch.zeros(rows, dtype=torch.int64, device=device)  # the full head's most probable token
        self._cross = torch.zeros(sizes, rows, device=device)

    def fold(self, index: int, tile: Tensor, scratch: Tensor) -> Tensor:
        """Take in a tile (rows, columns) of size `index`; returns its exponentials, in `scratch`."""
        if self._offsets is None:
            exponentials = torch.exp2(tile, out=scratch)
        else:
            exponentials = torch.sub(tile, self._offsets[index][:, None], out=scratch).exp2_()
        self.total[index] += exponentials.sum(1)
        self.largest[index] = torch.maximum(self.largest[index], tile.amax(1))
        return exponentials

    def fold_full(self, tiles: Tensor, first_token: int, scratch: Tensor) -> None:
        """As fold for the last size; then its weights are known, and every size's cross term is a dot product a row."""
        before = self.largest[-1].clone()
        weights = self.fold(-1, tiles[-1], scratch)
        higher = (self.largest[-1] > before).nonzero()[:, 0]  # few rows after the first tiles: arg-max is slow
        self.best[higher] = tiles[-1][higher].argmax(1) + first_token
        for cross, tile in zip(self._cross, tiles, strict=True):
            cross += torch.linalg.vecdot(weights, tile)

    @property
    def is_exact(self) -> bool:
        """Whether no exponential was too large for float32, or so small that others vanished beside it."""
        largest = self.largest if self._offsets is None else self.largest - self._offsets
        return bool(((largest > -SAFE_EXPONENT) & (largest < SAFE_EXPONENT)).all())

    @property
    def lse(self) -> Tensor:
        """(sizes, rows) log-sum-exp."""
        return self.total.log2() if self._offsets is None else self._offsets + self.total.log2()

    @property
    def expected(self) -> Tensor:
        """(sizes, rows) E_p[z_k], p the full head's probabilities."""
        return self._cross / self.total[-1]


class _Top:
    """The most probable tokens of every size so far."""

    def __init__(self, count: int, sizes: int, rows: int, device: torch.device) -> None:
        self.logits = torch.full((sizes, rows, count), -torch.inf, device=device)
        self.tokens = torch.full((sizes, rows, count), -1, device=device)

    def fold(self, tiles: Tensor, first_token: int) -> None:
        """Take in a tile (sizes, rows, columns)."""
        count = self.logits.shape[2]
        for logits, tokens, tile in zip(self.logits, self.tokens, tiles, strict=True):
            found, where = tile.topk(min(count, tile.shape[1]), sorted=False)
            both, chosen = torch.cat([logits, found], 1).topk(count)
            tokens.copy_(torch.cat([tokens, where + first_token], 1).gather(1, chosen))
            logits.copy_(both)

    def overlap(self) -> Tensor:
        """(rows, sizes) share of the last size's tokens that are among each size's."""
        return (self.tokens[:, :, :, None] == self.tokens[-1, :, None, :]).any(2).float().mean(2).T


def _walk(hidden: Tensor, head: SweepHead, sizes: list[int], tiles: Tiles, top: int) -> _Block:
    """All tiles of a block of positions. hidden: (rows, hidden).

    About the largest logit of each row is taken off all of its logits: then they are exponents as they are, and
    differences of their sums lose no digits. Where that was too far off, all is done again with what was found.
    """
    x = head.basis.coordinates(hidden) - head.center
    sample = slice(None, None, max(1, head.columns.shape[0] // SAMPLED))
    sampled = torch.addmm(head.constant[sample], x, head.columns[sample].T)
    reference = LOG2_E * head.head.transform(sampled).amax(1)
    found, sums = _walk_from(reference, None, x, head, sizes, tiles, top)
    return found if sums.is_exact else _walk_from(reference, sums.largest, x, head, sizes, tiles, top)[0]


def _walk_from(
    reference: Tensor,
    offsets: Tensor | None,
    x: Tensor,
    head: SweepHead,
    sizes: list[int],
    tiles: Tiles,
    top: int,
) -> tuple[_Block, _Sums]:
    """reference: (rows,) taken off all logits, in base 2; offsets: as of _Sums. x: (rows, hidden).

    The tile of every size is kept until the full head's weights are known: E_p[z_k] is then one dot product a row.
    """
    transform = head.head.transform
    linear = transform.soft_cap is None
    rows, count, last = x.shape[0], len(sizes), len(sizes) - 1
    segments = [slice(start, stop) for start, stop in pairwise([0, *sizes])]
    scaled = x * (transform.scale * LOG2_E) if linear else x
    sums = _Sums(rows, count, x.device, offsets)
    best = _Top(min(top, head.columns.shape[0]), count, rows, x.device)
    # One buffer for all tiles: allocating it anew for each took longer than filling it.
    buffer = torch.empty(count + 1, rows * tiles.columns, device=x.device)
    for part in tiles.vocabulary(head.columns.shape[0]):
        columns = head.columns[part]
        of_part = buffer[:, : rows * columns.shape[0]].view(count + 1, rows, -1)
        kept, scratch = of_part[:-1], of_part[-1]
        logits = head.constant[part].expand(rows, -1)
        if linear:
            logits = logits * (transform.scale * LOG2_E) - reference[:, None]
        for index, segment in enumerate(segments):
            logits = torch.addmm(logits, scaled[:, segment], columns[:, segment].T, out=kept[index])
            if linear and index < last:
                sums.fold(index, logits, scratch)
        if not linear:  # only now: each size's raw logits were the start of the next
            for index, tile in enumerate(kept):
                torch.sub(transform(tile).mul_(LOG2_E), reference[:, None], out=tile)
                if index < last:
                    sums.fold(index, tile, scratch)
        if top:
            best.fold(kept, part.start)
        sums.fold_full(kept, part.start, scratch)
    expected, lse = sums.expected.T, sums.lse.T
    divergence = LN_2 * (expected[:, -1:] - expected - (lse[:, -1:] - lse))
    lse, largest = (LN_2 * (each + reference[:, None]) for each in (lse, sums.largest.T))
    return _Block(x, lse, largest, sums.best, divergence, best.overlap() if top else x.new_zeros(rows, 0)), sums


def _logits_of(x: Tensor, head: SweepHead, tokens: Tensor, sizes: list[int]) -> Tensor:
    """(rows, sizes) logit of one token per position, for every size, by prefix sums."""
    prefix = (x * head.columns[tokens]).cumsum(1, dtype=torch.float64)
    chosen = prefix[:, torch.tensor(sizes, device=x.device) - 1] + head.constant[tokens][:, None]
    return head.head.transform(chosen.float())
