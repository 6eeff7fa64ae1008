"""What anyone would do instead: the head's own rows as 8-bit integers, or as 4-bit ones in groups, to the nearest.

Measured on the same hidden states as the planes, and as cheaply: the rounded matrix is never held, a block of rows is
rounded when it is multiplied. Cost: one product positions x hidden x vocabulary for each and one for the full head.
"""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from headroom.contract.compress import RoundedDtype
from headroom.loading.quantized_head import GROUP, scaled
from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.sweep import TIE, Sweep, per_window
from service.compression.heads.precision import round_groups, round_rows
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

BLOCK_ELEMENTS = 1 << 25  # positions x vocabulary at a time, 128 MB, three times
MOST_POSITIONS = 512  # rounding costs as much as a product of a hundred
ROWS_AT_ONCE = 4096


@torch.inference_mode()
def measure_rivals(
    hidden: HiddenStates, head: LmHead, seed: int, *, progress: Callable[[float], None] = lambda fraction: None
) -> dict[RoundedDtype, DriftPoint]:
    """Drift of plain `int8` rows and plain `int4` groups, with intervals."""
    names: tuple[RoundedDtype, ...] = get_args(RoundedDtype)
    likelihood, agreement, divergence, done = [], [], [], 0
    at_once = max(1, min(MOST_POSITIONS, BLOCK_ELEMENTS // head.vocab_size))
    for block, targets in zip(hidden.blocks(at_once), hidden.targets.split(at_once), strict=True):
        full = _logits(block, head, lambda rows: rows.float()).log_softmax(1)
        best = full.argmax(1, keepdim=True)
        found = []
        for name in names:
            logits = _logits(block, head, ROUNDINGS[name])
            chosen, largest = logits.gather(1, best), logits.amax(1, keepdim=True)
            log_q = logits.log_softmax(1)
            kl = torch.linalg.vecdot(full.exp(), full - log_q)[:, None].clamp_min(0)
            found.append((-log_q.gather(1, targets[:, None]), chosen >= largest - TIE * largest.abs(), kl))
        likelihood.append(torch.cat([*(each[0] for each in found), -full.gather(1, targets[:, None])], 1))
        agreement.append(torch.cat([each[1] for each in found], 1))
        divergence.append(torch.cat([each[2] for each in found], 1))
        done += block.shape[0]
        progress(done / hidden.positions)
    swept = Sweep(
        list(range(len(names))),
        per_window(torch.cat(likelihood), hidden),
        per_window(torch.cat(agreement), hidden),
        torch.cat(divergence),
        hidden.lengths,
    )
    return dict(zip(names, drift_curve(swept, dict.fromkeys(swept.kept, 0.0), seed), strict=True))


def rival_nbytes(name: RoundedDtype, head: LmHead) -> int:
    """Bytes that such a head stores, and reads for a position: integers, 16-bit scales, the bias."""
    rows, columns = head.weight.shape
    bias = 0 if head.module_bias is None else head.module_bias.nbytes
    if name == "int8":
        return rows * (columns + 2) + bias
    return rows * (-(-columns // 2) + 2 * -(-columns // GROUP)) + bias


def _logits(hidden: Tensor, head: LmHead, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """(positions, vocab) float32 of the head with its rows rounded."""
    logits = torch.empty(hidden.shape[0], head.vocab_size)
    for start in range(0, head.vocab_size, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, head.vocab_size))
        logits[:, part] = hidden.float() @ rounding(head.weight[part]).T
    return head.logits_of(logits if head.module_bias is None else logits.add_(head.module_bias.float()))


def _in_8_bits(rows: Tensor) -> Tensor:
    integers, scale = round_rows(rows.float())
    return integers.float() * scale[:, None]


def _in_4_bits(rows: Tensor) -> Tensor:
    integers, scale = round_groups(rows.float())
    return scaled(integers, scale.float())


ROUNDINGS: dict[RoundedDtype, Callable[[Tensor], Tensor]] = {"int8": _in_8_bits, "int4": _in_4_bits}
