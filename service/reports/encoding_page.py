"""The parts of report.html about how the head encodes token probability, alone and over training."""

from html import escape
from typing import Any

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

ENCODING_FIGURES = {
    "R²": "r2",
    "R², adjusted": "r2_adjusted",
    "R², held-out rows": "r2_held_out",
    "Spearman, fitted against true": "spearman",
    "cosine of the slope with -mean(h)": "slope_cosine_mean_hidden",
}


def analysis_page(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    encoding, figures = encoding_sections(report)
    return [remarks(report), *encoding, *how_measured(report)], figures


def dynamics_page(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    rows, first, tokens = report["checkpoints"], report["readable"], report["frequency_tokens"]
    named = checkpoint_name(rows[first["checkpoint"]]["model"])
    share = first["loss_fallen"]
    fallen = "" if share is None else f", when {share:.0%} of the fall of the loss was done"
    head = ("checkpoint", "loss", "frequency: Spearman", "R²", "R², held-out rows", "probability: Spearman", "R²")
    cells = [
        (
            index == first["checkpoint"],
            [
                escape(checkpoint_name(row["model"])),
                number(row["loss"], ".3f"),
                *(number(row["frequency"][key], ".3f") for key in ("spearman", "r2", "r2_held_out")),
                *(number(row["probability"][key], ".3f") for key in ("spearman", "r2")),
            ],
        )
        for index, row in enumerate(rows)
    ]
    sections = [
        remarks(report),
        "<h2>Token frequency in the head, over training</h2>",
        f"<p>Regression of -log frequency in the corpus ({tokens['positions']:,} tokens, {tokens['distinct']:,} "
        "different ones) on the rows of each checkpoint's output head. "
        f"{escape(named)} is the first to reach {first['share']:.0%} of the last Spearman{fallen}.</p>",
        plot("dynamics", "Spearman and R² of frequency on the head, and the loss, at every checkpoint."),
        table(head, cells),
        *how_measured(report),
    ]
    return sections, {"dynamics": dynamics_figure(rows)}


def encoding_sections(report: dict[str, Any]) -> tuple[list[str], dict[str, Figure]]:
    """With the parts that only the report of an analysis has, where they are there."""
    encoding, components, fits = report["encoding"], report.get("components"), report.get("few_examples")
    rows = [(False, [escape(name), number(encoding.get(key), ".4f")]) for name, key in ENCODING_FIGURES.items()]
    figures = {"slopes": slopes_figure(encoding)}
    fitted = []
    if "fitted" in report:  # reports of earlier days have none
        figures["fitted"] = fitted_figure(report["fitted"])
        fitted = [plot("fitted", "Fitted against true -log averaged probability of a sample of tokens.")]
    sections = [
        "<h2>How token probability is encoded</h2>",
        "<p>Regression of -log averaged token probability on the rows of the output head.</p>",
        table(("figure", "value"), rows),
        plot("slopes", "Sorted magnitudes of the slopes, and the R² that the largest reach together."),
        f"<p>{_needed(encoding, 'columns')}</p>",
        *fitted,
    ]
    if components:
        sections.append(_largest("column", report["columns"]))
        figures |= {"components": components_figure(components)}
        sections += [
            "<h2>Principal components of the head</h2>",
            plot("components", "The same of principal components, with the share of the variance that each explains."),
            f"<p>{_needed(components, 'components')}</p>",
            _largest("component", components),
        ]
    if fits:
        head = ("tokens of text", "R²", "Spearman", "cosine with the slope of all")
        cells = [
            (False, [f"{fit['tokens']:,}", *(number(fit[key], ".4f") for key in ("r2", "spearman", "slope_cosine"))])
            for fit in fits
        ]
        sections += ["<h2>From a few tokens of text</h2>", table(head, cells)]
    return sections, figures


def _largest(what: str, found: dict[str, Any]) -> str:
    """A table of those with the largest standardised slopes, numbered from 0."""
    slopes, variance = found["standardised_slopes"], found.get("explained_variance")
    head = [what, "standardised slope", "Spearman"] + (["share of the variance"] if variance else [])
    rows = []
    for index in sorted(range(len(slopes)), key=lambda index: -abs(slopes[index] or 0))[:LARGEST]:
        cells = [str(index), number(slopes[index], "+.3f"), number(found["spearman"][index], "+.3f")]
        rows.append((False, cells + ([number(variance[index], ".2%")] if variance else [])))
    return table(head, rows)


def _needed(found: dict[str, Any], what: str) -> str:
    reached = ", ".join(f"{count:,} reach {float(share):.0%}" for share, count in found["columns_needed"].items())
    return f"Of the {what}, largest slope first: {reached} of the R² of all. Gini coefficient {found['gini']:.3f}."
