"""Heads in bit planes, measured as they run: every number of preview bits and of rescored rows from one pass.

A block of positions has its full logits and those of one preview at a time (full_block.py). Rescoring changes few of
them, so all numbers of rescored rows follow from one read of the preview: with t the best `most` rows, E_p[z - z_m] is
E_p[z - z_0] less a cumulative sum over t, and the log-sum-exp of what stays is that of the rows outside t,
taken once, with the rows of t beyond m added. Nothing is subtracted that could cancel. What all 8 bits give of t is
gathered from the 8-bit reading where that is measured too; else the rows of t are widened for each position.

Cost: a product positions x hidden x vocabulary for the full head and one for each number of bits, whose rows are
widened once a block; `most` x hidden products a position. Memory in each thread: BLOCK_ELEMENTS logits in float32,
three times, and widened rows of at most RESCORED_ELEMENTS; the codes are never held in float32 at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.full_block import Against, Form, FullBlock
from service.compression.drift.sweep import Positions, Sweep, swept_of
from service.compression.heads.plane_fit import FittedPlanes
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.running_lse import LN_2, LOG2_E
from service.compression.numerics.tiles import rows_at_once
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

RESCORED_ELEMENTS = 1 << 20  # positions x rescored rows x hidden, 4 MB: what is widened stays in the cache
WIDENING = 64  # multiplications that a rescored entry costs: with more than vocabulary / 64 rows all are cheaper
CPU = torch.device("cpu")


@dataclass(frozen=True, order=True)
class PlaneReading:
    """How a head in planes is read: upper bits of the columns that are not whole, and rows computed again. 8: all."""

    bits: int
    rescored: int


@dataclass(frozen=True, eq=False)
class RescoredSweep:
    """Sums of each reading, in the order of `readings`, then of other heads; the full one's comes last."""

    readings: list[PlaneReading]
    swept: Sweep  # its `kept` are places in `readings` and, after them, those of the other heads
    positions: Positions  # the same at every position, 13 bytes a reading

    def points(self, hidden_size: int, seed: int) -> dict[PlaneReading, DriftPoint]:
        """Drift of each with its interval. The ratio is 0: no column is removed."""
        curve = self._curve(seed)
        return {reading: replace(curve[place], kept_columns=hidden_size) for place, reading in enumerate(self.readings)}

    def others(self, seed: int) -> list[DriftPoint]:
        """Drift of the other heads, in their order; their ratio is 0 too."""
        curve = self._curve(seed)
        return [curve[place] for place in self.swept.kept[len(self.readings) :]]

    def _curve(self, seed: int) -> dict[int, DriftPoint]:
        curve = drift_curve(self.swept, dict.fromkeys(self.swept.kept, 0.0), seed)
        return {point.kept_columns: point for point in curve}


def sweep_readings(
    hidden: HiddenStates,
    head: LmHead,
    planes: FittedPlanes,
    bits: Sequence[int],
    rescored: Sequence[int],
    *,
    rare: Tensor | None = None,
    top: int = 0,
    others: Sequence[Form] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> RescoredSweep:
    """Sweep every pair of bits and rescored rows; of 8 bits one: rescoring cannot change it. rare: (positions,) bool.

    top, others: as of `reading_positions`.
    """
    readings = readings_of(bits, rescored)
    found: list[Positions] = []
    done = 0
    for block in reading_positions(hidden, head, planes, readings, top=top, others=others):
        found.append(block)
        done += block.likelihood.shape[0]
        progress(done / hidden.positions)
    every = Positions.joined(found)
    places = list(range(len(readings) + len(others)))
    swept = swept_of(places, every.likelihood, every.agreement, every.divergence, hidden, rare)
    return RescoredSweep(readings, swept, every)


def readings_of(bits: Sequence[int], rescored: Sequence[int]) -> list[PlaneReading]:
    return [PlaneReading(b, m) for b in bits for m in (rescored if b < 8 else [0])]


def reading_positions(
    hidden: HiddenStates,
    head: LmHead,
    planes: FittedPlanes,
    readings: Sequence[PlaneReading],
    *,
    top: int = 0,
    others: Sequence[Form] = (),
) -> Iterator[Positions]:
    """Block after block as `sweep_positions` gives them: a column for each reading, likelihood also of the full head.

    top: share of the full head's `top` most probable tokens among each reading's; 0 leaves `overlap` without columns.
    others: heads that are measured on the way, after the readings, without an overlap.
    """
    rows, buffers = rows_at_once(head.vocab_size, CPU), Buffers()
    blocks = zip(hidden.blocks(rows), hidden.targets.split(rows), strict=True)
    yield from map_blocks(
        lambda block: positions_of_rows(*block, head, planes, readings, buffers, top=top, others=others), blocks, CPU
    )


@torch.inference_mode()
def positions_of_rows(
    hidden: Tensor,
    targets: Tensor,
    head: LmHead,
    planes: FittedPlanes,
    readings: Sequence[PlaneReading],
    buffers: Buffers,
    *,
    top: int = 0,
    others: Sequence[Form] = (),
) -> Positions:
    """Every reading's figures at one block: hidden (rows, hidden), targets (rows,) on the CPU."""
    block = FullBlock(hidden, targets, head, buffers)
    read = read_against(block, hidden, planes, readings, top=top)
    if not others:
        return read
    beside = block.positions(block.against([(form, hidden, None) for form in others]))
    return Positions(
        likelihood=torch.cat([read.likelihood[:, :-1], beside.likelihood], 1),
        agreement=torch.cat([read.agreement, beside.agreement], 1),
        divergence=torch.cat([read.divergence, beside.divergence], 1),
        overlap=read.overlap,
    )


def read_against(
    block: FullBlock, hidden: Tensor, planes: FittedPlanes, readings: Sequence[PlaneReading], *, top: int = 0
) -> Positions:
    """Every reading's figures at a block. hidden: (rows, hidden) for the planes; a rounded table changes them."""
    columns: dict[PlaneReading, tuple[Tensor, Tensor, Tensor]] = {}
    overlap: dict[PlaneReading, Tensor] = {}
    x = planes.project(hidden)
    every_bits = {reading.bits for reading in readings}
    if max(reading.rescored for reading in readings) * WIDENING > planes.vocab_size:
        every_bits.add(8)
    whole: Against | None = None
    for bits in sorted(every_bits, reverse=True):
        most = max((reading.rescored for reading in readings if reading.bits == bits), default=0)
        keep = "whole" if bits == 8 else "preview"
        (found,) = block.against([(planes_form(planes, bits), x, keep)])
        if bits == 8:
            whole, most = found, 0
        preview = _Preview(block, found, x, planes, most, whole)
        for reading in (each for each in readings if each.bits == bits):
            columns[reading] = preview.figures(reading.rescored)
            if top:
                overlap[reading] = block.share_of(preview.most_probable(reading.rescored, top), top)
    shares = torch.stack([overlap[reading] for reading in readings], 1) if top else torch.empty(block.rows, 0)
    return block.joined([columns[reading] for reading in readings], shares)


def planes_form(planes: FittedPlanes, bits: int) -> Form:
    """The planes as a Form of coordinates x (positions, hidden): `project` is done once for all numbers of bits."""
    return Form(partial(planes.preview_rows, bits=bits), planes.bias, lambda x: x)


class _Preview:
    """The preview's logits at a block of positions, in base 2, and what its best rows become."""

    def __init__(
        self, block: FullBlock, found: Against, x: Tensor, planes: FittedPlanes, most: int, whole: Against | None
    ) -> None:
        """most: rows of each position that are rescored at most; whole: what all 8 bits give, if it is known."""
        self._block, self._found, self._most = block, found, min(most, planes.vocab_size)
        self._outside_tokens: dict[int, tuple[Tensor, Tensor]] = {}
        if not self._most:
            return
        assert found.kept is not None
        assert found.raw is not None
        # Sought among the module's own outputs; what the model adds after it comes later, as it runs.
        self._best = found.raw.topk(self._most, dim=1).indices
        self._before = found.kept.gather(1, self._best)
        self._exact = self._rescored(x, planes, whole)
        p = torch.exp2(block.logits.gather(1, self._best) - (block.largest + block.lse)[:, None])
        self._moved = (p * (self._exact - self._before)).cumsum(1, dtype=torch.float64).float()
        found.kept.scatter_(1, self._best, -torch.inf)
        self._rest_lse, self._rest_largest = block.lse_of(found.kept)

    def figures(self, m: int) -> tuple[Tensor, Tensor, Tensor]:
        """With the best m rows computed again: as FullBlock.figures."""
        found = self._found
        if not self._most:
            return self._block.figures(found.lse, found.largest, found.at_target, found.at_best, found.difference)
        taken = torch.cat([self._exact[:, :m], self._before[:, m:]], 1)
        lse = torch.logaddexp2(self._rest_lse, _lse(taken - self._block.largest[:, None]))
        largest = torch.maximum(self._rest_largest, taken.amax(1))
        difference = found.difference - self._moved[:, min(m, self._most) - 1] if m else found.difference
        at_target, at_best = (
            self._logit_of(tokens, given, m)
            for tokens, given in ((self._block.targets, found.at_target), (self._block.best, found.at_best))
        )
        return self._block.figures(lse, largest, at_target, at_best, difference)

    def most_probable(self, m: int, top: int) -> Tensor:
        """(rows, top) tokens."""
        kept = self._found.kept
        assert kept is not None
        top = min(top, kept.shape[1])
        if top not in self._outside_tokens:
            self._outside_tokens[top] = kept.topk(top)
        logits, tokens = self._outside_tokens[top]
        if not self._most:
            return tokens
        logits = torch.cat([self._exact[:, :m], self._before[:, m:], logits], 1)
        return torch.cat([self._best, tokens], 1).gather(1, logits.topk(top).indices)

    def _logit_of(self, tokens: Tensor, given: Tensor, m: int) -> Tensor:
        """(rows,) of one token a position, whose preview is `given`."""
        hit = self._best[:, :m] == tokens[:, None]
        return torch.where(hit.any(1), self._exact[:, :m].where(hit, 0.0).sum(1), given)

    def _rescored(self, x: Tensor, planes: FittedPlanes, whole: Against | None) -> Tensor:
        """(positions, most) logits of all 8 bits, in base 2."""
        if whole is not None:
            assert whole.kept is not None
            return whole.kept.gather(1, self._best)
        head, best = self._block.head, self._best
        exact = _rescored(x, planes, best)
        if head.outside is not None:
            exact += head.outside.float()[best]
        return head.transform(exact) * LOG2_E


def _lse(logits: Tensor) -> Tensor:
    """(rows, n) -> (rows,), both in base 2."""
    return (LN_2 * logits).logsumexp(1) * LOG2_E


def _rescored(x: Tensor, planes: FittedPlanes, best: Tensor) -> Tensor:
    """(positions, most) of all 8 bits, with the bias."""
    exact = torch.empty(best.shape, dtype=torch.float32)
    at_once = max(1, RESCORED_ELEMENTS // (best.shape[1] * planes.hidden_size))
    for some, into, given in zip(best.split(at_once), exact.split(at_once), x.split(at_once), strict=True):
        rows = planes.whole_rows(some.flatten()).view(*some.shape, -1)
        torch.bmm(rows, given[:, :, None], out=into[:, :, None])
    return exact if planes.bias is None else exact + planes.bias[best].float()
