"""The search for a budget, for report.html and the model card: drift against bytes of the head. Measures nothing."""

from collections.abc import Sequence
from typing import Any

from headroom.contract.head_forms import NAMES, described_planes, form_of
from headroom.contract.report.frontier import FrontierOfReport, FrontierPoint, PlanesOfReport
from headroom.contract.report.report import CompressReport
from headroom.contract.report.worth import PlainHead
from service.reports.page_parts import TextRow, TextTable, number, percent
from service.reports.report_figures import BLUE, GREEN, GREY, KL, ORANGE, PERPLEXITY, RED, Figure

COLOURS = {"source": BLUE, "int8": ORANGE, "int4": GREY, "planes": GREEN}


def shown(frontier: FrontierOfReport, hidden: int) -> list[FrontierPoint]:
    """Worth a row: what no other beats in both bytes and KL, rounded heads of all columns, the chosen one."""
    return [one for one in frontier.points if one.efficient or one.chosen or one.is_plain(hidden)]


def frontier_words(frontier: FrontierOfReport) -> str:
    """What was asked for, and what was compared."""
    return (
        f"Asked for: {frontier.budget.words}. Compared: {frontier.swept} sizes from the curve, "
        f"{_readings(frontier)} readings of planes and {frontier.measured} rounded heads; {frontier.left_out} could "
        "not be best and were not measured."
    )


def searched_heads(report: CompressReport, frontier: FrontierOfReport) -> TextTable:
    """Heads for the page: those worth a row, and plain rows rounded to the nearest."""
    hidden = report.head.hidden_size
    head = ("read", "stored", "columns as", "kept columns", "drift", "at most (95 %)", "KL, nats", "same top token", "")
    rows = [
        TextRow(_cells(one, _mark(one, hidden, "all columns, rounded")), one.chosen) for one in shown(frontier, hidden)
    ]
    rows += [TextRow(_cells(one, "plain rows, to the nearest", name)) for name, one in report.plain.items()]
    return TextTable(head, rows)


def frontier_figure(report: CompressReport, frontier: FrontierOfReport) -> Figure:
    """KL against bytes of every head that was considered; plain rounded ones and the chosen, or nearest, marked."""
    hidden = report.head.hidden_size
    points = frontier.points
    traces = []
    for head_dtype, name in NAMES.items():
        of_dtype = [one for one in points if one.head_dtype == head_dtype]
        if of_dtype:
            mode = "lines+markers" if head_dtype == "source" else "markers"
            traces.append(_trace(of_dtype, name, mode, {"size": 6, "color": COLOURS[head_dtype]}))
    plain = [one for one in points if one.is_plain(hidden)]
    traces.append(_trace(plain, "all columns, rounded", "markers", {"size": 13, "color": RED, "symbol": "square-open"}))
    chosen = [one for one in points if one.chosen]
    marker = {"size": 13, "color": GREEN if chosen else RED, "symbol": "diamond"}
    nearest = [frontier.nearest] if frontier.nearest else []
    traces.append(_trace(chosen or nearest, "chosen" if chosen else "nearest", "markers", marker))
    if report.plain:
        marker = {"size": 9, "color": RED, "symbol": "x"}
        traces.append(_trace(tuple(report.plain.values()), "plain rows, to the nearest", "markers", marker))
    limit, allowed = frontier.budget.read, report.budget.kl
    dashed = {"color": RED, "width": 1.5, "dash": "dash"}
    lines: list[dict[str, Any]] = []
    if allowed is not None:
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": allowed, "y1": allowed, "line": dashed})
    if limit is not None:
        lines.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit, "line": dashed})
    layout = {
        "xaxis": {"title": {"text": "bytes of the head, of the original's"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "KL, nats a token"}, "type": "log", "exponentformat": "power", "dtick": 1},
        "shapes": lines,
    }
    return {"data": traces, "layout": layout}


def chosen_words(frontier: FrontierOfReport) -> str:
    """What was chosen, and of what, for the model card."""
    return (
        f"Chosen: {frontier.budget.words}, of {frontier.swept} sizes in the model's own dtype, {_readings(frontier)} "
        f"readings of planes and {frontier.measured} rounded heads. Those that no other beats in both bytes read and "
        "KL, rounded heads of all columns, and plain rows rounded to the nearest:"
    )


def card_heads(report: CompressReport, frontier: FrontierOfReport) -> TextTable:
    """Heads for the model card: the same rows, with both ends of the interval."""
    hidden = report.head.hidden_size
    head = ("read", "stored", "columns as", "kept", "drift (95 % interval)", "KL, nats", "same top token", "")
    rows = [_card_cells(one, _mark(one, hidden, "all columns")) for one in shown(frontier, hidden)]
    rows += [_card_cells(one, "plain rows", name) for name, one in report.plain.items()]
    return TextTable.of(head, rows)


def in_planes(planes: PlanesOfReport) -> str:
    """How the stored head reads, in two sentences."""
    return described_planes(planes.bits, planes.rescored, planes.whole_columns)


def _readings(frontier: FrontierOfReport) -> int:
    return sum(one.head_dtype == "planes" for one in frontier.points)


def _mark(one: FrontierPoint, hidden: int, plain: str) -> str:
    return "chosen" if one.chosen else plain if one.is_plain(hidden) else ""


def _form(one: FrontierPoint | PlainHead, head_dtype: str) -> str:
    """head_dtype: of a plain head, which does not say it itself."""
    return form_of(one.head_dtype, one.bits, one.rescored) if isinstance(one, FrontierPoint) else form_of(head_dtype)


def _of_form(one: FrontierPoint | PlainHead) -> str:
    return f" of {_form(one, '')}" if isinstance(one, FrontierPoint) else ""


def _stored(one: FrontierPoint | PlainHead) -> str:
    return number(one.stored_share, ".3f") if isinstance(one, FrontierPoint) else ""


def _cells(one: FrontierPoint | PlainHead, mark: str, head_dtype: str = "") -> list[str]:
    return [
        f"{one.share:.3f}",
        _stored(one),
        _form(one, head_dtype),
        f"{one.kept_columns:,}",
        percent(one.perplexity_drift),
        percent(one.perplexity_drift_high),
        number(one.kl_mean, ".3g"),
        number(one.top1_agreement, ".2%"),
        mark,
    ]


def _card_cells(one: FrontierPoint | PlainHead, mark: str, head_dtype: str = "") -> list[str]:
    ends = f"{percent(one.perplexity_drift_low)} to {percent(one.perplexity_drift_high)}"
    return [
        f"{one.share:.3f}",
        _stored(one),
        _form(one, head_dtype),
        f"{one.kept_columns:,}",
        f"{percent(one.perplexity_drift)} ({ends})",
        number(one.kl_mean, ".3g"),
        number(one.top1_agreement, ".2%"),
        mark,
    ]


def _trace(points: Sequence[FrontierPoint | PlainHead], name: str, mode: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [one.share for one in points],
        "y": [KL.height(one) for one in points],
        "customdata": [
            f"{KL.words(one)}<br>{PERPLEXITY.words(one)}, {one.kept_columns} columns{_of_form(one)}" for one in points
        ],
        "hovertemplate": "%{x:.3f} of the bytes<br>%{customdata}<extra></extra>",
        "marker": marker,
    }
