"""A head in bit planes, fitted: 8-bit codes in the basis of plane_basis.py, of which a preview reads the upper bits.

Every setting reads the same codes. Rows are rounded to the nearest code: what the error feedback of precision.py won
for the upper bits it took from the whole rows, which are written over the best of the preview; c, the whole columns,
was chosen with the rows that are rescored (docs/decisions/0030-bit-planes.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headroom.loading import plane_codes
from service.compression.heads.plane_basis import plane_basis
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import Statistics
from service.foundation.errors import InvalidSelection

WHOLE_COLUMNS = 32
TAU = 0.25
ROWS_AT_ONCE = 1024  # in float32 they stay in the cache


@dataclass(frozen=True, eq=False)
class FittedPlanes:
    """A head in planes: values(row) = (codes - 127.5) * scales; the module gives values @ (basis @ h) + bias.

    A row of the original table is values(row) @ basis, up to the rounding: the input side needs no matrix of its own.
    """

    codes: Tensor  # (vocab, hidden) uint8
    scales: Tensor  # (vocab, groups) bfloat16
    basis: Tensor  # (hidden, hidden), the model's dtype
    bias: Tensor | None  # (vocab,) the head module's own, as it was
    mean_hidden: Tensor  # (hidden,) float32 E[h], what a preview of fewer columns takes for the others
    whole_columns: int
    tau: float

    @property
    def vocab_size(self) -> int:
        return self.codes.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.codes.shape[1]

    def split(self) -> plane_codes.Planes:
        return plane_codes.split(self.codes, self.whole_columns)

    def whole_rows(self, rows: slice | Tensor) -> Tensor:
        """(rows, hidden) float32, of all 8 bits."""
        return plane_codes.values(self.codes[rows], self.scales[rows].float())

    def preview_rows(self, rows: slice, bits: int) -> Tensor:
        """(rows, hidden) float32, of the first columns and the upper bits of the others."""
        scales = self.scales[rows].float()
        return plane_codes.preview_values(self.codes[rows], scales, bits=bits, whole_columns=self.whole_columns)

    def project(self, hidden: Tensor) -> Tensor:
        """(positions, hidden) -> x (positions, hidden), float32."""
        return hidden.float() @ self.basis.float().T

    @property
    def stored_nbytes(self) -> int:
        """Bytes of codes, scales, basis and bias: everything that stands for the matrix."""
        rest = -(-(self.hidden_size - self.whole_columns) // 2)
        codes = self.vocab_size * (self.whole_columns + 2 * rest)
        return codes + self._beside_codes_nbytes

    def read_nbytes(self, bits: int, rescored: int) -> int:
        """Bytes that one position needs: of the preview, and of the rows that are computed again.

        Of 3 or 2 bits it counts these bits, although planes of four are what is stored and read as they are.
        """
        rest = self.hidden_size - self.whole_columns
        preview = self.vocab_size * (8 * self.whole_columns + bits * rest) // 8
        again = 0 if bits == 8 else min(rescored, self.vocab_size) * (self.hidden_size + 2 * self.scales.shape[1])
        return preview + again + self._beside_codes_nbytes

    @property
    def _beside_codes_nbytes(self) -> int:
        return self.scales.nbytes + self.basis.nbytes + (0 if self.bias is None else self.bias.nbytes)


@torch.inference_mode()
def fit_planes(
    head: LmHead, statistics: Statistics, *, seed: int, tau: float = TAU, whole_columns: int = WHOLE_COLUMNS
) -> FittedPlanes:
    """Fit planes to a head. whole_columns: a multiple of the group of a scale, or all columns where there are fewer.

    Cost: as plane_basis, one more product vocab x hidden x hidden in float32. Memory: the codes, one block of rows.
    """
    whole_columns = min(whole_columns, head.hidden_size)
    if whole_columns < 0 or (whole_columns % plane_codes.GROUP and whole_columns != head.hidden_size):
        raise InvalidSelection(f"{whole_columns} whole columns are no multiple of {plane_codes.GROUP}")
    weight = head.weight.detach().cpu()
    basis = plane_basis(
        weight, statistics, tau=tau, whole_columns=whole_columns, seed=seed, dtype=_stored_dtype(weight.dtype)
    )
    synthesis = basis.synthesis.float()
    blocks = list(
        map_blocks(
            lambda rows: plane_codes.round_to_codes(rows.float() @ synthesis), weight.split(ROWS_AT_ONCE), weight.device
        )
    )
    codes, scales = map(torch.cat, zip(*blocks, strict=True))
    return FittedPlanes(
        codes=codes,
        scales=scales,
        basis=basis.analysis,
        bias=None if head.module_bias is None else head.module_bias.detach().cpu(),
        mean_hidden=statistics.mean_hidden.float(),
        whole_columns=whole_columns,
        tau=tau,
    )


def _stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """The model's own, so that a cast of the model leaves the basis as it was fitted."""
    return torch.float32 if dtype == torch.float64 else dtype
