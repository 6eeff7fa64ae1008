"""Kept columns as integers of 8 or 4 bits: prepared so that rounding costs little, and rounded. Writes no files.

The columns that share a scale should be of one size. Column j of U is multiplied by
s_j = (sqrt(E[x_j^2]) / rms(U_j))^(1/2) and x_j divided by it, which evens out what an error in a column costs; then
the kept subspace is turned by a random orthogonal matrix, which spreads the large columns over all. Both are folded
into U and the projection: nothing is added at run time, but the result is not nested.

8 bits have one scale a row. 4 bits have one for every GROUP columns of a row, and each column's error is put into the
columns that are not rounded yet as far as C = Cov[x] lets them make up for it (Frantar et al. 2022, arXiv 2210.17323).

What rounding did to the columns, the projection undoes as well as it can: x becomes S x with S the least squares fit of
the rounded columns to the ones before, an error weighing as much as its token is predicted (A = diag(alpha) -
alpha alpha', the Fisher matrix of the averaged distribution).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from headroom.contract.compress import RoundedDtype
from headroom.loading.quantized_head import GROUP, pack, scaled
from service.compression.heads.slicing import Rounded, SlicedFactors
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import Statistics

LARGEST = 127
MOST, LEAST = 7, -8  # of four bits
# Part of the mean variance that is added to every direction of C: those without variance would take any error.
DAMPING = 0.01
REFIT_RIDGE = 1e-6  # likewise, of the mean of D'AD
ROWS_AT_ONCE = 8192


def round_head(
    factors: SlicedFactors, head: LmHead, statistics: Statistics, seed: int, head_dtype: RoundedDtype
) -> SlicedFactors:
    """The same head with columns of integers and a general basis; `weight` is what they stand for, in float32.

    A mean repair is set anew for the rounded head, so that it is exact for the mean again.
    """
    dtype, kept = head.weight.dtype, factors.kept
    weight, projection = factors.weight.float(), projection_of(factors).double()
    size = (projection @ statistics.second_moment @ projection.T).diagonal().clamp_min(0).sqrt()
    rms = weight.square().mean(0, dtype=torch.float64).sqrt()
    wanted = (size / rms).sqrt()
    stretch = torch.where(wanted.isfinite() & (wanted > 0), wanted, 1.0)
    turn = torch.linalg.qr(_normal(kept, seed)).Q
    right, left = stretch[:, None] * turn, turn.T / stretch
    turned = left @ projection

    def prepared() -> Iterator[Tensor]:  # in float64 a block of rows at a time
        return (weight[rows].double() @ right for rows in _parts(weight.shape[0]))

    if head_dtype == "int8":
        dense, rounded = _in_8_bits(prepared())
    else:
        mean = statistics.mean_hidden if factors.mean_hidden is not None else torch.zeros_like(statistics.mean_hidden)
        spread = statistics.second_moment - torch.outer(mean, mean)  # a repaired mean costs nothing
        dense, rounded = _in_4_bits(prepared(), turned @ spread @ turned.T)
    new_projection = (refit(dense, prepared(), statistics.alpha) @ turned).to(dtype)
    bias = factors.bias
    if factors.mean_hidden is not None:
        assert bias is not None
        mean = statistics.mean_hidden
        before, after = projection @ mean, new_projection.double() @ mean
        moved = [weight[rows].double() @ before - dense[rows].double() @ after for rows in _parts(weight.shape[0])]
        bias = (bias.double() + torch.cat(moved)).to(dtype)
    return replace(
        factors,
        weight=dense,
        rest=weight[:, :0],
        bias=bias,
        projection=new_projection,
        rotation=None,
        order=None,
        triangle=None,
        mean_hidden=None,
        rounded=rounded,
    )


def _in_8_bits(blocks: Iterable[Tensor]) -> tuple[Tensor, Rounded]:
    quantized, scale = map(torch.cat, zip(*map(round_rows, blocks), strict=True))
    tensors = {"quantized": quantized, "scale": scale.view(torch.int32)}
    return quantized.float() * scale[:, None], Rounded("int8", tensors)


def _in_4_bits(blocks: Iterable[Tensor], covariance: Tensor) -> tuple[Tensor, Rounded]:
    feedback = error_feedback(covariance)
    dense, packed, scales = [], [], []
    for rows in blocks:
        integers, scale = round_groups(rows, feedback)
        dense.append(scaled(integers, scale.float()))
        packed.append(pack(integers))
        scales.append(scale.view(torch.int16))
    return torch.cat(dense), Rounded("int4", {"packed": torch.cat(packed), "group_scale": torch.cat(scales)})


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """((rows, columns) int8, (rows,) float32): each row over its scale, the largest entry at 127."""
    scale = (rows.abs().amax(1) / LARGEST).float()
    scale = torch.where(scale > 0, scale, 1.0)  # a row of zeros
    return (rows / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def round_groups(rows: Tensor, feedback: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """((rows, columns) int8 in -8..7, (rows, groups) bfloat16). rows: (rows, columns) float64, left as they are.

    feedback: (columns, columns) upper, of `error_feedback`; None rounds every column to the nearest.
    """
    rows, columns = rows.clone(), rows.shape[1]
    integers, scales = torch.empty(rows.shape, dtype=torch.int8), []
    for start in range(0, columns, GROUP):
        here = slice(start, min(start + GROUP, columns))
        group = rows[:, here]
        scale = group_scale(group)
        scales.append(scale)
        errors = torch.zeros_like(group)
        for index in range(group.shape[1]):
            column = group[:, index]
            integer = _nearest(column, scale)
            integers[:, start + index] = integer.to(torch.int8)
            if feedback is not None:
                own = feedback[start + index, here]
                errors[:, index] = (column - integer * scale) / own[index]
                group[:, index + 1 :] -= errors[:, index, None] * own[index + 1 :]
        if feedback is not None:
            rows[:, here.stop :] -= errors @ feedback[here, here.stop :]
    return integers, torch.stack(scales, 1)


def group_scale(group: Tensor) -> Tensor:
    """(rows,) bfloat16 of (rows, columns): the entry of largest magnitude is -8, whatever its sign.

    -8..7 has one step more on that side, so that all 16 values are used. Rounded before it is used: costs nothing.
    """
    largest = group.gather(1, group.abs().argmax(1, keepdim=True))[:, 0]
    scale = (largest / LEAST).bfloat16()
    return torch.where(scale == 0, 1.0, scale)  # a row of zeros


def _nearest(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round().clamp(LEAST, MOST)


def error_feedback(covariance: Tensor) -> Tensor:
    """(columns, columns) float64, upper: the Cholesky factor of the inverse, C^-1 = F'F. An error e of column j, over
    F_jj, times row j of F is what the later columns change by to make up for it.
    """
    columns = covariance.shape[0]
    damped = covariance + DAMPING * covariance.diagonal().mean() * torch.eye(columns, dtype=covariance.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def refit(dense: Tensor, before: Iterable[Tensor], alpha: Tensor) -> Tensor:
    """S (columns, columns) float64 with dense @ S nearest to the columns before rounding: blocks of ROWS_AT_ONCE rows.

    dense: (vocab, columns); alpha: (vocab,). S = (D'AD + l)^-1 (D'AU + l): where no token says otherwise, S is 1.
    """
    size = dense.shape[1]
    gram, cross = torch.zeros(2, size, size, dtype=torch.float64)
    means = torch.zeros(2, size, dtype=torch.float64)
    for rows, exact in zip(_parts(dense.shape[0]), before, strict=True):
        after, weights = dense[rows].double(), alpha[rows] / alpha.sum()
        weighted = weights[:, None] * after
        gram += weighted.T @ after
        cross += weighted.T @ exact
        means += torch.stack([weights @ after, weights @ exact])
    gram -= torch.outer(means[0], means[0])
    cross -= torch.outer(means[0], means[1])
    smallest = torch.finfo(torch.float64).tiny
    ridge = (REFIT_RIDGE * gram.diagonal().mean()).clamp_min(smallest) * torch.eye(size, dtype=torch.float64)
    found: Tensor = torch.linalg.solve(gram + ridge, cross + ridge)
    return found


def projection_of(factors: SlicedFactors) -> Tensor:
    """(kept, hidden), of a permutation too."""
    if factors.order is None:
        assert factors.projection is not None
        return factors.projection
    return torch.eye(factors.order.shape[0])[factors.order[: factors.kept]]


def _normal(size: int, seed: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + ROWS_AT_ONCE, count)) for start in range(0, count, ROWS_AT_ONCE)]
