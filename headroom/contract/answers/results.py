"""The summary of a job's report, by kind: `result` of a job that has measured something. docs/api.md explains it.

Fractions as fractions, bytes as integers. None: not measured, as the bytes of a rejected job, or no finite number.
"""

from typing import TypeAlias

from headroom.contract.report.part import Measured, ReportPart


class DriftResult(ReportPart):
    """How far predictions moved, in all."""

    passes: bool | None
    refusals: tuple[str, ...] = ()
    perplexity_before: Measured = None
    perplexity_after: Measured = None
    perplexity_drift: Measured = None
    perplexity_drift_low: Measured = None
    perplexity_drift_high: Measured = None
    kl_mean: Measured = None
    top1_agreement: Measured = None
    head_bytes_before: int | None = None
    head_bytes_after: int | None = None


class RevisionResult(ReportPart):
    """A further checkpoint of the job."""

    name: str
    ratio: float
    kept_columns: int
    passes: bool
    perplexity_drift: Measured


class CompressResult(DriftResult):
    """The chosen size."""

    passes: bool
    ratio: float
    kept_columns: int
    hidden_size: int
    largest_passing_ratio: float | None = None
    rejected_for: str | None = None  # `over_budget` or `not_worth_it`, of a rejected job
    revisions: tuple[RevisionResult, ...] = ()
    checkpoint_bytes_before: int | None = None
    checkpoint_bytes_after: int | None = None


class AnalyzeResult(ReportPart):
    """How well the head tells token probability."""

    r2: Measured
    r2_adjusted: Measured
    r2_held_out: Measured
    spearman: Measured
    slope_cosine_mean_hidden: Measured


class SteeredTokenResult(ReportPart):
    """One token whose row was edited."""

    id: int
    multiplier: float
    obtained: Measured


class SteerResult(ReportPart):
    """What came of the multipliers, and what else moved."""

    tokens: tuple[SteeredTokenResult, ...]
    refusals: tuple[str, ...] = ()
    perplexity_before: Measured
    perplexity_after: Measured
    log_error_rms: Measured
    kl_mean: Measured


class CompareResult(DriftResult):
    """The second model against the first."""


class DynamicsResult(ReportPart):
    """The last checkpoint, and the first that tells frequency about as well."""

    loss: Measured
    r2: Measured
    spearman: Measured
    readable_at: int
    loss_fallen: Measured


JobResult: TypeAlias = CompressResult | AnalyzeResult | SteerResult | CompareResult | DynamicsResult
