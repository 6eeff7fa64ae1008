"""The plots of a report, as plotly figures in plain JSON values: no plotly is needed to make them.

Colours are those of Okabe and Ito, which most colour-blind readers can tell apart.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

Figure: TypeAlias = dict[str, Any]  # {"data": [...], "layout": {...}}

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
OTHERS = (ORANGE, GREY, GREEN, RED)
SMALLEST_DRIFT = 1e-6  # where a logarithmic axis ends: less than this is rounding


def drift_figure(report: dict[str, Any]) -> Figure:
    """Drift against the share of columns removed: the chosen method, the others, the budget and the chosen point."""
    curve = report["curve"]
    traces = [_band(curve), _line(curve, report["method"], BLUE, 3)]
    colours = itertools.cycle(OTHERS)
    for method, points in report.get("comparisons", {}).items():
        traces.append(_line(points, method, next(colours), 1.5))
    selected = report["selected"]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen" if selected.get("passes") else "asked for",
            "x": [selected["ratio"]],
            "y": [_on_log(selected["perplexity_drift"])],
            "marker": {"size": 13, "color": GREEN if selected.get("passes") else RED, "symbol": "diamond"},
            "hovertemplate": "ratio %{x:.3f}<br>perplexity %{customdata}<extra></extra>",
            "customdata": [f"{selected['perplexity_drift']:+.4%}"],
        }
    )
    budget = report["budget"]["perplexity"]
    layout = {
        "xaxis": {"title": {"text": "share of columns removed"}, "tickformat": ".0%", "range": [0, 1]},
        "yaxis": {"title": {"text": "growth of perplexity"}, "type": "log", "tickformat": "~%"},
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": budget, "y1": budget, "line": _dashed(RED)}
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 0.99,
                "y": math.log10(budget),
                "text": f"budget {budget:+.2%}",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "top",
            }
        ],
    }
    return {"data": traces, "layout": layout}


def bytes_figure(report: dict[str, Any]) -> Figure | None:
    """Head, checkpoint and bytes read per token, before and after; None when nothing was stored."""
    sizes = report["bytes"]
    if sizes.get("head_after") is None:
        return None
    names = {"head": "output head", "decode_read": "read per token", "checkpoint": "checkpoint"}
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": when,
            "y": list(names.values()),
            "x": [sizes[f"{name}_{when}"] for name in names],
            "marker": {"color": colour},
            "text": [_megabytes(sizes[f"{name}_{when}"]) for name in names],
            "textposition": "auto",
        }
        for when, colour in (("after", BLUE), ("before", GREY))
    ]
    layout = {
        "xaxis": {"title": {"text": "bytes"}, "tickformat": "~s"},
        "yaxis": {"title": {"text": ""}},
        "legend": {"traceorder": "reversed"},
        "barmode": "group",
    }
    return {"data": bars, "layout": layout}


def _line(points: Sequence[dict[str, Any]], name: str, colour: str, width: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point["ratio"] for point in points],
        "y": [_on_log(point["perplexity_drift"]) for point in points],
        "customdata": [f"{point['perplexity_drift'] or 0:+.4%}" for point in points],
        "hovertemplate": name + ", ratio %{x:.3f}<br>perplexity %{customdata}<extra></extra>",
        "line": {"color": colour, "width": width},
        "marker": {"size": 4},
    }


def _band(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The 95 % interval as one closed shape."""
    there = [(point["ratio"], _on_log(point["perplexity_drift_high"])) for point in points]
    back = [(point["ratio"], _on_log(point["perplexity_drift_low"])) for point in reversed(points)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "95 % interval",
        "x": [x for x, _ in there + back],
        "y": [y for _, y in there + back],
        "fill": "toself",
        "fillcolor": "rgba(0, 114, 178, 0.2)",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _on_log(drift: float | None) -> float | None:
    return None if drift is None else max(drift, SMALLEST_DRIFT)


def _dashed(colour: str) -> dict[str, Any]:
    return {"color": colour, "width": 1.5, "dash": "dash"}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
