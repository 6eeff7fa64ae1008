"""Read a report: the summary that a job carries. Measures nothing."""

from typing import TypeVar

from headroom.contract.answers.results import (
    AnalyzeResult,
    CompareResult,
    CompressResult,
    DynamicsResult,
    JobResult,
    RevisionResult,
    SteeredTokenResult,
    SteerResult,
)
from headroom.contract.report.encoding import Encoding
from headroom.contract.report.report import (
    AnalyzeReport,
    CompareReport,
    CompressReport,
    DynamicsReport,
    JobReport,
    Report,
    SteerReport,
)
from service.reports.refusals import refusals, rejected_for

ReportT = TypeVar("ReportT", bound=JobReport)


def with_timing(report: ReportT, phase: str, seconds: float) -> ReportT:
    """The report with the seconds of a phase that the engine cannot see, added to `total` too."""
    timing = report.timing | {"total": report.timing.get("total", 0.0) + seconds}
    return report.model_copy(update={"timing": {phase: seconds} | timing})


def summarize(report: Report) -> JobResult:
    """The figures of `Job.result`, by the kind of job. What was not measured is None."""
    if isinstance(report, CompressReport):
        return _of_compression(report)
    if isinstance(report, AnalyzeReport):
        return _of_encoding(report.encoding)
    if isinstance(report, SteerReport):
        return _of_steering(report)
    if isinstance(report, CompareReport):
        return _of_comparison(report)
    return _of_dynamics(report)


def _of_compression(report: CompressReport) -> CompressResult:
    """A rejected job has no bytes after."""
    selected, sizes = report.selected, report.bytes
    return CompressResult(
        ratio=selected.ratio,
        kept_columns=selected.kept_columns,
        perplexity_after=selected.perplexity,
        perplexity_drift=selected.perplexity_drift,
        perplexity_drift_low=selected.perplexity_drift_low,
        perplexity_drift_high=selected.perplexity_drift_high,
        kl_mean=selected.kl_mean,
        top1_agreement=selected.top1_agreement,
        passes=selected.passes,
        hidden_size=report.head.hidden_size,
        perplexity_before=report.baseline.perplexity,
        largest_passing_ratio=report.largest_passing_ratio,
        refusals=tuple(refusals(report)),
        rejected_for=rejected_for(report),
        revisions=tuple(
            RevisionResult(
                name=point.name,
                ratio=point.ratio,
                kept_columns=point.kept_columns,
                passes=point.passes,
                perplexity_drift=point.perplexity_drift,
            )
            for point in report.revisions
        ),
        checkpoint_bytes_before=sizes.checkpoint_before,
        checkpoint_bytes_after=sizes.checkpoint_after,
        head_bytes_before=sizes.head_before,
        head_bytes_after=sizes.head_after,
    )


def _of_encoding(encoding: Encoding) -> AnalyzeResult:
    return AnalyzeResult(
        r2=encoding.r2,
        r2_adjusted=encoding.r2_adjusted,
        r2_held_out=encoding.r2_held_out,
        spearman=encoding.spearman,
        slope_cosine_mean_hidden=encoding.slope_cosine_mean_hidden,
    )


def _of_steering(report: SteerReport) -> SteerResult:
    steering = report.steering
    return SteerResult(
        tokens=tuple(
            SteeredTokenResult(id=token.id, multiplier=token.multiplier, obtained=token.obtained)
            for token in steering.tokens
        ),
        perplexity_before=report.baseline.perplexity,
        refusals=tuple(refusals(report)),
        log_error_rms=steering.log_error_rms,
        kl_mean=steering.kl_mean,
        perplexity_after=steering.perplexity_after,
    )


def _of_comparison(report: CompareReport) -> CompareResult:
    whole = report.bands[0]
    return CompareResult(
        passes=report.passes,
        refusals=tuple(refusals(report)),
        perplexity_before=report.baseline.perplexity,
        perplexity_after=report.perplexity_after,
        perplexity_drift=whole.perplexity_drift,
        perplexity_drift_low=whole.perplexity_drift_low,
        perplexity_drift_high=whole.perplexity_drift_high,
        kl_mean=whole.kl_mean,
        top1_agreement=whole.top1_agreement,
        head_bytes_before=report.model.head_bytes,
        head_bytes_after=report.other.head_bytes,
    )


def _of_dynamics(report: DynamicsReport) -> DynamicsResult:
    last = report.checkpoints[-1]
    return DynamicsResult(
        loss=last.loss,
        r2=last.frequency.r2,
        spearman=last.frequency.spearman,
        readable_at=report.readable.checkpoint,
        loss_fallen=report.readable.loss_fallen,
    )
