"""A staged roll-out computed from a drift curve, and what to check before signing off. Measures nothing.

Stages go from the mildest size that is worth serving to the chosen one. The curve tells what each stage should show;
the alarm of a stage is what the drift monitor may measure before the stage has failed.
"""

import math
from typing import Any

from service.reports.refusals import is_not_worth_it

TRAFFIC = (0.01, 0.1, 0.5, 1.0)
# Share of the drift budget that the stages before the last may use, by the upper end of the interval.
BUDGET_SHARE = (0.1, 0.5)
SAMPLED_POSITIONS = 10_000
ALARM_FACTOR = 2.0  # mean KL over this many times the predicted one is more than another text explains
SMALLEST_ALARM = 1e-4  # nats; below it rounding is all there is to see


def roll_out(report: dict[str, Any], *, can_widen: bool) -> dict[str, Any] | None:
    """`{"stages", "sampled_positions", "sampling", "back", "checklist"}` of a passing compress report, else None.

    can_widen: whether the stored head holds the columns that it does not read. Each stage: the size, the share of
    traffic, the drift to expect, and the KL and top-1 agreement that stop it.
    """
    selected = report["selected"]
    if not selected.get("passes") or is_not_worth_it(report):
        return None
    points = [*_points_before(report, selected), selected]
    # The last size meets all of the traffic in steps; the ones before it meet a small share.
    steps = [*zip(points, TRAFFIC, strict=False)]
    steps += [(selected, share) for share in TRAFFIC[len(steps) :]]
    if steps[-1][1] < 1.0:
        steps.append((selected, 1.0))
    return {
        "stages": [_stage(point, share) for point, share in steps],
        "sampled_positions": SAMPLED_POSITIONS,
        "sampling": _sampling(report, can_widen),
        "back": _way_back(report, can_widen),
        "checklist": _checklist(report, selected),
    }


def _points_before(report: dict[str, Any], selected: dict[str, Any]) -> list[dict[str, Any]]:
    """For each share of the bounds the most that stays inside them, mildest first, each size once."""
    budget = report["budget"]
    bounds = [("perplexity_drift_high", budget["perplexity"]), ("kl_mean", budget.get("kl"))]
    found: list[dict[str, Any]] = []
    for share in BUDGET_SHARE:
        inside = [
            point
            for point in report["curve"]
            if point["kept_columns"] > selected["kept_columns"]
            and all(
                bound is None or (point[figure] is not None and point[figure] <= share * bound)
                for figure, bound in bounds
            )
        ]
        best = min(inside, key=lambda point: point["kept_columns"], default=None)
        if best is not None and best not in found:
            found.append(best)
    return found


def _stage(point: dict[str, Any], share: float) -> dict[str, Any]:
    agreement = point["top1_agreement"]
    noise = 3 * math.sqrt(agreement * (1 - agreement) / SAMPLED_POSITIONS)
    return {
        "traffic": share,
        "ratio": point["ratio"],
        "kept_columns": point["kept_columns"],
        "perplexity_drift": point["perplexity_drift"],
        "perplexity_drift_high": point["perplexity_drift_high"],
        "kl_mean": point["kl_mean"],
        "top1_agreement": agreement,
        "stop_above_kl": max(ALARM_FACTOR * point["kl_mean"], SMALLEST_ALARM),
        "stop_below_agreement": 1 - ALARM_FACTOR * (1 - agreement) - noise,
    }


def _sampling(report: dict[str, Any], can_widen: bool) -> str:
    """How to see what the figures of a stage are, while it serves."""
    if report.get("head_dtype", "source") != "source":
        return (
            "headroom.monitor cannot watch a head of integers: send a sample of the traffic to both models and compare."
        )
    if (report.get("refinement") or {}).get("helped"):
        return "headroom.monitor cannot watch a refined head: send a sample of the traffic to both models and compare."
    if can_widen:
        return "headroom.monitor(model) samples them."
    return "headroom.monitor(model, full_weight=...) samples them, with the original lm_head.weight."


def _way_back(report: dict[str, Any], can_widen: bool) -> list[str]:
    raised = (
        "Raise the kept columns of the running model: headroom.set_kept_columns(model, k), up to "
        f"{report['head']['hidden_size']:,} without loading anything."
        if can_widen
        else "This head holds the kept columns only: a wider one has to be loaded in its place."
    )
    source = report["model"]["id"] + (f" at {report['model']['revision']}" if report["model"]["revision"] else "")
    return [raised, f"Serve {source} again: it was not changed."]


def _checklist(report: dict[str, Any], selected: dict[str, Any]) -> list[dict[str, Any]]:
    """`ok` is True or False where the report decides it, None where a person has to."""
    corpus, stored = report["corpus"], report.get("stored") or {}
    budget = report["budget"]
    measured, allowed = stored.get("perplexity_drift_high", selected["perplexity_drift_high"]), budget["perplexity"]
    return [
        _item(
            "The drift of the stored checkpoint is inside the budget",
            allowed is None or (measured is not None and measured <= allowed),
            f"at most {_percent(measured)} of perplexity"
            + (f", {_percent(allowed)} allowed" if allowed is not None else ""),
        ),
        _item(
            "The stored checkpoint gives what was measured before it was stored",
            bool(stored) or None,
            f"perplexity {stored['perplexity']:.6g}, predicted {stored['predicted_perplexity']:.6g}" if stored else "",
        ),
        _item(
            "The interval rests on enough text",
            corpus["evaluation_windows"] >= 8,
            f"{corpus['evaluation_windows']:,} windows, {corpus['evaluation_tokens']:,} tokens",
        ),
        _item(
            "The predictions moved little, not only the perplexity",
            selected["kl_mean"] <= (budget.get("kl") or 0.02),
            f"KL {selected['kl_mean']:.3g} nats a token, the same most probable token at "
            f"{selected['top1_agreement']:.1%} of positions",
        ),
        _item("The evaluation text is like what the model will be used on", None, "yours to judge"),
        _item("A plain 8-bit head was considered", None, report.get("advice", "")),
        _item("The hashes of the downloaded files were verified", None, "`headroom download` does it"),
    ]


def _item(text: str, ok: bool | None, evidence: str) -> dict[str, Any]:
    return {"text": text, "ok": ok, "evidence": evidence}


def _percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{fraction:+.3%}"
