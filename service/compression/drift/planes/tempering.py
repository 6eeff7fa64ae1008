"""How much more a frequent token counts in the basis of a head in planes: tau, chosen where nothing was fitted.

The last windows of the calibration part are held out: planes are fitted for each tau to the statistics of the others,
and read at the held-out positions as they will be read. The evaluation part is never looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.compression.drift.full_block import FullBlock
from service.compression.drift.planes.rescored_drift import CPU, PlaneReading, read_against
from service.compression.heads.plane_fit import WHOLE_COLUMNS, FittedPlanes, fit_planes
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.tiles import rows_at_once
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import Statistics, probability_sum

TAUS = (0.0, 0.25, 0.5, 1.0)
HELD_OUT = 512  # positions that are measured; their windows are left out of the fit
POSITIONS_AT_ONCE = 256  # so that threads share them out


@dataclass(frozen=True)
class Tempering:
    """The chosen exponent of alpha^tau, and what it was chosen from."""

    tau: float  # the one of least KL
    kl_of: dict[float, float]  # tau -> mean KL(full || planes) at the held-out positions, nats
    held_out: int  # positions


@torch.inference_mode()
def choose_tau(
    calibration: HiddenStates,
    head: LmHead,
    statistics: Statistics,
    reading: PlaneReading,
    *,
    seed: int,
    whole_columns: int = WHOLE_COLUMNS,
    taus: Sequence[float] = TAUS,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tempering:
    """The tau of least KL. statistics: of all positions. With a single window nothing is held out: it is used twice.

    Cost: for each tau one fit and one product HELD_OUT x hidden x vocabulary, and one of the full head. Memory: the
    codes of every tau, and as rescored_drift.
    """
    held, targets = _last_windows(calibration, HELD_OUT)
    if held.shape[0] < calibration.positions:
        statistics = without(statistics, held, head)
    fits: list[FittedPlanes] = []
    for tau in taus:
        fits.append(fit_planes(head, statistics, seed=seed, tau=tau, whole_columns=whole_columns))
        progress(0.5 * len(fits) / len(taus))
    kl = _divergence(held[:HELD_OUT], targets[:HELD_OUT], head, fits, reading)
    progress(1.0)
    kl_of = dict(zip(taus, kl.tolist(), strict=True))
    return Tempering(min(kl_of, key=lambda tau: kl_of[tau]), kl_of, min(held.shape[0], HELD_OUT))


def _divergence(
    held: Tensor, targets: Tensor, head: LmHead, fits: Sequence[FittedPlanes], reading: PlaneReading
) -> Tensor:
    """(fits,) float64 mean KL(full || planes) at rows (n, hidden)."""
    rows, buffers = min(POSITIONS_AT_ONCE, rows_at_once(head.vocab_size, CPU)), Buffers()

    def measured(block: tuple[Tensor, Tensor]) -> Tensor:
        full, some = FullBlock(*block, head, buffers), block[0]
        return torch.cat([read_against(full, some, planes, [reading]).divergence for planes in fits], 1)

    blocks = zip(held.split(rows), targets.split(rows), strict=True)
    return torch.cat(list(map_blocks(measured, blocks, CPU))).double().mean(0)


def without(statistics: Statistics, rows: Tensor, head: LmHead) -> Statistics:
    """The sums of the other positions. rows: (n, hidden), among those that the statistics are of."""
    exact = rows.double()
    return Statistics(
        positions=statistics.positions - rows.shape[0],
        # What a token had at these positions alone comes out as about 0, perhaps below.
        probability_sum=(statistics.probability_sum - probability_sum(rows, head, CPU)).clamp_min(0),
        hidden_sum=statistics.hidden_sum - exact.sum(0),
        second_moment_sum=statistics.second_moment_sum - exact.T @ exact,
        fisher_sum=statistics.fisher_sum[:0],
    )


def _last_windows(hidden: HiddenStates, wanted: int) -> tuple[Tensor, Tensor]:
    """Rows and targets of the last whole windows that hold `wanted` positions, or of all but the first window."""
    lengths = hidden.lengths.tolist()
    first = len(lengths) - 1
    while first > 1 and sum(lengths[first:]) < wanted:
        first -= 1
    skipped = sum(lengths[:first])
    kept, seen = [], 0
    for block in hidden.blocks(4096):
        kept.append(block[max(0, skipped - seen) :].clone())
        seen += block.shape[0]
    return torch.cat(kept), hidden.targets[skipped:]
