"""Damaged text for an encoder, and what its decoder should write: the two forms that such models are trained on."""

import torch
from torch import Tensor

MEAN_SPAN = 3.0  # tokens
INFILLED_SHARE = 0.3  # of the tokens, as BART (Lewis et al. 2020)
SENTINEL_SHARE = 0.15  # as T5 (Raffel et al. 2020)


def infilled(body: Tensor, mask: int, generator: torch.Generator) -> Tensor:
    """BART's text infilling: spans of Poisson(3) tokens become one `mask` each. The target is the whole text.

    body: (tokens,) -> (tokens or fewer,); a span of no tokens puts a mask between two.
    """
    starts = torch.rand(body.numel(), generator=generator) < INFILLED_SHARE / MEAN_SPAN
    lengths = torch.poisson(torch.full((body.numel(),), MEAN_SPAN), generator=generator).long()
    damaged: list[int] = []
    at = 0
    for position, token in enumerate(body.tolist()):
        if position < at:
            continue
        if starts[position]:
            damaged.append(mask)
            at = position + int(lengths[position])
        if position >= at:
            damaged.append(token)
    return torch.tensor(damaged)


def with_sentinels(body: Tensor, sentinels: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """T5's span corruption: each span becomes a sentinel of its own; the target is the sentinels with what they hide.

    body: (tokens,) -> (source, target). As many spans of equal length as make up the share, at random places.
    """
    spans = min(max(round(body.numel() * SENTINEL_SHARE / MEAN_SPAN), 1), len(sentinels) - 1)
    length = min(round(MEAN_SPAN), body.numel() // (2 * spans))
    pieces = body.split(body.numel() // spans)[:spans]  # one span in each piece
    source, target = [], []
    for sentinel, piece in zip(sentinels, pieces, strict=False):
        start = int(torch.randint(piece.numel() - length + 1, (1,), generator=generator))
        mark = torch.tensor([sentinel])
        source += [piece[:start], mark, piece[start + length :]]
        target += [mark, piece[start : start + length]]
    source.append(body[sum(map(len, pieces)) :])
    target.append(torch.tensor(sentinels[spans : spans + 1]))
    return torch.cat(source), torch.cat(target)
