"""Draw docs/frontier.svg from bench/results/frontier.json: `python -m bench.picture`.

One panel a model: the KL divergence against the share of the head's bytes that a token reads.
"""

import json
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.folders import ROOT

MODELS = ("smollm2-135m", "gemma-3-270m")
BUDGET = 0.01  # nats of KL, what a job is bounded in by default
BLUE, GREY, ORANGE, GREEN = "#0369a1", "#6b7280", "#c2410c", "#15803d"


def draw() -> None:
    mpl.rcParams.update({"svg.hashsalt": "headroom", "font.family": "sans-serif", "font.size": 11})
    found = json.loads((ROOT / "bench/results/frontier.json").read_text(encoding="utf-8"))["models"]
    figure, panels = plt.subplots(1, len(MODELS), figsize=(9.6, 4.2), sharey=True)
    for axes, name in zip(panels, MODELS, strict=True):
        _draw_model(axes, found[name]["rows"])
        vocabulary, columns = found[name]["shape"]
        axes.set_title(f"{name}, head of {vocabulary:,} x {columns}", fontsize=10)
        axes.set_xlabel("share of the head's bytes read per token")
    panels[0].set_ylabel("KL divergence, nats per token")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False, fontsize=10)
    figure.savefig(ROOT / "docs/frontier.svg", metadata={"Date": None})


def _draw_model(axes: Axes, rows: dict[str, dict[str, float]]) -> None:
    sliced = _points(rows, "probability, r = ")
    axes.plot(*sliced, color=ORANGE, marker="o", markersize=3.5, linewidth=2, label="columns sliced off")
    planes = _points(rows, "planes, ")
    axes.plot(*planes, color=BLUE, marker="s", markersize=6, linestyle="none", label="bit planes, rows rescored")
    for name, marker in (("int8, plain", "^"), ("int4, plain", "v")):
        row = rows[name]
        axes.plot([row["read"]], [row["kl"]], marker, color=GREY, markersize=7, linestyle="none", label=name)
    axes.axhline(BUDGET, color=GREEN, linewidth=1, linestyle="--")
    axes.text(0.45, BUDGET * 1.12, "what a job is bounded in", color=GREEN, fontsize=9)
    for name, row in rows.items():
        if name.startswith("planes, ") and not name.endswith(" 256 rescored"):
            axes.annotate(name[8:14], (row["read"], row["kl"]), (7, -3), textcoords="offset points", fontsize=9)
    axes.set_yscale("log")
    axes.set_xlim(0.0, 1.02)
    axes.grid(visible=True, which="major", color="#e5e7eb")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _points(rows: dict[str, dict[str, Any]], start: str) -> tuple[list[float], list[float]]:
    """Bytes read and KL of the rows whose name begins with `start`, by bytes."""
    chosen = sorted((row["read"], row["kl"]) for name, row in rows.items() if name.startswith(start))
    return [read for read, _ in chosen], [kl for _, kl in chosen]


if __name__ == "__main__":
    draw()
