"""A staged roll-out computed from a drift curve, and what to check before signing off. Measures nothing.

Stages go from the mildest size that is worth serving to the chosen one. The curve tells what each stage should show;
the alarm of a stage is what the drift monitor may measure before the stage has failed.
"""

import math

from headroom.contract.report.curve import CurvePoint
from headroom.contract.report.part import Measured
from headroom.contract.report.report import CompressReport
from headroom.contract.report.rollout import ChecklistItem, Rollout, Stage
from service.reports.page_parts import number
from service.reports.refusals import is_not_worth_it

TRAFFIC = (0.01, 0.1, 0.5, 1.0)
# Share of the drift budget that the stages before the last may use, by the upper end of the interval.
BUDGET_SHARE = (0.1, 0.5)
SAMPLED_POSITIONS = 10_000
ALARM_FACTOR = 2.0  # mean KL over this many times the predicted one is more than another text explains
SMALLEST_ALARM = 1e-4  # nats; below it rounding is all there is to see


def roll_out(report: CompressReport, *, can_widen: bool) -> Rollout | None:
    """The plan for a report whose job passed, else None.

    can_widen: whether the stored head holds the columns that it does not read. Each stage: the size, the share of
    traffic, the drift to expect, and the KL and top-1 agreement that stop it.
    """
    selected = report.selected
    if not selected.passes or is_not_worth_it(report):
        return None
    points: list[CurvePoint] = [*_points_before(report), selected]
    # The last size meets all of the traffic in steps; the ones before it meet a small share.
    steps = [*zip(points, TRAFFIC, strict=False)]
    steps += [(selected, share) for share in TRAFFIC[len(steps) :]]
    if steps[-1][1] < 1.0:
        steps.append((selected, 1.0))
    return Rollout(
        stages=tuple(_stage(point, share) for point, share in steps),
        sampled_positions=SAMPLED_POSITIONS,
        sampling=_sampling(report, can_widen),
        back=_way_back(report, can_widen),
        checklist=_checklist(report),
    )


def _points_before(report: CompressReport) -> list[CurvePoint]:
    """For each share of the bounds the most that stays inside them, mildest first, each size once."""
    budget = report.budget
    found: list[CurvePoint] = []
    for share in BUDGET_SHARE:
        inside = [
            point
            for point in report.curve
            if point.kept_columns > report.selected.kept_columns
            and _is_within(point.perplexity_drift_high, budget.perplexity, share)
            and _is_within(point.kl_mean, budget.kl, share)
        ]
        best = min(inside, key=lambda point: point.kept_columns, default=None)
        if best is not None and best not in found:
            found.append(best)
    return found


def _is_within(figure: Measured, bound: float | None, share: float) -> bool:
    return bound is None or (figure is not None and figure <= share * bound)


def _stage(point: CurvePoint, share: float) -> Stage:
    agreement, kl = point.top1_agreement, point.kl_mean
    noise = 3 * math.sqrt(agreement * (1 - agreement) / SAMPLED_POSITIONS)
    return Stage(
        traffic=share,
        ratio=point.ratio,
        kept_columns=point.kept_columns,
        perplexity_drift=point.perplexity_drift,
        perplexity_drift_high=point.perplexity_drift_high,
        kl_mean=kl,
        top1_agreement=agreement,
        stop_above_kl=max(ALARM_FACTOR * (kl or 0.0), SMALLEST_ALARM),
        stop_below_agreement=1 - ALARM_FACTOR * (1 - agreement) - noise,
    )


def _sampling(report: CompressReport, can_widen: bool) -> str:
    """How to see what the figures of a stage are, while it serves."""
    if report.head_dtype != "source":
        return (
            "headroom.monitor cannot watch a head of integers: send a sample of the traffic to both models and compare."
        )
    if report.refinement is not None and report.refinement.helped:
        return "headroom.monitor cannot watch a refined head: send a sample of the traffic to both models and compare."
    if can_widen:
        return "headroom.monitor(model) samples them."
    return "headroom.monitor(model, full_weight=...) samples them, with the original lm_head.weight."


def _way_back(report: CompressReport, can_widen: bool) -> tuple[str, ...]:
    raised = (
        "Raise the kept columns of the running model: headroom.set_kept_columns(model, k), up to "
        f"{report.head.hidden_size:,} without loading anything."
        if can_widen
        else "This head holds the kept columns only: a wider one has to be loaded in its place."
    )
    source = report.model.id + (f" at {report.model.revision}" if report.model.revision else "")
    return raised, f"Serve {source} again: it was not changed."


def _checklist(report: CompressReport) -> tuple[ChecklistItem, ...]:
    """`ok` is True or False where the report decides it, None where a person has to."""
    corpus, stored, selected = report.corpus, report.stored, report.selected
    measured = (stored or selected).perplexity_drift_high
    allowed, kl = report.budget.perplexity, selected.kl_mean
    return (
        _item(
            "The drift of the stored checkpoint is inside the budget",
            allowed is None or (measured is not None and measured <= allowed),
            f"at most {_percent(measured)} of perplexity"
            + (f", {_percent(allowed)} allowed" if allowed is not None else ""),
        ),
        _item(
            "The stored checkpoint gives what was measured before it was stored",
            True if stored else None,
            f"perplexity {number(stored.perplexity, '.6g')}, predicted {number(stored.predicted_perplexity, '.6g')}"
            if stored
            else "",
        ),
        _item(
            "The interval rests on enough text",
            corpus.evaluation_windows >= 8,
            f"{corpus.evaluation_windows:,} windows, {corpus.evaluation_tokens:,} tokens",
        ),
        _item(
            "The predictions moved little, not only the perplexity",
            kl is not None and kl <= (report.budget.kl or 0.02),
            f"KL {number(kl, '.3g')} nats a token, the same most probable token at "
            f"{selected.top1_agreement:.1%} of positions",
        ),
        _item("The evaluation text is like what the model will be used on", None, "yours to judge"),
        _item("A plain 8-bit head was considered", None, report.advice),
        _item("The hashes of the downloaded files were verified", None, "`headroom download` does it"),
    )


def _item(text: str, ok: bool | None, evidence: str) -> ChecklistItem:
    return ChecklistItem(text=text, ok=ok, evidence=evidence)


def _percent(fraction: Measured) -> str:
    return "not measured" if fraction is None else f"{fraction:+.3%}"
