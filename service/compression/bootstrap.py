"""95 % intervals by bootstrap: whole windows are drawn with replacement, since positions of one text depend."""

import torch
from torch import Tensor

RESAMPLES = 2000
CONFIDENCE = 0.95


def interval_of_means(sums: Tensor, counts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Of sums.sum(0) / counts.sum(): low and high, (figures,) each; NaN when no window counts.

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
    means = torch.empty(RESAMPLES, sums.shape[1], dtype=torch.float64)
    drawn_positions = torch.empty(RESAMPLES, dtype=torch.float64)
    for index in range(RESAMPLES):  # one at a time: a table of resamples by windows would grow with the corpus
        drawn = torch.bincount(torch.randint(windows, (windows,), generator=generator), minlength=windows).double()
        drawn_positions[index] = drawn @ counts.double()
        means[index] = drawn @ sums / drawn_positions[index]
    return means[drawn_positions > 0]
