"""The model card of a steered checkpoint, and what its report says on report.html. Figures come from the report."""

from html import escape

from headroom.contract.report.report import SteerReport
from headroom.contract.report.steering import Steering
from service.ports.jobs import LocalModel
from service.records.job import Job
from service.reports.page_parts import number
from service.reports.report_figures import BLUE, GREEN, Figure


def write_steering_card(job: Job, model: LocalModel, report: SteerReport) -> str:
    """The text below the front matter, as Markdown."""
    steering, baseline = report.steering, report.baseline
    auto_class = report.model.auto_class
    rows = [
        f"| {token.id} | {token.multiplier:g} | {number(token.obtained, '.4g')} | {number(token.log_error, '+.3f')} |"
        for token in steering.tokens
    ]
    source = f"`{model.id}`" + (f" at revision `{model.revision}`" if model.revision else "")
    untied = " The head shared the input table; it has a table of its own now." if report.head.tied else ""
    return "\n".join(
        [
            f"# {model.id.split('/', 1)[-1]}, with steered tokens",
            "",
            f"Made from {source}: {len(rows)} rows of the output head were edited so that these tokens become more or "
            f"less probable. Everything else is as it was.{untied}",
            "",
            "## Measured",
            "",
            "| token | multiplier wanted | obtained | error, nats |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{baseline.kind.capitalize()} {number(baseline.perplexity, '.4f')} before, "
            f"{number(steering.perplexity_after, '.4f')} after; KL divergence {number(steering.kl_mean, '.3g')} nats a "
            "token. All on one corpus: on other text the multipliers obtained differ.",
            "",
            "## Load it",
            "",
            "It is a plain checkpoint: transformers loads it as any other.",
            "",
            "```python",
            f"from transformers import {auto_class}",
            "",
            f'model = {auto_class}.from_pretrained("path/to/this/folder")',
            "```",
            "",
            f"Made by Headroom, job `{job.id}`. `headroom.json` holds the recipe and the hash of every file, "
            "`report.json` everything that was measured.\n",
        ]
    )


def steering_sections(report: SteerReport) -> tuple[list[str], dict[str, Figure]]:
    """Of the page: a verdict, the wanted and obtained multipliers, what happened to all other tokens."""
    steering, baseline = report.steering, report.baseline
    refused = report.stored is None
    rows = "".join(
        f"<tr><td>{escape(token.text or '')}</td><td>{token.id}</td><td>{token.multiplier:g}</td>"
        f"<td>{number(token.obtained, '.4g')}</td><td>{number(token.log_error, '+.3f')}</td></tr>"
        for token in steering.tokens
    )
    names = ("text", "token", "multiplier wanted", "obtained", "error, nats")
    titles = "".join(f"<th>{name}</th>" for name in names)
    verdict = (
        f"<strong>Refused.</strong> KL {number(steering.kl_mean, '.3g')} nats a token, allowed {steering.max_kl:.3g}."
        if refused
        else f"<strong>Stored.</strong> KL {number(steering.kl_mean, '.3g')} nats a token, {baseline.kind} "
        f"{number(baseline.perplexity, '.2f')} before and {number(steering.perplexity_after, '.2f')} after."
    )
    sections = [
        f'<div class="verdict{" bad" if refused else ""}">{verdict}</div>',
        "<h2>Wanted and obtained</h2>",
        f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>',
        f"<p>Probability of all other tokens: {number(steering.others_before, '.4f')} before, "
        f"{number(steering.others_after, '.4f')} after. Jensen-Shannon divergence {number(steering.js_mean, '.3g')} "
        "nats a token.</p>",
        "<h2>Each token alone</h2>",
        '<div class="plot" id="alone" role="img" aria-label="Obtained against wanted multiplier of each token when no '
        'other is edited."></div>',
    ]
    return sections, {"alone": alone_figure(steering)}


def alone_figure(steering: Steering) -> Figure:
    """Obtained against wanted multiplier; on the line the edit does what the regression says."""
    ends = [0.05, 20]
    line = {"type": "scatter", "mode": "lines", "name": "equal", "x": ends, "y": ends, "line": {"color": GREEN}}
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": token.text or str(token.id),
            "x": [point.multiplier for point in token.alone],
            "y": [point.obtained for point in token.alone],
            "marker": {"size": 5},
        }
        | ({"line": {"color": BLUE}} if len(steering.tokens) == 1 else {})
        for token in steering.tokens
    ]
    layout = {
        "xaxis": {"title": {"text": "multiplier wanted"}, "type": "log"},
        "yaxis": {"title": {"text": "obtained"}, "type": "log"},
    }
    return {"data": [line, *traces], "layout": layout}
