"""Read a report: the summary that a job carries. Measures nothing."""

import math
from typing import Any

from headroom.contract.report.curve import DriftInterval
from headroom.contract.report.encoding import Encoding
from headroom.contract.report.part import Measured
from headroom.contract.report.report import (
    AnalyzeReport,
    CompareReport,
    CompressReport,
    DynamicsReport,
    Report,
    SteerReport,
)
from service.reports.refusals import refusals, rejected_for


def finite(value: Any) -> Any:
    """The same JSON value with NaN and infinities as null: JSON has no word for them, and databases refuse them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def with_timing(report: dict[str, Any], phase: str, seconds: float) -> dict[str, Any]:
    """The report with the seconds of a phase that the engine cannot see, added to `total` too."""
    timing = dict(report.get("timing") or {})
    timing["total"] = float(timing.get("total") or 0.0) + seconds
    return report | {"timing": {phase: seconds} | timing}


def summarize(report: Report) -> dict[str, Any]:
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


def _of_compression(report: CompressReport) -> dict[str, Any]:
    """A rejected job has no bytes after."""
    selected, sizes = report.selected, report.bytes
    return {
        "ratio": selected.ratio,
        "kept_columns": selected.kept_columns,
        "perplexity_after": selected.perplexity,
        **_drift(selected),
        "kl_mean": selected.kl_mean,
        "top1_agreement": selected.top1_agreement,
        "passes": selected.passes,
        "hidden_size": report.head.hidden_size,
        "perplexity_before": report.baseline.perplexity,
        "largest_passing_ratio": report.largest_passing_ratio,
        "refusals": refusals(report),
        "rejected_for": rejected_for(report),
        "revisions": [
            {
                "name": point.name,
                "ratio": point.ratio,
                "kept_columns": point.kept_columns,
                "passes": point.passes,
                "perplexity_drift": point.perplexity_drift,
            }
            for point in report.revisions
        ],
        "checkpoint_bytes_before": sizes.checkpoint_before,
        "checkpoint_bytes_after": sizes.checkpoint_after,
        "head_bytes_before": sizes.head_before,
        "head_bytes_after": sizes.head_after,
    }


def _of_encoding(encoding: Encoding) -> dict[str, Any]:
    return {
        "r2": encoding.r2,
        "r2_adjusted": encoding.r2_adjusted,
        "r2_held_out": encoding.r2_held_out,
        "spearman": encoding.spearman,
        "slope_cosine_mean_hidden": encoding.slope_cosine_mean_hidden,
    }


def _of_steering(report: SteerReport) -> dict[str, Any]:
    steering = report.steering
    return {
        "tokens": [
            {"id": token.id, "multiplier": token.multiplier, "obtained": token.obtained} for token in steering.tokens
        ],
        "perplexity_before": report.baseline.perplexity,
        "refusals": refusals(report),
        "log_error_rms": steering.log_error_rms,
        "kl_mean": steering.kl_mean,
        "perplexity_after": steering.perplexity_after,
    }


def _of_comparison(report: CompareReport) -> dict[str, Any]:
    whole = report.bands[0]
    return {
        "passes": report.passes,
        "refusals": refusals(report),
        "perplexity_before": report.baseline.perplexity,
        "perplexity_after": report.perplexity_after,
        **_drift(whole),
        "kl_mean": whole.kl_mean,
        "top1_agreement": whole.top1_agreement,
        "head_bytes_before": report.model.head_bytes,
        "head_bytes_after": report.other.head_bytes,
    }


def _of_dynamics(report: DynamicsReport) -> dict[str, Any]:
    last = report.checkpoints[-1]
    return {
        "loss": last.loss,
        "r2": last.frequency.r2,
        "spearman": last.frequency.spearman,
        "readable_at": report.readable.checkpoint,
        "loss_fallen": report.readable.loss_fallen,
    }


def _drift(point: DriftInterval) -> dict[str, Measured]:
    return {
        "perplexity_drift": point.perplexity_drift,
        "perplexity_drift_low": point.perplexity_drift_low,
        "perplexity_drift_high": point.perplexity_drift_high,
    }
