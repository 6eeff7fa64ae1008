"""The search for a budget, for report.html and the model card: drift against bytes of the head. Measures nothing."""

from collections.abc import Sequence
from html import escape
from typing import Any

from headroom.contract.report.frontier import FrontierOfReport, FrontierPoint
from headroom.contract.report.report import CompressReport
from service.reports.page_parts import number, percent, plot, table
from service.reports.report_figures import BLUE, GREEN, GREY, ORANGE, RED, SMALLEST_DRIFT, Figure

NAMES = {"source": "own dtype", "int8": "8 bits", "int4": "4 bits"}
COLOURS = {"source": BLUE, "int8": ORANGE, "int4": GREY}


def shown(frontier: FrontierOfReport, hidden: int) -> list[FrontierPoint]:
    """The points worth a row: what no other beats in both bytes and drift, the plain rounded heads, the chosen one."""
    return [one for one in frontier.points if one.efficient or one.chosen or is_plain(one, hidden)]


def is_plain(point: FrontierPoint, hidden: int) -> bool:
    return point.head_dtype != "source" and point.kept_columns == hidden


def asked_for(frontier: FrontierOfReport) -> str:
    budget = frontier.budget
    if budget.head_bytes is not None:
        return f"the least drift at {budget.head_bytes:.3g} of the head's bytes"
    return f"the fewest bytes at a drift of {budget.drift or 0:.2%}"


def frontier_sections(report: CompressReport) -> tuple[list[str], dict[str, Figure]]:
    """Words, plot and table of a job with a budget; nothing for any other."""
    frontier = report.frontier
    if frontier is None:
        return [], {}
    hidden = report.head.hidden_size
    head = ("bytes of the head", "columns as", "kept columns", "drift", "at most (95 %)", "KL, nats", "")
    rows = [
        (
            one.chosen,
            [
                f"{one.share:.3f}",
                NAMES[one.head_dtype],
                f"{one.kept_columns:,}",
                percent(one.perplexity_drift),
                percent(one.perplexity_drift_high),
                number(one.kl_mean, ".3g"),
                "chosen" if one.chosen else "all columns, rounded" if is_plain(one, hidden) else "",
            ],
        )
        for one in shown(frontier, hidden)
    ]
    sections = [
        "<h2>Bytes against drift</h2>",
        f"<p>Asked for: {escape(asked_for(frontier))}. Compared: {frontier.swept} sizes from the curve and "
        f"{frontier.measured} rounded heads; {frontier.left_out} could not be best and were not measured.</p>",
        plot("frontier", "Growth of perplexity against the share of the head's bytes, on a logarithmic scale."),
        table(head, rows),
    ]
    return sections, {"frontier": frontier_figure(report, frontier)}


def frontier_figure(report: CompressReport, frontier: FrontierOfReport) -> Figure:
    """Every head that was considered; plain rounded ones and the chosen one, or the nearest, marked."""
    hidden = report.head.hidden_size
    points = frontier.points
    traces = []
    for head_dtype, name in NAMES.items():
        of_dtype = [one for one in points if one.head_dtype == head_dtype]
        if of_dtype:
            mode = "lines+markers" if head_dtype == "source" else "markers"
            traces.append(_trace(of_dtype, name, mode, {"size": 6, "color": COLOURS[head_dtype]}))
    plain = [one for one in points if is_plain(one, hidden)]
    traces.append(_trace(plain, "all columns, rounded", "markers", {"size": 13, "color": RED, "symbol": "square-open"}))
    chosen = [one for one in points if one.chosen]
    marker = {"size": 13, "color": GREEN if chosen else RED, "symbol": "diamond"}
    nearest = [frontier.nearest] if frontier.nearest else []
    traces.append(_trace(chosen or nearest, "chosen" if chosen else "nearest", "markers", marker))
    limit, allowed = frontier.budget.head_bytes, report.budget.perplexity
    dashed = {"color": RED, "width": 1.5, "dash": "dash"}
    lines: list[dict[str, Any]] = []
    if allowed is not None:
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": allowed, "y1": allowed, "line": dashed})
    if limit is not None:
        lines.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": dashed})
    layout = {
        "xaxis": {"title": {"text": "bytes of the head, of the original's"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "growth of perplexity"}, "type": "log", "tickformat": "~%"},
        "shapes": lines,
    }
    return {"data": traces, "layout": layout}


def frontier_card(report: CompressReport) -> str:
    """For the model card, as Markdown; empty without a budget."""
    frontier = report.frontier
    if frontier is None:
        return ""
    hidden = report.head.hidden_size
    lines = [
        "## Bytes against drift",
        "",
        f"Chosen by a budget: {asked_for(frontier)}, of {frontier.swept} sizes in the model's own dtype and "
        f"{frontier.measured} rounded heads. Those that no other beats in both, and plain rounded heads:",
        "",
        "| bytes of the head | columns as | kept | drift (95 % interval) | |",
        "|---:|---|---:|---|---|",
    ]
    for one in shown(frontier, hidden):
        ends = f"{percent(one.perplexity_drift_low)} to {percent(one.perplexity_drift_high)}"
        mark = "chosen" if one.chosen else "all columns" if is_plain(one, hidden) else ""
        lines.append(
            f"| {one.share:.3f} | {NAMES[one.head_dtype]} | {one.kept_columns:,} | "
            f"{percent(one.perplexity_drift)} ({ends}) | {mark} |"
        )
    return "\n".join([*lines, ""])


def _trace(points: Sequence[FrontierPoint], name: str, mode: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [one.share for one in points],
        "y": [_drawn(one) for one in points],
        "customdata": [
            f"{one.perplexity_drift or 0:+.4%}, {one.kept_columns} columns of {NAMES[one.head_dtype]}" for one in points
        ],
        "hovertemplate": "%{x:.3f} of the bytes<br>perplexity %{customdata}<extra></extra>",
        "marker": marker,
    }


def _drawn(point: FrontierPoint) -> float | None:
    drift = point.perplexity_drift
    return None if drift is None else max(drift, SMALLEST_DRIFT)
