"""Whole engines of vLLM against transformers + headroom, in float32. Each test starts vLLM: half a minute."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet import free_port
from tests.hub_server import HubServer, make_services, publish
from tests.vllm.checkpoints import Case, make_checkpoint
from tests.vllm.environment import VLLM_PYTHON
from tests.vllm.running import SECONDS, environment, expected, run

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
    with HubServer(services) as hub, serving("acme/tiny-slim", hub.url, tmp_path) as address:
        found = [completed(address, prompt) for prompt in PROMPTS]
    assert_same(found, folder)


@contextmanager
def serving(repo: str, hub: str, folder: Path) -> Iterator[str]:
    """The server that `vllm serve` starts; vllm-cpu has no such command."""
    port = free_port()
    where = ["--model", repo, "--port", str(port), "--host", "127.0.0.1"]
    how = ["--dtype", "float32", "--max-model-len", "64", "--enforce-eager"]
    variables = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    with (folder / "server.log").open("w") as log:
        command = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", *where, *how]
        server = subprocess.Popen(
            command, env=environment(folder, **variables), cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_it_answers(server, f"http://127.0.0.1:{port}", folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def wait_until_it_answers(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


def completed(address: str, prompt: list[int]) -> dict[str, Any]:
    """The greedy continuation by POST /v1/completions."""
    asked = {"prompt": prompt, "max_tokens": COUNT, "temperature": 0, "logprobs": 1, "ignore_eos": True}
    body = {"model": "acme/tiny-slim", "return_tokens_as_token_ids": True} | asked
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120).raise_for_status().json()
    told = answer["choices"][0]["logprobs"]
    tokens = [int(token.removeprefix("token_id:")) for token in told["tokens"]]
    return {"tokens": tokens, "log_p": told["token_logprobs"]}


def test_without_the_plugin_vllm_refuses_the_checkpoint(tmp_path: Path) -> None:
    folder = make_checkpoint(Case("llama", "sliced", tied=False), tmp_path)
    (result,) = run("in_process.py", str(folder), cache=tmp_path, VLLM_PLUGINS="")
    assert "Unknown quantization method: headroom" in result["error"]
