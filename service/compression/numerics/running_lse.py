"""Log-sum-exp over tiles of logits, in base 2: torch's exp2 takes a third of the time of its exp on many CPUs."""

import math

import torch
from torch import Tensor

LOG2_E, LN_2 = math.log2(math.e), math.log(2.0)


class RunningLogSumExp:
    """Log-sum-exp and largest logit of the tiles so far, each (rows,), in base 2."""

    def __init__(self, rows: int, device: torch.device) -> None:
        # Not -inf: rows that hold nothing but -inf must not become NaN.
        self.largest = torch.full((rows,), torch.finfo(torch.float32).min, device=device)
        self._total = torch.zeros(rows, device=device)

    def fold(self, tile: Tensor, scratch: Tensor) -> None:
        """Take in a tile. tile, scratch: (rows, columns) float32; what `scratch` holds goes."""
        largest = torch.maximum(self.largest, tile.amax(1))
        shifted = torch.sub(tile, largest[:, None], out=scratch).exp2_()
        self._total = self._total * torch.exp2(self.largest - largest) + shifted.sum(1)
        self.largest = largest

    def above(self, reference: Tensor) -> Tensor:
        """The log-sum-exp less `reference`, (rows,): of one near `largest` no digits are lost."""
        return (self.largest - reference) + self._total.log2()
