"""The page of a compress job's report: verdict, curve, planes, frontier, bytes, times, the plan of a roll-out."""

from dataclasses import dataclass

from headroom.contract.head_forms import NAMES, reading_of
from headroom.contract.report.frontier import PlanesOfReport
from headroom.contract.report.report import CompareReport, CompressReport
from headroom.contract.report.rollout import Rollout
from service.reports.encoding_page import encoding_parts
from service.reports.frontier_page import frontier_figure, frontier_words, in_planes, searched_heads
from service.reports.page_parts import Page, TextRow, TextTable, bounds, facts, number, percent, step_times
from service.reports.refusals import is_not_worth_it, refusals
from service.reports.report_figures import Figure, bytes_figure, drift_figure, perplexity_figure


@dataclass(frozen=True)
class VerdictWords:
    """How the job ended."""

    words: str
    is_bad: bool
    told: str  # what was done to the head, and how far predictions moved
    hint: str
    reasons: list[str]


@dataclass(frozen=True)
class SearchWords:
    """What a search compared."""

    compared: str
    heads: TextTable


def compression_page(report: CompressReport) -> Page:
    encoding, plots = encoding_parts(report)
    figures: dict[str, Figure] = {"drift": drift_figure(report), "perplexity": perplexity_figure(report)} | plots
    frontier = None
    if report.frontier is not None:
        figures["frontier"] = frontier_figure(report, report.frontier)
        frontier = SearchWords(frontier_words(report.frontier), searched_heads(report, report.frontier))
    sizes = bytes_figure(report)
    if sizes is not None:
        figures["bytes"] = sizes
    times = ("a step of decoding", "before, ms", "after, ms", "after over before")
    spared = [] if is_not_worth_it(report) else [*([report.worth.sentence] if report.worth else []), report.advice]
    parts = {
        "verdict": _verdict(report),
        "curve": _curve(report),
        "by_frequency": bands(report),
        "planes": _planes(report.planes) if report.planes else None,
        "frontier": frontier,
        "has_bytes": sizes is not None,
        "times": TextTable.of(times, step_times(report.time)) if report.time else None,
        "advice": spared,
        "stages": _stages(report.rollout) if report.rollout else None,
        "encoding": encoding,
        "facts": facts(report),
    }
    return Page("compress.html", parts, figures)


def bands(report: CompressReport | CompareReport) -> TextTable:
    """Figures by frequency of the token: columns that go hurt rare tokens first."""
    head = ("tokens", "positions", "drift", "KL, nats", "same top token")
    rows = [
        (
            band.band,
            f"{band.positions:,}",
            percent(band.perplexity_drift),
            number(band.kl_mean, ".3g"),
            number(band.top1_agreement, ".2%"),
        )
        for band in report.bands
    ]
    return TextTable.of(head, rows)


def _verdict(report: CompressReport) -> VerdictWords:
    selected = report.selected
    passes, spared = selected.passes, is_not_worth_it(report)
    drift = (
        f"{report.baseline.kind} {percent(selected.perplexity_drift)} (95 % interval "
        f"{percent(selected.perplexity_drift_low)} to {percent(selected.perplexity_drift_high)}), "
        f"KL {number(selected.kl_mean, '.3g')} nats a token, the same most probable token at "
        f"{selected.top1_agreement:.2%} of positions; {bounds(report.budget)}"
    )
    best = report.largest_passing_ratio
    return VerdictWords(
        words="Not worth storing" if spared else "Inside the budget" if passes else "Refused",
        is_bad=spared or not passes,
        told=f"{_changed(report)}: {drift}",
        hint=f" The largest ratio that passes is {best:.4g}." if best is not None and not passes else "",
        reasons=refusals(report),
    )


def _changed(report: CompressReport) -> str:
    """What was done to the head, or would have been: of a job that stored nothing."""
    is_stored = report.selected.passes and not is_not_worth_it(report)
    if report.head_dtype == "planes" and report.planes is not None:
        if is_stored:
            return f"The head {in_planes(report.planes).removesuffix('.')}"
        return f"With the head in bit planes, {report.planes.whole_columns:,} columns of them whole"
    removed = 1 - report.selected.kept_columns / report.head.hidden_size
    columns = f"{removed:.1%} of the head's columns removed" if removed else "all of the head's columns kept"
    if report.head_dtype != "source":
        width = NAMES[report.head_dtype].removesuffix(" bits")
        columns += f", {'the others ' if removed else ''}as {width}-bit integers"
    return columns[0].upper() + columns[1:] if is_stored else f"With {columns}"


def _planes(planes: PlanesOfReport) -> TextTable:
    """The head in bit planes as it may be read."""
    head = ("read as", "read", "stored", "drift", "at most (95 %)", "KL, nats", "same top token")
    rows = [
        TextRow(
            (
                reading_of(one.bits, one.rescored),
                f"{one.share:.3f}",
                f"{one.stored_share:.3f}",
                percent(one.perplexity_drift),
                percent(one.perplexity_drift_high),
                number(one.kl_mean, ".3g"),
                f"{one.top1_agreement:.2%}",
            ),
            chosen=(one.bits, one.rescored) == (planes.bits, planes.rescored),
        )
        for one in planes.curve
    ]
    return TextTable(head, rows)


def _curve(report: CompressReport) -> TextTable:
    head = ("ratio", "kept columns", "perplexity", "drift", "at most (95 %)", "KL, nats", "same top token")
    rows = [
        TextRow(
            (
                f"{point.ratio:.3f}",
                f"{point.kept_columns:,}",
                number(point.perplexity, ",.2f"),
                percent(point.perplexity_drift),
                percent(point.perplexity_drift_high),
                number(point.kl_mean, ".3g"),
                f"{point.top1_agreement:.2%}",
            ),
            chosen=point.kept_columns == report.selected.kept_columns,
        )
        for point in report.curve
    ]
    return TextTable(head, rows)


def _stages(plan: Rollout) -> TextTable:
    head = ("stage", "traffic", "kept columns", "drift to expect", "stop if KL is above", "or the same top token below")
    rows = [
        (
            str(index),
            f"{stage.traffic:.0%}",
            f"{stage.kept_columns:,}",
            percent(stage.perplexity_drift),
            f"{stage.stop_above_kl:.2g}",
            f"{stage.stop_below_agreement:.2%}",
        )
        for index, stage in enumerate(plan.stages, start=1)
    ]
    return TextTable.of(head, rows)
