"""Checkpoints of every architecture that vLLM and headroom share, built by vLLM's own loader without an engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vllm.checkpoints import Case, make_checkpoint, write_reference
from tests.vllm.environment import ROOT
from tests.vllm.running import run

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

TIED = ("gpt2", "opt", "qwen2", "gemma2", "gemma3", "cohere")
UNTIED = ("llama", "mistral", "mixtral", "qwen3", "gptj", "phi", "neox")
CASES = [
    *(Case(family, "sliced", tied=True) for family in TIED),
    *(Case(family, "sliced", tied=False) for family in UNTIED),
    *(Case(family, "int8", tied=False) for family in (*TIED, *UNTIED)),
    Case("gpt2", "permuted", tied=True),
    Case("gemma3", "permuted", tied=True),
    Case("llama", "permuted", tied=False),
    Case("llama", "int4", tied=False),
    Case("gemma2", "int4", tied=False),
    Case("cohere", "sliced", tied=False),
    Case("gpt2", "planes", tied=True),
    Case("gemma2", "planes", tied=True),
    Case("llama", "planes", tied=False),
    Case("cohere", "planes", tied=False),
    Case("qwen2", "sliced", tied=True, implementation="transformers"),
    Case("gemma3", "sliced", tied=True, implementation="transformers"),
    Case("llama", "int8", tied=False, implementation="transformers"),
]
NOT_WHOLE = {  # a tensor that is taken out of a checkpoint, and what vLLM says then
    "llama-sliced-untied": ("lm_head.basis", "did not give vLLM basis of lm_head|lm_head.sliced.basis"),
    "llama-int8-untied": ("lm_head.scale", "did not give vLLM scale of lm_head"),
    "llama-permuted-untied": ("lm_head.bias", "lm_head.sliced.bias"),
    "gpt2-sliced-tied": ("transformer.wte.rotation", "transformer.wte.sliced.rotation"),
    "mistral-sliced-untied": ("model.norm.weight", "model.norm.weight"),
    "cohere-int8-untied": ("lm_head.quantized", "did not give vLLM quantized of the head"),
}
REPLACED = {"gemma2-planes-tied": "model.norm.weight", "llama-int8-untied": "model.layers.0.mlp.down_proj.weight"}
SETTINGS = ('{"bits": 8}', '{"bits": 2, "rescored": 0}', '{"bits": 2, "rescored": 264}', '{"bits": 5}', '{"rows": 9}')


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM made of each folder, by the folder's name and vLLM's implementation."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for case in CASES:
        if not (folder / case.name).exists():
            keeps = (case.family, case.layout) == ("llama", "sliced")  # restore.safetensors lies beside the model then
            write_reference(make_checkpoint(case, folder, keep_removed=keeps))
    arguments = [f"{folder / case.name}|{case.implementation}" for case in CASES]
    arguments += [str(without(folder / name, tensor)) for name, (tensor, _) in NOT_WHOLE.items()]
    arguments += [str(with_other(folder / name, tensor)) for name, tensor in REPLACED.items()]
    arguments += [str(with_fields(folder / "llama-sliced-untied", version=9))]
    arguments += [str(with_fields(folder / "llama-int8-untied", head_dtype="int3"))]
    arguments += [f"{folder / 'llama-planes-untied'}|auto|{settings}" for settings in SETTINGS]
    found = run("in_process.py", *arguments, cache=folder)
    return {":".join([result["folder"], result["implementation"], result["settings"]]): result for result in found}


def without(folder: Path, name: str) -> Path:
    """A copy of a checkpoint that lacks one tensor."""
    return with_tensor(folder, "incomplete", name, None)


def with_other(folder: Path, name: str) -> Path:
    """A copy of which one tensor has other values, as those of another model would be."""
    tensor = load_file(folder / "model.safetensors")[name]
    return with_tensor(folder, "replaced", name, 30 * torch.randn(tensor.shape).to(tensor.dtype))


def with_tensor(folder: Path, suffix: str, name: str, tensor: torch.Tensor | None) -> Path:
    copy = folder.with_name(f"{folder.name}-{suffix}")
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors |= {name: tensor} if tensor is not None else {}
    if tensor is None:
        del tensors[name]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def with_fields(folder: Path, **fields: Any) -> Path:
    copy = folder.with_name(f"{folder.name}-{next(iter(fields))}")
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] |= fields
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.implementation}")
def test_vllm_gives_the_embeddings_and_log_probabilities_that_transformers_gives(
    case: Case, results: dict[str, dict[str, Any]]
) -> None:
    result = results[f"{case.name}:{case.implementation}:{{}}"]
    assert result.get("error") is None
    assert result["shape"] == [9, 264]
    assert result["embeddings"] < 1e-5
    assert result["log_p"] < 1e-4
    assert result["same_top"]
    assert result["told"] == ["headroom: the model reproduces the fingerprint of its checkpoint"]


@pytest.mark.parametrize("name", REPLACED)
def test_a_tensor_of_another_model_is_refused_by_the_fingerprint(name: str, results: dict[str, dict[str, Any]]) -> None:
    error = results[f"{name}-replaced:auto:{{}}"]["error"]
    assert "does not reproduce its fingerprint" in error


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_the_name_of_the_tensor(
    name: str, results: dict[str, dict[str, Any]]
) -> None:
    _, sentence = NOT_WHOLE[name]
    error = results[f"{name}-incomplete:auto:{{}}"]["error"]
    assert any(part in error for part in sentence.split("|"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("llama-sliced-untied-version", "headroom format 9, this plugin reads 1 and 2"),
        ("llama-int8-untied-head_dtype", "does not read heads of int3: install a newer headroom-lm"),
    ],
)
def test_a_newer_format_is_refused_with_what_to_do(
    name: str, sentence: str, results: dict[str, dict[str, Any]]
) -> None:
    assert sentence in results[f"{name}:auto:{{}}"]["error"]


def test_bits_and_rescored_rows_of_planes_are_settings_of_the_engine(results: dict[str, dict[str, Any]]) -> None:
    found = [results[f"llama-planes-untied:auto:{asked}"] for asked in SETTINGS]
    whole, fewer, all_rescored, no_such_bits, no_such_name = found
    # The reference is of 4 bits and 16 rows: all rows from all their bits are one other distribution, two bits a third.
    assert all_rescored["log_p"] == pytest.approx(whole["log_p"], abs=1e-3)
    assert abs(fewer["log_p"] - whole["log_p"]) > 0.1
    assert "reads 8, 4, 3 or 2 bits, not 5" in no_such_bits["error"]
    assert "knows bits, rescored, columns in additional_config, not rows" in no_such_name["error"]


def test_the_table_in_the_document_is_what_vllm_made_of_these_checkpoints(results: dict[str, dict[str, Any]]) -> None:
    document = (ROOT / "docs/vllm.md").read_text().split("## Which architectures")[1].split("## Planes")[0]
    rows = [line for line in document.splitlines() if line.startswith("| `")]
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert told == table(results)


def table(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row for each class of vLLM and family: layouts that agreed with transformers."""
    rows: dict[tuple[str, str], list[str]] = {}
    for case in CASES:
        result = results[f"{case.name}:{case.implementation}:{{}}"]
        layout = f"{case.layout}, tied" if case.tied else case.layout
        outcome = layout if "error" not in result and result["log_p"] < 1e-4 else f"{layout} refused"
        rows.setdefault((f"`{result.get('class')}`", case.family), []).append(outcome)
    return [[vllm_class, family, "; ".join(layouts)] for (vllm_class, family), layouts in rows.items()]
