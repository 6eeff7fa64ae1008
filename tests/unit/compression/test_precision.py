"""Heads of 8-bit integers: rounding against a slow loop, the stored checkpoint against what was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import headroom
from headroom.errors import InvalidArgument
from headroom.quantized_head import QuantizedHead
from headroom.restoring import restore
from service.compression.precision import round_rows
from service.estimates import estimate
from service.model_files import inspect_model
from service.ports import EngineOutcome, EngineTask, Verdict
from tests.factories import make_recipe

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
INT8 = {"head_dtype": "int8", "compare": [], "continuations": 0}
KINDS = [
    pytest.param({"family": "gpt2", "tied": True}, id="gpt2-tied"),
    pytest.param({"family": "llama", "tied": False}, id="llama-untied"),
]


def test_rows_are_rounded_as_a_slow_loop_rounds_them() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64) * torch.tensor([1, 1e-3, 50, 0, 1.0])[:, None]
    quantized, scale = round_rows(rows)
    for row, integers, step in zip(rows.tolist(), quantized.tolist(), scale.tolist(), strict=True):
        largest = max(map(abs, row))
        assert step == pytest.approx(largest / 127 if largest else 1.0)
        assert integers == [round(value / step) for value in row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("positions", [1, 7])
def test_the_module_gives_the_logits_of_its_dense_weight(dtype: torch.dtype, positions: int) -> None:
    head = QuantizedHead(32, 5000, 16, bias=True)
    head.quantized.copy_(torch.randint(-127, 128, (5000, 16)))
    head.scale.copy_((torch.rand(5000) / 127).view(torch.int32))
    torch.nn.init.normal_(head.basis, std=0.2)
    torch.nn.init.normal_(head.bias)
    h = torch.randn(2, positions, 32)
    expected = h @ head.dense_weight().T + head.bias
    found = head.to(dtype)(h[:1].to(dtype)) if positions == 1 else head.to(dtype)(h.to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2 * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected[: found.shape[0]], rtol=0, atol=tolerance)
    assert head.quantized.dtype == torch.int8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["probability", "slope"])
def test_an_8_bit_head_is_stored_as_measured_and_survives_saving_casting_and_dequantizing(
    make_task: MakeTask, run: Run, tmp_path: Path, kind: dict[str, Any], method: str
) -> None:
    task = make_task(model=kind | {"dtype": torch.bfloat16}, method=method, options=INT8)
    outcome = run(task)
    report = outcome.report
    assert outcome.verdict is Verdict.PUBLISH
    assert report["stored"]["perplexity"] == pytest.approx(report["selected"]["perplexity"], rel=1e-3)
    assert report["unrounded"]["kept_columns"] == 16
    estimated = estimate(task.recipe, inspect_model(task.model.path), [1])
    assert estimated.head_bytes_after == report["bytes"]["head_after"]
    assert report["bytes"]["head_after"] == 264 * (16 + 4 + 2) + 2 * 16 * 32
    assert report["bytes"]["checkpoint_after"] == sum(e.nbytes for e in inspect_model(task.staging).tensors.values())
    model = AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.bfloat16)
    original = AutoModelForCausalLM.from_pretrained(task.model.path, dtype=torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
    ids = torch.arange(20)[None]
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.bfloat16)
    assert torch.equal(model(ids).logits, again(ids).logits)
    scale = model.get_output_embeddings().scale.clone()
    with pytest.raises(InvalidArgument):
        headroom.set_kept_columns(model, 8)
    cast = model.to(torch.float32)
    assert torch.equal(cast.get_output_embeddings().scale, scale)
    wide = AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.float32)
    before = wide(ids).logits
    with pytest.warns(UserWarning, match="bias"):
        dense = wide.dequantize()
    torch.testing.assert_close(dense(ids).logits, before, rtol=1e-4, atol=1e-4)


def test_rounding_alone_keeps_every_column_and_costs_almost_nothing(make_task: MakeTask, run: Run) -> None:
    task = make_task(ratio=0.0, options=INT8)
    report = run(task).report
    assert report["selected"]["kept_columns"] == 32
    assert 0 < report["selected"]["kl_mean"] < 1e-3
    assert json.loads((task.staging / "config.json").read_text())["quantization_config"]["nested"] is False


def test_a_ratio_of_0_is_refused_where_it_would_change_nothing() -> None:
    with pytest.raises(ValidationError, match="removes nothing"):
        make_recipe(ratio=0.0)


def test_a_rounded_head_is_never_said_to_be_restorable(make_task: MakeTask, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="cannot be restored"):
        make_recipe(options=INT8 | {"keep_removed": True})
    task = make_task(options=INT8)
    run(task)
    with pytest.raises(InvalidArgument, match="rounded head"):
        restore(task.staging, tmp_path / "restored")


def test_an_8_bit_head_over_its_kl_budget_is_rejected_though_the_unrounded_one_passes(
    make_task: MakeTask, run: Run
) -> None:
    budget = {"perplexity": 9.0, "kl": 1e-9}
    outcome = run(make_task(ratio=0.0, drift=budget, options=INT8))
    assert outcome.verdict is Verdict.REJECT
    assert outcome.report["unrounded"]["kl_mean"] < 1e-9 < outcome.report["selected"]["kl_mean"]
