"""A model that does not fit is read from its files block by block, and every figure is what it is in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.compression.jobs.engines import run_engine
from service.compression.states.model_loading import load_model, skeleton_of
from service.compression.states.offloading import Room, device_map, is_offloaded, room_of, windows_at_once
from service.models.memory_needs import offloaded_bytes, working_bytes
from service.models.model_files import inspect_model
from service.ports.engine import EngineOutcome, EngineTask
from tests.reports import as_stored
from tests.tiny_models import make_tiny_checkpoint

MakeTask = Callable[..., EngineTask]

CPU = torch.device("cpu")
KINDS = [
    pytest.param({"family": "gpt2", "dtype": torch.bfloat16}, id="gpt2-tied"),
    pytest.param({"family": "llama", "shard_size": "20KB"}, id="llama-sharded"),
    pytest.param({"family": "neox"}, id="neox-renamed"),
    pytest.param({"family": "bert"}, id="bert-masked"),
    pytest.param({"family": "bart"}, id="bart-pairs"),
    pytest.param({"family": "mixtral"}, id="mixtral-merged-experts"),
]


def run(task: EngineTask) -> EngineOutcome:
    return as_stored(run_engine(task, lambda phase, done: None))


def both(task: EngineTask) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reports of the same task in memory and offloaded; each runs the backbone itself."""
    whole = run(task).report
    for path in task.staging.iterdir():
        path.unlink()
    return whole, run(replace(task, memory_bytes=1, cache_dir=task.cache_dir / "other")).report


@pytest.mark.parametrize("model", KINDS)
def test_all_figures_are_those_of_the_model_in_memory(make_task: MakeTask, model: dict[str, Any]) -> None:
    task = make_task(model=model, ratio=0.5, options={"continuations": 2 if model["family"] == "gpt2" else 0})
    whole, offloaded = both(task)
    close = {"rel": 2e-3 if model.get("dtype") is torch.bfloat16 else 1e-5}
    for name in ("perplexity", "kl_mean", "top1_agreement"):
        assert [point[name] for point in offloaded["curve"]] == pytest.approx(
            [point[name] for point in whole["curve"]], abs=2e-3, **close
        )
    assert offloaded["baseline"]["perplexity"] == pytest.approx(whole["baseline"]["perplexity"], **close)
    assert offloaded["stored"]["perplexity"] == pytest.approx(whole["stored"]["perplexity"], **close)
    assert (offloaded["continuations"] is None) == (whole["continuations"] is None)
    assert not (task.staging / ".offloaded").exists()


@pytest.mark.parametrize("model", KINDS)
def test_no_block_is_in_memory_between_passes(tmp_path: Path, model: dict[str, Any]) -> None:
    found = inspect_model(make_tiny_checkpoint(tmp_path / "model", **model))
    auto_class = {"bert": "AutoModelForMaskedLM", "bart": "AutoModelForSeq2SeqLM"}.get(
        model["family"], "AutoModelForCausalLM"
    )
    loaded = load_model(found.path, found.config, auto_class, 10**7, Room(CPU, 0, tmp_path / "offloaded"))
    assert is_offloaded(loaded)
    blocks = [block for part in loaded.modules() if isinstance(part, torch.nn.ModuleList) for block in part]
    assert blocks
    assert all(parameter.is_meta for block in blocks for parameter in block.parameters())
    assert not loaded.get_output_embeddings().weight.is_meta
    assert not loaded.get_input_embeddings().weight.is_meta
    assert windows_at_once(loaded, 32) == 128


def test_blocks_stay_while_they_fit(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "model", "llama", num_hidden_layers=4)
    skeleton = skeleton_of(folder, "AutoModelForCausalLM")
    block = sum(tensor.nbytes for tensor in skeleton.model.layers[0].parameters())
    placed = device_map(skeleton, "cpu", 2 * block)
    assert [placed[f"model.layers.{index}"] for index in range(4)] == ["cpu", "cpu", "disk", "disk"]
    covered = [name for name, _ in skeleton.named_parameters()]
    assert all(any(name == part or name.startswith(f"{part}.") for part in placed) for name in covered)
    assert {placed["model.embed_tokens"], placed["lm_head"], placed["model.norm"]} == {"cpu"}


def test_a_model_is_offloaded_only_where_it_does_not_fit(make_task: MakeTask) -> None:
    task = make_task(model={"family": "llama"})
    found = inspect_model(task.model.path)
    assert found.vocab_size
    assert found.hidden_size
    working = working_bytes(found.vocab_size, found.hidden_size)
    assert room_of(task, found, CPU).block_bytes is None
    assert room_of(replace(task, memory_bytes=working + found.nbytes), found, CPU).block_bytes is None
    tight = replace(task, memory_bytes=working + found.nbytes - 1)
    assert room_of(tight, found, CPU).block_bytes == found.nbytes - 1
    assert room_of(replace(task, memory_bytes=working + found.nbytes), found, CPU, models=2).block_bytes == 0


def test_the_bytes_of_an_offloaded_model_are_its_largest_block_and_what_is_in_none(tmp_path: Path) -> None:
    found = inspect_model(make_tiny_checkpoint(tmp_path / "model", "llama"))
    layer = sum(entry.nbytes for entry in found.tensors.values() if ".layers.1." in entry.name)
    ends = sum(entry.nbytes for entry in found.tensors.values() if ".layers." not in entry.name)
    assert layer
    assert offloaded_bytes(found) == layer + ends


def test_a_dense_export_is_measured_offloaded_too(make_task: MakeTask) -> None:
    task = make_task(model={"family": "llama"}, ratio=0.5, options={"export": ["dense"], "repair": "none"})
    report = run(replace(task, memory_bytes=1)).report
    assert report["exports"][0]["perplexity"] == pytest.approx(report["stored"]["perplexity"], rel=1e-4)
