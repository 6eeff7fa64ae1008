"""The tensors of a sliced checkpoint, in the form that survives 16-bit storage. No files here.

The whitened factors U = W S and P are ill-conditioned. QR of S (columns by importance), S = Q T, gives an orthogonal
Q whose first k columns span the kept subspace for every k. Stored are the table W Q and M = T_kk P_k, a (k, hidden)
oblique projection of moderate norm; (W Q)[:, :k] M h = U[:, :k] x[:k] in exact arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headroom.contract.compress import RoundedDtype
from service.compression.heads.basis import Basis
from service.compression.numerics.block_parallel import map_blocks
from service.compression.states.lm_head import LmHead
from service.foundation.errors import InvalidSelection

ROWS_AT_ONCE = 4096
ROWS_IN_CACHE = 256  # with their columns in float64, so that what is cut off is read once

# From rows of the head it fills the kept columns, the others, and what the kept ones lack of the mean logits (float64).
Cut = Callable[[tuple[Tensor, ...]], None]


@dataclass(frozen=True, eq=False)
class Rounded:
    """Columns as integers and their scales."""

    head_dtype: RoundedDtype
    tensors: dict[str, Tensor]  # as the module of this precision holds them (headroom/loading/quantized_head.py)


@dataclass(frozen=True, eq=False)
class SlicedFactors:
    """logits = transform(weight @ (projection @ h) + bias); a permutation keeps the columns `order[:k]` of h.

    All in the model's dtype. rest, rotation and inverse_order serve a tied input embedding only.
    """

    weight: Tensor  # (vocab, k)
    rest: Tensor  # (vocab, hidden - k)
    bias: Tensor | None  # (vocab,)
    projection: Tensor | None  # (k, hidden), None for a permutation
    rotation: Tensor | None  # (hidden, hidden) Q, orthogonal
    order: Tensor | None  # (hidden,) int64
    triangle: Tensor | None = None  # (hidden, hidden) float32, upper: gives M of every size; None for a permutation
    mean_hidden: Tensor | None = None  # (hidden,) float32 E[h], of a mean repair
    refined: bool = False  # trained further: no other size of it is known
    rounded: Rounded | None = None  # what is stored for `weight`, which then is float32

    @property
    def kept(self) -> int:
        return self.weight.shape[1]

    @property
    def is_permutation(self) -> bool:
        return self.order is not None

    @property
    def is_nested(self) -> bool:
        """Whether the first columns of these are the factors of a smaller size."""
        return self.rounded is None and not self.refined

    @property
    def inverse_order(self) -> Tensor:
        assert self.order is not None
        return self.order.argsort()

    @property
    def head_nbytes(self) -> int:
        """Bytes that the head reads for a position: columns, projection or the numbers of columns, bias."""
        stored = (self.weight,) if self.rounded is None else self.rounded.tensors.values()
        numbers = None if self.order is None else self.order[: self.kept]
        return sum(tensor.nbytes for tensor in (*stored, self.projection, numbers, self.bias) if tensor is not None)

    def project(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, k), in float32."""
        if self.order is not None:
            return hidden.float()[:, self.order[: self.kept]]
        assert self.projection is not None
        return hidden.float() @ self.projection.float().T


def slice_head(head: LmHead, basis: Basis, kept: int, mean_hidden: Tensor, *, repair: bool) -> SlicedFactors:
    """Keep the first `kept` columns of the basis; 1 <= kept <= hidden. mean_hidden: (hidden,) float64."""
    if not 1 <= kept <= head.hidden_size:
        raise InvalidSelection(f"cannot keep {kept} of {head.hidden_size} columns")
    weight, dtype = head.weight.detach().cpu(), head.weight.dtype
    columns, rest = weight.new_empty(head.vocab_size, kept), weight.new_empty(head.vocab_size, head.hidden_size - kept)
    mean = mean_hidden.cpu().double()
    if basis.order is not None:
        rotation, projection, triangle = None, None, None
        cut = _permuted(basis.order, kept, mean)
    else:
        turn, project, triangle = _well_conditioned(basis, kept)
        rotation, projection = turn.to(dtype), project.to(dtype)
        cut = _rotated(turn, projection.double() @ mean, mean)
    missing = torch.empty(head.vocab_size, dtype=torch.float64)
    blocks = zip(*(table.split(ROWS_IN_CACHE) for table in (weight, columns, rest, missing)), strict=True)
    for _ in map_blocks(cut, blocks, weight.device):
        pass
    bare = SlicedFactors(
        weight=columns,
        rest=rest,
        bias=None if head.module_bias is None else head.module_bias.detach().cpu(),
        projection=projection,
        rotation=rotation,
        order=basis.order,
        triangle=triangle,
    )
    return _mean_repaired(bare, missing, mean, dtype) if repair else bare


def _permuted(order: Tensor, kept: int, mean: Tensor) -> Cut:
    """numpy takes 16-bit columns in a third of the time that torch needs."""
    first, last = order[:kept].numpy(), order[kept:].numpy()
    removed_mean = mean[order[kept:]]

    def cut(block: tuple[Tensor, ...]) -> None:
        rows, columns, rest, missing = block
        for numbers, into in ((first, columns), (last, rest)):
            np.take(_bits(rows), numbers, axis=1, out=_bits(into), mode="clip")
        torch.mv(rest.double(), removed_mean, out=missing)  # nothing was rounded: it is what these columns give

    return cut


def _rotated(rotation: Tensor, kept_mean: Tensor, mean: Tensor) -> Cut:
    """kept_mean: (kept,) of the rounded projection, so that the mean is exact after rounding."""

    def cut(block: tuple[Tensor, ...]) -> None:
        rows, columns, rest, missing = block
        wide = rows.double()
        turned = wide @ rotation
        columns.copy_(turned[:, : columns.shape[1]])
        rest.copy_(turned[:, columns.shape[1] :])
        torch.sub(wide @ mean, columns.double() @ kept_mean, out=missing)

    return cut


def _bits(table: Tensor) -> npt.NDArray[Any]:
    """The same memory; numpy has no bfloat16."""
    return (table.view(torch.int16) if table.dtype is torch.bfloat16 else table).numpy()


def stored_logits(head: LmHead, factors: SlicedFactors, hidden: Tensor) -> Tensor:
    """(rows, hidden) -> (rows, vocab) as stored, in float32 on the CPU."""
    output = _logits(factors.project(hidden), factors.weight)
    return head.logits_of(output if factors.bias is None else output + factors.bias.float())


def nested_logits(head: LmHead, basis: Basis, kept: int, mean_hidden: Tensor | None, hidden: Tensor) -> Tensor:
    """(rows, hidden) -> (rows, vocab), float32 on the CPU: what the sweep measures at this size, from W itself.

    mean_hidden: with mean repair, which sets the coordinates that are removed to their mean; None sets them to 0.
    """
    x = basis.coordinates(hidden.cpu().double())
    x[:, kept:] = 0.0 if mean_hidden is None else basis.coordinates(mean_hidden[None].cpu().double())[:, kept:]
    output = _logits(basis.hidden_from(x).float(), head.weight.detach().cpu())
    return head.transform(output if head.bias is None else output + head.bias.cpu().float())


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32, a block of the vocabulary at a time: the columns are never held in float32 at once."""
    logits = torch.empty(hidden.shape[0], weight.shape[0])  # at once: small results in between would keep blocks apart
    for rows, into in zip(weight.split(ROWS_AT_ONCE), logits.split(ROWS_AT_ONCE, dim=1), strict=True):
        into.copy_(hidden @ rows.float().T)
    return logits


def _well_conditioned(basis: Basis, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """(Q (hidden, hidden), M (kept, hidden)) in float64, T in float32 with columns of length 1.

    M_k = [1, -T_kr T_rr^-1] Q' for every k, r being the other columns; the length of T's columns cancels in it.
    """
    assert basis.synthesis is not None
    assert basis.analysis is not None
    rotation, triangle = torch.linalg.qr(basis.synthesis)
    unit = triangle / triangle.norm(dim=0)
    return rotation, triangle[:kept, :kept] @ basis.analysis[:kept], unit.float()


def _mean_repaired(bare: SlicedFactors, missing: Tensor, mean: Tensor, dtype: torch.dtype) -> SlicedFactors:
    """b_k = b + W E[h] - (what the stored, rounded factors give for E[h]): exact for the mean after rounding."""
    bias = missing if bare.bias is None else bare.bias.double() + missing
    return replace(bare, bias=bias.to(dtype), mean_hidden=mean.float())
