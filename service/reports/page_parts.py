"""What the pages of all kinds of report are made of: tables, places of plots, words. HTML as text."""

from collections.abc import Iterable, Sequence
from html import escape

from headroom.contract.report.curve import AllowedDrift
from headroom.contract.report.part import Measured
from headroom.contract.report.report import Report, SourceReport
from headroom.contract.report.times import StepTime, TimesOfReport


def remarks(report: Report) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in report.warnings)
    return f"<ul>{items}</ul>" if items else ""


def plot(name: str, caption: str, low: bool = False) -> str:
    size = " low" if low else ""
    return f'<div class="plot{size}" id="{name}" role="img" aria-label="{escape(caption)}"></div>'


def table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    """rows: whether it stands out, and its cells, which are HTML already."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr{' class=chosen' if chosen else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for chosen, cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


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


def how_measured(report: SourceReport) -> list[str]:
    corpus, head = report.corpus, report.head
    facts = [
        (
            "model",
            report.model.id + (f" at {report.model.revision}" if report.model.revision else ""),
        ),
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
    rows = [
        f'<tr><td>{escape(name)}</td><td class="text"><code>{escape(value)}</code></td></tr>' for name, value in facts
    ]
    return ["<h2>How it was measured</h2>", f'<div class="wide"><table>{"".join(rows)}</table></div>']
