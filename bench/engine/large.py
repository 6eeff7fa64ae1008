"""A checkpoint of Llama 3.2 1B's shape (V = 128256, d = 2048, 16 layers, bfloat16, shards of 500 MB), random weights.

For a tied head in either form of basis, and an untied one: seconds of slicing and publishing, hashes and fsync
included, over those of `cp` with `sync` of the same files (publishing syncs), and of the same without any sync over a
plain `cp` (which leaves files in memory); and the peak of resident memory, which counts the pages of mapped files too.
over_cp_cpu: seconds of CPU over those of `cp`, which other work on the machine changes less.
"""

import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bench.timing import seconds
from headroom.contract.compress import Method
from service.adapters.files.directory_artifacts import DirectoryArtifacts
from service.compression.checkpoint.checkpoint import plan_checkpoint
from service.compression.checkpoint.checkpoint_writing import write_checkpoint
from service.compression.heads.basis import Basis
from service.compression.heads.slicing import slice_head
from service.compression.states.lm_head import LmHead, StoredNames, Transform
from service.compression.states.source import read_tensor
from service.models.model_files import inspect_model
from service.publishing.manifest import hash_files
from tests.tiny_models import make_tokenizer

SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128_256}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 8192}
SHARD_BYTES = 500_000_000
ROUNDS = 3
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def run() -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for tied, forms in ((True, ("permutation", "general")), (False, ("permutation",))):
            source = make_checkpoint(folder / "source", tied=tied)
            for form in forms:
                name = f"{'tied' if tied else 'untied'}_{form}"
                figures[name] = _rounds(source, folder, tied=tied, form=form)
                _tell(name, figures[name])
            shutil.rmtree(source)
    return figures


def _tell(name: str, figures: dict[str, Any]) -> None:
    sys.stdout.write(f"{name}: {json.dumps(figures)}\n")
    sys.stdout.flush()


def make_checkpoint(folder: Path, *, tied: bool) -> Path:
    """Written shard by shard: the model is never in memory."""
    config = LlamaConfig(
        **SHAPE, **HEADS, tie_word_embeddings=tied, dtype="bfloat16", architectures=["LlamaForCausalLM"]
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    shards: list[list[str]] = [[]]
    for name in (name for name in shapes if not (tied and name == HEAD)):
        if 2 * sum(shapes[other].numel() for other in [*shards[-1], name]) > SHARD_BYTES and shards[-1]:
            shards.append([])
        shards[-1].append(name)
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        save_file({name: _random(shapes[name], generator) for name in names}, folder / file, {"format": "pt"})
    config.save_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    make_tokenizer(8192).save_pretrained(folder)
    return folder


def _random(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    tensor = torch.empty(shape, dtype=torch.bfloat16)
    for rows in tensor.split(8192):
        rows.copy_(0.02 * torch.randn(rows.shape, generator=generator))
    return tensor


def _rounds(source: Path, folder: Path, *, tied: bool, form: str) -> dict[str, Any]:
    """Ours, ours without sync, cp, and cp with sync in turn."""
    ours, unsynced, copied, synced = [], [], [], []
    cpu_of_cp = 0.0
    for _ in range(ROUNDS):
        ours.append(in_child(slice_and_publish, source, folder, tied, form, True))
        unsynced.append(in_child(slice_and_publish, source, folder, tied, form, False))
        before = _cpu_of_children()
        copied.append(_copy(source, folder / "copy"))
        cpu_of_cp += (_cpu_of_children() - before) / ROUNDS
        synced.append(_copy(source, folder / "copy", "&& sync -f"))
    cpu = sum(one["cpu_seconds"] for one in ours) / ROUNDS
    taken, in_memory = (
        median(one["slicing_seconds"] + one["publishing_seconds"] for one in runs) for runs in (ours, unsynced)
    )
    return {
        "rounds": ROUNDS,
        "bytes": sum(file.stat().st_size for file in source.iterdir()),
        "seconds": round(taken, 2),
        "slicing_seconds": round(median(one["slicing_seconds"] for one in ours), 2),
        "publishing_seconds": round(median(one["publishing_seconds"] for one in ours), 2),
        "unsynced_seconds": round(in_memory, 2),
        "cp_seconds": round(median(copied), 2),
        "cp_sync_seconds": round(median(synced), 2),
        "cpu_seconds": round(cpu, 2),
        "cp_cpu_seconds": round(cpu_of_cp, 2),
        "unsynced_over_cp": round(in_memory / median(copied), 2),
        "over_cp_sync": round(taken / median(synced), 2),
        "over_cp_cpu": round(cpu / cpu_of_cp, 2),
        "process_bytes": max(one["process_bytes"] for one in ours),  # before: Python, torch, transformers
        "slicing_peak_bytes": max(one["slicing_peak_bytes"] for one in ours),
        "publishing_peak_bytes": max(one["publishing_peak_bytes"] for one in ours),
    }


def _copy(source: Path, target: Path, then: str = "") -> float:
    command = f"cp -r {source} {target} {then and f'{then} {target}'}"
    taken = seconds(lambda: subprocess.run(command, shell=True, check=True))
    shutil.rmtree(target)
    return taken


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_child(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own, whose peak of memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def peak() -> int:
    """Bytes resident at most since the last call; only Linux can start anew."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    Path("/proc/self/clear_refs").write_text("5")
    return int(found[1]) * 1024


def slice_and_publish(source: Path, folder: Path, tied: bool, form: str, syncs: bool) -> dict[str, Any]:
    """What a job does once it knows the basis and the size: half of the columns stay. In a process of its own."""
    if not syncs:
        os.fsync = os.fdatasync = lambda fd: None
    model = inspect_model(source)
    name = EMBED if tied else HEAD
    head = LmHead(read_tensor(model, name), None, Transform(), "lm_head", "model.embed_tokens", tied, 1.0)
    names = StoredNames(weight=(name,), bias=(), embed=(EMBED,))
    basis = _basis(form)
    mean = torch.randn(head.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    artifacts = DirectoryArtifacts(folder / "artifacts")
    before, started, cpu = peak(), time.perf_counter(), time.process_time()
    staging = artifacts.staging("job", 1)
    factors = slice_head(head, basis, head.hidden_size // 2, mean, repair=True)
    plan = plan_checkpoint(
        model,
        head,
        names,
        factors,
        method=basis.method.value,
        keep_tied=True,
        keep_removed=False,
        base_model_prefix="model",
        fingerprint=None,
    )
    hashes = write_checkpoint(plan, model, staging, 5_000_000_000, lambda done: None)
    sliced, slicing_peak = time.perf_counter(), peak()
    artifacts.publish("job", 1, hash_files(staging, hashes, lambda done: None))
    published, cpu = time.perf_counter(), time.process_time() - cpu
    shutil.rmtree(folder / "artifacts")
    return {
        "process_bytes": before,
        "cpu_seconds": cpu,
        "slicing_seconds": sliced - started,
        "publishing_seconds": published - sliced,
        "slicing_peak_bytes": slicing_peak,
        "publishing_peak_bytes": peak(),
    }


def _basis(form: str) -> Basis:
    """Any permutation, or any general basis: what it costs to write a head in one does not depend on which."""
    hidden, generator = SHAPE["hidden_size"], torch.Generator().manual_seed(2)
    if form == "permutation":
        order = torch.randperm(hidden, generator=generator)
        return Basis(Method.SLOPE, torch.linspace(1, 0, hidden, dtype=torch.float64), order=order)
    synthesis = torch.randn(hidden, hidden, dtype=torch.float64, generator=generator)
    importance = torch.linspace(1, 0, hidden, dtype=torch.float64)
    return Basis(Method.PROBABILITY, importance, synthesis=synthesis, analysis=torch.linalg.inv(synthesis))
