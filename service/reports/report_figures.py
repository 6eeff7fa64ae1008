"""The plots of a report, as plotly figures in plain JSON values: no plotly is needed to make them.

Colours are those of Okabe and Ito, which most colour-blind readers can tell apart.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Figure: TypeAlias = dict[str, Any]  # {"data": [...], "layout": {...}}

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
OTHERS = (ORANGE, GREY, GREEN, RED)
SMALLEST_DRIFT = 1e-6  # where a logarithmic axis ends: less than this is rounding
SMALLEST_KL = 1e-6
LINEAR = 0.001  # growth of perplexity around which the axis turns from linear to logarithmic
TICKS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def drift_figure(report: dict[str, Any]) -> Figure:
    """KL against the share of columns removed: it is never negative, and sees every move. Logarithmic."""
    budget = report["budget"].get("kl")
    traces = [
        _line(report["curve"], report["method"], BLUE, 3, "kl_mean", _on_log),
        *_others(report, "kl_mean", _on_log),
    ]
    traces.append(_chosen(report["selected"], "kl_mean", _on_log))
    layout = {
        "xaxis": _removed(),
        "yaxis": {"title": {"text": "KL, nats a token"}, "type": "log", "exponentformat": "power", "dtick": 1},
        **_budget(budget, budget and math.log10(budget), f"budget {budget:g}" if budget else ""),
    }
    return {"data": traces, "layout": layout}


def perplexity_figure(report: dict[str, Any]) -> Figure:
    """Growth of perplexity, on an axis with a zero, since it may fall: linear around it, logarithmic beyond."""
    curve, budget = report["curve"], report["budget"].get("perplexity")
    traces = [_band(curve), _line(curve, report["method"], BLUE, 3, "perplexity_drift", _around_zero)]
    traces += _others(report, "perplexity_drift", _around_zero)
    traces.append(_chosen(report["selected"], "perplexity_drift", _around_zero))
    ticks = [sign * value for value in TICKS for sign in (-1, 1)] + [0.0]
    heights = [y for trace in traces for y in trace["y"] if y is not None]
    low, high = min([*heights, _height(-TICKS[0])]), max([*heights, _height(TICKS[2])])
    shown = sorted(tick for tick in ticks if low <= _height(tick) <= high)
    layout = {
        "xaxis": _removed(),
        "yaxis": {
            "title": {"text": "growth of perplexity"},
            "tickvals": [_height(tick) for tick in shown],
            "ticktext": [_tick(tick) for tick in shown],
            "zeroline": True,
            "zerolinewidth": 2,
        },
        **_budget(_around_zero(budget), None, f"budget {budget:+.2%}" if budget else ""),
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


Scale: TypeAlias = Callable[[float | None], float | None]


def _line(
    points: Sequence[dict[str, Any]], name: str, colour: str, width: float, figure: str, scale: Scale
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point["ratio"] for point in points],
        "y": [scale(point[figure]) for point in points],
        "customdata": [_told(point[figure], figure) for point in points],
        "hovertemplate": name + ", ratio %{x:.3f}<br>%{customdata}<extra></extra>",
        "line": {"color": colour, "width": width},
        "marker": {"size": 4},
    }


def _others(report: dict[str, Any], figure: str, scale: Scale) -> list[dict[str, Any]]:
    colours = itertools.cycle(OTHERS)
    methods = report.get("comparisons", {}).items()
    return [_line(points, method, next(colours), 1.5, figure, scale) for method, points in methods]


def _chosen(selected: dict[str, Any], figure: str, scale: Scale) -> dict[str, Any]:
    passes = bool(selected.get("passes"))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen" if passes else "asked for",
        "x": [selected["ratio"]],
        "y": [scale(selected[figure])],
        "marker": {"size": 13, "color": GREEN if passes else RED, "symbol": "diamond"},
        "hovertemplate": "ratio %{x:.3f}<br>%{customdata}<extra></extra>",
        "customdata": [_told(selected[figure], figure)],
    }


def _band(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The 95 % interval as one closed shape."""
    there = [(point["ratio"], _around_zero(point["perplexity_drift_high"])) for point in points]
    back = [(point["ratio"], _around_zero(point["perplexity_drift_low"])) for point in reversed(points)]
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


def _told(value: float | None, figure: str) -> str:
    if value is None:
        return "no finite number"
    return f"KL {value:.3g} nats a token" if figure == "kl_mean" else f"perplexity {value:+.4%}"


def _removed() -> dict[str, Any]:
    return {"title": {"text": "share of columns removed"}, "tickformat": ".0%", "range": [0, 1]}


def _budget(height: float | None, annotated: float | None, text: str) -> dict[str, Any]:
    """The line of a budget and its label, whose place on a logarithmic axis is an exponent; nothing without one."""
    if height is None:
        return {}
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height, "line": _dashed(RED)}
    label = {
        "xref": "paper",
        "x": 0.99,
        "y": height if annotated is None else annotated,
        "text": text,
        "showarrow": False,
        "xanchor": "right",
        "yanchor": "top",
    }
    return {"shapes": [line], "annotations": [label]}


def _on_log(value: float | None) -> float | None:
    return None if value is None else max(value, SMALLEST_KL)


def _around_zero(drift: float | None) -> float | None:
    return None if drift is None else _height(drift)


def _height(drift: float) -> float:
    """asinh(drift / LINEAR): about linear below LINEAR, a logarithm beyond it, odd."""
    return math.asinh(drift / LINEAR)


def _tick(drift: float) -> str:
    return "0" if drift == 0 else f"{100 * drift:+g} %"


def _dashed(colour: str) -> dict[str, Any]:
    return {"color": colour, "width": 1.5, "dash": "dash"}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
