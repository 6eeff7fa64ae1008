"""How the head of a loaded checkpoint is measured: from its own module, beside the full head of its source.

A module gives its logits itself. One in planes, on a CPU, is read tile by tile as rescored_drift.py reads planes: its
own codes, scales and basis, at its own setting, a block of positions at a time, where its forward would widen the
rescored rows of a few positions and choose among products for decoding. That its forward gives the same logits is seen
at the positions whose logits a job compares with the prediction.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from headroom.loading.planes_head import PlanesHead
from headroom.loading.products.plane_table import codes_of, scales_of
from service.compression.drift.full_block import FullBlock
from service.compression.drift.planes.rescored_drift import PlaneReading, read_against
from service.compression.drift.sweep import Positions
from service.compression.heads.plane_fit import FittedPlanes

StoredReading: TypeAlias = Callable[[FullBlock, Tensor], Positions]  # the source's block, hidden states of the stored


def stored_reading(lm_head: Any) -> StoredReading:
    """A measurement of a stored head beside a block of its source. lm_head: the loaded module, in float32."""
    if isinstance(lm_head, PlanesHead) and lm_head.preview_columns == lm_head.columns and _is_on_cpu(lm_head):
        planes = _planes_of(lm_head)
        reading = PlaneReading(lm_head.bits, 0 if lm_head.bits == 8 else min(lm_head.rescored, planes.vocab_size))
        return lambda block, hidden: read_against(block, hidden, planes, [reading])
    return lambda block, hidden: block.positions(block.against([(lm_head(hidden.float()), hidden, None)]))


def _is_on_cpu(lm_head: PlanesHead) -> bool:
    return lm_head.table.whole.device.type == "cpu"


def _planes_of(lm_head: PlanesHead) -> FittedPlanes:
    """What was loaded, joined: a byte for each entry."""
    table = lm_head.table
    return FittedPlanes(
        codes=codes_of(table, slice(None)),
        scales=scales_of(table, slice(None)),
        basis=table.basis.detach(),
        bias=None if lm_head.bias is None else lm_head.bias.detach(),
        mean_hidden=table.basis.new_zeros(0),  # of previews of fewer columns
        whole_columns=table.whole.shape[1],
        tau=0.0,  # of the fit
    )
