"""What anyone would do instead: the head's own rows as 8-bit integers, or as 4-bit ones in groups, to the nearest.

Rounded once; a tile of rows is widened when it is multiplied. Measured on the same hidden states as the planes. Cost:
one product positions x hidden x vocabulary for each and one for the full head. Memory: a byte for each entry of the
head and rival, and what full_block.py takes.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from headroom.contract.compress import RoundedDtype
from headroom.loading.quantized_head import GROUP, scaled
from service.compression.drift.drift_points import DriftPoint, drift_curve
from service.compression.drift.full_block import Form, FullBlock
from service.compression.drift.sweep import Positions, swept_of
from service.compression.heads.precision import round_groups, round_rows
from service.compression.numerics.block_parallel import map_blocks
from service.compression.numerics.buffers import Buffers
from service.compression.numerics.tiles import rows_at_once
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead

ROWS_AT_ONCE = 1024
CPU = torch.device("cpu")


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
    device = torch.device(device)
    forms = rival_forms(head, names, device)
    at_once, buffers = rows_at_once(head.vocab_size, device), Buffers()
    blocks = zip(hidden.blocks(at_once, device), hidden.targets.split(at_once), strict=True)

    def measured(block: tuple[Tensor, Tensor]) -> Positions:
        rows, targets = block
        full = FullBlock(rows, targets.to(device), head, buffers)
        return full.positions(full.against([(form, rows, None) for form in forms]))

    found: list[Positions] = []
    done = 0
    for block in map_blocks(measured, blocks, device):
        found.append(block)
        done += block.likelihood.shape[0]
        progress(done / hidden.positions)
    every = Positions.joined(found)
    swept = swept_of(list(range(len(names))), every.likelihood, every.agreement, every.divergence, hidden, None)
    return dict(zip(names, drift_curve(swept, dict.fromkeys(swept.kept, 0.0), seed), strict=True))


def rival_forms(head: LmHead, names: Sequence[RoundedDtype], device: torch.device) -> list[Form]:
    """The head with its rows rounded in each way."""
    return [
        Form(_rounded(head.weight, name, device), head.module_bias, lambda hidden: hidden.float()) for name in names
    ]


def rival_nbytes(name: RoundedDtype, head: LmHead) -> int:
    """Bytes that such a head stores, and reads for a position: integers, 16-bit scales, the bias."""
    rows, columns = head.weight.shape
    bias = 0 if head.module_bias is None else head.module_bias.nbytes
    if name == "int8":
        return rows * (columns + 2) + bias
    return rows * (-(-columns // 2) + 2 * -(-columns // GROUP)) + bias


def _rounded(weight: Tensor, name: RoundedDtype, device: torch.device) -> Callable[[slice], Tensor]:
    """Gives rows, (tokens, hidden) float32, from integers and scales that are held."""
    rounding = round_rows if name == "int8" else round_groups
    blocks = list(map_blocks(lambda rows: rounding(rows.float()), weight.detach().cpu().split(ROWS_AT_ONCE), CPU))
    integers, scales = (torch.cat(parts).to(device) for parts in zip(*blocks, strict=True))
    if name == "int8":
        return lambda part: integers[part].float().mul_(scales[part, None])
    return lambda part: scaled(integers[part], scales[part].float())
