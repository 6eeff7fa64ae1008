"""What anyone would do instead: the head's own rows as 8-bit integers, or as 4-bit ones in groups, to the nearest.

Measured on the same hidden states as the planes, and as cheaply: the rounded matrix is never held, a block of rows is
rounded when it is multiplied. Cost: one product positions x hidden x vocabulary for each and one for the full head.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from headroom.contract.compress import RoundedDtype
from headroom.loading.quantized_head import GROUP, scaled
from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.sweep import TIE, Sweep, per_window
from service.compression.heads.precision import round_groups, round_rows
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

BLOCK_ELEMENTS = 1 << 25  # positions x vocabulary at a time, 128 MB, three times in each thread
MOST_POSITIONS = 512  # rounding costs as much as a product of a hundred
ROWS_AT_ONCE = 4096


@torch.inference_mode()
def measure_rivals(
    hidden: HiddenStates,
    head: LmHead,
    seed: int,
    *,
    names: tuple[RoundedDtype, ...] = get_args(RoundedDtype),
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[RoundedDtype, DriftPoint]:
    """Drift of plain `int8` rows and plain `int4` groups, with intervals."""
    likelihood, agreement, divergence, done = [], [], [], 0
    at_once = max(1, min(MOST_POSITIONS, BLOCK_ELEMENTS // head.vocab_size))
    blocks = zip(hidden.blocks(at_once, device), hidden.targets.split(at_once), strict=True)
    for found in map_blocks(lambda block: _measured(*block, head, names), blocks, torch.device(device)):
        likelihood.append(found[0])
        agreement.append(found[1])
        divergence.append(found[2])
        done += found[0].shape[0]
        progress(done / hidden.positions)
    swept = Sweep(
        list(range(len(names))),
        per_window(torch.cat(likelihood), hidden),
        per_window(torch.cat(agreement), hidden),
        torch.cat(divergence),
        hidden.lengths,
    )
    return dict(zip(names, drift_curve(swept, dict.fromkeys(swept.kept, 0.0), seed), strict=True))


def _measured(
    hidden: Tensor, targets: Tensor, head: LmHead, names: Sequence[RoundedDtype]
) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood (rows, rivals + 1), the full head's last; agreement and divergence (rows, rivals); on the CPU."""
    targets = targets.to(hidden.device)
    full = _logits(hidden, head, lambda rows: rows.float()).log_softmax(1)
    best = full.argmax(1, keepdim=True)
    likelihood, agreement, divergence = [], [], []
    for name in names:
        log_q = _logits(hidden, head, ROUNDINGS[name])
        chosen, largest = log_q.gather(1, best), log_q.amax(1, keepdim=True)
        agreement.append(chosen >= largest - TIE * largest.abs())
        log_q = log_q.log_softmax(1)
        divergence.append(torch.linalg.vecdot(full.exp(), full - log_q)[:, None].clamp_min(0))
        likelihood.append(-log_q.gather(1, targets[:, None]))
    likelihood.append(-full.gather(1, targets[:, None]))
    return torch.cat(likelihood, 1).cpu(), torch.cat(agreement, 1).cpu(), torch.cat(divergence, 1).cpu()


def rival_nbytes(name: RoundedDtype, head: LmHead) -> int:
    """Bytes that such a head stores, and reads for a position: integers, 16-bit scales, the bias."""
    rows, columns = head.weight.shape
    bias = 0 if head.module_bias is None else head.module_bias.nbytes
    if name == "int8":
        return rows * (columns + 2) + bias
    return rows * (-(-columns // 2) + 2 * -(-columns // GROUP)) + bias


def _logits(hidden: Tensor, head: LmHead, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """(positions, vocab) float32 of the head with its rows rounded."""
    device = hidden.device
    logits = torch.empty(hidden.shape[0], head.vocab_size, device=device)
    for start in range(0, head.vocab_size, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, head.vocab_size))
        logits[:, part] = hidden.float() @ rounding(head.weight[part].to(device)).T
    return head.logits_of(logits if head.module_bias is None else logits.add_(head.module_bias.to(device).float()))


def _in_8_bits(rows: Tensor) -> Tensor:
    integers, scale = round_rows(rows.float())
    return integers.float() * scale[:, None]


def _in_4_bits(rows: Tensor) -> Tensor:
    integers, scale = round_groups(rows.float())
    return scaled(integers, scale.float())


ROUNDINGS: dict[RoundedDtype, Callable[[Tensor], Tensor]] = {"int8": _in_8_bits, "int4": _in_4_bits}
