"""Drift and KL of 8-bit and 4-bit columns at every ratio on the causal reference models, bytes of the head beside it.

Calibrated on one part of prose-valid.txt and measured on another; method `probability`, a ratio of 0 rounds alone.
`unprepared` rounds the columns as they are. `nearest` prepares them but puts no error into later columns.
`refined` trains the kept columns further first.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch

from bench.folders import SHARED
from headroom.contract.compress import CompressRecipe, Method, RoundedDtype
from headroom.loading.quantized_head import scaled
from service.compression.drift.stored_form_drift import measure_unnested
from service.compression.heads import precision
from service.compression.heads.basis import build_basis
from service.compression.heads.precision import round_groups, round_head, round_rows
from service.compression.heads.refining import refine
from service.compression.heads.slicing import slice_head
from service.compression.states.source import open_source
from service.models.column_counts import kept_columns
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel

MODELS = ("docs-gpt2-13m", "docs-gpt2-13m-long", "docs-llama-untied-12m")
RATIOS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)
REFINED_FROM = 0.7  # below, the closed form leaves next to nothing to win
ROUNDED: tuple[RoundedDtype, ...] = get_args(RoundedDtype)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = {"evaluation_tokens": 8192}


def run() -> dict[str, Any]:
    if not (SHARED / "models").is_dir():
        raise SystemExit("bench precision needs the reference models in ../shared")
    found: dict[str, Any] = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _measure(name, Path(folder))
    return {"device": str(DEVICE), "corpus": "prose-valid.txt", "options": OPTIONS, "models": found}


def _measure(name: str, folder: Path) -> dict[str, dict[str, float]]:
    fields = {"model": f"shared/{name}", "corpus": "corpus_" + "0" * 32, "options": OPTIONS}
    recipe = CompressRecipe.model_validate(fields)
    local = LocalModel(recipe.model.id, None, SHARED / "models" / name)
    corpus = SHARED / "corpora" / "prose-valid.txt"
    task = EngineTask("job_bench", recipe, (local,), (CorpusFile(corpus, "text", None),), folder, folder, DEVICE.type)
    source = open_source(task, DEVICE, lambda done: None)
    head = source.head
    statistics = source.statistics(Method.PROBABILITY, DEVICE, lambda done: None)
    basis = build_basis(Method.PROBABILITY, head.weight, statistics, 0)
    found: dict[str, dict[str, float]] = {}
    for ratio in RATIOS:
        kept = kept_columns(head.hidden_size, ratio, 8)
        source_dtype = slice_head(head, basis, kept, statistics.mean_hidden, repair=True)
        prepared = {name: round_head(source_dtype, head, statistics, 0, name) for name in ROUNDED}
        with patch.object(precision, "round_groups", lambda rows, feedback: round_groups(rows)):
            nearest = round_head(source_dtype, head, statistics, 0, "int4")
        weight = source_dtype.weight.double()
        quantized, scale = round_rows(weight)
        nibbles, group_scale = round_groups(weight)
        candidates = {
            "source": source_dtype,
            "int8, unprepared": replace(source_dtype, weight=quantized.float() * scale[:, None]),
            "int8": prepared["int8"],
            "int4, unprepared": replace(source_dtype, weight=scaled(nibbles, group_scale.float())),
            "int4, nearest": nearest,
            "int4": prepared["int4"],
        }
        if ratio >= REFINED_FROM:
            candidates["refined"], _ = refine(
                source_dtype, head, source.calibration, shares_table=head.is_tied, seed=0, device=DEVICE
            )
            candidates["refined, int8"] = round_head(candidates["refined"], head, statistics, 0, "int8")
        row = {}
        for label, factors in candidates.items():
            point = measure_unnested(source.evaluation, head, factors, ratio, 0, DEVICE)
            row[label] = float(f"{point.perplexity_drift:.3g}")
            row[f"KL, {label}"] = float(f"{point.kl_mean:.3g}")
        bytes_of = {"source": source_dtype} | prepared
        row |= {f"bytes, {label}": round(each.head_nbytes / head.weight.nbytes, 3) for label, each in bytes_of.items()}
        found[f"{ratio:g}"] = row
        sys.stdout.write(f"{name} {ratio:g} {row}\n")
    return found
