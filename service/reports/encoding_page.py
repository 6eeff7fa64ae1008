"""The parts of report.html about how the head encodes token probability, alone and over training."""

from collections.abc import Sequence
from html import escape

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
from service.reports.page_parts import how_measured, number, plot, remarks, table
from service.reports.report_figures import Figure

LARGEST = 8  # columns and components that a table names


def analysis_page(report: AnalyzeReport) -> tuple[list[str], dict[str, Figure]]:
    encoding, figures = encoding_sections(report)
    return [remarks(report), *encoding, *how_measured(report)], figures


def dynamics_page(report: DynamicsReport) -> tuple[list[str], dict[str, Figure]]:
    rows, first, tokens = report.checkpoints, report.readable, report.frequency_tokens
    named = checkpoint_name(rows[first.checkpoint].model)
    share = first.loss_fallen
    fallen = "" if share is None else f", when {share:.0%} of the fall of the loss was done"
    head = ("checkpoint", "loss", "frequency: Spearman", "R²", "R², held-out rows", "probability: Spearman", "R²")
    cells = [
        (
            index == first.checkpoint,
            [
                escape(checkpoint_name(row.model)),
                number(row.loss, ".3f"),
                number(row.frequency.spearman, ".3f"),
                number(row.frequency.r2, ".3f"),
                number(row.frequency.r2_held_out, ".3f"),
                number(row.probability.spearman, ".3f"),
                number(row.probability.r2, ".3f"),
            ],
        )
        for index, row in enumerate(rows)
    ]
    sections = [
        remarks(report),
        "<h2>Token frequency in the head, over training</h2>",
        f"<p>Regression of -log frequency in the corpus ({tokens.positions:,} tokens, {tokens.distinct:,} "
        "different ones) on the rows of each checkpoint's output head. "
        f"{escape(named)} is the first to reach {first.share:.0%} of the last Spearman{fallen}.</p>",
        plot("dynamics", "Spearman and R² of frequency on the head, and the loss, at every checkpoint."),
        table(head, cells),
        *how_measured(report),
    ]
    return sections, {"dynamics": dynamics_figure(rows)}


def encoding_sections(report: EncodingReport) -> tuple[list[str], dict[str, Figure]]:
    """With the parts that only the report of an analysis has, where they are there."""
    encoding = report.encoding
    told = {
        "R²": encoding.r2,
        "R², adjusted": encoding.r2_adjusted,
        "R², held-out rows": encoding.r2_held_out,
        "Spearman, fitted against true": encoding.spearman,
        "cosine of the slope with -mean(h)": encoding.slope_cosine_mean_hidden,
    }
    rows = [(False, [escape(name), number(value, ".4f")]) for name, value in told.items()]
    figures = {"slopes": slopes_figure(encoding)}
    fitted = []
    if report.fitted is not None:  # reports of earlier days have none
        figures["fitted"] = fitted_figure(report.fitted)
        fitted = [plot("fitted", "Fitted against true -log averaged probability of a sample of tokens.")]
    sections = [
        "<h2>How token probability is encoded</h2>",
        "<p>Regression of -log averaged token probability on the rows of the output head.</p>",
        table(("figure", "value"), rows),
        plot("slopes", "Sorted magnitudes of the slopes, and the R² that the largest reach together."),
        f"<p>{_needed(encoding, 'columns')}</p>",
        *fitted,
    ]
    if isinstance(report, AnalyzeReport):
        figures["components"] = components_figure(report.components)
        sections += _analysis_sections(report)
    return sections, figures


def _analysis_sections(report: AnalyzeReport) -> list[str]:
    """Columns and principal components that carry the most, and what a few tokens of text tell already."""
    components = report.components
    sections = [
        _largest("column", report.columns),
        "<h2>Principal components of the head</h2>",
        plot("components", "The same of principal components, with the share of the variance that each explains."),
        f"<p>{_needed(components, 'components')}</p>",
        _largest("component", components, components.explained_variance),
    ]
    if report.few_examples:
        head = ("tokens of text", "R²", "Spearman", "cosine with the slope of all")
        cells = [
            (
                False,
                [
                    f"{fit.tokens:,}",
                    number(fit.r2, ".4f"),
                    number(fit.spearman, ".4f"),
                    number(fit.slope_cosine, ".4f"),
                ],
            )
            for fit in report.few_examples
        ]
        sections += ["<h2>From a few tokens of text</h2>", table(head, cells)]
    return sections


def _largest(what: str, found: ColumnFigures, variance: Sequence[Measured] = ()) -> str:
    """A table of those with the largest standardised slopes, numbered from 0."""
    slopes = found.standardised_slopes
    head = [what, "standardised slope", "Spearman"] + (["share of the variance"] if variance else [])
    rows = []
    for index in sorted(range(len(slopes)), key=lambda index: -abs(slopes[index] or 0))[:LARGEST]:
        cells = [str(index), number(slopes[index], "+.3f"), number(found.spearman[index], "+.3f")]
        rows.append((False, cells + ([number(variance[index], ".2%")] if variance else [])))
    return table(head, rows)


def _needed(found: Sparsity, what: str) -> str:
    reached = ", ".join(f"{count:,} reach {float(share):.0%}" for share, count in found.columns_needed.items())
    return (
        f"Of the {what}, largest slope first: {reached} of the R² of all. Gini coefficient {number(found.gini, '.3f')}."
    )
