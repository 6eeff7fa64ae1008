"""Draw docs/drift-curve.svg from bench/results/models.json: `python -m bench.picture`."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
MODEL = "docs-gpt2-13m-long"
LINES = (
    ("slope, repair none", "slope: the paper's columns", "#c2410c"),
    ("random, repair mean", "random columns", "#9ca3af"),
    ("pca, repair mean", "pca of W", "#7c3aed"),
    ("probability, repair mean", "probability (default)", "#0369a1"),
)
BUDGET = 0.01


def draw() -> None:
    mpl.rcParams.update({"svg.hashsalt": "headroom", "font.family": "sans-serif", "font.size": 11})
    found = json.loads((ROOT / "bench/results/models.json").read_text(encoding="utf-8"))["models"][MODEL]
    figure, axes = plt.subplots(figsize=(7.6, 4.0))
    for row, label, color in LINES:
        points = [(float(ratio), 100 * drift) for ratio, drift in found["drift"][row].items()]
        positive = [(ratio, drift) for ratio, drift in points if drift > 0]
        axes.plot(*zip(*positive, strict=True), color=color, linewidth=2, marker="o", markersize=3.5, label=label)
    axes.axhline(100 * BUDGET, color="#15803d", linewidth=1, linestyle="--")
    axes.text(0.5, 100 * BUDGET * 1.2, "budget: +1 %", color="#15803d")
    auto = found["auto"]
    axes.plot([auto["ratio"]], [100 * auto["perplexity_drift"]], "o", color="#0369a1", markersize=10, fillstyle="none")
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1e4)
    axes.set_xlabel("share of the head's columns removed")
    axes.set_ylabel("perplexity drift, %")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(
        f"{MODEL}, perplexity {found['perplexity']:.0f} on prose; the circle is what `auto` chose", fontsize=10
    )
    axes.grid(visible=True, which="major", color="#e5e7eb")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.98), fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/drift-curve.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
