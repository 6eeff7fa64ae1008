"""Every head that a job can make, from what it measured of the model. Measures and stores nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headroom.contract.compress import ColumnDtype
from service.compression.drift.candidates import head_shape
from service.compression.drift.sweep import SweepHead, prepare
from service.compression.heads.basis import Basis
from service.compression.heads.precision import round_head
from service.compression.heads.slicing import SlicedFactors, slice_head
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import Statistics
from service.models.head_bytes import HeadShape


@dataclass(frozen=True, eq=False)
class JobHeads:
    """Heads of a job, of every size and form, and what they are made from."""

    head: LmHead
    basis: Basis
    statistics: Statistics
    seed: int
    device: torch.device
    repair: bool  # mean repair
    keep_tied: bool  # a head that shares the input table goes on sharing one

    @property
    def mean_hidden(self) -> Tensor | None:
        """(hidden,) with mean repair."""
        return self.statistics.mean_hidden if self.repair else None

    @property
    def shape(self) -> HeadShape:
        return head_shape(self.head, self.basis, repair=self.repair, keep_tied=self.keep_tied)

    def whole(self) -> SweepHead:
        """The head with all columns in float32: the largest tensor of a job, so made when it is needed."""
        return prepare(self.head, self.basis, self.statistics.mean_hidden, repair=self.repair, device=self.device)

    def sliced(self, kept: int) -> SlicedFactors:
        return slice_head(self.head, self.basis, kept, self.statistics.mean_hidden, repair=self.repair)

    def rounded(self, factors: SlicedFactors, head_dtype: ColumnDtype) -> SlicedFactors:
        """`factors` themselves in the model's own dtype."""
        if head_dtype == "source":
            return factors
        return round_head(factors, self.head, self.statistics, self.seed, head_dtype)

    def made(self, kept: int, head_dtype: ColumnDtype) -> SlicedFactors:
        return self.rounded(self.sliced(kept), head_dtype)
