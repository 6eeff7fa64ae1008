"""Spearman's rank correlation of many columns with one target.

Exactly, by sorting; or through 65,536 bins a column where sorting would take minutes: a table of 16-bit numbers has no
more values than that, so nothing is lost; of other numbers, those that share a bin share a rank.
"""

import torch
from torch import Tensor

from service.compression.numerics.block_parallel import map_blocks

# Columns are ranked this many values at a time: bounds the memory of sorting to a few hundred MB.
RANKED_VALUES_AT_ONCE = 16_000_000
BINNED_COLUMNS = 16  # counted at a time
COPIED_COLUMNS = 256  # a row of the table is read in pieces of so many
SORTED_VALUES = 50_000_000  # a table with more values than this is binned
BINS = 65_536
ZERO = BINS // 2  # its bin


def spearman(columns: Tensor, y: Tensor) -> Tensor:
    """Rank correlation of each column with y, ties given their average rank.

    columns: (n, m), y: (n,) -> (m,) float64. A constant column correlates with nothing: 0.
    """
    if columns.numel() > SORTED_VALUES:
        return binned_spearman(columns, y)
    target = _average_ranks(y[:, None].double())
    target = target - target.mean(0)
    at_once = max(1, RANKED_VALUES_AT_ONCE // columns.shape[0])
    parts = []
    for some in columns.split(at_once, dim=1):
        ranks = _average_ranks(some.double())
        ranks = ranks - ranks.mean(0)
        norm = ranks.square().sum(0).sqrt() * target.square().sum().sqrt()
        parts.append(_ratio((target * ranks).sum(0), norm))
    return torch.cat(parts)


def binned_spearman(columns: Tensor, y: Tensor) -> Tensor:
    """Spearman's rho through bins: exact for a table of 16-bit floats, else of its columns rounded to float16.

    Cost: two counts of n a column. Memory: twice COPIED_COLUMNS columns, a few of them as integers, and their bins.
    """
    target = _average_ranks(y[:, None].double())[:, 0]
    target = target - target.mean()
    repeated = target.repeat(BINNED_COLUMNS)

    def correlate(rows: Tensor) -> Tensor:
        return _correlate_bins(_places(rows), rows.shape[0], repeated[: rows.numel()])

    parts: list[Tensor] = []
    for some in columns.split(COPIED_COLUMNS, dim=1):
        narrow = some if some.itemsize == 2 else _standardised(some).half()
        rows = narrow.T
        if not rows.is_contiguous():
            rows = narrow.contiguous().T.contiguous()  # two steps: from rows far apart it took four times longer
        parts += map_blocks(correlate, rows.split(BINNED_COLUMNS), torch.device("cpu"))
    return torch.cat(parts)


def _correlate_bins(places: Tensor, m: int, target: Tensor) -> Tensor:
    """places: (m * n,) int32, as `_places` gives; target: (m * n,) centred ranks, once for each column -> (m,)"""
    n = places.numel() // m
    counts = torch.bincount(places, minlength=m * BINS)
    sums = torch.bincount(places, weights=target, minlength=m * BINS)
    for bins in (counts.view(m, BINS), sums.view(m, BINS)):  # both zeros are one
        bins[:, ZERO] += bins[:, ZERO - 1]
        bins[:, ZERO - 1] = 0
    filled = counts.nonzero()[:, 0]  # few: a column has far fewer values than there are bins
    column, count = filled // BINS, counts[filled].double()
    ranks = count.cumsum(0) - n * column - (count + 1) / 2 - (n - 1) / 2  # average rank of each bin, centred
    norm = torch.bincount(column, weights=count * ranks.square(), minlength=m).sqrt()
    products = torch.bincount(column, weights=ranks * sums[filled], minlength=m)
    return _ratio(products, norm * target[:n].square().sum().sqrt())


def _standardised(columns: Tensor) -> Tensor:
    centered = columns - columns.mean(0)
    return centered / centered.square().mean(0).sqrt().clamp_min(torch.finfo(columns.dtype).tiny)


def _places(rows: Tensor) -> Tensor:
    """(m, n) 16-bit floats -> (m * n,) int32: the bin of each, in the order of the values; -0 lies just below ZERO."""
    bits = rows.view(torch.int16)
    ordered = (bits >> 15).bitwise_and_(0x7FFF).bitwise_xor_(bits)  # the sign of a float is not two's complement
    offset = ZERO + BINS * torch.arange(rows.shape[0], dtype=torch.int32)
    return ordered.int().add_(offset[:, None]).flatten()


def _ratio(products: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, products / norm.clamp_min(1e-300), 0.0)


def _average_ranks(columns: Tensor) -> Tensor:
    """(n, m) -> (n, m) ranks from 0, equal values sharing the mean of their ranks."""
    count = columns.shape[0]
    ordered, order = columns.sort(dim=0)
    starts_run = torch.ones_like(ordered, dtype=torch.bool)
    starts_run[1:] = ordered[1:] != ordered[:-1]
    position = torch.arange(count, device=columns.device)[:, None].expand_as(ordered)
    first = torch.where(starts_run, position, 0).cummax(dim=0).values
    ends_run = torch.ones_like(starts_run)
    ends_run[:-1] = starts_run[1:]
    last = torch.where(ends_run, position, count - 1).flip(0).cummin(dim=0).values.flip(0)
    return torch.empty_like(columns).scatter_(0, order, (first + last).double() / 2)
