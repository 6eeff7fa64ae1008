"""What is done to one shard, by the job's own worker or another: its answer goes into a new file."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from headroom.contract.compress import Method
from service.compression.drift.sweep import SweepHead, sweep_positions
from service.compression.heads.basis import Basis
from service.compression.sharding.shard_reader import ShardReader
from service.compression.states.lm_head import LmHead
from service.compression.states.statistics import calibrate
from service.records.shards import EncodeQuestion, StatesQuestion, SweepQuestion

FIRST_ROWS = 64  # hidden states of the first shard that come back too: stored models are compared on them

Progress = Callable[[float], None]


def encode_shard(reader: ShardReader, question: EncodeQuestion, number: int, into: Path, progress: Progress) -> None:
    """The statistics of its calibration windows, and the hidden states of its first evaluated positions."""
    ran = False

    def encoding(done: float) -> None:
        nonlocal ran
        ran |= done < 1
        progress(0.7 * done)

    calibration = reader.hidden(question, number, "calibration", encoding)
    evaluation = reader.hidden(question, number, "evaluation")
    statistics = calibrate(
        calibration,
        reader.head,
        with_fisher=False,
        device=reader.device,
        progress=lambda done: progress(0.7 + 0.3 * done),
    )
    first = evaluation.first(FIRST_ROWS)
    save_file(vars(statistics) | {"first": first, "was_warm": torch.tensor(not ran)}, into)


def sweep_shard(
    reader: ShardReader, question: SweepQuestion, number: int, head: SweepHead, into: Path, progress: Progress
) -> None:
    """The figures of each of its evaluated positions, at every size."""
    hidden = reader.hidden(question, number, "evaluation", lambda done: progress(0.0))
    blocks = list(sweep_positions(hidden, head, list(question.sizes), top=question.top, progress=progress))
    save_file({name: torch.cat([vars(block)[name] for block in blocks]) for name in vars(blocks[0])}, into)


def hand_over_states(
    reader: ShardReader, question: StatesQuestion, number: int, into: Path, progress: Progress
) -> None:
    """The hidden states of one part, byte for byte as the cache has them."""
    found = reader.hidden(question, number, question.part, lambda done: progress(0.0))
    try:
        os.link(found.file, into)  # neither of the two is ever written to again
    except OSError:
        shutil.copyfile(found.file, into)
    progress(1.0)


def sweep_head_file(head: SweepHead) -> tuple[str, Callable[[Path], None]]:
    """The name, by its content, of the file from which another worker cuts the same head; and what writes it."""
    tensors = _tensors_of(head)
    return f"head-{_digest(tensors)}", lambda path: save_file(tensors, path, {"method": head.basis.method.value})


def read_sweep_head(path: Path, head: LmHead, device: torch.device) -> SweepHead:
    """What `sweep_head_file` wrote."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        method = Method(file.metadata()["method"])
    center, constant = (tensors.pop(name).to(device) for name in ("center", "constant"))
    basis = Basis(method, **tensors)
    return SweepHead(basis, basis.columns(head.weight.to(device)), center, constant, head)


def _tensors_of(head: SweepHead) -> dict[str, Tensor]:
    """The basis, and what the sweep adds to it."""
    basis = head.basis
    found = {
        "importance": basis.importance,
        "order": basis.order,
        "synthesis": basis.synthesis,
        "analysis": basis.analysis,
        "center": head.center,
        "constant": head.constant,
    }
    # A copy of each: safetensors refuses tensors that share memory, as those of an orthogonal basis do.
    return {name: tensor.cpu().clone().contiguous() for name, tensor in found.items() if tensor is not None}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
