"""Read the engine's report (docs/report.md): the summary a job carries. Measures nothing."""

import math
from typing import Any

from service.reports.refusals import refusals, rejected_for

FIGURES_OF_SELECTED = {
    "ratio": "ratio",
    "kept_columns": "kept_columns",
    "perplexity_after": "perplexity",
    "perplexity_drift": "perplexity_drift",
    "perplexity_drift_low": "perplexity_drift_low",
    "perplexity_drift_high": "perplexity_drift_high",
    "kl_mean": "kl_mean",
    "top1_agreement": "top1_agreement",
    "passes": "passes",
}

FIGURES_OF_BYTES = {
    "checkpoint_bytes_before": "checkpoint_before",
    "checkpoint_bytes_after": "checkpoint_after",
    "head_bytes_before": "head_before",
    "head_bytes_after": "head_after",
}

FIGURES_OF_REVISION = ("name", "ratio", "kept_columns", "passes", "perplexity_drift")

FIGURES_OF_ENCODING = ("r2", "r2_adjusted", "r2_held_out", "spearman", "slope_cosine_mean_hidden")


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


def summarize(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of `Job.result`, by the kind of job. What a report does not say is None."""
    return SUMMARIES[report["kind"]](report)


def _of_compression(report: dict[str, Any]) -> dict[str, Any]:
    """A rejected job has no bytes after."""
    selected = report.get("selected") or {}
    sizes = report.get("bytes") or {}
    return (
        {name: selected.get(figure) for name, figure in FIGURES_OF_SELECTED.items()}
        | {
            "hidden_size": (report.get("head") or {}).get("hidden_size"),
            "perplexity_before": (report.get("baseline") or {}).get("perplexity"),
            "largest_passing_ratio": report.get("largest_passing_ratio"),
            "refusals": refusals(report),
            "rejected_for": rejected_for(report),
            "revisions": [
                {name: point[name] for name in FIGURES_OF_REVISION} for point in report.get("revisions") or ()
            ],
        }
        | {name: sizes.get(figure) for name, figure in FIGURES_OF_BYTES.items()}
    )


def _of_encoding(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report["encoding"][name] for name in FIGURES_OF_ENCODING}


def _of_steering(report: dict[str, Any]) -> dict[str, Any]:
    steering = report["steering"]
    tokens = [{name: token[name] for name in ("id", "multiplier", "obtained")} for token in steering["tokens"]]
    judged = {"perplexity_before": report["baseline"]["perplexity"], "refusals": refusals(report)}
    return (
        {"tokens": tokens}
        | judged
        | {name: steering[name] for name in ("log_error_rms", "kl_mean", "perplexity_after")}
    )


def _of_comparison(report: dict[str, Any]) -> dict[str, Any]:
    whole, names = report["bands"][0], ("perplexity_drift", "perplexity_drift_low", "perplexity_drift_high")
    return (
        {
            "passes": report["passes"],
            "refusals": refusals(report),
            "perplexity_before": report["baseline"]["perplexity"],
        }
        | {"perplexity_after": report["perplexity_after"]}
        | {name: whole[name] for name in (*names, "kl_mean", "top1_agreement")}
        | {"head_bytes_before": report["model"]["head_bytes"], "head_bytes_after": report["other"]["head_bytes"]}
    )


def _of_dynamics(report: dict[str, Any]) -> dict[str, Any]:
    last = report["checkpoints"][-1]
    readable = {"readable_at": report["readable"]["checkpoint"], "loss_fallen": report["readable"]["loss_fallen"]}
    return {"loss": last["loss"], "r2": last["frequency"]["r2"], "spearman": last["frequency"]["spearman"]} | readable


SUMMARIES = {
    "compress": _of_compression,
    "analyze": _of_encoding,
    "steer": _of_steering,
    "compare": _of_comparison,
    "dynamics": _of_dynamics,
}
