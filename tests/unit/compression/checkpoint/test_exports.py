"""Exports say what the checkpoint says, to engines that do not know its format."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

import headroom  # noqa: F401  # registers the format
from service.compression.checkpoint import exports, onnx_export
from service.compression.drift.gate import StoredDrift
from service.foundation.errors import ExportUnavailable
from service.ports.engine import EngineOutcome, EngineTask
from tests.factories import make_recipe

pytestmark = pytest.mark.slow

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]

IDS = torch.tensor([[5, 9, 77, 140, 3, 200, 41]])
LOAD_PLAIN = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
transformers.AutoTokenizer.from_pretrained(sys.argv[1])
assert "headroom" not in sys.modules
torch.save(model(torch.tensor(eval(sys.argv[2]))).logits, sys.argv[3])
"""


def logits_of(folder: Path, auto_class: str = "AutoModelForCausalLM") -> torch.Tensor:
    model = getattr(transformers, auto_class).from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with torch.inference_mode():
        return model(IDS).logits


def export_of(outcome: EngineOutcome) -> dict[str, Any]:
    (exported,) = outcome.report["exports"]
    return exported


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({"family": "gpt2"}, {"repair": "none"}),
        ({"family": "llama", "dtype": torch.bfloat16}, {"repair": "none"}),
        ({"family": "llama"}, {"repair": "none", "head_dtype": "int8"}),
        ({"family": "phi"}, {}),  # its head has a bias, so that the repair's has a place
    ],
    ids=["tied", "16 bits", "8-bit head", "with a bias"],
)
def test_a_dense_export_gives_the_checkpoints_logits(
    make_task: MakeTask, run: Run, model: dict[str, Any], options: dict[str, Any]
) -> None:
    task = make_task(model=model, ratio=0.5, options={"export": ["dense"], "compare": [], **options})
    exported = export_of(run(task))

    sliced, dense = logits_of(task.staging), logits_of(task.staging / "dense")

    tolerance = 2e-2 if "dtype" in model else 1e-4
    assert (sliced - dense).abs().max() <= tolerance * sliced.abs().max()
    assert exported["max_logit_difference"] <= tolerance * sliced.abs().max()
    assert exported["bias"] == ("kept" if model["family"] == "phi" else "none")
    assert exported["bytes"] == pytest.approx((task.staging / "dense" / "model.safetensors").stat().st_size, rel=0.05)


def test_a_dense_export_loads_where_headroom_is_not_imported(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    """A mean repair has no place in GPT-2's own class: it is left out, measured without it, and told."""
    task = make_task(ratio=0.5, method="slope", options={"export": ["dense"], "compare": []})
    outcome = run(task)
    exported, found = export_of(outcome), tmp_path / "logits.pt"

    command = [sys.executable, "-W", "ignore", "-c", LOAD_PLAIN, task.staging / "dense", str(IDS.tolist()), found]
    subprocess.run(command, check=True)

    without = transformers.AutoModelForCausalLM.from_pretrained(task.staging, local_files_only=True)
    without.lm_head.bias = None
    with torch.inference_mode():
        assert torch.allclose(torch.load(found), without(IDS).logits, atol=1e-4)
    assert exported["bias"] == "left out"
    assert exported["perplexity"] != pytest.approx(outcome.report["stored"]["perplexity"], rel=1e-6)


def test_a_dense_export_over_the_budget_fails_the_job(
    make_task: MakeTask, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "stored_drift", lambda *measured: StoredDrift(0.5, 0.4, 0.6, 0.0, 1.0))
    with pytest.raises(ExportUnavailable, match=r"60\.00%.*repair none"):
        run(make_task(ratio=0.5, options={"export": ["dense"], "compare": []}, drift={"perplexity": 0.55, "kl": None}))


def test_a_shared_table_of_an_encoder_decoder_is_not_exported(make_task: MakeTask, run: Run) -> None:
    with pytest.raises(ExportUnavailable, match="input table"):
        run(make_task(model={"family": "bart"}, options={"export": ["dense"]}))


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        # Of one layer: the tracing of a graph takes seconds for each.
        ({"family": "gpt2", "n_layer": 1}, "probability", {}),
        ({"family": "llama", "num_hidden_layers": 1, "dtype": torch.bfloat16}, "slope", {}),
        ({"family": "bert", "num_hidden_layers": 1}, "probability", {"head_dtype": "int8"}),
    ],
    ids=["tied, another basis", "untied, its own columns", "masked, 8 bits"],
)
def test_an_onnx_graph_says_what_torch_says_at_any_length(
    make_task: MakeTask, run: Run, model: dict[str, Any], method: str, options: dict[str, Any]
) -> None:
    task = make_task(
        model=model, method=method, ratio=0.5, options={"export": ["onnx"], "compare": [], "window": 16, **options}
    )
    outcome = run(task)
    exported, path = export_of(outcome), task.staging / "onnx" / "model.onnx"

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sliced = getattr(transformers, outcome.report["model"]["auto_class"]).from_pretrained(
        task.staging, dtype=torch.float32
    )
    for batch, length in ((1, 3), (2, 40)):
        ids = torch.randint(0, 250, (batch, length), generator=torch.Generator().manual_seed(length))
        given = {"input_ids": ids.numpy(), "attention_mask": np.ones((batch, length), dtype=np.int64)}
        (found,) = session.run(None, given)
        with torch.inference_mode():
            assert (torch.from_numpy(found) - sliced(ids).logits).abs().max() < 1e-4
    assert exported["max_logit_difference"] < 1e-4
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert domains <= {"", "ai.onnx"}
    assert "model.safetensors" in {file.name for file in task.staging.iterdir()}


def test_a_worker_without_the_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(ExportUnavailable, match=r"headroom-lm\[onnx\]"):
        onnx_export.check(is_encoder_decoder=False)


def test_each_export_is_named_once() -> None:
    with pytest.raises(ValueError, match="once"):
        make_recipe(options={"export": ["dense", "dense"]})
