"""The parts of a report on drift by size: points of the curve, the budget they are judged by, the baseline."""

from pydantic import Field

from headroom.contract.report.part import Measured, ReportPart


class Baseline(ReportPart):
    """The full head."""

    perplexity: Measured
    kind: str = Field("perplexity", description="`pseudo-perplexity` where tokens are predicted from both sides")


class AllowedDrift(ReportPart):
    """What the recipe allowed; null: not bounded."""

    perplexity: float | None = None
    kl: float | None = None
    group_gap: float | None = None


class DriftInterval(ReportPart):
    """Relative growth of perplexity with its 95 % interval, a paired bootstrap over windows. 0.01 is one percent."""

    perplexity_drift: Measured
    perplexity_drift_low: Measured
    perplexity_drift_high: Measured


class CurvePoint(DriftInterval):
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
