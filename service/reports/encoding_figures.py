"""Plots of how token probability is encoded in the head, as plain JSON for plotly (see report_figures.py)."""

from collections.abc import Sequence

from headroom.contract.report.dynamics import TrainingCheckpoint
from headroom.contract.report.encoding import ComponentFigures, Encoding, FittedSample, SparsityPoint
from headroom.contract.report.part import Measured
from headroom.contract.report.source import ModelOfReport
from service.reports.report_figures import BLUE, GREEN, GREY, ORANGE, Figure

R2_AXIS = {
    "title": {"text": "R²"},
    "overlaying": "y",
    "side": "right",
    "range": [0, 1],
    "tickmode": "linear",
    "dtick": 0.2,
    "showgrid": False,
}


def slopes_figure(encoding: Encoding) -> Figure:
    """Magnitudes of the regression's slopes, sorted, and the R^2 that the largest ones reach together."""
    return _sizes(encoding.slopes, encoding.sparsity, "columns, largest slope first", "|slope|")


def components_figure(components: ComponentFigures) -> Figure:
    """Slopes of principal components like those of columns, with the variance of the head that each explains."""
    slopes = components.standardised_slopes
    order = sorted(range(len(slopes)), key=lambda index: -abs(slopes[index] or 0.0))
    figure = _sizes(
        slopes,
        components.sparsity,
        "principal components, largest slope first",
        "|standardised slope|",
    )
    figure["data"].append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "share of variance",
            "x": [*range(1, len(order) + 1)],
            "y": [components.explained_variance[index] for index in order],
            "yaxis": "y2",
            "marker": {"color": GREY, "size": 4},
        }
    )
    return figure


def fitted_figure(fitted: FittedSample) -> Figure:
    """Fitted against true -log alpha of a sample of tokens; on the line they agree."""
    ends = [min(fitted.true), max(fitted.true)]
    points = {
        "type": "scatter",  # not scattergl: its script builds code at run time, which strict pages forbid
        "mode": "markers",
        "name": "token",
        "x": [*fitted.true],
        "y": [*fitted.fitted],
        "customdata": [*fitted.token_ids],
        "hovertemplate": "token %{customdata}<br>true %{x:.2f}, fitted %{y:.2f}<extra></extra>",
        "marker": {"color": BLUE, "size": 4, "opacity": 0.6},
    }
    line = {"type": "scatter", "mode": "lines", "name": "equal", "x": ends, "y": ends, "line": {"color": GREEN}}
    layout = {
        "xaxis": {"title": {"text": "-log averaged probability, nats"}},
        "yaxis": {"title": {"text": "fitted from the row of the head"}},
    }
    return {"data": [points, line], "layout": layout}


def dynamics_figure(checkpoints: Sequence[TrainingCheckpoint]) -> Figure:
    """How well each checkpoint's head tells token frequency, and its loss."""
    names = [checkpoint_name(row.model) for row in checkpoints]
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": names,
            "y": values,
            "yaxis": "y2",
            "line": {"color": colour, "width": 2},
        }
        for name, values, colour in (
            ("Spearman", [row.frequency.spearman for row in checkpoints], BLUE),
            ("R², held-out rows", [row.frequency.r2_held_out for row in checkpoints], GREEN),
        )
    ]
    loss = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "loss",
        "x": names,
        "y": [row.loss for row in checkpoints],
        "line": {"color": ORANGE, "width": 2},
    }
    layout = {
        "xaxis": {"title": {"text": "checkpoint, oldest first"}, "type": "category"},
        "yaxis": {"title": {"text": "loss, nats per token"}},
        "yaxis2": R2_AXIS | {"title": {"text": "Spearman, R²"}},
    }
    return {"data": [*lines, loss], "layout": layout}


def checkpoint_name(model: ModelOfReport) -> str:
    return model.revision or model.id


def _sizes(slopes: Sequence[Measured], sparsity: Sequence[SparsityPoint], of: str, name: str) -> Figure:
    sizes = sorted((abs(value or 0.0) for value in slopes), reverse=True)
    bars = {"type": "bar", "name": name, "x": [*range(1, len(sizes) + 1)], "y": sizes, "marker": {"color": BLUE}}
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "R² of the largest so far",
        "x": [point.columns for point in sparsity],
        "y": [point.r2 for point in sparsity],
        "yaxis": "y2",
        "line": {"color": ORANGE, "width": 2},
    }
    layout = {
        "xaxis": {"title": {"text": of}, "type": "log", "dtick": 1},  # a few of very many carry it
        "yaxis": {"title": {"text": name}, "rangemode": "tozero"},
        "yaxis2": R2_AXIS,
        "bargap": 0,
    }
    return {"data": [bars, line], "layout": layout}
