"""What the pages of all kinds of report are made of: tables as text, words, the page itself. HTML is in templates/."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from headroom.contract.report.curve import AllowedDrift
from headroom.contract.report.part import Measured
from headroom.contract.report.report import Report, SourceReport
from headroom.contract.report.times import StepTime, TimesOfReport
from service.reports.report_figures import Figure

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class TextRow:
    """Cells as plain text: the template escapes them."""

    cells: Sequence[str]
    chosen: bool = False  # stands out


@dataclass(frozen=True)
class TextTable:
    """Rows under their titles."""

    head: Sequence[str]
    rows: Sequence[TextRow]

    @classmethod
    def of(cls, head: Sequence[str], rows: Iterable[Sequence[str]]) -> "TextTable":
        """One in which no row stands out."""
        return cls(head, [TextRow(cells) for cells in rows])


@dataclass(frozen=True)
class Page:
    """What a template shows beside the report, by the names that it has for them, and the plots by name."""

    template: str
    parts: Mapping[str, Any]
    figures: dict[str, Figure] = field(default_factory=dict)


def written(page: Page, report: Report) -> str:
    """About 5 MB, nearly all of it plotly's script: it opens without a network."""
    # In a script element nothing is escaped but what would end it.
    figures = json.dumps(page.figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return template(page.template).render(
        page.parts, report=report, figures=Markup(figures), plotly=Markup(get_plotlyjs())
    )


def template(name: str) -> Template:
    """A file of templates/. Text in HTML is escaped; a name that is not there is an error."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def number(value: Measured, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def percent(fraction: Measured) -> str:
    return "not measured" if fraction is None else f"{fraction:+.3%}"


def bounds(budget: AllowedDrift) -> str:
    """Every bound of a drift budget, in words."""
    told = (
        (budget.perplexity, "{:+.2%} of perplexity"),
        (budget.kl, "KL {:g}"),
        (budget.top1, "the same most probable token at {:.2%}"),
        (budget.rare_perplexity, "{:+.2%} of perplexity on rare tokens"),
        (budget.group_gap, "{:.2%} between groups"),
    )
    found = [form.format(bound) for bound, form in told if bound is not None]
    return f"allowed: {', '.join(found)}" if found else "no budget"


def step_times(found: TimesOfReport) -> list[tuple[str, str, str, str]]:
    """What was timed, milliseconds before and after, and their ratio, as text."""
    timed: list[tuple[str, StepTime]] = [(f"head, batch {one.batch}", one) for one in found.head]
    timed += [("whole model, batch 1", found.step)] if found.step else []
    return [
        (name, f"{1000 * one.before:.3g}", f"{1000 * one.after:.3g}", f"{one.after / one.before:.2f}")
        for name, one in timed
        if one.before and one.after
    ]


def facts(report: SourceReport) -> list[tuple[str, str]]:
    """How it was measured: names and values."""
    corpus, head = report.corpus, report.head
    return [
        ("model", report.model.id + (f" at {report.model.revision}" if report.model.revision else "")),
        ("model digest", report.model.digest),
        (
            "head",
            f"{head.vocab_size:,} tokens x {head.hidden_size:,} columns, {'tied' if head.tied else 'untied'}",
        ),
        ("corpus digest", corpus.digest),
        (
            "tokens",
            f"{corpus.calibration_tokens:,} to calibrate, {corpus.evaluation_tokens:,} to evaluate, "
            f"windows of {corpus.window}",
        ),
        ("seed", str(report.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
