"""What a job that compresses measured, as terminal text: drift at every size, bytes, times. It asks no server."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.contract.answers.job import JobView
from headroom.contract.report.curve import CurvePoint, JudgedPoint
from headroom.contract.report.report import CompressReport
from headroom.contract.report.times import StepTime, TimesOfReport
from headroom.views.figures import drift_percent, hundredfold, number, percent, size
from headroom.views.rendering import figures_table, pairs


def drift_view(job: JobView, report: CompressReport) -> RenderableType:
    """The drift table of a report, with what it was measured on and what was allowed."""
    budget = job.told.get("drift") or {}
    tokens = report.corpus.evaluation_tokens
    before = f"{report.baseline.kind} {number(report.baseline.perplexity, ',.2f')} before"
    caption = Text.assemble(
        ("Drift", "bold"),
        f" on {tokens:,} evaluation tokens, method {report.method}, {before}; allowed {allowed(budget)}",
    )
    return Group(caption, _curve_table(job, report.curve, report.selected, budget))


def allowed(budget: Mapping[str, Any]) -> str:
    """Every bound of a budget, in words."""
    limits = []
    if budget.get("perplexity") is not None:
        limits.append(percent(budget["perplexity"]))
    if budget.get("kl") is not None:
        limits.append(f"KL {budget['kl']:g}")
    if budget.get("top1") is not None:
        limits.append(f"{budget['top1']:.2%} the same top token")
    if budget.get("rare_perplexity") is not None:
        limits.append(f"{percent(budget['rare_perplexity'])} on rare tokens")
    if budget.get("group_gap") is not None:
        limits.append(f"{percent(budget['group_gap'])} between groups")
    return " and ".join(limits) or "anything"


def _curve_table(job: JobView, curve: Sequence[CurvePoint], selected: JudgedPoint, budget: Mapping[str, Any]) -> Table:
    table = figures_table()
    table.add_column("")
    for name in ("ratio", "kept", "perplexity", "drift, %", "95 % interval", "KL, nats", "top-1, %"):
        table.add_column(name, justify="right", no_wrap=True)
    fallback = job.compressed.largest_passing_ratio if job.compressed and not job.compressed.passes else None
    points = sorted(curve, key=lambda point: point.ratio)
    low_width = max((len(drift_percent(point.perplexity_drift_low)) for point in points), default=0)
    high_width = max((len(drift_percent(point.perplexity_drift_high)) for point in points), default=0)
    for point in points:
        chosen = point.kept_columns == selected.kept_columns
        fits = selected.passes if chosen else _fits(point, budget)
        mark, style = _mark(chosen, fits, point.ratio == fallback)
        low, high = drift_percent(point.perplexity_drift_low), drift_percent(point.perplexity_drift_high)
        table.add_row(
            mark,
            f"{point.ratio:.2f}",
            f"{point.kept_columns:,}",
            number(point.perplexity, ",.2f"),
            drift_percent(point.perplexity_drift),
            f"{low:>{low_width}} … {high:>{high_width}}",
            number(point.kl_mean, ".5f"),
            number(hundredfold(point.top1_agreement), ".2f"),
            style=style,
        )
    return table


def _fits(point: CurvePoint, budget: Mapping[str, Any]) -> bool:
    """The gate's rule, for colours only: the upper end of the interval is inside."""
    least, same = budget.get("top1"), point.top1_agreement
    measured = (
        (point.perplexity_drift_high, budget.get("perplexity")),
        (point.kl_mean, budget.get("kl")),
        (point.rare_perplexity_drift_high, budget.get("rare_perplexity")),
    )
    kept = least is None or (same is not None and same >= least)
    return kept and all(limit is None or (value is not None and value <= limit) for value, limit in measured)


def _mark(chosen: bool, fits: bool, is_fallback: bool) -> tuple[str, str]:
    if chosen:
        return ("▶", "bold green") if fits else ("✗", "bold red")
    if is_fallback:
        return "✓", "green"
    return ("", "") if fits else ("", "dim")


def bytes_view(report: CompressReport) -> RenderableType:
    """Bytes and times before and after, as far as the report knows them: a rejected job has no checkpoint."""
    table = pairs()
    sizes = report.bytes
    for name, before, after in (
        ("Head, read", sizes.head_before, sizes.head_after),
        ("Head, stored", sizes.stored_before, sizes.stored_after),
        ("Read per token", sizes.decode_read_before, sizes.decode_read_after),
        ("Checkpoint", sizes.checkpoint_before, sizes.checkpoint_after),
    ):
        if before and after is not None:
            table.add_row(Text(name, "bold"), f"{size(before)} → {size(after)}", percent(after / before - 1))
    for label, step in _steps(report.time):
        if step.before and step.after:
            took = f"{number(1000 * step.before, '.3g')} → {number(1000 * step.after, '.3g')} ms"
            table.add_row(Text(label, "bold"), took, percent(step.after / step.before - 1))
    return table


def _steps(times: TimesOfReport | None) -> list[tuple[str, StepTime]]:
    """Times of decoding: of the head alone, and of the whole model where it was timed."""
    if times is None:
        return []
    found: list[tuple[str, StepTime]] = [(f"Head, batch {one.batch}", one) for one in times.head]
    return found + ([("Whole step", times.step)] if times.step else [])
