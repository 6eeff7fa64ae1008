"""What a compress job writes beside its checkpoint, for engines that do not know the format.

Each export has a folder of its own in the artifact and is loaded and measured before the job may succeed.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headroom.contract.compress import CompressRecipe
from headroom.contract.report.stored import Export
from service.compression.checkpoint import onnx_export
from service.compression.checkpoint.checkpoint import plan_dense
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.checkpoint.validation import (
    COMPARED_POSITIONS,
    LoadedCheckpoint,
    StoredMeasurement,
    load_stored,
)
from service.compression.drift.gate import Choice, StoredDrift, stored_drift
from service.compression.heads.read_planes import MadeHead
from service.compression.heads.slicing import SlicedFactors, stored_logits
from service.compression.states.lm_head import CONTRACT_TOLERANCE
from service.compression.states.model_loading import load_model
from service.compression.states.offloading import Room, room_of
from service.compression.states.source import Source
from service.foundation.errors import ExportUnavailable
from service.foundation.hashed_files import HashedFile
from service.ports.engine import EngineTask


def check_exports(recipe: CompressRecipe, source: Source) -> None:
    """ExportUnavailable before any work for what this model, or this worker, cannot export."""
    kinds, pairs = recipe.options.export, source.inspection.config.get("is_encoder_decoder")
    if "dense" in kinds and pairs and source.head.is_tied:
        raise ExportUnavailable(
            "the plain class of this encoder-decoder loads no head beside the input table that it shares: leave out "
            "the export 'dense'; headroom's own format loads it"
        )
    if "onnx" in kinds:
        onnx_export.check(is_encoder_decoder=bool(pairs))


def write_exports(
    task: EngineTask[CompressRecipe],
    source: Source,
    made: MadeHead,
    choice: Choice,
    device: torch.device,
    progress: Callable[[float], None],
) -> tuple[tuple[Export, ...], dict[str, HashedFile]]:
    """Write every export that the job asks for; as the report has them, and hashes. Staging holds the checkpoint."""
    kinds = task.recipe.options.export
    found: list[Export] = []
    hashes: dict[str, HashedFile] = {}
    for number, kind in enumerate(kinds):

        def on_export(done: float, number: int = number) -> None:
            progress((number + done) / len(kinds))

        if kind == "dense":
            assert isinstance(made, SlicedFactors)  # a recipe that asks for this export considers no planes
            told, hashed = _dense(task, source, made, choice, device, on_export)
            found.append(told)
            hashes |= {f"dense/{name}": file for name, file in hashed.items()}
        else:
            found.append(_onnx(task, source, on_export))
    return tuple(found), hashes


def _dense(
    task: EngineTask[CompressRecipe],
    source: Source,
    factors: SlicedFactors,
    choice: Choice,
    device: torch.device,
    progress: Callable[[float], None],
) -> tuple[Export, dict[str, HashedFile]]:
    """A head of full width and rank k in the plain architecture, loaded by it and judged by the job's budgets."""
    # A plain class builds a bias where the source has one; what a repair adds elsewhere has no place in its files.
    left_out = factors.bias is not None and source.head.module_bias is None
    written = replace(factors, bias=None) if left_out else factors
    dense = load_stored(task.staging, source.reading.auto_class, Room(torch.device("cpu"))).get_output_embeddings()
    weight = dense.dense_weight().to(source.head.weight.dtype)  # of the file, whatever it was loaded in
    plan = plan_dense(source.inspection, source.head, source.stored, weight, written.bias, source.base_model_prefix)
    folder = task.staging / "dense"
    folder.mkdir()
    shard_bytes = task.recipe.options.max_shard_bytes
    hashes = write_checkpoint(plan, source.inspection, folder, shard_bytes, lambda done: progress(0.2 * done))
    elements = sum(torch.Size(item.shape).numel() for item in plan.tensors.values())
    model = load_model(
        folder, plan.config, source.reading.auto_class, elements, room_of(task, source.inspection, device)
    )
    first, drifts = _measure(model, source, choice, task.recipe.options.seed, lambda done: progress(0.2 + 0.8 * done))
    difference = _difference(source, written, first.first_logits)
    if not all(drift.passes(one.set.budget) for one, drift in zip(choice.sets, drifts, strict=True)):
        raise ExportUnavailable(
            f"the dense export would drift by up to {max(drift.high for drift in drifts):+.2%} in perplexity, KL "
            f"{max(drift.kl for drift in drifts):.3g}, over the budget"
            + (
                ": the plain class has no place for the bias of the mean repair; ask for options.repair none, or leave "
                "out the export"
                if left_out
                else "; ask for a smaller ratio, or leave out the export"
            )
        )
    told = Export(
        kind="dense",
        path="dense",
        bytes=plan.nbytes,
        max_logit_difference=difference,
        bias="none" if factors.bias is None else "left out" if left_out else "kept",
        perplexity=first.perplexity,
        perplexity_drift=drifts[0].drift,
        perplexity_drift_low=drifts[0].low,
        perplexity_drift_high=drifts[0].high,
    )
    return told, hashes


def _measure(
    model: Any, source: Source, choice: Choice, seed: int, progress: Callable[[float], None]
) -> tuple[StoredMeasurement, list[StoredDrift]]:
    """The measurement of the first evaluation set, and the drifts of all."""
    measurements: list[StoredMeasurement] = []
    drifts, loaded = [], LoadedCheckpoint(model, source.head)
    for one in choice.sets:
        measured = loaded.measure(
            one.set.hidden.examples,
            COMPARED_POSITIONS,
            lambda done: progress((len(measurements) + done) / len(choice.sets)),
            one.set.hidden,
        )
        measurements.append(measured)
        assert measured.against_source is not None
        drifts.append(stored_drift(measured.against_source, one.set, seed))
    return measurements[0], drifts


@torch.inference_mode()
def _difference(source: Source, written: SlicedFactors, logits: Tensor) -> float:
    """From the checkpoint's factors on the source's hidden states; ExportUnavailable when the class lost the head."""
    hidden = source.evaluation.first(logits.shape[0])
    expected = stored_logits(source.head, written, hidden)
    difference = float((expected - logits).abs().max())
    if not difference <= CONTRACT_TOLERANCE[source.head.weight.dtype] * float(expected.abs().max()):
        architecture = source.inspection.config["architectures"][0]
        raise ExportUnavailable(
            f"the plain {architecture} does not load a head of its own (its logits are off by {difference:.2g}): leave "
            "out the export 'dense'; headroom's own format loads it"
        )
    return difference


def _onnx(task: EngineTask[CompressRecipe], source: Source, progress: Callable[[float], None]) -> Export:
    model = load_stored(task.staging, source.reading.auto_class, Room(torch.device("cpu")), torch.float32)
    folder = task.staging / "onnx"
    folder.mkdir()
    difference = onnx_export.write(model, folder / "model.onnx", source.evaluation.examples.inputs["input_ids"])
    progress(1.0)
    return Export(
        kind="onnx",
        path="onnx/model.onnx",
        bytes=_bytes(folder),
        max_logit_difference=difference,
        bias="none" if model.get_output_embeddings().bias is None else "kept",
    )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
