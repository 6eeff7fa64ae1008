"""Why a drift gate refused, in sentences, read from the report. Judges and measures nothing."""

from dataclasses import dataclass
from typing import Self

from headroom.contract.compress import CALIBRATED
from headroom.contract.report.curve import AllowedDrift, CurvePoint, StoredDriftFigures
from headroom.contract.report.drift_parts import BandDrift
from headroom.contract.report.part import Measured
from headroom.contract.report.report import CompareReport, CompressReport, Report, SteerReport


def refusals(report: Report) -> list[str]:
    """One sentence for each budget that was exceeded, or of what storing would have saved; empty when all is well."""
    if isinstance(report, CompressReport):
        return _of_compression(report)
    if isinstance(report, CompareReport):
        return _of_comparison(report)
    return _of_steering(report) if isinstance(report, SteerReport) else []


def is_not_worth_it(report: CompressReport) -> bool:
    """Whether the job stored nothing because it would have saved next to nothing."""
    worth = report.worth
    return worth is not None and worth.decides and not worth.worth_it


def rejected_for(report: CompressReport) -> str | None:
    """`over_budget`, `not_worth_it`, or None."""
    if is_not_worth_it(report):
        return "not_worth_it"
    return "over_budget" if refusals(report) else None


@dataclass(frozen=True)
class _Growth:
    """Of a perplexity."""

    estimate: Measured
    high: Measured  # upper end of the interval: what a budget bounds


@dataclass(frozen=True)
class _Moved:
    """The figures that budgets bound."""

    perplexity: _Growth
    kl: Measured
    top1: Measured
    rare_perplexity: _Growth

    @classmethod
    def of_size(cls, point: CurvePoint, stored: StoredDriftFigures | None) -> Self:
        """Figures as stored where that was measured; a report from before that has no more than perplexity there."""
        rare = _Growth(point.rare_perplexity_drift, point.rare_perplexity_drift_high)
        if stored is None:
            whole = _Growth(point.perplexity_drift, point.perplexity_drift_high)
            return cls(whole, point.kl_mean, point.top1_agreement, rare)
        if stored.rare_perplexity_drift_high is not None:
            rare = _Growth(stored.rare_perplexity_drift, stored.rare_perplexity_drift_high)
        return cls(
            _Growth(stored.perplexity_drift, stored.perplexity_drift_high),
            point.kl_mean if stored.kl_mean is None else stored.kl_mean,
            point.top1_agreement if stored.top1_agreement is None else stored.top1_agreement,
            rare,
        )

    @classmethod
    def of_bands(cls, bands: tuple[BandDrift, ...]) -> Self:
        whole, rare = bands[0], bands[-1]
        growths = (_Growth(band.perplexity_drift, band.perplexity_drift_high) for band in (whole, rare))
        return cls(next(growths), whole.kl_mean, whole.top1_agreement, next(growths))


def _of_compression(report: CompressReport) -> list[str]:
    if report.worth is not None and is_not_worth_it(report):
        return [report.worth.sentence]
    if report.selected.passes:
        return []
    name, found = report.baseline.kind, []
    for one in report.corpora:
        where = "" if one.name == CALIBRATED else f" on {one.name}"
        found += _over(_Moved.of_size(one.selected, one.stored), one.budget, name, where)
    if not report.corpora:  # of earlier days
        found += _over(_Moved.of_size(report.selected, None), report.budget, name, "")
    found += _over_bytes(report)
    gap, allowed = report.group_gap, report.budget.group_gap
    if gap is not None and allowed is not None and (gap.high is None or gap.high > allowed):
        found.append(
            f"The drift of {gap.most} and {gap.least} may lie {_percent(gap.high)} apart; the budget "
            f"for groups is {_percent(allowed)}."
        )
    return found


def _over_bytes(report: CompressReport) -> list[str]:
    """Where heads stayed inside the drift budgets, but none of them inside a budget of bytes."""
    nearest = report.frontier.nearest if report.frontier else None
    if report.frontier is None or nearest is None or not nearest.passes:
        return []
    asked = report.frontier.budget
    sides = (("reads", asked.read, nearest.share), ("stores", asked.stored_bytes, nearest.stored_share))
    return [
        f"The head {does} {share:.2g} of its bytes; the budget is {allowed:.3g}."
        for does, allowed, share in sides
        if allowed is not None and share is not None and share > allowed
    ]


def _of_comparison(report: CompareReport) -> list[str]:
    if report.budget is None or report.passes:
        return []
    return _over(_Moved.of_bands(report.bands), report.budget, report.baseline.kind, "")


def _of_steering(report: SteerReport) -> list[str]:
    kl, allowed = report.steering.kl_mean, report.steering.max_kl
    return [_over_kl("", kl, allowed)] if allowed is not None and (kl is None or kl > allowed) else []


def _over(moved: _Moved, budget: AllowedDrift, name: str, where: str) -> list[str]:
    """One sentence for each bound that the figures exceed, or that could not be measured."""
    found = []
    if budget.perplexity is not None:
        found += _over_perplexity(name + where, moved.perplexity, budget.perplexity)
    if budget.kl is not None and (moved.kl is None or moved.kl > budget.kl):
        found.append(_over_kl(where, moved.kl, budget.kl))
    if budget.top1 is not None and (moved.top1 is None or moved.top1 < budget.top1):
        same = "not known" if moved.top1 is None else f"{moved.top1:.2%}"
        found.append(
            f"The most probable token stays the same at {same} of positions{where}; the budget is {budget.top1:.2%}."
        )
    if budget.rare_perplexity is not None:
        found += _over_perplexity(f"{name} of the rarest tokens{where}", moved.rare_perplexity, budget.rare_perplexity)
    return found


def _over_perplexity(name: str, growth: _Growth, allowed: float) -> list[str]:
    if growth.high is None:
        return [f"The drift of {name} is no finite number; the budget is {_percent(allowed)}."]
    if growth.high <= allowed:
        return []
    way_out = ""
    if growth.estimate is not None and growth.estimate < allowed:
        way_out = f" (the estimate, {_percent(growth.estimate)}, is inside it: more tokens narrow the interval)"
    return [
        f"The {name} may grow by {_percent(growth.high)} (upper end of the 95 % interval); "
        f"the budget is {_percent(allowed)}{way_out}."
    ]


def _over_kl(where: str, kl: Measured, allowed: float) -> str:
    found = "no finite number" if kl is None else f"{kl:.3g} nats a token"
    return f"The KL divergence{where} is {found}; the budget is {allowed:g}."


def _percent(fraction: Measured) -> str:
    return "unknown" if fraction is None else f"{100 * fraction:.3g} %"
