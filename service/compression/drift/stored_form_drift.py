"""Heads of which no smaller one is a part, rounded or refined ones: measured one by one on the cached hidden states.

Cost: one product positions x hidden x vocabulary for the full head, one for the other; memory: the other head in
float32, and what full_block.py takes.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.full_block import Form, FullBlock
from service.compression.drift.sweep import Positions, swept_of
from service.compression.heads.precision import projection_of
from service.compression.heads.slicing import SlicedFactors
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.tiles import rows_at_once
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead


def form_of_factors(factors: SlicedFactors, device: torch.device) -> Form:
    projection = projection_of(factors).to(device, torch.float32)
    columns = factors.weight.to(device, torch.float32)
    return Form(lambda part: columns[part], factors.bias, lambda hidden: hidden.float() @ projection.T)


def positions_of(
    factors: SlicedFactors, hidden: HiddenStates, head: LmHead, device: torch.device, *, top: int = 0
) -> Iterator[Positions]:
    """Figures, block after block, of a head that is not nested, as sweep_positions gives them."""
    form, keep = form_of_factors(factors, device), "other" if top else None
    rows, buffers = rows_at_once(head.vocab_size, device), Buffers()
    blocks = zip(hidden.blocks(rows, device), hidden.targets.split(rows), strict=True)

    def measured(given: tuple[Tensor, Tensor]) -> Positions:
        block = FullBlock(given[0], given[1].to(device), head, buffers)
        return block.positions(block.against([(form, given[0], keep)]), top)

    yield from map_blocks(measured, blocks, device)


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
    done = 0
    for block in positions_of(factors, hidden, head, device):
        found.append(block)
        done += block.likelihood.shape[0]
        progress(done / hidden.positions)
    every = Positions.joined(found)
    # the full head's column of the likelihood comes last, as in every sweep
    swept = swept_of([factors.kept], every.likelihood, every.agreement, every.divergence, hidden, rare)
    return drift_curve(swept, {factors.kept: ratio}, seed)[0]
