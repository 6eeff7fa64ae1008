"""What report.html says of how the head encodes token probability, alone and over training."""

from collections.abc import Sequence
from dataclasses import dataclass

from headroom.contract.report.encoding import ColumnFigures, Sparsity
from headroom.contract.report.part import Measured
from headroom.contract.report.report import AnalyzeReport, DynamicsReport, EncodingReport
from service.reports.encoding_figures import (
    checkpoint_name,
    components_figure,
    dynamics_figure,
    fitted_figure,
    slopes_figure,
)
from service.reports.page_parts import Page, TextRow, TextTable, facts, number
from service.reports.report_figures import Figure

LARGEST = 8  # columns and components that a table names


@dataclass(frozen=True)
class EncodingParts:
    """What the page of every report with an encoding shows of it."""

    figures: TextTable
    needed: str


def analysis_page(report: AnalyzeReport) -> Page:
    """Columns and principal components that carry the most, and what a few tokens of text tell already."""
    encoding, figures = encoding_parts(report)
    components = report.components
    few = [
        (f"{fit.tokens:,}", number(fit.r2, ".4f"), number(fit.spearman, ".4f"), number(fit.slope_cosine, ".4f"))
        for fit in report.few_examples
    ]
    parts = {
        "encoding": encoding,
        "columns": _largest("column", report.columns),
        "needed_components": _needed(components, "components"),
        "components": _largest("component", components, components.explained_variance),
        "few_examples": TextTable.of(("tokens of text", "R²", "Spearman", "cosine with the slope of all"), few),
        "facts": facts(report),
    }
    return Page("analyze.html", parts, figures | {"components": components_figure(components)})


def dynamics_page(report: DynamicsReport) -> Page:
    rows, first = report.checkpoints, report.readable
    share = first.loss_fallen
    fallen = "" if share is None else f", when {share:.0%} of the fall of the loss was done"
    head = ("checkpoint", "loss", "frequency: Spearman", "R²", "R², held-out rows", "probability: Spearman", "R²")
    cells = [
        TextRow(
            (
                checkpoint_name(row.model),
                number(row.loss, ".3f"),
                number(row.frequency.spearman, ".3f"),
                number(row.frequency.r2, ".3f"),
                number(row.frequency.r2_held_out, ".3f"),
                number(row.probability.spearman, ".3f"),
                number(row.probability.r2, ".3f"),
            ),
            chosen=index == first.checkpoint,
        )
        for index, row in enumerate(rows)
    ]
    named = checkpoint_name(rows[first.checkpoint].model)
    parts = {
        "first": f"{named} is the first to reach {first.share:.0%} of the last Spearman{fallen}.",
        "checkpoints": TextTable(head, cells),
        "facts": facts(report),
    }
    return Page("dynamics.html", parts, {"dynamics": dynamics_figure(rows)})


def encoding_parts(report: EncodingReport) -> tuple[EncodingParts, dict[str, Figure]]:
    """The parts with their plots; reports of earlier days have no fitted sample."""
    encoding = report.encoding
    told = {
        "R²": encoding.r2,
        "R², adjusted": encoding.r2_adjusted,
        "R², held-out rows": encoding.r2_held_out,
        "Spearman, fitted against true": encoding.spearman,
        "cosine of the slope with -mean(h)": encoding.slope_cosine_mean_hidden,
    }
    rows = [(name, number(value, ".4f")) for name, value in told.items()]
    figures = {"slopes": slopes_figure(encoding)}
    if report.fitted is not None:
        figures["fitted"] = fitted_figure(report.fitted)
    return EncodingParts(TextTable.of(("figure", "value"), rows), _needed(encoding, "columns")), figures


def _largest(what: str, found: ColumnFigures, variance: Sequence[Measured] = ()) -> TextTable:
    """A table of those with the largest standardised slopes, numbered from 0."""
    slopes = found.standardised_slopes
    head = [what, "standardised slope", "Spearman"] + (["share of the variance"] if variance else [])
    rows = []
    for index in sorted(range(len(slopes)), key=lambda index: -abs(slopes[index] or 0))[:LARGEST]:
        cells = [str(index), number(slopes[index], "+.3f"), number(found.spearman[index], "+.3f")]
        rows.append(cells + ([number(variance[index], ".2%")] if variance else []))
    return TextTable.of(head, rows)


def _needed(found: Sparsity, what: str) -> str:
    reached = ", ".join(f"{count:,} reach {float(share):.0%}" for share, count in found.columns_needed.items())
    return (
        f"Of the {what}, largest slope first: {reached} of the R² of all. Gini coefficient {number(found.gini, '.3f')}."
    )
