"""Drift by token frequency: a deletion of columns hurts rare tokens first, and a mean over all tokens hides it.

A token's frequency is its averaged probability alpha on the calibration text: it ranks every token of the vocabulary,
also those that never came, and does not depend on the text that is evaluated. A position is in its target's band.
"""

import math

import torch
from torch import Tensor

from headroom.contract.report.drift_parts import BandDrift
from service.compression.drift.token_drift import TokenDrift, figures

ENDS = {"most frequent 1 %": 0.01, "next 9 %": 0.1, "the rest": 1.0}  # share of the vocabulary up to which each goes


def bands_of_tokens(alpha: Tensor) -> Tensor:
    """(vocab,) averaged token probability -> (vocab,) int64 number of each token's band."""
    ends = torch.tensor([math.ceil(share * alpha.numel()) for share in ENDS.values()])
    bands = torch.empty(alpha.numel(), dtype=torch.int64)
    bands[alpha.argsort(descending=True, stable=True)] = torch.bucketize(torch.arange(alpha.numel()), ends, right=True)
    return bands


def are_rare(targets: Tensor, alpha: Tensor) -> Tensor:
    """(positions,) bool: whether the token that came is of the last band. targets: (positions,) int64."""
    return bands_of_tokens(alpha)[targets] == len(ENDS) - 1


def drift_by_band(drift: TokenDrift, alpha: Tensor, seed: int) -> tuple[BandDrift, ...]:
    """Drift of all positions, then of each band of token frequency."""
    bands = bands_of_tokens(alpha)
    tokens = torch.bincount(bands, minlength=len(ENDS)).tolist()
    everywhere = torch.ones_like(drift.agreement)
    found = [BandDrift(**dict(figures(drift, everywhere, seed)), band="all", tokens=alpha.numel())]
    for number, name in enumerate(ENDS):
        here = bands[drift.target] == number
        found.append(BandDrift(**dict(figures(drift, here, seed)), band=name, tokens=tokens[number]))
    return tuple(found)
