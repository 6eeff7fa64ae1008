"""Heads of 8-bit and 4-bit integers: rounding against a slow loop, the stored checkpoint against what was measured."""

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
from headroom.loading.quantized_head import GROUP, PackedHead, QuantizedHead, RoundedHead, pack, scaled, unpack
from headroom.loading.restoring import restore
from service.compression.heads.precision import error_feedback, refit, round_groups, round_rows
from service.jobs.estimates import estimate
from service.models.model_files import inspect_model
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from tests.factories import make_recipe

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]
INT8 = {"head_dtype": "int8", "compare": [], "continuations": 0}
INT4 = INT8 | {"head_dtype": "int4"}
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


def test_groups_are_rounded_as_a_slow_loop_rounds_them() -> None:
    rows = torch.randn(4, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows[2] = 0
    integers, scale = round_groups(rows)
    assert scale.shape == (4, 3)
    for row in range(4):
        for column in range(70):
            step = float(scale[row, column // GROUP])
            assert integers[row, column] == max(-8, min(7, round(float(rows[row, column]) / step)))
    for row, group in ((0, 0), (1, 1), (3, 2)):
        here = slice(GROUP * group, GROUP * (group + 1))
        largest = rows[row, here].abs().argmax()
        assert integers[row, here][largest] == -8
        assert float(scale[row, group]) == pytest.approx(float(rows[row, here][largest]) / -8, rel=2**-8)


def test_error_feedback_lowers_the_error_of_correlated_inputs_below_rounding_to_the_nearest() -> None:
    generator = torch.Generator().manual_seed(2)
    mixing = torch.randn(64, 64, dtype=torch.float64, generator=generator)
    x = torch.randn(4096, 16, dtype=torch.float64, generator=generator) @ mixing[:16]
    rows = torch.randn(50, 64, dtype=torch.float64, generator=generator)
    costs = []
    for feedback in (None, error_feedback(x.T @ x / 4096)):
        integers, scale = round_groups(rows, feedback)
        costs.append(float(((scaled(integers, scale.double()) - rows) @ x.T).square().mean()))
    assert costs[1] < 0.5 * costs[0]


def test_error_feedback_without_correlation_rounds_to_the_nearest() -> None:
    rows = torch.randn(5, 40, dtype=torch.float64)
    plain, fed = round_groups(rows), round_groups(rows, error_feedback(torch.eye(40, dtype=torch.float64)))
    assert torch.equal(plain[0], fed[0])
    assert torch.equal(plain[1], fed[1])


def test_the_refit_is_the_weighted_least_squares_fit_of_the_rounded_columns() -> None:
    generator = torch.Generator().manual_seed(3)
    exact = torch.randn(300, 6, dtype=torch.float64, generator=generator)
    dense = exact @ (torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator)).double() + 0.1 * exact.sin()
    alpha = torch.rand(300, dtype=torch.float64, generator=generator)
    weights = (alpha / alpha.sum())[:, None]
    root, centre = weights.sqrt(), lambda rows: rows - (weights * rows).sum(0)
    expected = torch.linalg.lstsq(root * centre(dense), root * centre(exact)).solution
    torch.testing.assert_close(refit(dense, [exact], alpha), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [1, 7, 32, 45])
def test_packing_holds_two_columns_in_a_byte_and_gives_them_back(kept: int) -> None:
    integers = torch.randint(-8, 8, (9, kept), dtype=torch.int8)
    packed = pack(integers)
    assert packed.shape == (9, (kept + 1) // 2)
    assert torch.equal(unpack(packed, kept), integers)


def _int8_head(hidden: int, vocab: int, kept: int) -> RoundedHead:
    head = QuantizedHead(hidden, vocab, kept, bias=True)
    head.quantized.random_(-127, 128)
    head.scale.copy_((torch.rand(vocab) / 127).view(torch.int32))
    return head


def _int4_head(hidden: int, vocab: int, kept: int) -> RoundedHead:
    head = PackedHead(hidden, vocab, kept, bias=True)
    head.packed.copy_(pack(torch.randint(-8, 8, (vocab, kept), dtype=torch.int8)))
    head.group_scale.copy_(((torch.rand(head.group_scale.shape) - 0.5) / 4).bfloat16().view(torch.int16))
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("positions", [1, 7, 70])
@pytest.mark.parametrize(("make", "kept"), [(_int8_head, 16), (_int8_head, 24), (_int4_head, 16), (_int4_head, 33)])
def test_the_module_gives_the_logits_of_its_dense_weight(
    dtype: torch.dtype, positions: int, make: Callable[[int, int, int], RoundedHead], kept: int
) -> None:
    head = make(40, 5000, kept)
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    torch.nn.init.normal_(head.basis, std=0.2)
    assert head.bias is not None
    torch.nn.init.normal_(head.bias)
    h = torch.randn(1, positions, 40)
    expected = h @ head.dense_weight().T + head.bias
    found = head.to(dtype)(h.to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2 * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)
    after = dict(head.named_buffers())  # the integers are not cast
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())


def test_columns_loaded_into_a_4_bit_head_that_has_run_are_the_ones_it_reads() -> None:
    head, other = _int4_head(40, 100, 33).bfloat16(), _int4_head(40, 100, 33).bfloat16()
    for each in (head, other):
        torch.nn.init.normal_(each.basis, std=0.2)
        torch.nn.init.zeros_(each.bias)
    h = torch.randn(1, 40, dtype=torch.bfloat16)
    assert not torch.equal(head(h), other(h))
    head.load_state_dict(other.state_dict())
    assert torch.equal(head(h), other(h))


@pytest.mark.parametrize(("options", "row"), [(INT8, 16 + 4), (INT4, 8 + 2)], ids=["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["probability", "slope"])
def test_a_rounded_head_is_stored_as_measured_and_survives_saving_casting_and_dequantizing(
    make_task: MakeTask, run: Run, tmp_path: Path, kind: dict[str, Any], method: str, options: dict[str, Any], row: int
) -> None:
    task = make_task(model=kind | {"dtype": torch.bfloat16}, method=method, options=options)
    outcome = run(task)
    report = outcome.report
    assert outcome.verdict is Verdict.PUBLISH
    assert report["stored"]["perplexity"] == pytest.approx(report["selected"]["perplexity"], rel=1e-3)
    assert report["unrounded"]["kept_columns"] == 16
    estimated = estimate(task.recipe, inspect_model(task.model.path), [1])
    assert estimated.head_bytes_after == report["bytes"]["head_after"]
    assert report["bytes"]["head_after"] == 264 * (row + 2) + 2 * 16 * 32  # columns and scales, bias; projection
    assert report["bytes"]["checkpoint_after"] == sum(e.nbytes for e in inspect_model(task.staging).tensors.values())
    model = AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.bfloat16)
    original = AutoModelForCausalLM.from_pretrained(task.model.path, dtype=torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, original.get_input_embeddings().weight)
    ids = torch.arange(20)[None]
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.bfloat16)
    assert torch.equal(model(ids).logits, again(ids).logits)
    held = {name: tensor.clone() for name, tensor in model.get_output_embeddings().state_dict().items()}
    with pytest.raises(InvalidArgument):
        headroom.set_kept_columns(model, 8)
    cast = model.to(torch.float32).get_output_embeddings().state_dict()
    assert all(torch.equal(cast[name], tensor) for name, tensor in held.items() if not tensor.is_floating_point())
    wide = AutoModelForCausalLM.from_pretrained(task.staging, dtype=torch.float32)
    before = wide(ids).logits
    with pytest.warns(UserWarning, match="bias"):
        dense = wide.dequantize()
    torch.testing.assert_close(dense(ids).logits, before, rtol=1e-4, atol=1e-4)


def test_8_bits_alone_keep_every_column_and_cost_almost_nothing(make_task: MakeTask, run: Run) -> None:
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
