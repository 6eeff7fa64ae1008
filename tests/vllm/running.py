"""Programs that run in vLLM's own environment, and what transformers + headroom answers to the same prompts."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

import headroom  # teaches transformers the format
from headroom.loading.planes_head import PlanesHead
from tests.vllm.environment import ROOT, VLLM_PYTHON

HERE = Path(__file__).parent
SECONDS = 840


def environment(cache: Path, **variables: str) -> dict[str, str]:
    """vLLM writes compiled code to its cache; it binds a rank to a core by itself only where it may see the machine."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }


def run(program: str, *arguments: str, cache: Path, **variables: str) -> list[Any]:
    """What a program of this folder printed as results; its whole output if it printed none."""
    done = subprocess.run(
        [str(VLLM_PYTHON), str(HERE / program), *arguments],
        env=environment(cache, **variables),
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in lines]


def expected(folder: Path, prompts: list[list[int]], count: int, **setting: int) -> list[dict[str, Any]]:
    """`count` greedy tokens after each prompt and their log-probabilities, by transformers in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if setting:
        headroom.set_head(model, **setting)
    if isinstance(model.get_output_embeddings(), PlanesHead):
        headroom.set_wide_copy(model, False)  # it would give all 8 bits where vLLM rescores the preview
    found = []
    for prompt in prompts:
        ids = list(prompt)
        log_p = []
        for _ in range(count):
            with torch.inference_mode():
                step = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(step.argmax()))
            log_p.append(float(step.max()))
        found.append({"tokens": ids[len(prompt) :], "log_p": log_p})
    return found
