"""The parts of a report on drift by size: points of the curve on each text, the budget they are judged by."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class Baseline(ReportPart):
    """The full head."""

    perplexity: Measured
    kind: str = Field(
        default="perplexity", description="`pseudo-perplexity` where tokens are predicted from both sides"
    )


class AllowedDrift(ReportPart):
    """What the recipe allowed; null: not bounded."""

    perplexity: float | None = None
    kl: float | None = None
    top1: float | None = None
    rare_perplexity: float | None = None
    group_gap: float | None = None


class DriftInterval(ReportPart):
    """Relative growth of perplexity with its 95 % interval, a paired bootstrap over windows. 0.01 is one percent."""

    perplexity_drift: Measured
    perplexity_drift_low: Measured
    perplexity_drift_high: Measured


class RareDrift(ReportPart):
    """Relative growth of perplexity where the token that came is of the rarest band."""

    rare_perplexity_drift: Measured = None
    rare_perplexity_drift_high: Measured = Field(default=None, description="upper end of its 95 % interval")


class StoredDriftFigures(DriftInterval, RareDrift):
    """How far the stored model's predictions lie from the source's, on the same windows."""

    kl_mean: Measured = Field(default=None, description="KL(source || stored), nats a token; null in older reports")
    top1_agreement: Measured = Field(default=None, description="share of positions with the same most probable token")


class CurvePoint(DriftInterval, RareDrift):
    """One kept size, measured."""

    ratio: float = Field(description="asked for: share of the columns that go")
    kept_columns: int
    perplexity: Measured
    kl_mean: Measured = Field(description="KL(full || pruned), nats a token")
    kl_p95: Measured
    kl_p99: Measured
    top1_agreement: float = Field(description="share of positions with the same most probable token")


class JudgedPoint(CurvePoint):
    """A point with its verdict."""

    passes: bool = Field(description="inside its budget")


class EvaluatedCorpus(ReportPart):
    """One of several evaluation texts: its budget, its curve, and the chosen size on it."""

    name: str
    digest: str
    evaluation_tokens: int
    evaluation_windows: int
    budget: AllowedDrift
    baseline: Baseline
    curve: tuple[CurvePoint, ...]
    selected: JudgedPoint = Field(description="`passes`: of this text alone")
    stored: StoredDriftFigures | None = None
    outside_share: Measured = Field(
        default=None, description="variance of its hidden states outside the calibration's main directions"
    )
