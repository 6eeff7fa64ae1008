"""Makers of whole reports, shaped as docs/report.md says: as stored, and as records."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from headroom.contract.report.drift_parts import PartFigures
from headroom.contract.report.report import (
    CompareReport,
    CompressReport,
    JobReport,
    SteerReport,
    as_document,
    open_report,
)
from service.ports.engine import EngineOutcome

ReportT = TypeVar("ReportT", bound=JobReport)

NOT_MEASURED = ("job_id", "timing", "time", "backbone_from_cache", "shards", "versions")

SPARSITY = {
    "sparsity": [{"columns": 1, "r2": 0.6}, {"columns": 3, "r2": 0.9}],
    "columns_needed": {"0.9": 2, "0.95": 3, "0.99": 3},
    "gini": 0.4,
}


def make_analysis(**parts: Any) -> dict[str, Any]:
    """The report of an analyze job."""
    report = make_report({0.5: 0.001}, 0.5)
    shared = ("job_id", "model", "versions", "seed", "head", "corpus", "encoding", "fitted", "warnings", "timing")
    return (
        {name: report[name] for name in shared if name in report}
        | {
            "kind": "analyze",
            "columns": {"standardised_slopes": [0.1, -0.5, 0.2], "spearman": [0.1, -0.3, 0.2]},
            "components": {
                "explained_variance": [0.7, 0.2, 0.1],
                "standardised_slopes": [0.2, 0.6, 0.1],
                "spearman": [0.2, 0.5, 0.1],
            }
            | SPARSITY,
            "few_examples": [{"tokens": 64, "r2": 0.3, "spearman": 0.7, "slope_cosine": 0.8}],
        }
        | parts
    )


def make_dynamics() -> dict[str, Any]:
    """The report of a dynamics job over two checkpoints."""
    report = make_analysis()
    rows = [
        {
            "model": {"id": "acme/tiny", "revision": revision, "digest": "ab" * 32},
            "loss": loss,
            "perplexity": 2.0,
            "frequency": dict.fromkeys(("r2", "r2_adjusted", "r2_held_out", "spearman"), spearman),
            "probability": dict.fromkeys(("r2", "r2_adjusted", "r2_held_out", "spearman"), 0.99),
        }
        for revision, loss, spearman in (("step-1", 9.0, 0.2), ("step-2", 7.0, 0.5), (None, 5.0, 0.55))
    ]
    shared = ("job_id", "model", "versions", "seed", "head", "corpus", "warnings")
    return {name: report[name] for name in shared} | {
        "kind": "dynamics",
        "frequency_tokens": {"positions": 12288, "distinct": 321},
        "checkpoints": rows,
        "readable": {"share": 0.9, "checkpoint": 1, "loss_fallen": 0.5},
    }


def make_frontier(curve: list[dict[str, Any]], hidden: int = 100) -> dict[str, Any]:
    """The frontier of a budget of bytes: the curve, both plain rounded heads, and 4-bit columns of its last size."""
    plain = curve[0] | {"kept_columns": hidden, "ratio": 0.0}
    points = [
        point
        | {"head_dtype": head_dtype, "head_bytes": round(2048 * share), "share": share, "passes": True}
        | {"serves": share <= 0.25, "efficient": share != 0.9, "chosen": False}
        for point, head_dtype, share in (
            *((point, "source", 1 - point["ratio"]) for point in curve),
            (plain, "int8", 0.53),
            (plain, "int4", 0.3),
            (curve[-1], "int4", 0.1),
        )
    ]
    points[-1]["chosen"] = True
    budget = {"head_bytes": 0.25, "drift": None}
    return {"budget": budget, "swept": len(curve), "measured": 3, "left_out": 1, "points": points, "nearest": None}


def make_report(drifts: dict[float, float], chosen: float, hidden: int = 100) -> dict[str, Any]:
    """A compress report that passes. `drifts`: ratio -> drift of perplexity, the interval being a tenth around it."""
    curve = [
        {
            "ratio": ratio,
            "kept_columns": round(hidden * (1 - ratio)),
            "perplexity": 200 * (1 + drift),
            "perplexity_drift": drift,
            "perplexity_drift_low": 0.9 * drift,
            "perplexity_drift_high": 1.1 * drift,
            "kl_mean": drift,
            "kl_p95": 4 * drift,
            "kl_p99": 9 * drift,
            "top1_agreement": 1 - drift,
        }
        for ratio, drift in drifts.items()
    ]
    selected = next(point for point in curve if point["ratio"] == chosen)
    encoding = {"r2": 0.9, "r2_adjusted": 0.89, "r2_held_out": 0.88, "spearman": 0.8, "slope_cosine_mean_hidden": 0.7}
    return {
        "kind": "compress",
        "job_id": "job_" + "0" * 32,
        "model": {"id": "acme/tiny", "revision": None, "digest": "ab" * 32},
        "versions": {"torch": "2.13.0"},
        "seed": 0,
        "head": {"vocab_size": 1000, "hidden_size": hidden, "tied": True},
        "corpus": {
            "digest": "cd" * 32,
            "calibration_tokens": 4096,
            "evaluation_tokens": 8192,
            "evaluation_windows": 16,
            "window": 512,
        },
        "encoding": encoding | {"slopes": [0.5, -2.0, 1.0]} | SPARSITY,
        "fitted": {"token_ids": [1, 5, 7], "true": [2.0, 8.0, 9.5], "fitted": [2.5, 7.5, 9.0]},
        "method": "probability",
        "repair": "mean",
        "budget": {"perplexity": 0.01, "kl": None},
        "baseline": {"perplexity": 200.0},
        "curve": curve,
        "comparisons": {"slope": curve},
        "selected": selected | {"passes": True},
        "largest_passing_ratio": chosen,
        "stored": {
            "perplexity": selected["perplexity"],
            "predicted_perplexity": selected["perplexity"],
            "max_logit_difference": 1e-5,
            **{name: selected[name] for name in ("perplexity_drift", "perplexity_drift_low", "perplexity_drift_high")},
        },
        "bytes": {
            "checkpoint_before": 5000,
            "checkpoint_after": 4500,
            "head_before": 2048,
            "head_after": 1536,
            "decode_read_before": 4000,
            "decode_read_after": 3500,
        },
        "advice": "Compare with an 8-bit head.",
        "warnings": [],
    }


def make_part(**figures: Any) -> dict[str, Any]:
    """The figures of a band or a group; what is not given is null."""
    names = PartFigures.model_fields
    return dict.fromkeys(names) | {"positions": 100} | figures


def make_comparison(**parts: Any) -> dict[str, Any]:
    """The report of a compare job without a budget."""
    report = make_report({0.5: 0.001}, 0.5)
    side = report["model"] | {"auto_class": "AutoModelForCausalLM", "kept_columns": None, "head_bytes": 2048}
    side |= {"checkpoint_bytes": 5000, "seconds_per_token": 0.01}
    shared = ("job_id", "versions", "seed", "corpus", "baseline", "warnings")
    drift = {"perplexity_drift": 0.01, "perplexity_drift_high": 0.05, "kl_mean": 0.1}
    return (
        {name: report[name] for name in shared}
        | {"kind": "compare", "model": side, "other": side | {"id": "acme/other"}, "perplexity_after": 202.0}
        | {"budget": None, "passes": None, "groups": []}
        | {"bands": [make_part(band="all", tokens=1000, **drift)]}
        | parts
    )


def make_steering(**figures: Any) -> dict[str, Any]:
    """The report of a steer job that stored its checkpoint; `figures` of its steering."""
    analysis = make_analysis()
    token = {"id": 5, "text": "five", "multiplier": 2.0, "obtained": 1.9, "log_error": -0.05}
    token |= {"probability_before": 0.01, "probability_after": 0.019, "alone": [{"multiplier": 2.0, "obtained": 1.95}]}
    steering = {"edit": "minimum_norm", "few_examples": None, "edited_columns": 3, "slope_norm": 1.0, "tokens": [token]}
    steering |= {"log_error_rms": 0.05, "others_before": 0.99, "others_after": 0.981, "kl_mean": 0.01, "js_mean": 0.003}
    shared = ("job_id", "model", "versions", "seed", "head", "corpus", "encoding", "fitted", "warnings")
    return {name: analysis[name] for name in shared} | {
        "kind": "steer",
        "baseline": {"perplexity": 200.0, "kind": "perplexity"},
        "steering": steering | {"perplexity_after": 201.0, "max_kl": None} | figures,
        "bytes": {"checkpoint_before": 5000, "checkpoint_after": 7000},
        "stored": {"perplexity": 201.0, "predicted_perplexity": 201.0, "max_logit_difference": 1e-5},
    }


def compress_report(drifts: dict[float, float] | None = None, chosen: float = 0.5, **parts: Any) -> CompressReport:
    """As make_report has it, but for `parts`."""
    return opened(CompressReport, make_report(drifts or {0.1: 0.0001, 0.5: 0.004}, chosen) | parts)


def compare_report(**parts: Any) -> CompareReport:
    return opened(CompareReport, make_comparison(**parts))


def steer_report(**figures: Any) -> SteerReport:
    return opened(SteerReport, make_steering(**figures))


def measured(document: dict[str, Any]) -> CompressReport:
    """What a compress engine found, read from what is stored of it."""
    return opened(CompressReport, document)


def as_stored(outcome: EngineOutcome) -> EngineOutcome:
    """With its reports as the JSON that is stored of them: what users read."""
    revisions = {path: as_document(report) for path, report in outcome.revisions.items()}
    return replace(outcome, report=as_document(outcome.report), revisions=revisions)


def opened(kind: type[ReportT], document: dict[str, Any]) -> ReportT:
    """The record of this kind."""
    report = open_report(document)
    assert isinstance(report, kind)
    return report


def figures_of(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a report that is measured, with where it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in NOT_MEASURED:
                yield from figures_of(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from figures_of(inner, f"{place}[{number}]")
    else:
        yield place, value


QUANTILES = (".kl_p95", ".kl_p99")


def assert_same_figures(one: dict[str, Any], other: dict[str, Any]) -> None:
    # Sums in another order differ in their last bits, and a drift is a small difference of two of them. A quantile of
    # KL is that of one or two positions, in float32: nothing averages its last bits out.
    found, expected = dict(figures_of(one)), dict(figures_of(other))
    assert found.keys() == expected.keys()
    close = {
        place: pytest.approx(value, rel=1e-4, abs=5e-6 if place.endswith(QUANTILES) else 2e-6)
        if isinstance(value, float)
        else value
        for place, value in expected.items()
    }
    moved = {place: (found[place], expected[place]) for place, value in close.items() if found[place] != value}
    assert not moved, moved
