"""The model card of a steered checkpoint, and what its report says on report.html. Figures come from the report."""

from typing import Any

from headroom.contract.report.report import SteerReport
from headroom.contract.report.steering import Steering
from service.reports.encoding_page import encoding_parts
from service.reports.page_parts import Page, TextTable, facts, number
from service.reports.report_figures import BLUE, GREEN, Figure


def steering_card(report: SteerReport) -> dict[str, Any]:
    """What the model card says of the edit, by the template's names."""
    steering, baseline = report.steering, report.baseline
    rows = [
        (str(token.id), f"{token.multiplier:g}", number(token.obtained, ".4g"), number(token.log_error, "+.3f"))
        for token in steering.tokens
    ]
    measured = (
        f"{baseline.kind.capitalize()} {number(baseline.perplexity, '.4f')} before, "
        f"{number(steering.perplexity_after, '.4f')} after; KL divergence {number(steering.kl_mean, '.3g')} nats a "
        "token."
    )
    return {"rows": rows, "measured": measured}


def steering_page(report: SteerReport) -> Page:
    """A verdict, the wanted and obtained multipliers, what happened to all other tokens."""
    steering, baseline = report.steering, report.baseline
    refused = report.stored is None
    rows = [
        (
            token.text or "",
            str(token.id),
            f"{token.multiplier:g}",
            number(token.obtained, ".4g"),
            number(token.log_error, "+.3f"),
        )
        for token in steering.tokens
    ]
    moved = f"KL {number(steering.kl_mean, '.3g')} nats a token"
    if refused:
        moved += f", allowed {number(steering.max_kl, '.3g')}."
    else:
        moved += f", {baseline.kind} {number(baseline.perplexity, '.2f')} before and "
        moved += f"{number(steering.perplexity_after, '.2f')} after."
    others = (
        f"Probability of all other tokens: {number(steering.others_before, '.4f')} before, "
        f"{number(steering.others_after, '.4f')} after. Jensen-Shannon divergence {number(steering.js_mean, '.3g')} "
        "nats a token."
    )
    encoding, plots = encoding_parts(report)
    parts = {
        "verdict": "Refused" if refused else "Stored",
        "moved": moved,
        "tokens": TextTable.of(("text", "token", "multiplier wanted", "obtained", "error, nats"), rows),
        "others": others,
        "encoding": encoding,
        "facts": facts(report),
    }
    return Page("steer.html", parts, {"alone": alone_figure(steering)} | plots)


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
