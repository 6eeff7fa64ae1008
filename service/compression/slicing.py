"""The tensors of a sliced checkpoint, in the form that survives 16-bit storage. No files here.

The whitened factors U = W S and P are ill-conditioned. QR of S (columns by importance), S = Q T, gives an orthogonal
Q whose first k columns span the kept subspace for every k. Stored are the table W Q and M = T_kk P_k, a (k, hidden)
oblique projection of moderate norm; (W Q)[:, :k] M h = U[:, :k] x[:k] in exact arithmetic.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.compression.basis import Basis
from service.compression.lm_head import LmHead
from service.errors import InvalidSelection
from service.recipes.compress import RoundedDtype

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Rounded:
    """Columns as integers and their scales."""

    head_dtype: RoundedDtype
    tensors: dict[str, Tensor]  # as the module of this precision holds them (headroom/quantized_head.py)


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
    blocks = zip(*(table.split(ROWS_AT_ONCE) for table in (weight, columns, rest)), strict=True)
    if basis.order is not None:
        projection, rotation, triangle = None, None, None
        for rows, first, last in blocks:
            torch.index_select(rows, 1, basis.order[:kept], out=first)
            torch.index_select(rows, 1, basis.order[kept:], out=last)
    else:
        rotation, projection, triangle = _well_conditioned(basis, kept)
        for rows, first, last in blocks:
            turned = rows.double() @ rotation
            first.copy_(turned[:, :kept])
            last.copy_(turned[:, kept:])
        rotation, projection = rotation.to(dtype), projection.to(dtype)
    bare = SlicedFactors(
        weight=columns,
        rest=rest,
        bias=None if head.module_bias is None else head.module_bias.detach().cpu(),
        projection=projection,
        rotation=rotation,
        order=basis.order,
        triangle=triangle,
    )
    return _mean_repaired(bare, head, mean_hidden) if repair else bare


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


def _mean_repaired(bare: SlicedFactors, head: LmHead, mean_hidden: Tensor) -> SlicedFactors:
    """b_k = b + W E[h] - (what the stored, rounded factors give for E[h]): exact for the mean after rounding."""
    mean = mean_hidden.double()
    if bare.order is not None:  # nothing was rounded: what is missing is what the other columns give
        missing = _product(bare.rest, mean[bare.order[bare.kept :]])
    else:
        assert bare.projection is not None
        missing = _product(head.weight.detach().cpu(), mean) - _product(bare.weight, bare.projection.double() @ mean)
    bias = missing if bare.bias is None else bare.bias.double() + missing
    return replace(bare, bias=bias.to(head.weight.dtype), mean_hidden=mean.float())


def _product(table: Tensor, vector: Tensor) -> Tensor:
    """table @ vector, (rows,) float64, without a copy of the table in float64."""
    return torch.cat([rows.double() @ vector for rows in table.split(ROWS_AT_ONCE)])
