"""Drift of every method at every ratio on every reference model, with the bytes of the head beside it.

Calibrated on one part of prose-valid.txt and measured on another, from one pass of each model's backbone. `random` is
the mean of 5 seeds. `least squares` is the strong repair of removed raw columns: U_k = W_K + W_D C_DK C_KK^-1.
`int8` rounds the full head per row, `int4` by groups of 32, to the nearest, and remove nothing: what a user would do
instead. `prepared` are this project's own, with all columns and with half of them.
"""

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import torch
from torch import Tensor

from bench.folders import SHARED
from headroom.contract.compress import CompressRecipe, Method, RoundedDtype
from headroom.loading.quantized_head import scaled
from service.compression.drift.drift_points import baseline_perplexity
from service.compression.drift.stored_form_drift import measure_unnested
from service.compression.drift.sweep import SweepHead, prepare, sweep
from service.compression.heads.basis import build_basis
from service.compression.heads.precision import round_groups, round_head, round_rows
from service.compression.heads.slicing import slice_head
from service.compression.states.source import Source, open_source
from service.compression.states.statistics import Statistics
from service.models.column_counts import kept_columns
from service.ports.engine import CorpusFile, EngineTask
from service.ports.models import LocalModel

RATIOS = (0.1, 0.3, 0.5, 0.7)
SEEDS = range(5)
ROUNDED: tuple[RoundedDtype, ...] = get_args(RoundedDtype)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = {"evaluation_tokens": 8192}

Row = dict[float, float]  # ratio -> drift of perplexity


def run() -> dict[str, Any]:
    if not (SHARED / "models").is_dir():
        raise SystemExit("bench methods needs the reference models in ../shared")
    found: dict[str, Any] = {}
    for path in sorted(config.parent for config in (SHARED / "models").glob("*/config.json")):
        with tempfile.TemporaryDirectory() as folder:
            found[path.name] = _measure(path, Path(folder))
        _print_table(path.name, found[path.name])
    return {"device": str(DEVICE), "corpus": "prose-valid.txt", "options": OPTIONS, "models": found}


def _measure(model: Path, folder: Path) -> dict[str, Any]:
    fields = {"model": f"shared/{model.name}", "corpus": "corpus_" + "0" * 32, "options": OPTIONS}
    recipe = CompressRecipe.model_validate(fields)
    corpus = SHARED / "corpora" / "prose-valid.txt"
    local = LocalModel(recipe.model.id, None, model)
    task = EngineTask("job_bench", recipe, (local,), (CorpusFile(corpus, "text", None),), folder, folder, DEVICE.type)
    source = open_source(task, DEVICE, lambda done: None)
    statistics = source.statistics(Method.PROBABILITY, DEVICE, lambda done: None)
    hidden = source.head.hidden_size
    sizes = {kept_columns(hidden, ratio, 1): ratio for ratio in RATIOS}
    full = _perplexities(source, _prepared(source, statistics, Method.SLOPE, 0, repair=False), [hidden])[hidden]

    def drift(head: SweepHead, kept: Iterable[int] = sizes) -> Row:
        return {sizes[size]: value / full - 1 for size, value in _perplexities(source, head, [*kept]).items()}

    drawn = [drift(_prepared(source, statistics, Method.RANDOM, seed, repair=True)) for seed in SEEDS]
    rows = {"random, mean of 5": {ratio: mean(row[ratio] for row in drawn) for ratio in RATIOS}}
    rows["slope, no repair"] = drift(_prepared(source, statistics, Method.SLOPE, 0, repair=False))
    rows["slope, mean repair"] = drift(_prepared(source, statistics, Method.SLOPE, 0, repair=True))
    rows["slope, least squares"] = {}
    for size in sizes:
        rows["slope, least squares"] |= drift(_least_squares(source, statistics, size), [size])
    for method in (Method.PCA, Method.ACTIVATION, Method.PROBABILITY):
        rows[method.value] = drift(_prepared(source, statistics, method, 0, repair=True))
    return {
        "perplexity": round(full, 3),
        "drift": {name: {f"{r:g}": float(f"{row[r]:.4g}") for r in RATIOS} for name, row in rows.items()},
        "rounded": _rounded(source, statistics, full),
        "head_bytes": {
            "raw columns": {f"{ratio:g}": round(size / hidden, 3) for size, ratio in sizes.items()},
            "pca, activation, probability": {
                f"{ratio:g}": round(size / hidden * (1 + hidden / source.head.vocab_size), 3)
                for size, ratio in sizes.items()
            },
        },
    }


def _prepared(source: Source, statistics: Statistics, method: Method, seed: int, *, repair: bool) -> SweepHead:
    basis = build_basis(method, source.head.weight, statistics, seed)
    return prepare(source.head, basis, statistics.mean_hidden, repair=repair, device=DEVICE)


def _perplexities(source: Source, head: SweepHead, kept: list[int]) -> dict[int, float]:
    swept = sweep(source.evaluation, head, sorted(kept))
    wanted = swept.kept.index
    return {
        size: baseline_perplexity(
            replace(swept, negative_log_likelihood=swept.negative_log_likelihood[:, [wanted(size)]])
        )
        for size in kept
    }


def _least_squares(source: Source, statistics: Statistics, kept: int) -> SweepHead:
    """The removed raw columns are put into the kept ones as well as C = E[h h'] lets them be; the mean is repaired."""
    head = _prepared(source, statistics, Method.SLOPE, 0, repair=True)
    order = head.basis.order
    assert order is not None
    mean_hidden = statistics.mean_hidden[order]
    moment = (statistics.second_moment[order][:, order] - torch.outer(mean_hidden, mean_hidden)).to(DEVICE)
    stays, goes = slice(None, kept), slice(kept, None)
    into: Tensor = moment[goes, stays] @ torch.linalg.pinv(moment[stays, stays], hermitian=True)
    columns = head.columns.clone()
    columns[:, stays] += columns[:, goes] @ into.float()
    return replace(head, columns=columns)


def _rounded(source: Source, statistics: Statistics, full: float) -> dict[str, dict[str, float]]:
    """Row -> drift, and bytes of the original head's; see above. full: perplexity of the head as it is."""
    head, hidden = source.head, source.head.hidden_size
    quantized, row_scale = round_rows(head.weight.double())
    nibbles, group_scale = round_groups(head.weight.double())
    plain = {
        "int8": (quantized.float() * row_scale[:, None], 0.5 + 1 / hidden),  # and a 16-bit scale for each row
        "int4": (scaled(nibbles, group_scale.float()), 0.25 + 1 / 32),
    }
    found = {}
    for name, (weight, share) in plain.items():
        rounded = replace(source, head=replace(head, weight=weight))
        prepared = _prepared(rounded, statistics, Method.SLOPE, 0, repair=False)
        found[name] = {"drift": _perplexities(source, prepared, [hidden])[hidden] / full - 1, "bytes": share}
    basis = build_basis(Method.PROBABILITY, head.weight, statistics, 0)
    for ratio in (0.0, 0.5):
        kept = kept_columns(hidden, ratio, 1)
        factors = slice_head(head, basis, kept, statistics.mean_hidden, repair=True)
        for dtype in ROUNDED:
            each = round_head(factors, head, statistics, 0, dtype)
            drift = measure_unnested(source.evaluation, head, each, ratio, 0, DEVICE).perplexity_drift
            share = each.head_nbytes / head.weight.nbytes
            found[f"{dtype} prepared, r = {ratio:g}"] = {"drift": drift, "bytes": share}
    return {name: {key: float(f"{value:.4g}") for key, value in row.items()} for name, row in found.items()}


def _print_table(name: str, found: dict[str, Any]) -> None:
    lines = [
        f"\n{name}: perplexity {found['perplexity']:,}",
        f"  {'':24}" + "".join(f"{f'r = {r:g}':>12}" for r in RATIOS),
    ]
    for row, drift in found["drift"].items():
        lines.append(f"  {row:24}" + "".join(f"{100 * drift[f'{r:g}']:+10.3f} %" for r in RATIOS))
    for row, shares in found["head_bytes"].items():
        lines.append(f"  bytes, {row:17.17}" + "".join(f"{shares[f'{r:g}']:12.3f}" for r in RATIOS))
    for row, each in found["rounded"].items():
        lines.append(f"  {row:24}{100 * each['drift']:+10.3f} % at {each['bytes']:.3f} of the bytes")
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
