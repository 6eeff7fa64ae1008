"""The basis of a head in bit planes: important columns first, of one size inside each band, and well conditioned.

`probability`'s whitened factors W S and S^-1 are ill-conditioned. The orthogonal Q of the QR of S spans the same nested
subspaces (slicing.py), so the order of importance survives with x = Q'h and U = W Q. Inside a band (the whole columns,
the others) column j is multiplied by (sqrt(E[x_j^2]) / rms(U_j))^POWER and x_j divided by it, which evens out what an
error of rounding costs; then the band is turned by a random orthogonal matrix, which spreads its large columns over
all. Everything is folded into one matrix: x = A h, U = W A^-1, and so a row of W is its row of U times A.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from headroom.contract.compress import Method
from service.compression.heads.basis import build_basis
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.statistics import Statistics

# precision.py's own is 1/2, of whitened columns; of orthogonal ones 1/4 does as well (docs/decisions/0030)
POWER = 0.25
ROWS_AT_ONCE = 1024  # in float32 they stay in the cache
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class PlaneBasis:
    """x = analysis @ h, U = W @ synthesis, W = U @ analysis."""

    analysis: Tensor  # (hidden, hidden), in the dtype in which it is stored
    synthesis: Tensor  # (hidden, hidden) float64, the inverse of the stored one: its rounding costs nothing


def plane_basis(
    weight: Tensor, statistics: Statistics, *, tau: float, whole_columns: int, seed: int, dtype: torch.dtype
) -> PlaneBasis:
    """The basis of a head in planes. weight: (vocab, hidden), any float dtype; 0 <= whole_columns <= hidden.

    Cost: two products vocab x hidden x hidden, one of them in float64. Memory: a few hidden x hidden matrices.
    """
    synthesis = build_basis(Method.PROBABILITY, weight, statistics, seed, tau=tau).synthesis
    assert synthesis is not None
    turn = torch.linalg.qr(synthesis).Q
    stretch = _evening(weight, turn, statistics)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for start, stop in pairwise([0, whole_columns, turn.shape[0]]):
        spread = torch.linalg.qr(_normal(stop - start, generator)).Q
        rows.append(spread.T @ (turn.T[start:stop] / stretch[start:stop, None]))
    analysis = torch.cat(rows).to(dtype)
    return PlaneBasis(analysis, torch.linalg.inv(analysis.double()))


def _evening(weight: Tensor, turn: Tensor, statistics: Statistics) -> Tensor:
    """(hidden,) float64 what each column of W Q is multiplied by."""
    size = (turn.T @ statistics.second_moment @ turn).diagonal().clamp_min(0).sqrt()
    square, narrow = torch.zeros_like(size), turn.float()
    blocks = weight.detach().cpu().split(ROWS_AT_ONCE)
    for part in map_blocks(lambda rows: (rows.float() @ narrow).square().sum(0), blocks, CPU):
        square += part
    wanted = (size / (square / weight.shape[0]).sqrt()) ** POWER
    return torch.where(wanted.isfinite() & (wanted > 0), wanted, 1.0)  # a direction that is void here or there


def _normal(size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64, generator=generator)
