"""95 % intervals by bootstrap: whole windows are drawn with replacement, since positions of one text depend."""

import torch
from torch import Tensor

from headroom.operator_threads import single_threaded_operators

RESAMPLES = 2000
CONFIDENCE = 0.95
DRAWN_AT_ONCE = 1 << 16  # windows


def interval_of_means(sums: Tensor, counts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The interval of sums.sum(0) / counts.sum(): low and high, (figures,) each; NaN when no window counts.

    sums: (windows, figures) float64, over the positions of each window; counts: (windows,) those positions.
    """
    means = resampled_means(sums, counts, seed)
    if not means.shape[0]:
        return sums.new_full(sums.shape[1:], torch.nan), sums.new_full(sums.shape[1:], torch.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high


def resampled_means(sums: Tensor, counts: Tensor, seed: int) -> Tensor:
    """(resamples, figures); those that drew windows without a position are left out."""
    windows = counts.shape[0]
    generator = torch.Generator().manual_seed(seed)
    summed = torch.cat([sums, counts.double()[:, None]], dim=1)
    at_once = max(1, DRAWN_AT_ONCE // max(windows, 1))  # a table of all resamples by windows would grow with the corpus
    parts = []
    with single_threaded_operators():
        for start in range(0, RESAMPLES, at_once):
            resamples = min(at_once, RESAMPLES - start)
            drawn = torch.randint(windows, (resamples, windows), generator=generator)
            places = (drawn + windows * torch.arange(resamples)[:, None]).flatten()
            counted = torch.bincount(places, minlength=resamples * windows).view(resamples, windows)
            parts.append(counted.double() @ summed)
    totals = torch.cat(parts)
    totals = totals[totals[:, -1] > 0]
    return totals[:, :-1] / totals[:, -1:]
