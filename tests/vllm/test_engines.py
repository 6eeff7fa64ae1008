"""Whole engines of vLLM against transformers + headroom, in float32. Each test starts vLLM: half a minute."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer, make_services, publish
from tests.vllm.checkpoints import Case, make_checkpoint
from tests.vllm.running import expected, run
from tests.vllm.serving import completed, serving

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]

WIDE = {"hidden_size": 64}  # vLLM's attention on a CPU wants 32 numbers a head
PROMPTS = [[5, 6, 7, 8, 9], [100, 20, 30], [1]]
COUNT = 12


def assert_same(found: list[dict[str, Any]], folder: Path, **setting: int) -> None:
    """setting: of a head in planes, where it is not read as it was stored."""
    wanted = expected(folder, PROMPTS, COUNT, **setting)
    assert [answer["tokens"] for answer in found] == [answer["tokens"] for answer in wanted]
    for answer, want in zip(found, wanted, strict=True):
        assert answer["log_p"] == pytest.approx(want["log_p"], abs=1e-4)


@pytest.mark.parametrize(
    "case", [Case("gpt2", "sliced", tied=True), Case("qwen2", "planes", tied=True)], ids=lambda case: case.name
)
def test_a_compiled_engine_generates_what_transformers_does(case: Case, tmp_path: Path) -> None:
    folder = make_checkpoint(case, tmp_path, **WIDE)
    (found,) = run("engine.py", str(folder), "{}", str(PROMPTS), str(COUNT), cache=tmp_path)
    assert_same(found, folder)


def test_two_ranks_share_the_vocabulary_of_a_tied_table(tmp_path: Path) -> None:
    folder = make_checkpoint(Case("qwen2", "sliced", tied=True), tmp_path, **WIDE, num_key_value_heads=2)
    assert_same(by_two_ranks(folder, tmp_path), folder)


# Each rank rescores the best of its own rows, which are more in all: only these settings mean the same on any number.
@pytest.mark.parametrize("setting", [{"bits": 3, "rescored": 0}, {"bits": 2, "rescored": 264}])
def test_two_ranks_share_the_planes_of_a_tied_table(setting: dict[str, int], tmp_path: Path) -> None:
    folder = make_checkpoint(Case("qwen2", "planes", tied=True), tmp_path, **WIDE, num_key_value_heads=2)
    found = by_two_ranks(folder, tmp_path, additional_config={"headroom": setting})
    assert_same(found, folder, **setting)


def by_two_ranks(folder: Path, cache: Path, **arguments: Any) -> list[dict[str, Any]]:
    arguments = {"tensor_parallel_size": 2, "enforce_eager": True} | arguments
    binding = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    (found,) = run("engine.py", str(folder), json.dumps(arguments), str(PROMPTS), str(COUNT), cache=cache, **binding)
    answers: list[dict[str, Any]] = found
    return answers


@pytest.mark.parametrize(
    "case", [Case("llama", "int8", tied=False), Case("llama", "planes", tied=False)], ids=lambda case: case.name
)
def test_the_openai_route_serves_a_repository_of_our_hub(case: Case, tmp_path: Path) -> None:
    folder = make_checkpoint(case, tmp_path, **WIDE)
    services = make_services(tmp_path / "service")
    publish(services, folder, publish={"repo": "acme/tiny-slim"})
    with (
        HubServer(services) as hub,
        serving("acme/tiny-slim", tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0") as address,
    ):
        found = [completed(address, "acme/tiny-slim", prompt, COUNT) for prompt in PROMPTS]
    assert_same(found, folder)


def test_without_the_plugin_vllm_refuses_the_checkpoint(tmp_path: Path) -> None:
    folder = make_checkpoint(Case("llama", "sliced", tied=False), tmp_path)
    (result,) = run("in_process.py", str(folder), cache=tmp_path, VLLM_PLUGINS="")
    assert "Unknown quantization method: headroom" in result["error"]
