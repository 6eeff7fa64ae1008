"""A restored checkpoint is the one that was sliced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import headroom
from headroom.cli import run as run_command
from headroom.contract.compress import CompressRecipe
from headroom.errors import InvalidArgument
from service.compression.jobs.compress import compress
from service.ports.engine import EngineTask

Make = Callable[..., EngineTask[CompressRecipe]]


def sliced(make_task: Make, model: dict[str, Any], method: str, **options: Any) -> EngineTask[CompressRecipe]:
    task = make_task(model=model, method=method, ratio=0.5, options={"compare": [], **options})
    compress(task, lambda phase, fraction: None)
    return task


TIED, UNTIED = {"family": "gpt2", "tied": True}, {"family": "llama", "tied": False}
LAYOUTS = [(TIED, {}), (UNTIED, {"keep_removed": True}), (TIED, {"tied": "untie"})]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("model", "options"), LAYOUTS, ids=["tied", "untied", "untied-for-it"])
def test_raw_columns_come_back_bit_for_bit(
    make_task: Make, tmp_path: Path, model: dict[str, Any], options: dict[str, Any], dtype: torch.dtype
) -> None:
    task = sliced(make_task, model | {"dtype": dtype}, "slope", **options)

    folder = headroom.restore(task.staging, tmp_path / "back")

    before = AutoModelForCausalLM.from_pretrained(task.model.path, local_files_only=True, dtype="auto").state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("model", "options"), LAYOUTS, ids=["tied", "untied", "untied-for-it"])
def test_a_table_in_another_basis_comes_back_to_the_rounding_of_floats(
    make_task: Make, tmp_path: Path, model: dict[str, Any], options: dict[str, Any]
) -> None:
    task = sliced(make_task, model, "probability", **options)

    folder = headroom.restore(task.staging, tmp_path / "back")

    before, after = load_file(task.model.path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() <= after.keys() | {"lm_head.weight"}
    for name in before.keys() & after.keys():
        assert torch.allclose(before[name], after[name], rtol=1e-5, atol=1e-6), name


def test_a_sharded_checkpoint_comes_back_whole(make_task: Make, tmp_path: Path) -> None:
    model = UNTIED | {"hidden_size": 128, "vocab_size": 3000}
    task = sliced(make_task, model, "slope", keep_removed=True, max_shard_bytes=1_000_000)
    assert (task.staging / "model.safetensors.index.json").is_file()

    folder = headroom.restore(task.staging, tmp_path / "back")

    before = AutoModelForCausalLM.from_pretrained(task.model.path, local_files_only=True).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bias_before_its_repair_comes_back(make_task: Make, tmp_path: Path) -> None:
    task = sliced(make_task, {"family": "bert"}, "slope", keep_removed=True)

    folder = headroom.restore(task.staging, tmp_path / "back")

    before = AutoModelForMaskedLM.from_pretrained(task.model.path, local_files_only=True).state_dict()
    after = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("model", "words"), [(UNTIED, "the removed columns"), ({"family": "bert"}, "the bias that the repair replaced")]
)
def test_what_was_not_stored_is_named(make_task: Make, tmp_path: Path, model: dict[str, Any], words: str) -> None:
    task = sliced(make_task, model, "slope")

    with pytest.raises(InvalidArgument, match=words):
        headroom.restore(task.staging, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_plain_model_and_a_full_output_are_refused(make_task: Make, tmp_path: Path) -> None:
    task = sliced(make_task, TIED, "slope")
    with pytest.raises(InvalidArgument, match="no headroom checkpoint"):
        headroom.restore(task.model.path, tmp_path / "back")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(InvalidArgument, match="choose another output"):
        headroom.restore(task.staging, tmp_path / "full")


def test_the_command_writes_the_checkpoint_and_says_where(
    make_task: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = sliced(make_task, TIED, "slope")

    assert run_command(["restore", str(task.staging), "--output", str(tmp_path / "back")]) == 0
    assert str(tmp_path / "back") in capsys.readouterr().out
    assert (tmp_path / "back" / "config.json").is_file()
    assert run_command(["restore", str(tmp_path / "nothing"), "--output", str(tmp_path / "again")]) == 2
