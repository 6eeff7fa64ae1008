"""Heads in bit planes, measured as they run: every number of preview bits and of rescored rows from one pass.

A block of positions has its full logits and those of one preview at a time. Rescoring changes few of them, so all
numbers of rescored rows follow from one read of the preview: with t the best `most` rows, E_p[z_m] is E_p[z] plus a
cumulative sum over t, and the log-sum-exp of what stays is that of the rows outside t, taken once, with the rows of t
beyond m added from the far end. Nothing is subtracted that could cancel.

Cost: a product positions x hidden x vocabulary for the full head and one for each number of bits, whose rows are
widened once a block; `most` x hidden products a position. Memory in each thread: BLOCK_ELEMENTS logits in float32, five
times, and widened rows of at most RESCORED_ELEMENTS; the codes are never held in float32 at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.sweep import TIE, Positions, Sweep, swept_of
from service.compression.heads.plane_fit import FittedPlanes
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

BLOCK_ELEMENTS = 1 << 24  # positions x vocabulary at a time, 64 MB
MOST_POSITIONS = 256
ROWS_AT_ONCE = 4096  # widened: 10 MB at 640 columns
RESCORED_ELEMENTS = 1 << 23  # positions x rescored rows x hidden, 32 MB
CPU = torch.device("cpu")


@dataclass(frozen=True, order=True)
class PlaneReading:
    """How a head in planes is read: upper bits of the columns that are not whole, and rows computed again. 8: all."""

    bits: int
    rescored: int


@dataclass(frozen=True, eq=False)
class RescoredSweep:
    """What was measured of each reading, in the order of `readings`; the full head's column comes last."""

    readings: list[PlaneReading]
    swept: Sweep  # its `kept` are places in `readings`

    def points(self, hidden_size: int, seed: int) -> dict[PlaneReading, DriftPoint]:
        """Drift of each with its interval. The ratio is 0: no column is removed."""
        curve = drift_curve(self.swept, dict.fromkeys(self.swept.kept, 0.0), seed)
        found = {self.readings[point.kept_columns]: replace(point, kept_columns=hidden_size) for point in curve}
        return {reading: found[reading] for reading in self.readings}


def sweep_readings(
    hidden: HiddenStates,
    head: LmHead,
    planes: FittedPlanes,
    bits: Sequence[int],
    rescored: Sequence[int],
    *,
    rare: Tensor | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> RescoredSweep:
    """Every pair of bits and rescored rows; of 8 bits one: rescoring cannot change it. rare: (positions,) bool."""
    readings = readings_of(bits, rescored)
    found: list[Positions] = []
    done = 0
    for block in reading_positions(hidden, head, planes, readings):
        found.append(block)
        done += block.likelihood.shape[0]
        progress(done / hidden.positions)
    swept = swept_of(
        list(range(len(readings))),
        torch.cat([block.likelihood for block in found]),
        torch.cat([block.agreement for block in found]),
        torch.cat([block.divergence for block in found]),
        hidden,
        rare,
    )
    return RescoredSweep(readings, swept)


def readings_of(bits: Sequence[int], rescored: Sequence[int]) -> list[PlaneReading]:
    return [PlaneReading(b, m) for b in bits for m in (rescored if b < 8 else [0])]


def reading_positions(
    hidden: HiddenStates, head: LmHead, planes: FittedPlanes, readings: Sequence[PlaneReading], *, top: int = 0
) -> Iterator[Positions]:
    """Block after block as `sweep_positions` gives them: a column for each reading, likelihood also of the full head.

    top: share of the full head's `top` most probable tokens among each reading's; 0 leaves `overlap` without columns.
    """
    rows = max(1, min(MOST_POSITIONS, BLOCK_ELEMENTS // head.vocab_size))
    blocks = zip(hidden.blocks(rows), hidden.targets.split(rows), strict=True)
    yield from map_blocks(lambda block: positions_of_rows(*block, head, planes, readings, top=top), blocks, CPU)


@torch.inference_mode()
def positions_of_rows(
    hidden: Tensor,
    targets: Tensor,
    head: LmHead,
    planes: FittedPlanes,
    readings: Sequence[PlaneReading],
    *,
    top: int = 0,
) -> Positions:
    """One block: hidden (rows, hidden), targets (rows,) on the CPU."""
    raw = _products(hidden.float(), lambda part: head.weight[part].float(), head.vocab_size)
    full = head.logits_of(raw if head.module_bias is None else raw.add_(head.module_bias.float())).log_softmax(1)
    del raw
    best = full.argmax(1)
    likelihood, agreement, divergence, overlap = (
        torch.empty(hidden.shape[0], len(readings), dtype=dtype)
        for dtype in (torch.float32, torch.bool, torch.float32, torch.float32)
    )
    x = planes.project(hidden)
    for bits in dict.fromkeys(reading.bits for reading in readings):
        places = [place for place, reading in enumerate(readings) if reading.bits == bits]
        preview = _Preview.of(x, head, planes, bits, max(readings[place].rescored for place in places), full)
        for place in places:
            m = readings[place].rescored
            lse = preview.log_sum_exp(m)
            likelihood[:, place] = lse - preview.logit_of(targets, m)
            chosen, largest = preview.logit_of(best, m), preview.largest(m)
            agreement[:, place] = chosen >= largest - TIE * largest.abs()
            divergence[:, place] = (preview.expected_difference(m) + lse).clamp_min(0)
            if top:
                overlap[:, place] = _shared(full, preview.logits(m), min(top, full.shape[1]))
        del preview
    own = -full.gather(1, targets[:, None])
    return Positions(torch.cat([likelihood, own], 1), agreement, divergence, overlap if top else overlap[:, :0])


class _Preview:
    """The preview's logits at a block of positions, and what its best rows become."""

    def __init__(self, given: Tensor, best: Tensor, exact: Tensor, full: Tensor) -> None:
        """given: (rows, vocab) logits; best: (rows, most) tokens, best first; exact: theirs from all 8 bits.

        full: (rows, vocab) log p of the full head.
        """
        self.given, self.best, self.exact = given, best, exact
        self.before = given.gather(1, best)
        p = full.exp()
        self.difference = torch.linalg.vecdot(p, full - given)  # E_p[log p - z]
        self.moved = (p.gather(1, best) * (exact - self.before)).cumsum(1, dtype=torch.float64).float()
        outside = given.scatter(1, best, -torch.inf)
        # Over the rows that are not rescored with m = most, most - 1, ..., 0; turned round, index m is of m.
        taken = torch.cat([outside.logsumexp(1, keepdim=True), self.before.flip(1)], 1)
        self.rest_lse = taken.logcumsumexp(1).flip(1)
        self.rest_largest = torch.cat([outside.amax(1, keepdim=True), self.before.flip(1)], 1).cummax(1).values.flip(1)

    @classmethod
    def of(cls, x: Tensor, head: LmHead, planes: FittedPlanes, bits: int, most: int, full: Tensor) -> "_Preview":
        """The best are sought among the module's own outputs; what the model adds after it comes later, as it runs."""
        raw = _products(x, lambda part: planes.preview_rows(part, bits), planes.vocab_size)
        if planes.bias is not None:
            raw.add_(planes.bias.float())
        best = raw.topk(min(most, planes.vocab_size), dim=1).indices
        exact = _rescored(x, planes, best)
        outside = None if head.outside is None else head.outside.float()[best]
        return cls(head.logits_of(raw), best, head.transform(exact if outside is None else exact + outside), full)

    def log_sum_exp(self, m: int) -> Tensor:
        """(rows,) with the best m rows computed again."""
        rest = self.rest_lse[:, min(m, self.best.shape[1])]
        return torch.logaddexp(rest, self.exact[:, :m].logsumexp(1)) if m else rest

    def largest(self, m: int) -> Tensor:
        rest = self.rest_largest[:, min(m, self.best.shape[1])]
        return torch.maximum(rest, self.exact[:, :m].amax(1)) if m else rest

    def logit_of(self, tokens: Tensor, m: int) -> Tensor:
        """(rows,) of one token a position."""
        found: Tensor = self.given.gather(1, tokens[:, None])[:, 0]
        if not m:
            return found
        hit = self.best[:, :m] == tokens[:, None]
        return torch.where(hit.any(1), (self.exact[:, :m] * hit).sum(1), found)

    def expected_difference(self, m: int) -> Tensor:
        """(rows,) E_p[log p - z_m]."""
        m = min(m, self.best.shape[1])
        expected: Tensor = self.difference - self.moved[:, m - 1] if m else self.difference
        return expected

    def logits(self, m: int) -> Tensor:
        """(rows, vocab)."""
        return self.given.scatter(1, self.best[:, :m], self.exact[:, :m]) if m else self.given


def _products(x: Tensor, rows_of: Callable[[slice], Tensor], vocab_size: int) -> Tensor:
    """(positions, vocab) float32; the rows are widened a block at a time."""
    logits = torch.empty(x.shape[0], vocab_size)
    for start in range(0, vocab_size, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, vocab_size))
        logits[:, part] = x @ rows_of(part).T
    return logits


def _rescored(x: Tensor, planes: FittedPlanes, best: Tensor) -> Tensor:
    """(positions, most) of all 8 bits, with the bias."""
    exact = torch.empty(best.shape, dtype=torch.float32)
    if not exact.numel():
        return exact
    at_once = max(1, RESCORED_ELEMENTS // max(1, best.shape[1] * planes.hidden_size))
    for own, rows, into in zip(x.split(at_once), best.split(at_once), exact.split(at_once), strict=True):
        wide = planes.whole_rows(rows.flatten()).view(*rows.shape, -1)
        torch.bmm(wide, own[:, :, None], out=into[:, :, None])
    return exact if planes.bias is None else exact + planes.bias.float()[best]


def _shared(full: Tensor, other: Tensor, top: int) -> Tensor:
    """(rows,) share of the `top` most probable tokens of the one that are among the other's."""
    wanted, found = full.topk(top).indices, other.topk(top).indices
    return (wanted[:, :, None] == found[:, None, :]).any(2).float().mean(1)
