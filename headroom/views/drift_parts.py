"""Drift of parts of the evaluation text, as tables: which tokens moved, and how far."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.contract.report.drift_parts import PartFigures
from headroom.contract.report.report import CompareReport, CompressReport
from headroom.views.figures import drift_percent, hundredfold, number, printable
from headroom.views.rendering import figures_table


def bands_view(report: CompressReport | CompareReport) -> RenderableType:
    """Frequent and rare tokens apart; nothing where the report has no bands."""
    if not report.bands:
        return Group()
    caption = Text.assemble(("Drift by token frequency", "bold"), _of(report))
    return Group(caption, _parts_table("tokens", ((band.band, band) for band in report.bands)))


def groups_view(report: CompressReport | CompareReport) -> RenderableType:
    """Each group of texts, and how far the two furthest lie apart; nothing where the job had none."""
    gap = report.group_gap if isinstance(report, CompressReport) else None
    if not report.groups:
        return Group()
    caption = Text.assemble(("Drift by group", "bold"), _of(report))
    if gap:
        between = f"{printable(gap.most)} and {printable(gap.least)}"
        low, high = drift_percent(gap.low), drift_percent(gap.high)
        caption.append(f"; widest gap {drift_percent(gap.gap)} points ({low} … {high}), between {between}")
    return Group(caption, _parts_table("group", ((group.group, group) for group in report.groups)))


def revisions_view(report: CompressReport) -> RenderableType:
    """Further points that were stored beside the chosen one; nothing where there are none."""
    if not report.revisions:
        return Group()
    table = figures_table()
    table.add_column("revision", no_wrap=True)
    for name in ("kept", "drift, %", "95 % interval", "KL, nats", "top-1, %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in report.revisions:
        table.add_row(
            Text(printable(point.name)),
            f"{point.kept_columns:,}",
            drift_percent(point.perplexity_drift),
            f"{drift_percent(point.perplexity_drift_low)} … {drift_percent(point.perplexity_drift_high)}",
            number(point.kl_mean, ".5f"),
            number(hundredfold(point.top1_agreement), ".2f"),
            Text("passes", "green") if point.passes else Text("over", "bold red"),
        )
    return Group(Text("Further revisions, as stored", "bold"), table)


def corpora_view(report: CompressReport) -> RenderableType:
    """Each corpus with its budget and verdict; nothing where the job had but one."""
    if len(report.corpora) < 2:
        return Group()
    table = figures_table()
    table.add_column("corpus", no_wrap=True)
    for name in ("tokens", "before", "drift, %", "95 % interval", "allowed, %", "KL, nats", "top-1, %", "unseen, %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in report.corpora:
        point, stored = one.selected, one.stored or one.selected
        table.add_row(
            Text(printable(one.name)),
            f"{one.evaluation_tokens:,}",
            number(one.baseline.perplexity, ",.2f"),
            drift_percent(stored.perplexity_drift),
            f"{drift_percent(stored.perplexity_drift_low)} … {drift_percent(stored.perplexity_drift_high)}",
            drift_percent(one.budget.perplexity),
            number(point.kl_mean, ".5f"),
            number(hundredfold(point.top1_agreement), ".2f"),
            number(hundredfold(one.outside_share), ".1f"),
            Text("passes", "green") if point.passes else Text("over", "bold red"),
        )
    caption = Text.assemble(
        ("Drift by corpus", "bold"), "; unseen: variance of hidden states outside the calibration's main directions"
    )
    return Group(caption, table)


def _of(report: CompressReport | CompareReport) -> str:
    return " of the selected size" if isinstance(report, CompressReport) else ", B against A"


def _parts_table(heading: str, parts: Iterable[tuple[str, PartFigures]]) -> Table:
    table = figures_table()
    table.add_column(heading, no_wrap=True)
    for name in ("positions", "drift, %", "95 % interval", "KL, nats", "p99", "top-1, %", "top-5, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, part in parts:
        table.add_row(
            Text(printable(name)),
            f"{part.positions:,}",
            drift_percent(part.perplexity_drift),
            f"{drift_percent(part.perplexity_drift_low)} … {drift_percent(part.perplexity_drift_high)}",
            number(part.kl_mean, ".5f"),
            number(part.kl_p99, ".5f"),
            number(hundredfold(part.top1_agreement), ".2f"),
            number(hundredfold(part.top5_overlap), ".2f"),
        )
    return table
