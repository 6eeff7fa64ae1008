"""The slope from a few tokens of text: alpha is averaged over the first positions only, and A fitted to that.

Source: arXiv 2406.01468, section 5 (probabilities can be estimated from few examples).
"""

import torch
from torch import Tensor

from headroom.contract.report.encoding import FewExamples
from service.compression.encoding.token_probability import FittedEncoding, predict, solve
from service.compression.numerics.rank_correlation import spearman
from service.compression.numerics.row_moments import with_other_target
from service.compression.states.hidden_cache import HiddenStates
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import neg_log_alpha, probability_sum

FEW = (64, 256, 1024)


def fit_few_examples(
    hidden: HiddenStates, head: LmHead, y: Tensor, encoding: FittedEncoding, device: torch.device
) -> tuple[FewExamples, ...]:
    """Fits from a few tokens of text, as far as there are so many. y: (vocab,) -log alpha of all positions."""
    counts = [count for count in FEW if count < hidden.positions]
    found, seen, summed = [], 0, torch.zeros(head.vocab_size, dtype=torch.float64)
    if not counts:
        return ()
    rows = next(hidden.blocks(counts[-1], device))
    for count in counts:
        summed += probability_sum(rows[seen:count], head, device)
        seen = count
        target, _ = neg_log_alpha(summed / count)
        fit = solve(with_other_target(encoding.moments, head.weight.cpu(), target), encoding.spectrum)
        fitted = predict(head.weight.cpu(), fit)
        residual, spread = (y - fitted).square().sum(), (y - y.mean()).square().sum()
        found.append(
            FewExamples(
                tokens=count,
                r2=1.0 - float(residual / spread) if spread > 0 else float("nan"),
                spearman=float(spearman(fitted[:, None], y)[0]),
                slope_cosine=float(torch.nn.functional.cosine_similarity(fit.slope, encoding.regression.slope, dim=0)),
            )
        )
    return tuple(found)
