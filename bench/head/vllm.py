"""A decode step of vLLM with a headroom head over one with the full head: whole engines, a process for each.

A Llama of SmolLM2-135M's sizes with random weights (30 layers, V 49152, d 576, untied, bfloat16): full; half of the
columns; 8 and 4 bits of nearly all of them; planes, a preview of 4 bits and 256 rows of all 8. The kinds take turns
ROUNDS times, since a machine's speed drifts; the ratio is of medians over all.
Needs vLLM's environment (`make test-vllm` makes it).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.folders import ROOT
from headroom.loading.head import FORMAT_VERSION, SlicedHead
from headroom.loading.plane_codes import GROUP
from headroom.loading.planes_format import PLANES_VERSION
from headroom.loading.planes_head import PlanesHead
from headroom.loading.quantized_head import PackedHead, QuantizedHead, RoundedHead

PYTHON = Path(os.environ.get("HEADROOM_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
VOCAB_SIZE, HIDDEN_SIZE, ROUNDS = 49_152, 576, 2
SIZES = {"intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
BATCHES = (1, 8)
KINDS = {  # columns
    "full": HIDDEN_SIZE,
    "sliced": HIDDEN_SIZE // 2,
    "int8": HIDDEN_SIZE - 32,
    "int4": HIDDEN_SIZE - 32,
    "planes": HIDDEN_SIZE,
}
PLANES = {"bits": 4, "rescored": 256, "preview_columns": HIDDEN_SIZE, "whole_columns": 32}


def run() -> dict[str, Any]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for kind, kept in KINDS.items():
            _write(Path(folder) / kind, kind, kept)
        rounds = [{kind: _seconds(Path(folder), kind) for kind in KINDS} for _ in range(ROUNDS)]
    seconds = {
        kind: {batch: median(step for turn in rounds for step in turn[kind]["steps"][str(batch)]) for batch in BATCHES}
        for kind in KINDS
    }
    return {
        "device": rounds[0]["full"]["device"],
        "threads": os.cpu_count(),
        "milliseconds_of_full": {f"batch{batch}": round(1e3 * seconds["full"][batch], 2) for batch in BATCHES},
        "step_over_full": {
            f"{kind}_batch{batch}": round(seconds[kind][batch] / seconds["full"][batch], 3)
            for kind in KINDS
            for batch in BATCHES
            if kind != "full"
        },
    }


def _seconds(folder: Path, kind: str) -> dict[str, Any]:
    """{"device": ..., "steps": {batch: seconds of each step}}, by an engine that ends with its process."""
    variables = {"PYTHONPATH": str(ROOT), "VLLM_CACHE_ROOT": str(folder / "cache"), "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [str(PYTHON), "-m", "bench.head.vllm_engine", str(folder / kind), *map(str, BATCHES)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(f"vLLM did not run: {(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, Any] = json.loads(results[0])
    steps = ", ".join(f"batch {batch}: {1e3 * median(times):.1f} ms" for batch, times in found["steps"].items())
    sys.stderr.write(f"{kind}: {steps}\n")
    return found


def _write(folder: Path, kind: str, kept: int) -> None:
    """A checkpoint with random weights whose head is of one kind."""
    config = LlamaConfig(vocab_size=VOCAB_SIZE, hidden_size=HIDDEN_SIZE, max_position_embeddings=512, **SIZES)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    if kind == "full":
        return
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"lm_head.{name}": tensor for name, tensor in _head(kind, kept).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"] = {
        "quant_method": "headroom",
        "version": FORMAT_VERSION,
        "hidden_size": HIDDEN_SIZE,
        "vocab_size": VOCAB_SIZE,
        "kept_columns": kept,
        "permutation": False,
        "tied": False,
        "bias": False,
        "lm_head": "lm_head",
        "embed_tokens": "model.embed_tokens",
        "head_dtype": "source" if kind in ("sliced", "planes") else kind,
    }
    if kind == "planes":
        section = fields["quantization_config"]
        section |= PLANES | {"version": PLANES_VERSION, "head": "planes", "group": GROUP}
        section |= {"unbasis": False, "mean_hidden": False, "embed_scale": 1.0}
    (folder / "config.json").write_text(json.dumps(fields))


def _head(kind: str, kept: int) -> dict[str, Tensor]:
    kinds: dict[str, type[RoundedHead]] = {"int8": QuantizedHead, "int4": PackedHead}
    if kind == "sliced":
        sliced = SlicedHead(HIDDEN_SIZE, VOCAB_SIZE, kept, permutation=False, bias=False)
        return {name: torch.randn_like(tensor).mul_(0.02).bfloat16() for name, tensor in sliced.state_dict().items()}
    if kind == "planes":
        return _planes()
    tensors = kinds[kind](HIDDEN_SIZE, VOCAB_SIZE, kept, bias=False).state_dict()
    tensors["basis"] = torch.randn_like(tensors["basis"]).mul_(0.03).bfloat16()
    if kind == "int8":
        tensors["quantized"].random_(-127, 128)
        tensors["scale"] = torch.full((VOCAB_SIZE,), 1e-4).view(torch.int32)
    else:
        tensors["packed"].random_(0, 256)
        scales = torch.full(tensors["group_scale"].shape, 1e-3, dtype=torch.bfloat16)
        tensors["group_scale"] = scales.view(torch.int16)
    return tensors


def _planes() -> dict[str, Tensor]:
    head = PlanesHead(HIDDEN_SIZE, VOCAB_SIZE, HIDDEN_SIZE, PLANES["whole_columns"], bits=4, rescored=256, bias=False)
    tensors = head.state_dict()
    for name in ("whole", "high", "low"):
        tensors[name].random_(0, 256)
    tensors["scales"] = torch.full(tensors["scales"].shape, 1e-3, dtype=torch.bfloat16).view(torch.int16)
    tensors["basis"] = torch.randn_like(tensors["basis"]).mul_(0.03).bfloat16()
    return tensors
