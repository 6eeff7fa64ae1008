"""The drift of methods on the reference models in ../shared: the table of the README. Runs the whole engine.

Each row is a job of its own on prose-valid.txt: calibrated on one part of it, measured on another, window 512.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from headroom.contract.compress import CompressRecipe
from service.compression.jobs.compress import compress
from service.ports.jobs import EngineTask, LocalModel

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS = ("docs-gpt2-13m", "docs-gpt2-13m-long", "docs-llama-untied-12m")
ROWS = (("random", "mean"), ("slope", "none"), ("slope", "mean"), ("pca", "mean"), ("activation", "mean"))
RATIOS = (0.1, 0.3, 0.5)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run() -> dict[str, Any]:
    if not (SHARED / "models").is_dir():
        raise SystemExit("bench models needs the reference models in ../shared")
    figures: dict[str, Any] = {"device": DEVICE, "corpus": "prose-valid.txt", "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            rows = {f"{method}, repair {repair}": _drift(Path(folder), name, method, repair) for method, repair in ROWS}
            report = _job(Path(folder), name, {"method": "probability", "ratio": "auto"})
            rows["probability, repair mean"] = _curve(report)
            figures["models"][name] = {
                "perplexity": round(report["baseline"]["perplexity"], 2),
                "encoding_r2": round(report["encoding"]["r2"], 4),
                "drift": rows,
                "auto": {key: report["selected"][key] for key in ("ratio", "kept_columns", "perplexity_drift")}
                | {
                    "perplexity_drift_high": report["selected"]["perplexity_drift_high"],
                    "stored_drift": report["stored"]["perplexity_drift"],
                    "bytes": report["bytes"],
                },
            }
            _print_table(name, figures["models"][name])
    return figures


def _drift(folder: Path, model: str, method: str, repair: str) -> dict[str, float]:
    fields = {"method": method, "ratio": 0.5, "drift": {"perplexity": 1e-9}, "options": {"repair": repair}}
    return _curve(_job(folder, model, fields))  # the budget refuses it: only the curve is wanted


def _curve(report: dict[str, Any]) -> dict[str, float]:
    """Ratio -> drift, at every size that was measured."""
    return {f"{point['ratio']:.4g}": float(f"{point['perplexity_drift']:.5g}") for point in report["curve"]}


def _job(folder: Path, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    recipe = CompressRecipe.model_validate({"model": f"shared/{model}", "corpus": "corpus_" + "0" * 32} | fields)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        source = LocalModel(f"shared/{model}", None, SHARED / "models" / model)
        corpus = SHARED / "corpora" / "prose-valid.txt"
        task = EngineTask("job_bench", recipe, source, corpus, "text", None, folder / "cache", Path(staging), DEVICE)
        return compress(task, lambda phase, fraction: None).report


def _print_table(name: str, found: dict[str, Any]) -> None:
    lines = [f"\n{name}: perplexity {found['perplexity']}, R^2 {found['encoding_r2']}"]
    for row, drift in found["drift"].items():
        lines.append(f"  {row:26}" + "".join(f"{100 * drift[str(r)]:+10.3f} %" for r in RATIOS))
    chosen, size = found["auto"], found["auto"]["bytes"]
    lines.append(
        f"  auto at 1 %: ratio {chosen['ratio']:.3f}, stored drift {100 * chosen['stored_drift']:+.3f} %, "
        f"head {size['head_before']:,} -> {size['head_after']:,} bytes\n"
    )
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()
