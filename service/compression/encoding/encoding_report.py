"""The parts of a report that say how token probability is encoded in the head."""

import torch
from torch import Tensor

from headroom.contract.report.encoding import (
    ColumnFigures,
    ComponentFigures,
    Encoding,
    FittedSample,
    Sparsity,
    SparsityPoint,
)
from service.compression.encoding.principal_components import Components
from service.compression.encoding.token_probability import FittedEncoding
from service.compression.numerics.sparsity import SparsityFigures

SAMPLED_ROWS = 1_000  # of the plot of fitted against true; half of them are the most frequent tokens' ranks, log-spaced


def encoding_told(encoding: FittedEncoding, floor_rows: int) -> Encoding:
    """The regression of all rows. floor_rows: tokens whose averaged probability underflowed."""
    regression = encoding.regression
    return Encoding(
        **dict(_sparsity(encoding.sparsity)),
        r2=regression.r2,
        r2_adjusted=regression.adjusted_r2,
        r2_held_out=encoding.r2_held_out,
        rank=regression.rank,
        intercept=regression.intercept,
        spearman=encoding.spearman,
        slope_cosine_mean_hidden=encoding.slope_cosine_mean_hidden,
        rows_at_floor=floor_rows,
        slopes=tuple(regression.slope.tolist()),
    )


def columns_told(encoding: FittedEncoding, spearman: Tensor) -> ColumnFigures:
    """Figures of each raw column, in the order of the head."""
    return ColumnFigures(standardised_slopes=_rounded(encoding.standardised_slope), spearman=_rounded(spearman))


def components_told(components: Components) -> ComponentFigures:
    """Figures of each principal component, in order of explained variance."""
    return ComponentFigures(
        **dict(_sparsity(components.sparsity)),
        explained_variance=_rounded(components.explained_variance),
        standardised_slopes=_rounded(components.slope),
        spearman=_rounded(components.spearman),
        ranked_rows=components.ranked_rows,
    )


def fitted_told(encoding: FittedEncoding, seed: int) -> FittedSample:
    """True and fitted -log alpha of some tokens: log-spaced ranks, so that frequent ones are among them, and others
    at random."""
    y = encoding.target
    count = min(SAMPLED_ROWS // 2, y.numel())
    by_rank = torch.logspace(0, torch.log10(torch.tensor(float(y.numel()))).item(), count).long().clamp_max(y.numel())
    at_random = torch.randperm(y.numel(), generator=torch.Generator().manual_seed(seed))[:count]
    ids = torch.cat([y.argsort()[by_rank - 1], at_random]).unique()
    return FittedSample(token_ids=tuple(ids.tolist()), true=_rounded(y[ids]), fitted=_rounded(encoding.fitted[ids]))


def _sparsity(found: SparsityFigures) -> Sparsity:
    return Sparsity(
        sparsity=tuple(SparsityPoint(columns=columns, r2=r2) for columns, r2 in found.curve),
        columns_needed={f"{share:g}": count for share, count in found.needed.items()},
        gini=found.gini,
    )


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Values to six digits: these lists are long."""
    return tuple(float(f"{value:.6g}") for value in values.tolist())
