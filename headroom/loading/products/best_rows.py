"""The best rows of each position, found by the maxima of strides. Needs torch only.

A row among the best m is in one of the m strides with the greatest maxima: of a long vector only those are looked at.
"""

import torch
from torch import Tensor

STRIDE = 16  # entries that share a maximum, far apart in the row, so that maxima are of whole vectors


def best_rows(logits: Tensor, most: int) -> Tensor:
    """(positions, vocab) -> indices (positions, most) of the greatest, in no order; any of equal ones."""
    run = logits.shape[1] // STRIDE
    if 2 * most > run:
        return logits.topk(most, dim=1, sorted=False).indices
    strides = logits[:, : STRIDE * run].unflatten(1, (STRIDE, run))
    leading = strides.amax(1).topk(most, dim=1, sorted=False).indices
    firsts = torch.arange(STRIDE, device=logits.device)[:, None] * run
    candidates = (leading[:, None, :] + firsts).flatten(1)
    if STRIDE * run < logits.shape[1]:
        rest = torch.arange(STRIDE * run, logits.shape[1], device=logits.device)
        candidates = torch.cat([candidates, rest.expand(logits.shape[0], -1)], dim=1)
    best: Tensor = candidates.gather(1, logits.gather(1, candidates).topk(most, dim=1, sorted=False).indices)
    return best
