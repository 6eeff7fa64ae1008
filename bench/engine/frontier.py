"""The least drift at each number of bytes: planes beside slices and the plain integers that anyone would try first.

Every model of HEADROOM_BENCH_MODELS (default: .models of this checkout, which `make models` fills), on wikitext-2, and
the causal reference models of ../shared, on prose. Calibrated on one part of the text and measured on another. `read`
is what a position reads of the head's bytes, `stored` what stands for head and, in a tied model, table together (the
others keep a table of their own beside the head). Of 3 and 2 bits `read` counts these bits. A model takes minutes, one
with a large vocabulary on fewer tokens. What was measured lies in bench/results/frontier.json after each model, and a
run leaves out what is there with the same options. HEADROOM_BENCH_FRESH=1 measures everything again.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.folders import MODELS, RESULTS, SHARED
from headroom.contract.compress import CompressRecipe, Method
from service.compression.drift.drift_points import DriftPoint, baseline_perplexity, drift_curve
from service.compression.drift.plain_rivals import measure_rivals, rival_nbytes
from service.compression.drift.planes.rescored_drift import PlaneReading, sweep_readings
from service.compression.drift.planes.tempering import choose_tau
from service.compression.drift.sweep import prepare, sweep
from service.compression.heads.basis import build_basis
from service.compression.heads.plane_fit import fit_planes
from service.compression.states.source import Source, open_source
from service.models.column_counts import kept_columns
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel

SMALL = ("docs-gpt2-13m", "docs-gpt2-13m-long", "docs-llama-untied-12m")
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SHOWN = (PlaneReading(4, 256), PlaneReading(4, 1024), PlaneReading(3, 1024), PlaneReading(2, 1024), PlaneReading(8, 0))
BITS, RESCORED = (8, 4, 3, 2), (0, 256, 512, 1024, 2048)
AIMS = {PlaneReading(3, 1024): 0.004, PlaneReading(2, 1024): 0.015}  # KL in nats
TOKENS = {"calibration_tokens": 8192, "evaluation_tokens": 4096}
FEWER_TOKENS = {"calibration_tokens": 4096, "evaluation_tokens": 1024}  # where a position has LARGE logits or more
LARGE = 100_000
RESULT = RESULTS / "frontier.json"
CPU = torch.device("cpu")


def run() -> dict[str, Any]:
    trained = sorted({config.parent for config in MODELS.rglob("config.json")}) if MODELS.is_dir() else []
    models = [(path, SHARED / "corpora" / "wikitext-2-valid.txt") for path in trained]
    models += [(SHARED / "models" / name, SHARED / "corpora" / "prose-valid.txt") for name in SMALL]
    models = [(path, corpus) for path, corpus in models if path.is_dir() and corpus.is_file()]
    if not models:
        raise SystemExit("bench frontier needs the models of `make models`, or ../shared, and the texts of ../shared")
    found = _measured_before()
    for path, corpus in models:
        options = _options(path)
        if found.get(path.name, {}).get("options") != options:
            with tempfile.TemporaryDirectory() as folder:
                found[path.name] = {"corpus": corpus.name, "options": options} | _measure(
                    path, corpus, Path(folder), options
                )
            _keep(found)
        _print_table(path.name, found[path.name])
    return {"device": CPU.type, "models": found}


def _options(model: Path) -> dict[str, int]:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return FEWER_TOKENS if config["vocab_size"] >= LARGE else TOKENS


def _measured_before() -> dict[str, Any]:
    if os.environ.get("HEADROOM_BENCH_FRESH") or not RESULT.is_file():
        return {}
    models: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))["models"]
    return models


def _keep(found: dict[str, Any]) -> None:
    """As far as it came: a run that is stopped goes on from here."""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"device": CPU.type, "models": found}, indent=1) + "\n", encoding="utf-8")


def _measure(model: Path, corpus: Path, folder: Path, options: dict[str, int]) -> dict[str, Any]:
    fields = {"model": f"bench/{model.name}", "corpus": "corpus_" + "0" * 32, "options": options}
    recipe = CompressRecipe.model_validate(fields)
    local = LocalModel(recipe.model.id, None, model)
    task = EngineTask("job_bench", recipe, (local,), (CorpusFile(corpus, "text", None),), folder, folder, CPU.type)
    source = open_source(task, CPU, lambda done: None)
    head = source.head
    statistics = source.statistics(Method.PROBABILITY, CPU, lambda done: None)
    tempering = choose_tau(source.calibration, head, statistics, PlaneReading(4, 1024), seed=0)
    planes = fit_planes(head, statistics, seed=0, tau=tempering.tau)
    measured = sweep_readings(source.evaluation, head, planes, BITS, RESCORED)
    points = measured.points(head.hidden_size, seed=0)
    before = head.weight.nbytes + (0 if head.module_bias is None else head.module_bias.nbytes)
    tables = before * (1 if head.is_tied else 2)  # head and input table
    other_table = tables - before

    rivals = measure_rivals(source.evaluation, head, seed=0)
    rows = {}
    for name, point in rivals.items():
        nbytes = rival_nbytes(name, head)
        # Rounding the shared table of a tied model would round its input too: a rival keeps it, and unties.
        rows[f"{name}, plain"] = _row(point, nbytes / before, (nbytes + head.weight.nbytes) / tables)
    for ratio, point in _sliced(source, statistics).items():
        kept = point.kept_columns
        share = kept / head.hidden_size * (1 + head.hidden_size / head.vocab_size)
        rows[f"probability, r = {ratio:g}"] = _row(point, share, 1.0 if head.is_tied else (share + 1) / 2)
    stored = (planes.stored_nbytes + other_table) / tables
    for reading in SHOWN:
        share = planes.read_nbytes(reading.bits, reading.rescored) / before
        label = "planes, 8 bits" if reading.bits == 8 else f"planes, {reading.bits} bits, {reading.rescored} rescored"
        rows[label] = _row(points[reading], share, stored)
    return {
        "perplexity": round(baseline_perplexity(measured.swept), 3),
        "positions": source.evaluation.positions,
        "tied": head.is_tied,
        "shape": list(head.weight.shape),
        "tau": tempering.tau,
        "kl_of_tau": {f"{tau:g}": float(f"{kl:.4g}") for tau, kl in tempering.kl_of.items()},
        "whole_columns": planes.whole_columns,
        "rows": rows,
        "kl_of_rescored": {
            f"{reading.bits} bits, {reading.rescored}": float(f"{point.kl_mean:.4g}")
            for reading, point in points.items()
        },
        "aims": _aims(points, rivals["int8"]),
    }


def _sliced(source: Source, statistics: Any) -> dict[float, DriftPoint]:
    head = source.head
    basis = build_basis(Method.PROBABILITY, head.weight, statistics, 0)
    prepared = prepare(head, basis, statistics.mean_hidden, repair=True, device=CPU)
    sizes = {kept_columns(head.hidden_size, ratio, 8): ratio for ratio in RATIOS}
    curve = drift_curve(sweep(source.evaluation, prepared, sorted(sizes)), sizes, seed=0)
    return {point.ratio: point for point in curve}


def _row(point: DriftPoint, read: float, stored: float) -> dict[str, float]:
    shown = {
        "read": read,
        "stored": stored,
        "kl": point.kl_mean,
        "kl_p99": point.kl_p99,
        "top1": point.top1_agreement,
        "drift": point.perplexity_drift,
        "drift_low": point.perplexity_drift_low,
        "drift_high": point.perplexity_drift_high,
    }
    return {name: float(f"{value:.4g}") for name, value in shown.items()}


def _aims(points: dict[PlaneReading, DriftPoint], int8: DriftPoint) -> dict[str, Any]:
    """Each figure, what it should be at most (of top1: at least), and whether it is."""
    best = points[PlaneReading(4, 1024)]
    found: dict[str, Any] = {
        "KL over int8's": (best.kl_mean / int8.kl_mean, 1.0, best.kl_mean <= int8.kl_mean),
        "top1 over int8's": (
            best.top1_agreement / int8.top1_agreement,
            1.0,
            best.top1_agreement >= int8.top1_agreement,
        ),
    }
    for reading, aim in AIMS.items():
        kl = points[reading].kl_mean
        found[f"KL, {reading.bits} bits"] = (kl, aim, kl <= aim)
    return {name: {"is": float(f"{v:.4g}"), "aim": aim, "met": met} for name, (v, aim, met) in found.items()}


def _print_table(name: str, found: dict[str, Any]) -> None:
    lines = [
        f"\n{name}: perplexity {found['perplexity']:,} on {found['corpus']}, tau {found['tau']:g}",
        f"  {'':30}{'read':>7}{'stored':>8}{'KL':>10}{'top1':>9}   drift (95 %)",
    ]
    for label, row in found["rows"].items():
        lines.append(
            f"  {label:30}{row['read']:7.3f}{row['stored']:8.3f}{row['kl']:10.5f}{100 * row['top1']:8.2f} %"
            f"{100 * row['drift']:+9.3f} % ({100 * row['drift_low']:+.3f} .. {100 * row['drift_high']:+.3f})"
        )
    for label, aim in found["aims"].items():
        lines.append(f"  {label:30}{aim['is']:9.4g}, aim {aim['aim']:g}: {'met' if aim['met'] else 'MISSED'}")
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
