"""The part of a report on steering: which multipliers were asked for, which were obtained, what else moved."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class Obtained(ReportPart):
    """A multiplier asked for and the one that came of it."""

    multiplier: float
    obtained: Measured


class SteeredTokenFigures(Obtained):
    """One token whose row was edited, with all others edited too."""

    id: int
    text: str | None = None
    log_error: Measured = Field(description="log of obtained over asked, nats")
    probability_before: Measured
    probability_after: Measured
    alone: tuple[Obtained, ...] = Field(description="at other multipliers, when no other token is edited")


class SparseColumns(ReportPart):
    """An edit of the columns of the largest slopes only."""

    sparse: int


class Steering(ReportPart):
    """Means over held-out positions."""

    edit: str | SparseColumns
    few_examples: int | None = None
    edited_columns: int
    slope_norm: Measured
    tokens: tuple[SteeredTokenFigures, ...]
    log_error_rms: Measured
    others_before: Measured = Field(description="probability of all tokens that were not edited")
    others_after: Measured
    kl_mean: Measured = Field(description="KL(before || after), nats a token")
    js_mean: Measured = Field(description="Jensen-Shannon divergence, nats a token")
    perplexity_after: Measured
    max_kl: float | None = None
