"""The best rows of each position computed again from all 8 bits, in float32. Needs torch; no modules, no files.

A code is never widened on its own: with u the codes of a row, s its scales and X the sums of x over a group of columns,
logit = sum over groups of s (sum of u x - 127.5 X), so that gathered bytes go into one product with x spread over the
groups. Both planes of two neighbouring columns share a byte: even and odd columns are kept apart.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from headroom.loading.plane_codes import CENTRE, GROUP, groups_of
from headroom.loading.products.best_rows import best_rows
from headroom.loading.products.plane_table import Table

ENTRIES_AT_ONCE = 1 << 21  # of rows that are wide in float32 at once: 8 MB, which stay in the cache
ENTRIES_IN_GRAPH = 1 << 24  # on a GPU, or in a graph, where each round is operators of its own


def rescore(x: Tensor, table: Table, logits: Tensor, most: int, bias: Tensor | None) -> None:
    """Write over the `most` best logits (positions, vocab) of each position. x: (positions, columns), floats."""
    in_cache = x.device.type == "cpu" and not torch.compiler.is_compiling()
    step = max(1, (ENTRIES_AT_ONCE if in_cache else ENTRIES_IN_GRAPH) // (most * table.columns))
    for start in range(0, x.shape[0], step):
        given = logits[start : start + step]
        best = best_rows(given, most)
        exact = exact_logits(x[start : start + step].float(), table, best)
        if bias is not None:
            exact += bias[best]
        given.scatter_(1, best, exact.to(given.dtype))


def exact_logits(x: Tensor, table: Table, rows: Tensor) -> Tensor:
    """(positions, columns) float32, (positions, m) rows -> (positions, m) float32, from all 8 bits."""
    chosen = rows.flatten()
    high, low = table.high.index_select(0, chosen), table.low.index_select(0, chosen)
    even = (high << 4).bitwise_or_(low & 15)
    odd = high.bitwise_and_(0xF0).bitwise_or_(low >> 4)
    codes = torch.cat([table.whole.index_select(0, chosen), even, odd], dim=1).float()
    scales = table.scales.index_select(0, chosen).view(torch.bfloat16).float().view(*rows.shape, -1)

    order_of = _order if torch.compiler.is_compiling() else _kept_order
    order, groups = order_of(table.columns, table.whole.shape[1], x.device)
    spread = F.pad(x, (0, 1)).index_select(1, order)[:, :, None] * groups  # (positions, columns as gathered, groups)
    sums = torch.bmm(codes.view(*rows.shape, -1), spread) - CENTRE * spread.sum(1, keepdim=True)
    return (sums * scales).sum(2)


def _order(columns: int, whole: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The column of each gathered code, `columns` for one that pads, and (codes, groups) float32 ones for its group."""
    rest = torch.arange(whole, columns + (columns - whole) % 2)
    order = torch.cat([torch.arange(whole), rest[::2], rest[1::2]])
    groups = order[:, None] // GROUP == torch.arange(groups_of(columns))
    return order.to(device), groups.float().to(device)


@functools.lru_cache(maxsize=16)
def _kept_order(columns: int, whole: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _order(columns, whole, device)
