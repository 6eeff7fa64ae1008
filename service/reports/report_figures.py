"""The plots of a report, as plotly figures in plain JSON values: no plotly is needed to make them.

Colours are those of Okabe and Ito, which most colour-blind readers can tell apart.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headroom.contract.report.curve import CurvePoint, JudgedPoint
from headroom.contract.report.part import Measured
from headroom.contract.report.report import CompressReport

Figure: TypeAlias = dict[str, Any]  # {"data": [...], "layout": {...}}

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
OTHERS = (ORANGE, GREY, GREEN, RED)
SMALLEST_KL = 1e-6  # where a logarithmic axis ends: less than this is rounding
LINEAR = 0.001  # growth of perplexity around which the axis turns from linear to logarithmic
TICKS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def drift_figure(report: CompressReport) -> Figure:
    """KL against the share of columns removed: it is never negative, and sees every move. Logarithmic."""
    budget = report.budget.kl
    layout = {
        "xaxis": _removed(),
        "yaxis": {"title": {"text": "KL, nats a token"}, "type": "log", "exponentformat": "power", "dtick": 1},
        **_budget(budget, budget and math.log10(budget), f"budget {budget:g}" if budget else ""),
    }
    return {"data": _lines(report, KL), "layout": layout}


def perplexity_figure(report: CompressReport) -> Figure:
    """Growth of perplexity, on an axis with a zero, since it may fall: linear around it, logarithmic beyond."""
    budget = report.budget.perplexity
    traces = [_band(report.curve), *_lines(report, PERPLEXITY)]
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


def bytes_figure(report: CompressReport) -> Figure | None:
    """Head, checkpoint and bytes read per token, before and after; None when nothing was stored."""
    sizes = report.bytes
    if sizes.head_after is None:
        return None
    before = (sizes.head_before, sizes.decode_read_before, sizes.checkpoint_before)
    after = (sizes.head_after, sizes.decode_read_after, sizes.checkpoint_after)
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": when,
            "y": ["output head", "read per token", "checkpoint"],
            "x": [*counts],
            "marker": {"color": colour},
            "text": [_megabytes(count) for count in counts],
            "textposition": "auto",
        }
        for when, counts, colour in (("after", after, BLUE), ("before", before, GREY))
    ]
    layout = {
        "xaxis": {"title": {"text": "bytes"}, "tickformat": "~s"},
        "yaxis": {"title": {"text": ""}},
        "legend": {"traceorder": "reversed"},
        "barmode": "group",
    }
    return {"data": bars, "layout": layout}


@dataclass(frozen=True)
class _Quantity:
    """What a curve shows of each point: its figure, where that is drawn, and how it is told."""

    of: Callable[[CurvePoint], Measured]
    scale: Callable[[Measured], float | None]
    told: Callable[[float], str]

    def height(self, point: CurvePoint) -> float | None:
        return self.scale(self.of(point))

    def words(self, point: CurvePoint) -> str:
        value = self.of(point)
        return "no finite number" if value is None else self.told(value)


def _lines(report: CompressReport, quantity: _Quantity) -> list[dict[str, Any]]:
    """The chosen method, the others, the chosen point."""
    colours = itertools.cycle(OTHERS)
    return [
        _line(report.curve, report.method, BLUE, 3, quantity),
        *(_line(points, method, next(colours), 1.5, quantity) for method, points in report.comparisons.items()),
        _chosen(report.selected, quantity),
    ]


def _line(points: Sequence[CurvePoint], name: str, colour: str, width: float, quantity: _Quantity) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.ratio for point in points],
        "y": [quantity.height(point) for point in points],
        "customdata": [quantity.words(point) for point in points],
        "hovertemplate": name + ", ratio %{x:.3f}<br>%{customdata}<extra></extra>",
        "line": {"color": colour, "width": width},
        "marker": {"size": 4},
    }


def _chosen(selected: JudgedPoint, quantity: _Quantity) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen" if selected.passes else "asked for",
        "x": [selected.ratio],
        "y": [quantity.height(selected)],
        "marker": {"size": 13, "color": GREEN if selected.passes else RED, "symbol": "diamond"},
        "cliponaxis": False,  # of a head that keeps all columns it lies on the edge
        "hovertemplate": "ratio %{x:.3f}<br>%{customdata}<extra></extra>",
        "customdata": [quantity.words(selected)],
    }


def _band(points: Sequence[CurvePoint]) -> dict[str, Any]:
    """The 95 % interval as one closed shape."""
    there = [(point.ratio, _around_zero(point.perplexity_drift_high)) for point in points]
    back = [(point.ratio, _around_zero(point.perplexity_drift_low)) for point in reversed(points)]
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


def _on_log(value: Measured) -> float | None:
    return None if value is None else max(value, SMALLEST_KL)


def _around_zero(drift: Measured) -> float | None:
    return None if drift is None else _height(drift)


def _height(drift: float) -> float:
    """asinh(drift / LINEAR): about linear below LINEAR, a logarithm beyond it, odd."""
    return math.asinh(drift / LINEAR)


def _tick(drift: float) -> str:
    return "0" if drift == 0 else f"{100 * drift:+g} %"


def _dashed(colour: str) -> dict[str, Any]:
    return {"color": colour, "width": 1.5, "dash": "dash"}


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.1f} MB"


KL = _Quantity(lambda point: point.kl_mean, _on_log, lambda value: f"KL {value:.3g} nats a token")
PERPLEXITY = _Quantity(lambda point: point.perplexity_drift, _around_zero, lambda value: f"perplexity {value:+.4%}")
