"""The parts of a report that say how token probability is encoded, as docs/report.md names them."""

from typing import Any

import torch
from torch import Tensor

from service.compression.encoding.principal_components import Components
from service.compression.encoding.token_probability import Encoding
from service.compression.numerics.sparsity import Sparsity

SAMPLED_ROWS = 1_000  # of the plot of fitted against true; half of them are the most frequent tokens' ranks, log-spaced


def sparsity_section(sparsity: Sparsity) -> dict[str, Any]:
    return {
        "sparsity": [{"columns": columns, "r2": r2} for columns, r2 in sparsity.curve],
        "columns_needed": {f"{share:g}": count for share, count in sparsity.needed.items()},
        "gini": sparsity.gini,
    }


def columns_section(encoding: Encoding, spearman: Tensor) -> dict[str, Any]:
    """Of each raw column, in the order of the head."""
    return {"standardised_slopes": _rounded(encoding.standardised_slope), "spearman": _rounded(spearman)}


def components_section(components: Components) -> dict[str, Any]:
    """Of each principal component, in order of explained variance."""
    return {
        "explained_variance": _rounded(components.explained_variance),
        "standardised_slopes": _rounded(components.slope),
        "spearman": _rounded(components.spearman),
        "ranked_rows": components.ranked_rows,
    } | sparsity_section(components.sparsity)


def fitted_section(encoding: Encoding, seed: int) -> dict[str, Any]:
    """True and fitted -log alpha of some tokens: log-spaced ranks, so that frequent ones are among them, and others
    at random."""
    y = encoding.target
    count = min(SAMPLED_ROWS // 2, y.numel())
    by_rank = torch.logspace(0, torch.log10(torch.tensor(float(y.numel()))).item(), count).long().clamp_max(y.numel())
    at_random = torch.randperm(y.numel(), generator=torch.Generator().manual_seed(seed))[:count]
    ids = torch.cat([y.argsort()[by_rank - 1], at_random]).unique()
    return {"token_ids": ids.tolist(), "true": _rounded(y[ids]), "fitted": _rounded(encoding.fitted[ids])}


def _rounded(values: Tensor) -> list[float]:
    """To six digits: these lists are long."""
    return [float(f"{value:.6g}") for value in values.tolist()]
