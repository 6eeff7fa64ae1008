"""Planes together with the way in which a stored head reads them. Fits nothing."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from service.compression.heads.plane_fit import FittedPlanes
from service.compression.heads.slicing import SlicedFactors
from service.compression.states.lm_head import LmHead

ROWS_AT_ONCE = 4096
UNSPLIT_BITS = 4  # a preview of fewer bits reads its plane of four bits whole


@dataclass(frozen=True, eq=False)
class ReadPlanes:
    """Bits of the preview, and rows of each position that are computed again from all 8 bits."""

    planes: FittedPlanes
    bits: int
    rescored: int

    @property
    def kept(self) -> int:
        return self.planes.hidden_size

    @property
    def head_nbytes(self) -> int:
        """Bytes that the head reads for a position, as the planes are stored."""
        return self.planes.read_nbytes(max(self.bits, UNSPLIT_BITS), self.rescored)

    @torch.inference_mode()
    def logits(self, head: LmHead, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, vocab) as stored, in float32: of a few positions, whose rescored rows are wide."""
        x, bias = self.planes.project(hidden), self.planes.bias
        parts = torch.arange(self.planes.vocab_size).split(ROWS_AT_ONCE)
        raw = torch.cat([x @ self.planes.preview_rows(_slice(part), self.bits).T for part in parts], dim=1)
        if bias is not None:
            raw += bias.float()
        if self.rescored and self.bits < 8:
            best = raw.topk(self.rescored, dim=1, sorted=False).indices
            for row, rows in enumerate(best):
                exact = self.planes.whole_rows(rows) @ x[row]
                raw[row, rows] = exact if bias is None else exact + bias[rows].float()
        return head.logits_of(raw)


MadeHead: TypeAlias = SlicedFactors | ReadPlanes  # as it is to be stored


def _slice(part: Tensor) -> slice:
    return slice(int(part[0]), int(part[-1]) + 1)
