"""The parts of a report on how token probability is encoded in the output head: a regression on its rows."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class SparsityPoint(ReportPart):
    """R² of the columns of the largest slopes alone."""

    columns: int
    r2: Measured


class Sparsity(ReportPart):
    """How few columns carry the regression."""

    sparsity: tuple[SparsityPoint, ...]
    columns_needed: dict[str, int] = Field(description="share of R² -> fewest columns that reach it")
    gini: Measured = Field(description="of the magnitudes of the slopes")


class RegressionFigures(ReportPart):
    """What a regression on the rows of a head is worth."""

    r2: Measured
    r2_adjusted: Measured
    r2_held_out: Measured = Field(description="fitted on 80 % of the rows, measured on the others")
    spearman: Measured = Field(description="of fitted against true")


class Encoding(RegressionFigures, Sparsity):
    """-log of the averaged token probability, regressed on the rows of the head."""

    rank: int | None = Field(default=None, description="of the centred head")
    intercept: Measured = None
    slope_cosine_mean_hidden: Measured = Field(description="cosine of the slope with -mean(h)")
    rows_at_floor: int = Field(default=0, description="tokens whose averaged probability underflowed")
    slopes: tuple[Measured, ...] = Field(description="of each column")


class FittedSample(ReportPart):
    """True and fitted -log probability of about a thousand tokens, in nats."""

    token_ids: tuple[int, ...]
    true: tuple[float, ...]
    fitted: tuple[Measured, ...]


class ColumnFigures(ReportPart):
    """Figures of each column of the head, in its order."""

    standardised_slopes: tuple[Measured, ...]
    spearman: tuple[Measured, ...]


class ComponentFigures(ColumnFigures, Sparsity):
    """Figures of each principal component of the head, in order of explained variance."""

    explained_variance: tuple[Measured, ...] = Field(description="shares of the head's variance")
    ranked_rows: int | None = Field(default=None, description="rows that the rank correlations are of")


class FewExamples(ReportPart):
    """What a slope fitted on a few positions of text says of the one fitted on all."""

    tokens: int
    r2: Measured = Field(description="of its fitted values against -log alpha of all positions; may be below 0")
    spearman: Measured
    slope_cosine: Measured
