"""A report as one self-contained HTML page: tables and words from the report, plots by plotly's own script."""

from headroom.contract.report.report import AnalyzeReport, CompareReport, CompressReport, Report, SteerReport
from service.reports.compression_page import bands, compression_page
from service.reports.encoding_page import analysis_page, dynamics_page
from service.reports.page_parts import Page, TextTable, bounds, number, percent, written
from service.reports.report_figures import Figure
from service.reports.steering_card import steering_page

PAGE_NAME = "report.html"


def write_page(report: Report) -> str:
    """The page of a report of any kind."""
    return written(_page(report), report)


def figures_of(report: Report) -> dict[str, Figure]:
    """The plots of the page alone, by name, for those who draw them elsewhere."""
    return _page(report).figures


def _page(report: Report) -> Page:
    if isinstance(report, CompressReport):
        return compression_page(report)
    if isinstance(report, AnalyzeReport):
        return analysis_page(report)
    if isinstance(report, SteerReport):
        return steering_page(report)
    if isinstance(report, CompareReport):
        return _comparison(report)
    return dynamics_page(report)


def _comparison(report: CompareReport) -> Page:
    perplexity, whole = report.baseline.kind, report.bands[0]
    sides = (
        ("A", report.model, report.baseline.perplexity),
        ("B", report.other, report.perplexity_after),
    )
    rows = [
        (
            letter,
            side.id,
            number(value, ",.4f"),
            f"{side.head_bytes:,}",
            f"{side.checkpoint_bytes:,}",
            number(side.seconds_per_token, ".4g"),
        )
        for letter, side, value in sides
    ]
    words = {True: "Inside the budget", False: "Over the budget", None: "Measured, no budget"}[report.passes]
    allowed = "" if report.budget is None else f"; {bounds(report.budget)}"
    drift = (
        f"{perplexity} of B {percent(whole.perplexity_drift)} against A (95 % interval "
        f"{percent(whole.perplexity_drift_low)} to {percent(whole.perplexity_drift_high)}){allowed}"
    )
    head = ("", "model", perplexity, "head, bytes", "checkpoint, bytes", "seconds a token")
    parts = {"verdict": words, "drift": drift, "sides": TextTable.of(head, rows), "by_frequency": bands(report)}
    return Page("compare.html", parts)
