"""Heads and methods on really trained models and on the small reference models of ../shared. Runs the whole engine.

The former are those of HEADROOM_BENCH_MODELS (default: .models of this checkout, which `make models` fills), on
wikitext-2; the latter are read with prose-valid.txt. Each row of a method is a job of its own: calibrated on one part
of the text, measured on another, window 512. Of a trained model the heads are printed too that a job asked for nothing
measures and chooses from, on the first TEXT_BYTES of the text: the README's first table.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.folders import MODELS, SHARED
from headroom.contract.compress import CompressRecipe
from headroom.contract.report.curve import CurvePoint, DriftInterval
from headroom.contract.report.part import Measured
from headroom.contract.report.report import CompressReport
from service.compression.jobs.compress import compress
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel

SMALL = ("docs-gpt2-13m", "docs-gpt2-13m-long", "docs-llama-untied-12m")
ROWS = (("random", "mean"), ("slope", "none"), ("slope", "mean"), ("pca", "mean"), ("activation", "mean"))
RATIOS = (0.1, 0.3, 0.5)
SLICED = 0.3
FEWER_TOKENS = {"calibration_tokens": 8192, "evaluation_tokens": 8192}  # of the trained models, on a CPU
TEXT_BYTES = 120_000
HEAD_ENTRIES = 1 << 30  # positions x vocabulary: of a large vocabulary a job of all positions would take half an hour
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run() -> dict[str, Any]:
    measured = _models()
    if not measured:
        raise SystemExit("bench models needs the models of `make models`, or ../shared, and the texts of ../shared")
    figures: dict[str, Any] = {"device": DEVICE, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for model in measured:
            rows = {
                f"{method}, repair {repair}": _drift(Path(folder), model, method, repair) for method, repair in ROWS
            }
            report = _job(Path(folder), model, {"method": "probability", "ratio": 0.5, "drift": {"perplexity": 1e-9}})
            rows["probability, repair mean"] = _curve(report)
            figures["models"][model.path.name] = found = {
                "corpus": model.corpus.name,
                "perplexity": round(_number(report.baseline.perplexity), 2),
                "encoding_r2": round(_number(report.encoding.r2), 4),
                "drift": rows,
                "probability": {
                    f"{point.ratio:.4g}": {
                        "kl_mean": _short(point.kl_mean),
                        "top1_agreement": _short(point.top1_agreement),
                    }
                    for point in report.curve
                },
            }
            found |= {"auto": _auto(Path(folder), model)} if model.is_small else {"heads": _heads(Path(folder), model)}
            _print_table(model.path.name, found)
    return figures


@dataclass(frozen=True)
class MeasuredModel:
    """A model and the text that it is measured on."""

    path: Path
    corpus: Path
    options: dict[str, int]
    is_small: bool


def _models() -> list[MeasuredModel]:
    """Those that are on this machine, the really trained ones first."""
    trained = sorted(config.parent for config in MODELS.rglob("config.json")) if MODELS.is_dir() else []
    texts = SHARED / "corpora"
    models = [MeasuredModel(path, texts / "wikitext-2-valid.txt", FEWER_TOKENS, False) for path in trained]
    models += [MeasuredModel(SHARED / "models" / name, texts / "prose-valid.txt", {}, True) for name in SMALL]
    return [model for model in models if model.path.is_dir() and model.corpus.is_file()]


def _auto(folder: Path, model: MeasuredModel) -> dict[str, Any]:
    report = _job(folder, model, {"method": "probability", "ratio": "auto"})
    assert report.stored is not None  # else the model is refused, and there is nothing to show
    told = {"ratio", "kept_columns", *DriftInterval.model_fields} - {"perplexity_drift_low"}
    return report.selected.model_dump(include=told) | {
        "stored_drift": report.stored.perplexity_drift,
        "bytes": report.bytes.model_dump(),
    }


def _heads(folder: Path, model: MeasuredModel) -> dict[str, Any]:
    """Of a job asked for nothing: what it chose, what it measured beside, and the checkpoint as it is stored."""
    text = folder / "beginning.txt"
    text.write_bytes(model.corpus.read_bytes()[:TEXT_BYTES])
    vocabulary = json.loads((model.path / "config.json").read_text())["vocab_size"]
    most = {"calibration_tokens": HEAD_ENTRIES // vocabulary, "evaluation_tokens": HEAD_ENTRIES // vocabulary}
    report = _job(folder, replace(model, corpus=text, options=most), {})
    assert report.frontier is not None
    rows: dict[str, dict[str, float | None]] = {}
    for point in report.frontier.points:
        if point.head_dtype == "planes":
            name = f"planes, {point.bits} bits, {point.rescored} rescored" + ", chosen" * point.chosen
            rows[name] = _row(point, point.share, _number(point.stored_share))
        elif point.ratio == SLICED:
            rows[f"{SLICED:.0%} of the columns sliced off"] = _row(point, point.share, _number(point.stored_share))
    for name, plain in report.plain.items():
        rows[f"plain {name}"] = _row(plain, plain.share, plain.share)
    return {
        "evaluation_tokens": report.corpus.evaluation_tokens,
        "rows": rows,
        "stored": report.stored.model_dump() if report.stored else None,
        "bytes": report.bytes.model_dump(),
        "timing": report.timing,
    }


def _row(point: CurvePoint, read: float, stored: float) -> dict[str, float | None]:
    return {
        "read": round(read, 3),
        "stored": round(stored, 3),
        "kl_mean": point.kl_mean,
        "top1_agreement": point.top1_agreement,
        "perplexity_drift": point.perplexity_drift,
    }


def _drift(folder: Path, model: MeasuredModel, method: str, repair: str) -> dict[str, float]:
    fields = {"method": method, "ratio": 0.5, "drift": {"perplexity": 1e-9}, "options": {"repair": repair}}
    return _curve(_job(folder, model, fields))  # the budget refuses it: only the curve is wanted


def _curve(report: CompressReport) -> dict[str, float]:
    """Ratio -> drift, at every size that was measured."""
    return {f"{point.ratio:.4g}": _short(point.perplexity_drift) for point in report.curve}


def _number(figure: Measured) -> float:
    return math.nan if figure is None else figure


def _short(figure: Measured) -> float:
    return float(f"{_number(figure):.5g}")


def _job(folder: Path, model: MeasuredModel, fields: dict[str, Any]) -> CompressReport:
    model_id = f"bench/{model.path.name}"
    fields = fields | {"options": model.options | fields.get("options", {})}
    recipe = CompressRecipe.model_validate({"model": model_id, "corpus": "corpus_" + "0" * 32} | fields)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        source = LocalModel(model_id, None, model.path)
        task = EngineTask(
            "job_bench",
            recipe,
            (source,),
            (CorpusFile(model.corpus, "text", None),),
            folder / "cache",
            Path(staging),
            DEVICE,
        )
        report = compress(task, lambda phase, fraction: None).report
        assert isinstance(report, CompressReport)
        return report


def _print_table(name: str, found: dict[str, Any]) -> None:
    lines = [f"\n{name}: perplexity {found['perplexity']}, R^2 {found['encoding_r2']}"]
    for row, drift in found["drift"].items():
        lines.append(f"  {row:26}" + "".join(f"{100 * drift[str(r)]:+10.3f} %" for r in RATIOS))
    for figure, factor, unit in (("kl_mean", 1, "nats"), ("top1_agreement", 100, "%")):
        values = [found["probability"][str(ratio)][figure] for ratio in RATIOS]
        lines.append(f"  {'probability, ' + figure:26}" + "".join(f"{factor * value:10.4f} {unit}" for value in values))
    for name, row in found.get("heads", {"rows": {}})["rows"].items():
        lines.append(
            f"  {name:36}{row['read']:6.3f}{row['stored']:7.3f}{row['kl_mean']:9.5f} nats"
            f"{row['top1_agreement']:7.1%}{row['perplexity_drift']:+9.2%}"
        )
    if "auto" in found:
        chosen, size = found["auto"], found["auto"]["bytes"]
        lines.append(
            f"  auto at 1 %: ratio {chosen['ratio']:.3f}, stored drift {100 * chosen['stored_drift']:+.3f} %, "
            f"head {size['head_before']:,} -> {size['head_after']:,} bytes"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
